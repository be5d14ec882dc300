import { spawn } from "node:child_process";
import { createHmac, randomBytes } from "node:crypto";
import { once } from "node:events";
import { mkdtempSync, readFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

/** The first start of all may have to fetch servers. */
const START_MS = 100_000;
/** Longer than the stack's own patience with its parts. */
const STOP_MS = 60_000;

/** Messages that a rested person may send at once; afterwards one a second. */
export const BURST = 30;

/**
 * Runs the stack (`$1`) until it ends or nobody holds the other end of stdin, so that it outlives no test, however
 * that ends; then removes its folder (`$2`). Run by root, Postgres keeps its data outside, where its user can reach it.
 */
const KEEPER = `
exec 3<&0
"$1" cluster --nats 1 --gateways 2 --persisters 1 --no-page </dev/null 3<&- & stack=$!
{ read -r _ <&3; kill -TERM $stack; } 2>/dev/null &
wait $stack
code=$?
outside=$(readlink "$2/data/postgres") && rm -rf "$outside"
rm -rf "$2"
exit $code`;

/** Two gateways on ports and data of their own: the programs that are deployed, with real NATS and Postgres. */
export class Stack {
  #child;
  #dataDir;
  #secret = randomBytes(32).toString("hex");
  /** The gateways' URLs. */
  gateways = [];

  /** `settings`: of the gateways, beyond those that tests need. */
  static async start(settings = {}) {
    const program = process.env.PARTYLINE_DEVSTACK;
    if (!program) throw new Error("PARTYLINE_DEVSTACK is not set: `make test` sets it");
    const stack = new Stack();
    const folder = mkdtempSync(join(tmpdir(), "partyline-socketio-"));
    stack.#dataDir = join(folder, "data");
    // The cluster takes the port that follows for its second gateway, and its like.
    const [http, admin, persisterAdmin] = await freePorts(3);
    // A person's own settings, their databases above all, are none of a test's.
    const inherited = Object.entries(process.env).filter(([name]) => !name.startsWith("PARTYLINE_"));
    stack.#child = spawn("/bin/sh", ["-c", KEEPER, "keeper", resolve(program), folder], {
      stdio: ["pipe", "pipe", "pipe"],
      // Ctrl-C reaches it by its stdin, once.
      detached: true,
      env: {
        ...Object.fromEntries(inherited),
        PARTYLINE_DATA_DIR: stack.#dataDir,
        PARTYLINE_HTTP_ADDR: `127.0.0.1:${http}`,
        PARTYLINE_ADMIN_ADDR: `127.0.0.1:${admin}`,
        PARTYLINE_PERSISTER_ADMIN_ADDR: `127.0.0.1:${persisterAdmin}`,
        PARTYLINE_JWT_SECRET: stack.#secret,
        PARTYLINE_MESSAGES_PER_MINUTE: "60",
        PARTYLINE_MESSAGES_BURST: String(BURST),
        PARTYLINE_DRAIN_SECONDS: "1",
        // No test takes the machine's power away.
        PARTYLINE_NATS_SYNC: "2m",
        ...settings,
      },
    });
    try {
      await stack.#ready();
    } catch (error) {
      await stack.stop();
      throw error;
    }
    return stack;
  }

  async #ready() {
    const child = this.#child;
    let said = "";
    for (const stream of [child.stdout, child.stderr]) stream.on("data", (data) => (said += data));
    let failure;
    child.on("error", (error) => (failure = error));
    const deadline = Date.now() + START_MS;
    while (!said.includes("Ctrl-C stops")) {
      if (failure) throw failure;
      if (child.exitCode !== null || Date.now() > deadline) throw new Error(`the stack did not start:\n${said}`);
      await sleep(20);
    }
    this.gateways = [1, 2].map((n) => said.match(new RegExp(`gateway-${n} +(http://[0-9.:]+)/ `))[1]);
  }

  /** Ends every process, and removes all data. */
  async stop() {
    const child = this.#child;
    if (child.exitCode !== null || child.pid === undefined) return;
    const ended = once(child, "exit");
    child.stdin.end();
    const killer = setTimeout(() => process.kill(-child.pid, "SIGKILL"), STOP_MS);
    await ended;
    clearTimeout(killer);
  }

  /** Sends a signal to a gateway, by its place in `gateways`; the stack starts it again when it has ended. */
  signal(place, signal) {
    process.kill(this.pid(place), signal);
  }

  /** A gateway's process. */
  pid(place) {
    const pids = JSON.parse(readFileSync(join(this.#dataDir, "pids.json"), "utf8"));
    return pids[`gateway-${place + 1}`].pid;
  }

  /** Waits until a gateway takes connections. */
  async isBack(place) {
    const deadline = Date.now() + START_MS;
    for (;;) {
      const answer = await fetch(`${this.gateways[place]}/readyz`).catch(() => undefined);
      if (answer?.ok) return;
      if (Date.now() > deadline) throw new Error(`gateway-${place + 1} did not come back`);
      await sleep(20);
    }
  }

  /** A token for somebody, for so many seconds. */
  token(person, seconds = 3_600, claims = {}) {
    const now = Math.floor(Date.now() / 1_000);
    const encode = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
    const body = { sub: person.userId, username: person.name, user_type: "customer", iat: now, exp: now + seconds, ...claims };
    const signed = `${encode({ alg: "HS256", typ: "JWT" })}.${encode(body)}`;
    return `${signed}.${createHmac("sha256", this.#secret).update(signed).digest("base64url")}`;
  }

  /** Calls the REST part as somebody. */
  async call(person, method, path, body) {
    const response = await fetch(`${this.gateways[0]}/chat/api/${path}`, {
      method,
      headers: { authorization: `Bearer ${this.token(person)}`, ...(body && { "content-type": "application/json" }) },
      ...(body && { body: JSON.stringify(body) }),
    });
    if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${await response.text()}`);
    return response.json();
  }

  /** A group of these people, whose owner is the first; its id. */
  async group(...people) {
    const [owner, ...others] = people.map((person) => person.userId);
    const created = await this.call(people[0], "POST", "conversations/", { participant_ids: others, kind: "group", title: owner });
    return created.id;
  }
}

/** Somebody new. */
export function somebody(name) {
  return { userId: `${name}-${randomBytes(6).toString("hex")}`, name };
}

/** Ports that were free a moment ago, the next one of each too. */
async function freePorts(count) {
  const found = [];
  while (found.length < count) {
    const first = await listen(0);
    const port = first.address().port;
    const second = await listen(port + 1).catch(() => undefined);
    if (second && !found.includes(port) && !found.includes(port + 1)) found.push(port);
    for (const server of [first, second]) if (server) await once(server.close(), "close");
  }
  return found;
}

async function listen(port) {
  const server = createServer().listen(port, "127.0.0.1");
  await once(server, "listening");
  return server;
}
