import { type ChildProcess, spawn } from "node:child_process";
import { createHmac, randomBytes, randomUUID } from "node:crypto";
import { once } from "node:events";
import { mkdtempSync, readFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

/** The first start of all may have to fetch servers and build the page. */
const START_MS = 100_000;
/** Longer than the stack's own patience with its parts. */
const STOP_MS = 60_000;

/**
 * Runs the stack (`$1`) until it ends or nobody holds the other end of stdin, so that it outlives no test, however
 * that ends; then removes its folder (`$2`). Run by root, Postgres keeps its data outside, where its user can reach it.
 */
const KEEPER = `
exec 3<&0
"$1" run </dev/null 3<&- & stack=$!
{ read -r _ <&3; kill -TERM $stack; } 2>/dev/null &
wait $stack
code=$?
outside=$(readlink "$2/data/postgres") && rm -rf "$outside"
rm -rf "$2"
exit $code`;

/** What a test needs to know of a running stack. */
export interface StackInfo {
  url: string;
  port: number;
  dataDir: string;
  secret: string;
}

type UserType = "customer" | "vendor";

export interface Person {
  userId: string;
  name: string;
  token: string;
}

/** `devstack run` on ports and data of its own: the programs that are deployed, with real NATS and Postgres. */
export class Stack {
  private constructor(
    readonly info: StackInfo,
    private readonly child: ChildProcess,
  ) {}

  static async start(): Promise<Stack> {
    const program = required("PARTYLINE_DEVSTACK");
    const folder = mkdtempSync(join(tmpdir(), "partyline-browser-"));
    const [port, admin, persisterAdmin] = await freePorts(3);
    const info = { url: `http://127.0.0.1:${port}`, port: port ?? 0, dataDir: join(folder, "data"), secret: randomBytes(32).toString("hex") };
    // A person's own settings, their databases above all, are none of a test's.
    const inherited = Object.entries(process.env).filter(([name]) => !name.startsWith("PARTYLINE_"));
    const child = spawn("/bin/sh", ["-c", KEEPER, "keeper", resolve(program), folder], {
      stdio: ["pipe", "pipe", "pipe"],
      // Ctrl-C reaches it by its stdin, once.
      detached: true,
      env: {
        ...Object.fromEntries(inherited),
        PARTYLINE_DATA_DIR: info.dataDir,
        PARTYLINE_HTTP_ADDR: `127.0.0.1:${port}`,
        PARTYLINE_ADMIN_ADDR: `127.0.0.1:${admin}`,
        PARTYLINE_PERSISTER_ADMIN_ADDR: `127.0.0.1:${persisterAdmin}`,
        PARTYLINE_JWT_SECRET: info.secret,
        PARTYLINE_MESSAGES_PER_MINUTE: "0",
        PARTYLINE_REQUESTS_PER_SECOND: "0",
        // The client takes half of it for messages: a test that sends many waits for that, not for the gateway.
        PARTYLINE_FRAMES_PER_SECOND: "200",
        PARTYLINE_DRAIN_SECONDS: "0",
        // No test takes the machine's power away.
        PARTYLINE_NATS_SYNC: "2m",
      },
    });
    const stack = new Stack(info, child);
    try {
      await stack.ready();
    } catch (error) {
      await stack.stop();
      throw error;
    }
    return stack;
  }

  private async ready(): Promise<void> {
    let said = "";
    let isUp = false;
    for (const stream of [this.child.stdout, this.child.stderr]) {
      stream?.on("data", (data: Buffer) => {
        if (!isUp) said += data.toString();
        isUp ||= said.includes("Ctrl-C stops");
      });
    }
    let failure: Error | undefined;
    this.child.on("error", (error) => (failure = error));
    const deadline = Date.now() + START_MS;
    while (!isUp) {
      if (failure) throw failure;
      if (this.child.exitCode !== null || Date.now() > deadline) throw new Error(`the stack did not start:\n${said}`);
      await sleep(20);
    }
    if (!said.includes("chat page")) throw new Error(`the stack has no page:\n${said}`);
  }

  /** Ends every process, and removes all data. */
  async stop(): Promise<void> {
    const { child } = this;
    if (child.exitCode !== null || child.pid === undefined) return;
    const ended = once(child, "exit");
    child.stdin?.end();
    const killer = setTimeout(() => process.kill(-(child.pid ?? 0), "SIGKILL"), STOP_MS);
    await ended;
    clearTimeout(killer);
  }
}

/** The gateway's process: another one after it was killed. */
export function gatewayPid({ dataDir }: StackInfo): number | undefined {
  const pids = JSON.parse(readFileSync(join(dataDir, "pids.json"), "utf8")) as Record<string, { pid: number }>;
  return pids.gateway?.pid;
}

/** Somebody, signed in for an hour; somebody new unless the id is given. */
export function person(stack: StackInfo, name: string, userType: UserType, userId = `${userType}-${randomBytes(6).toString("hex")}`): Person {
  return { userId, name, token: signed(stack, { sub: userId, username: name, user_type: userType }, 3_600) };
}

/** Another token of somebody's, for so many seconds. */
export function tokenOf(stack: StackInfo, { userId, name }: Person, seconds: number): string {
  return signed(stack, { sub: userId, username: name, user_type: userId.split("-")[0] }, seconds);
}

function signed({ secret }: StackInfo, claims: object, seconds: number): string {
  const now = Math.floor(Date.now() / 1_000);
  const encode = (value: object) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const content = `${encode({ alg: "HS256", typ: "JWT" })}.${encode({ ...claims, iat: now, exp: now + seconds })}`;
  return `${content}.${createHmac("sha256", secret).update(content).digest("base64url")}`;
}

/** Attempts at a request that is answered with 503, a second apart. */
const ATTEMPTS = 10;

/** Calls the REST part as somebody. As any client does, it repeats what a busy gateway can't answer yet. */
export async function call<T>(stack: StackInfo, person: Person, method: string, path: string, body?: object, attempts = ATTEMPTS): Promise<T> {
  const [{ url }, { token }] = [stack, person];
  const response = await fetch(`${url}/chat/api/${path}`, {
    method,
    headers: { authorization: `Bearer ${token}`, ...(body && { "content-type": "application/json" }) },
    ...(body && { body: JSON.stringify(body) }),
  });
  if (response.status === 503 && attempts > 1) {
    await sleep(1_000);
    return call(stack, person, method, path, body, attempts - 1);
  }
  if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${await response.text()}`);
  return (await response.json()) as T;
}

/** The conversation of two. Both are made known first: a gateway learns names from tokens. */
export async function converse(stack: StackInfo, one: Person, other: Person): Promise<string> {
  await call(stack, other, "GET", "conversations/?limit=1");
  const { id } = await call<{ id: string }>(stack, one, "POST", "conversations/", { participant_ids: [other.userId], kind: "direct", title: null });
  return id;
}

/** Somebody says something, without a page. */
export function say(stack: StackInfo, conversation: string, who: Person, content: string, more: object = {}): Promise<{ seq: number }> {
  const message = { client_id: randomUUID(), content, message_type: "text", metadata: {}, ...more };
  return call(stack, who, "POST", `conversations/${conversation}/messages/`, message);
}

export function required(name: string): string {
  const value = process.env[name];
  if (!value) throw new Error(`${name} is not set: \`make test\` sets it`);
  return value;
}

/** Ports that were free a moment ago, all different. */
async function freePorts(count: number): Promise<number[]> {
  const servers = await Promise.all(
    Array.from({ length: count }, async () => {
      const server = createServer().listen(0, "127.0.0.1");
      await once(server, "listening");
      return server;
    }),
  );
  const ports = servers.map((server) => (server.address() as { port: number }).port);
  await Promise.all(servers.map((server) => once(server.close(), "close")));
  return ports;
}
