"""python-socketio against two real gateways: its clients differ from the official one in what they put into one request,
in how they come back, and in the shape of what they hear."""

import asyncio
import queue
import secrets
import signal
import sys
import unittest
import uuid

import socketio
from socketio.exceptions import ConnectionError as Refused

from stack import Stack

PATIENCE = 20
TRANSPORTS = (["websocket"], ["polling"], None)
stack = None


def setUpModule():
    global stack
    stack = Stack(
        PARTYLINE_MESSAGES_PER_MINUTE="600",
        PARTYLINE_MESSAGES_BURST="100",
        PARTYLINE_PING_SECONDS="2",
        PARTYLINE_PING_TIMEOUT_SECONDS="20",
    )


def tearDownModule():
    if stack:
        stack.stop()


def somebody(name):
    return f"{name}-{secrets.token_hex(6)}"


class AsyncPerson:
    """Somebody with the asynchronous client."""

    def __init__(self, **options):
        self.client = socketio.AsyncClient(
            reconnection_delay=0.05, reconnection_delay_max=0.5, handle_sigint=False, **options
        )
        self.heard = []
        self._news = asyncio.Condition()
        self.client.on("*", self._hear)
        self.client.on("disconnect", self._hear_disconnect)
        self.client.on("connect_error", self._hear_connect_error)

    async def _hear_disconnect(self, reason):
        await self._hear("disconnect", reason)

    async def _hear_connect_error(self, data):
        await self._hear("connect_error", data)

    async def _hear(self, event, *arguments):
        async with self._news:
            self.heard.append((event, *arguments))
            self._news.notify_all()

    async def come(self, user, gateway=0, transports=None, auth=None):
        auth = auth or {"token": stack.token(user)}
        await self.client.connect(stack.gateways[gateway], auth=auth, transports=transports, wait_timeout=PATIENCE)
        await self.hears("connected")
        return self

    async def hears(self, event, matches=lambda *_: True):
        """The first event of this name that matches, past or to come."""

        def found():
            return next((it for it in self.heard if it[0] == event and matches(*it[1:])), None)

        async with self._news:
            try:
                await asyncio.wait_for(self._news.wait_for(found), PATIENCE)
            except asyncio.TimeoutError:
                raise AssertionError(f"no {event}; heard: {self.heard}") from None
            return found()[1]

    def all(self, event):
        return [it[1] for it in self.heard if it[0] == event]

    async def ask(self, event, data=None):
        return await self.client.call(event, data, timeout=PATIENCE)


class Asynchronous(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self):
        # Its debug output hides the tests'.
        asyncio.get_running_loop().set_debug(False)

    def person(self, **options):
        person = AsyncPerson(**options)
        self.addAsyncCleanup(person.client.shutdown)
        return person

    async def two(self, transports):
        users = [somebody("ann"), somebody("bob")]
        people = [await self.person().come(user, gateway, transports) for gateway, user in enumerate(users)]
        chat = stack.group(*users)
        for person in people:
            joined = await person.ask("join_conversation", {"conversation_id": chat})
            self.assertEqual(joined["status"], "ok", joined)
        return *people, chat, users

    async def test_messages_are_acknowledged_and_heard(self):
        for transports in TRANSPORTS:
            with self.subTest(transports):
                ann, bob, chat, users = await self.two(transports)
                expected = "polling" if transports == ["polling"] else "websocket"
                self.assertEqual(ann.client.transport(), expected)
                self.assertEqual((await ann.hears("connected"))["user_id"], users[0])
                self.assertEqual((await ann.hears("connected"))["session_id"], ann.client.get_sid())
                message = {"conversation_id": chat, "client_id": str(uuid.uuid4()), "content": "Grüße \U0001f600"}
                ack = await ann.ask("send_message", message)
                self.assertEqual((ack["status"], ack["duplicate"]), ("ok", False))
                self.assertEqual((await ann.ask("send_message", message))["duplicate"], True)
                for person in (ann, bob):
                    heard = await person.hears("new_message")
                    self.assertEqual((heard["content"], heard["seq"]), (message["content"], ack["seq"]))
                self.assertEqual((await bob.ask("mark_read", {"conversation_id": chat}))["status"], "ok")
                self.assertEqual((await ann.hears("read"))["user_id"], users[1])
                await bob.client.emit("typing", {"conversation_id": chat, "is_typing": True})
                self.assertEqual((await ann.hears("typing"))["user_id"], users[1])
                # A callback gets the one object.
                answered = asyncio.get_running_loop().create_future()
                message["client_id"] = str(uuid.uuid4())
                await ann.client.emit("send_message", message, callback=answered.set_result)
                self.assertEqual((await asyncio.wait_for(answered, PATIENCE))["status"], "ok")
                await bob.client.disconnect()
                self.assertEqual(await bob.hears("disconnect"), socketio.AsyncClient.reason.CLIENT_DISCONNECT)
                await ann.hears("presence", lambda it: it["user_id"] == users[1] and not it["online"])

    async def test_everything_that_is_emitted_at_once_is_stored_in_order(self):
        for transports in TRANSPORTS:
            with self.subTest(transports):
                ann, bob, chat, _ = await self.two(transports)
                contents = [f"{n} " + "\U0001f600" * 900 for n in range(20)]
                for n, content in enumerate(contents):
                    await ann.client.emit("send_message", {"conversation_id": chat, "temp_id": n, "content": content})
                await bob.hears("new_message", lambda it: it["content"] == contents[-1])
                self.assertEqual([it["content"] for it in bob.all("new_message")], contents)
                await ann.hears("new_message", lambda it: it["temp_id"] == 19)
                self.assertEqual([it["temp_id"] for it in ann.all("new_message")], list(range(20)))

    async def test_refusals_carry_their_code(self):
        for transports in TRANSPORTS:
            with self.subTest(transports):
                for auth, code in [
                    ({"token": "nonsense"}, "token_invalid"),
                    ({"token": stack.token("x", -10)}, "token_expired"),
                    ({"x": 1}, "token_invalid"),
                ]:
                    person = self.person()
                    with self.assertRaises(Refused):
                        await person.come("x", transports=transports, auth=auth)
                    self.assertEqual((await person.hears("connect_error"))["data"]["code"], code)
                    self.assertFalse(person.client.connected)
                ann = await self.person().come(somebody("ann"), transports=transports)
                chat = stack.group(somebody("eve"), somebody("bob"))
                refused = await ann.ask("join_conversation", {"conversation_id": chat})
                self.assertEqual((refused["status"], refused["code"]), ("error", "forbidden"))
                self.assertEqual((await ann.hears("error"))["event"], "join_conversation")
                for data in (None, "text", ({"conversation_id": chat}, 2), [1]):
                    refused = await ann.ask("typing", data)
                    self.assertIn(refused["code"], ("bad_request", "forbidden"), data)
                self.assertEqual((await ann.ask("dance", {}))["code"], "unknown_type")
                self.assertTrue(ann.client.connected)

    async def test_another_namespace_is_refused(self):
        for transports in TRANSPORTS:
            with self.subTest(transports):
                person = self.person()
                with self.assertRaises(Refused) as refused:
                    await person.client.connect(
                        stack.gateways[0], auth={"token": stack.token("x")}, transports=transports, namespaces=["/admin"]
                    )
                self.assertIn("/admin", str(refused.exception))

    async def test_binary_data_ends_the_connection_and_tells_why(self):
        for transports in TRANSPORTS:
            with self.subTest(transports):
                ann, _, chat, _ = await self.two(transports)
                await ann.client.emit("send_message", {"conversation_id": chat, "content": b"\x00\x01"})
                self.assertEqual((await ann.hears("closing"))["code"], "binary_frame")
                await ann.hears("disconnect")

    async def test_client_comes_back_when_its_gateway_is_killed_or_leaves(self):
        for transports in TRANSPORTS:
            for number in (signal.SIGKILL, signal.SIGTERM):
                with self.subTest(transports, signal=number):
                    ann, bob, chat, users = await self.two(transports)
                    last = (await bob.ask("send_message", {"conversation_id": chat, "temp_id": 1, "content": "0"}))["seq"]
                    ann.heard.clear()
                    stack.signal(0, number)
                    await ann.hears("disconnect")
                    sent = await bob.ask("send_message", {"conversation_id": chat, "temp_id": 2, "content": "missed"})
                    await ann.hears("connected")
                    joined = await ann.ask("join_conversation", {"conversation_id": chat, "after": last})
                    self.assertEqual([it["content"] for it in joined["events"]], ["missed"], joined)
                    if number == signal.SIGTERM:
                        self.assertEqual((await ann.hears("closing"))["code"], "draining")
                    await ann.client.disconnect()
                    await bob.client.disconnect()

    async def test_token_that_ends_is_replaced_by_a_new_one(self):
        for transports in TRANSPORTS:
            with self.subTest(transports):
                user = somebody("ann")
                tokens = [stack.token(user, 2), stack.token(user)]
                ann = self.person()
                # A function is asked each time that the client comes back.
                await ann.come(user, transports=transports, auth=lambda: {"token": tokens.pop(0)})
                self.assertEqual((await ann.hears("closing"))["code"], "token_expired")
                await ann.hears("disconnect")
                ann.heard.clear()
                await ann.hears("connected")
                self.assertEqual(tokens, [])

    async def test_nonce_makes_a_temp_id_the_same_after_a_reconnection(self):
        ann, bob, chat, users = await self.two(None)
        auth = {"token": stack.token(users[0]), "nonce": str(uuid.uuid4())}
        message = {"conversation_id": chat, "temp_id": 1, "content": "once"}
        answers = []
        for gateway in (0, 1):
            page = await self.person().come(users[0], gateway, auth=auth)
            answers.append(await page.ask("send_message", message))
            await page.client.disconnect()
        self.assertEqual([it["duplicate"] for it in answers], [False, True])
        self.assertEqual(answers[0]["seq"], answers[1]["seq"])

    async def test_pings_keep_a_quiet_client(self):
        people = [await self.person().come(somebody("ann"), transports=transports) for transports in TRANSPORTS]
        # The handshake's interval is 2 s.
        await asyncio.sleep(5)
        for person in people:
            self.assertEqual((await person.ask("leave_conversation", {"conversation_id": str(uuid.uuid4())}))["status"], "ok")
            self.assertEqual(person.all("disconnect"), [])


class Synchronous(unittest.TestCase):
    def come(self, user, transports, **options):
        client = socketio.Client(reconnection_delay=0.05, reconnection_delay_max=0.5, handle_sigint=False, **options)
        self.addCleanup(client.shutdown)
        heard = queue.Queue()
        client.on("*", lambda event, *arguments: heard.put((event, *arguments)))
        client.connect(stack.gateways[0], auth={"token": stack.token(user)}, transports=transports, wait_timeout=PATIENCE)
        return client, heard

    def hears(self, heard, event):
        while True:
            it = heard.get(timeout=PATIENCE)
            if it[0] == event:
                return it[1]

    def test_messages_are_acknowledged_and_heard_and_the_client_comes_back(self):
        for transports in TRANSPORTS:
            with self.subTest(transports):
                users = [somebody("ann"), somebody("bob")]
                chat = stack.group(*users)
                (ann, ann_heard), (bob, bob_heard) = (self.come(user, transports) for user in users)
                for client, heard in ((ann, ann_heard), (bob, bob_heard)):
                    self.hears(heard, "connected")
                    self.assertEqual(client.call("join_conversation", {"conversation_id": chat}, timeout=PATIENCE)["status"], "ok")
                self.assertEqual(ann.transport(), "polling" if transports == ["polling"] else "websocket")
                message = {"conversation_id": chat, "client_id": str(uuid.uuid4()), "content": "hi"}
                ack = ann.call("send_message", message, timeout=PATIENCE)
                self.assertEqual((ack["status"], ack["duplicate"]), ("ok", False))
                self.assertEqual(self.hears(bob_heard, "new_message")["seq"], ack["seq"])
                stack.signal(0, signal.SIGKILL)
                self.hears(bob_heard, "connected")
                joined = bob.call("join_conversation", {"conversation_id": chat, "after": ack["seq"]}, timeout=PATIENCE)
                self.assertEqual((joined["status"], joined["events"]), ("ok", []))

    def test_refused_token_is_an_error(self):
        client = socketio.Client(handle_sigint=False)
        told = queue.Queue()
        client.on("connect_error", told.put)
        with self.assertRaises(Refused):
            client.connect(stack.gateways[0], auth={"token": "nonsense"}, wait_timeout=PATIENCE)
        self.assertEqual(told.get(timeout=PATIENCE)["data"]["code"], "token_invalid")


if __name__ == "__main__":
    program = unittest.main(exit=False, verbosity=2)
    failed = len(program.result.failures) + len(program.result.errors)
    # As scripts/tally reads it.
    print(f"# pass {program.result.testsRun - failed}\n# fail {failed}")
    sys.exit(failed > 0)
