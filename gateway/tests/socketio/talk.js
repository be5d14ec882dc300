import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

import { Client } from "./client.js";
import { BURST, somebody } from "./stack.js";

/** What people say to each other, each on another gateway. */
export function talk(world, transport) {
  const transports = [transport];

  /** Ann and Bob, both in one conversation unless told otherwise. */
  async function two(t, { joined = true } = {}) {
    const { stack } = world;
    const people = [somebody("ann"), somebody("bob")];
    const [ann, bob] = await Promise.all(people.map((person, gateway) => Client.come(t, stack, person, { gateway, transports })));
    const conversation_id = await stack.group(...people);
    if (joined) for (const client of [ann, bob]) await client.join(conversation_id);
    return { ann, bob, people, conversation_id };
  }

  describe(`talk over ${transport}`, () => {
    it("joins, with the same page for the callback and for the event", async (t) => {
      const { ann, conversation_id, people } = await two(t, { joined: false });
      const sent = await ann.does("send_message", { conversation_id, client_id: crypto.randomUUID(), content: "first" });
      const answer = await ann.join(conversation_id);
      const joined = await ann.hears("joined_conversation");
      assert.deepEqual(joined, answer);
      assert.deepEqual([joined.status, joined.conversation_id, joined.seq, joined.more], ["ok", conversation_id, sent.seq, false]);
      assert.deepEqual(joined.events.map((event) => [event.type, event.content]), [["new_message", "first"]]);
      assert.deepEqual(joined.participants.map((it) => it.user_id).sort(), people.map((it) => it.userId).sort());
      assert.ok(joined.epoch && joined.read_markers && joined.online.includes(people[0].userId));
    });

    it("sends with a callback: stored, and heard by all with the same fields", async (t) => {
      const { ann, bob, people, conversation_id } = await two(t);
      const client_id = crypto.randomUUID();
      const metadata = { price: 12.5, items: ["a"] };
      const fields = { conversation_id, client_id, content: " Grüße \u{1F600} ", message_type: "quote", metadata };
      const ack = await ann.does("send_message", fields);
      assert.deepEqual([ack.client_id, ack.conversation_id, ack.duplicate], [client_id, conversation_id, false]);
      for (const client of [ann, bob]) {
        const message = await client.hears("new_message");
        assert.deepEqual([message.seq, message.message_id, message.created_at], [ack.seq, ack.message_id, ack.created_at]);
        assert.deepEqual([message.content, message.message_type, message.metadata], ["Grüße \u{1F600}", "quote", metadata]);
        assert.deepEqual([message.sender_id, message.sender_username, message.reply_to], [people[0].userId, "ann", null]);
        assert.equal("type" in message, false);
      }
      const again = await ann.does("send_message", fields);
      assert.deepEqual([again.seq, again.message_id, again.duplicate], [ack.seq, ack.message_id, true]);
    });

    it("sends without a callback, by temp_id or without any name", async (t) => {
      const { ann, bob, conversation_id } = await two(t);
      ann.socket.emit("send_message", { conversation_id, temp_id: "temp-1", content: "one" });
      ann.socket.emit("send_message", { conversation_id, temp_id: 17, content: "two" });
      ann.socket.emit("send_message", { conversation_id, content: "three" });
      await bob.hears("new_message", (message) => message.content === "three");
      await ann.hears("new_message", (message) => message.content === "three");
      assert.deepEqual(ann.all("new_message").map((it) => [it.content, it.temp_id]), [["one", "temp-1"], ["two", 17], ["three", undefined]]);
      assert.deepEqual(bob.all("new_message").map((it) => [it.content, it.temp_id]), [["one", undefined], ["two", undefined], ["three", undefined]]);
      assert.equal(new Set(bob.all("new_message").map((it) => it.client_id)).size, 3);
      assert.equal(ann.all("error").length, 0);
    });

    it("stores a repeated temp_id once, and another message under it too", async (t) => {
      const { bob, people, conversation_id } = await two(t);
      const fields = { conversation_id, temp_id: "1", content: "hello" };
      // An application that names its page by itself: a new session on another node continues it.
      const auth = { token: world.stack.token(people[0]), nonce: "page" };
      const page = await Client.come(t, world.stack, people[0], { transports, auth });
      const first = await page.does("send_message", fields);
      assert.deepEqual([first.temp_id, first.duplicate], ["1", false]);
      const later = await Client.come(t, world.stack, people[0], { gateway: 1, transports, auth });
      const repeated = await later.does("send_message", fields);
      assert.deepEqual([repeated.seq, repeated.duplicate, repeated.temp_id], [first.seq, true, "1"]);
      // A page that counts from 1 again.
      const other = await later.does("send_message", { ...fields, content: "how are you?" });
      assert.equal(other.duplicate, false);
      await bob.hears("new_message", (message) => message.content === "how are you?");
      assert.deepEqual(bob.all("new_message").map((message) => message.seq), [first.seq, other.seq]);
    });

    it("passes on typing both ways, and ends it by itself", async (t) => {
      const { ann, bob, people, conversation_id } = await two(t);
      ann.socket.emit("typing", { conversation_id, is_typing: true });
      const heard = await bob.hears("typing");
      assert.deepEqual(heard, { conversation_id, user_id: people[0].userId, username: "ann", is_typing: true });
      assert.deepEqual(await bob.ask("typing", { conversation_id, is_typing: true }), { status: "ok" });
      await ann.hears("typing", (typing) => typing.user_id === people[1].userId && typing.is_typing);
      await bob.hears("typing", (typing) => !typing.is_typing);
      assert.ok(ann.all("typing").every((typing) => typing.user_id !== people[0].userId), "not to oneself");
    });

    it("marks as read, up to a message or all", async (t) => {
      const { ann, bob, people, conversation_id } = await two(t);
      const one = await ann.does("send_message", { conversation_id, content: "one" });
      const two_ = await ann.does("send_message", { conversation_id, content: "two" });
      assert.equal((await bob.does("mark_read", { conversation_id, seq: one.seq })).last_read_seq, one.seq);
      const read = await ann.hears("read", (it) => it.user_id === people[1].userId);
      assert.deepEqual([read.conversation_id, read.last_read_seq], [conversation_id, one.seq]);
      const all = await bob.does("mark_read", { conversation_id });
      assert.ok(all.last_read_seq >= two_.seq);
      await ann.hears("read", (it) => it.user_id === people[1].userId && it.last_read_seq === all.last_read_seq);
    });

    it("edits and deletes", async (t) => {
      const { ann, bob, conversation_id } = await two(t);
      const { seq, message_id } = await ann.does("send_message", { conversation_id, content: "teh" });
      const edit = await ann.does("edit_message", { conversation_id, seq, content: "the" });
      assert.deepEqual([edit.message_seq, edit.message_id], [seq, message_id]);
      const edited = await bob.hears("message_edited");
      assert.deepEqual([edited.seq, edited.message_seq, edited.content], [edit.seq, seq, "the"]);
      assert.equal((await bob.ask("delete_message", { conversation_id, seq })).code, "forbidden");
      await ann.does("delete_message", { conversation_id, seq });
      assert.equal((await bob.hears("message_deleted")).message_id, message_id);
    });

    it("tells refusals to the callback and as an event", async (t) => {
      const { ann, bob, people, conversation_id } = await two(t);
      const closed = await world.stack.group(people[1], somebody("eve"));
      const refusals = [
        ["join_conversation", { conversation_id: closed }, "forbidden"],
        ["join_conversation", { conversation_id: crypto.randomUUID() }, "not_found"],
        ["join_conversation", { conversation_id: 7 }, "bad_request"],
        ["send_message", { conversation_id, temp_id: "t", content: " " }, "invalid_content"],
        ["send_message", { conversation_id, content: "x".repeat(1_001) }, "invalid_content"],
        ["send_message", { conversation_id, client_id: "no", content: "x" }, "bad_request"],
        ["send_message", { conversation_id, temp_id: {}, content: "x" }, "bad_request"],
        ["send_message", { conversation_id, content: "x", message_type: "system" }, "forbidden"],
        ["send_message", "x", "bad_request"],
        ["typing", undefined, "bad_request"],
        ["dance", {}, "unknown_type"],
      ];
      for (const [event, argument, code] of refusals) {
        const answer = await ann.ask(event, argument);
        assert.deepEqual([answer.status, answer.code], ["error", code], event);
        assert.ok(answer.message.length > 5);
        const error = await ann.hears("error", (it) => it.event === event && it.code === code);
        assert.equal(error.message.length > 5, true);
      }
      assert.equal((await ann.hears("error", (it) => it.code === "invalid_content")).temp_id, "t");
      ann.socket.emit("mark_read", {});
      await ann.hears("error", (it) => it.event === "mark_read");
      assert.equal(bob.all("error").length, 0);
      assert.ok(ann.socket.connected);
    });

    it("leaves; then only news of the conversation come", async (t) => {
      const { ann, bob, conversation_id } = await two(t);
      assert.deepEqual(await bob.does("leave_conversation", { conversation_id }), { status: "ok", conversation_id });
      assert.deepEqual(await bob.hears("left_conversation"), { status: "ok", conversation_id });
      const { seq } = await ann.does("send_message", { conversation_id, content: "are you there?" });
      const news = await bob.hears("conversation_updated", (it) => it.reason === "message");
      assert.deepEqual([news.conversation_id, news.last_message.seq, news.unread_count], [conversation_id, seq, 1]);
      assert.equal(bob.all("new_message").length, 0);
      const back = await bob.join(conversation_id, 0);
      assert.deepEqual(back.events.map((event) => event.seq), [seq]);
    });

    it("tells who comes and goes", async (t) => {
      const { ann, bob, people } = await two(t);
      bob.socket.disconnect();
      await ann.hears("presence", (it) => it.user_id === people[1].userId && !it.online && it.last_seen);
      bob.socket.connect();
      await ann.hears("presence", (it) => it.user_id === people[1].userId && it.online);
    });

    it("is told why it is closed before it hears that it is, and stays away if it broke the protocol", async (t) => {
      const large = "x".repeat(21_000);
      // Each is a race of two connections over polling.
      for (let n = 0; n < 5; n++) {
        const client = await Client.come(t, world.stack, somebody("ann"), { transports });
        const order = [];
        client.socket.on("closing", ({ code }) => order.push(code));
        client.socket.on("disconnect", (why) => order.push(why));
        client.socket.emit("typing", { conversation_id: large, is_typing: true });
        await client.hears("disconnect");
        await sleep(100);
        assert.deepEqual([order, client.socket.connected, client.socket.active], [["frame_too_large", "io server disconnect"], false, false]);
      }
    });

    it("limits messages, over all of a person's connections", async (t) => {
      const { ann, people, conversation_id } = await two(t);
      const second = await Client.come(t, world.stack, people[0], { gateway: 1, transports });
      const answers = [];
      for (let n = 0; n < BURST + 4; n++) {
        const client = n % 2 ? ann : second;
        answers.push(await client.ask("send_message", { conversation_id, client_id: crypto.randomUUID(), content: `m${n}` }));
      }
      const refused = answers.filter((answer) => answer.status === "error");
      assert.ok(refused.length > 0, "nobody was stopped");
      assert.ok(refused.every((answer) => answer.code === "rate_limited" && answer.retry_after_ms > 0), JSON.stringify(refused));
      assert.ok(answers.slice(0, BURST).every((answer) => answer.status === "ok"));
      const told = [...ann.all("error"), ...second.all("error")].filter((error) => error.code === "rate_limited");
      assert.equal(told.length, refused.length);
    });
  });
}
