"""Two gateways on ports and data of their own, and people's tokens for them."""

import base64
import hashlib
import hmac
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request

# The first start of all may have to fetch servers.
START_SECONDS = 100
STOP_SECONDS = 60

# Runs the stack ($1) until it ends or nobody holds the other end of stdin, so that it outlives no test, however that ends;
# then removes its folder ($2). Run by root, Postgres keeps its data outside, where its user can reach it.
KEEPER = """
exec 3<&0
"$1" cluster --nats 1 --gateways 2 --persisters 1 --no-page </dev/null 3<&- & stack=$!
{ read -r _ <&3; kill -TERM $stack; } 2>/dev/null &
wait $stack
code=$?
outside=$(readlink "$2/data/postgres") && rm -rf "$outside"
rm -rf "$2"
exit $code
"""


class Stack:
    """The programs that are deployed, with real NATS and Postgres."""

    def __init__(self, **settings):
        program = os.environ.get("PARTYLINE_DEVSTACK")
        if not program:
            raise RuntimeError("PARTYLINE_DEVSTACK is not set: `make test` sets it")
        self._secret = secrets.token_hex(32)
        folder = tempfile.mkdtemp(prefix="partyline-python-")
        self._data = os.path.join(folder, "data")
        http, admin, persister_admin = _free_ports(3)
        # A person's own settings, their databases above all, are none of a test's.
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PARTYLINE_")}
        self._child = subprocess.Popen(
            ["/bin/sh", "-c", KEEPER, "keeper", os.path.abspath(program), folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            text=True,
            env={
                **inherited,
                "PARTYLINE_DATA_DIR": self._data,
                "PARTYLINE_HTTP_ADDR": f"127.0.0.1:{http}",
                "PARTYLINE_ADMIN_ADDR": f"127.0.0.1:{admin}",
                "PARTYLINE_PERSISTER_ADMIN_ADDR": f"127.0.0.1:{persister_admin}",
                "PARTYLINE_JWT_SECRET": self._secret,
                "PARTYLINE_DRAIN_SECONDS": "1",
                # No test takes the machine's power away.
                "PARTYLINE_NATS_SYNC": "2m",
                **settings,
            },
        )
        self._log = None
        said = ""
        deadline = time.monotonic() + START_SECONDS
        while "Ctrl-C stops" not in said:
            line = self._child.stdout.readline()
            said += line
            if not line or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"the stack did not start:\n{said}")
        self.gateways = [re.search(rf"gateway-{n} +(http://[0-9.:]+)/ ", said)[1] for n in (1, 2)]
        # Its log must not fill the pipe.
        self._log = subprocess.Popen(["cat"], stdin=self._child.stdout, stdout=subprocess.DEVNULL)

    def stop(self):
        """Ends every process, and removes all data."""
        self._child.stdin.close()
        try:
            self._child.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self._child.pid, signal.SIGKILL)
            self._child.wait()
        if self._log:
            self._log.wait()
        self._child.stdout.close()

    def signal(self, place, number):
        """Sends a signal to a gateway; the stack starts it again when it has ended."""
        with open(os.path.join(self._data, "pids.json"), encoding="utf-8") as pids:
            os.kill(json.load(pids)[f"gateway-{place + 1}"]["pid"], number)

    def token(self, user, seconds=3_600):
        def encode(value):
            return base64.urlsafe_b64encode(value).rstrip(b"=").decode()

        now = int(time.time())
        claims = {"sub": user, "username": user, "user_type": "customer", "iat": now, "exp": now + seconds}
        signed = ".".join(encode(json.dumps(part).encode()) for part in ({"alg": "HS256", "typ": "JWT"}, claims))
        return f"{signed}.{encode(hmac.digest(self._secret.encode(), signed.encode(), hashlib.sha256))}"

    def group(self, owner, *others):
        """A group of these people; its id."""
        body = {"participant_ids": others, "kind": "group", "title": owner}
        request = urllib.request.Request(
            f"{self.gateways[0]}/chat/api/conversations/",
            json.dumps(body).encode(),
            {"authorization": f"Bearer {self.token(owner)}", "content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.load(answer)["id"]


def _free_ports(count):
    """Ports that were free a moment ago, the next one of each too."""
    found = []
    while len(found) < count:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
            try:
                second.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            if port not in found and port - 1 not in found and port + 1 not in found:
                found.append(port)
    return found
