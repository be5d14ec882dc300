import { beforeEach, describe, expect, it, vi } from "vitest";
import { Connection, type ConnectionOptions } from "../src/connection.ts";
import { Disconnected, Refusal } from "../src/errors.ts";
import type { Command } from "../src/wire.ts";
import { CONVERSATION, FakeNetwork, newMessage, settle } from "./fake.ts";

const TYPE: Command = { type: "mark_read", conversation_id: CONVERSATION, seq: 1 };

let network: FakeNetwork;
const get = vi.fn<(rejected?: string) => Promise<string>>();
const isAccepted = vi.fn<(token: string) => Promise<boolean>>();
const onFrame = vi.fn<ConnectionOptions["onFrame"]>();

beforeEach(() => {
  vi.useFakeTimers();
  vi.spyOn(Math, "random").mockReturnValue(1);
  network = new FakeNetwork();
  get.mockReset().mockResolvedValue("t1");
  isAccepted.mockReset().mockResolvedValue(true);
  onFrame.mockReset();
});

async function connect(dial = network.dial): Promise<Connection> {
  const connection = new Connection({ dial, token: get, isAccepted, onFrame, onState: () => {}, onWelcome: () => {} });
  connection.start();
  await settle();
  return connection;
}

async function online(): Promise<Connection> {
  const connection = await connect();
  network.last.welcome();
  expect(connection.state.kind).toBe("online");
  return connection;
}

describe("connecting", () => {
  it("counts as online from the welcome on, not before", async () => {
    const connection = await connect();
    expect(network.last.token).toBe("t1");
    expect(connection.state.kind).toBe("connecting");
    await expect(connection.request(TYPE)).rejects.toBeInstanceOf(Disconnected);
    connection.notify(TYPE);
    expect(network.last.sent).toEqual([]);
    network.last.welcome();
    expect(connection.state.kind).toBe("online");
  });

  it("gives up a socket that brings no welcome in 10 s", async () => {
    const connection = await connect();
    await vi.advanceTimersByTimeAsync(10_000);
    expect(network.last.isClosed).toBe(true);
    expect(connection.state.kind).toBe("waiting");
    await vi.advanceTimersByTimeAsync(500);
    expect(network.sockets).toHaveLength(2);
  });

  it("takes one welcome, whatever is repeated", async () => {
    const connection = await connect();
    network.last.welcome();
    const { state } = connection;
    network.last.welcome();
    expect(connection.state).toBe(state);
  });

  it("waits longer after each loss, and begins afresh after 10 s of being well", async () => {
    const connection = await connect();
    const pauses = [];
    for (let attempt = 0; attempt < 4; attempt++) {
      if (attempt === 2) network.last.welcome(); // a welcome alone proves nothing
      network.last.drop();
      pauses.push(connection.state.kind === "waiting" ? connection.state.retryAt - Date.now() : 0);
      await vi.advanceTimersToNextTimerAsync();
    }
    expect(pauses).toEqual([500, 1_000, 2_000, 4_000]);
    network.last.welcome();
    await vi.advanceTimersByTimeAsync(10_000);
    network.last.drop();
    expect(connection.state).toEqual({ kind: "waiting", retryAt: Date.now() + 500 });
  });

  it("begins afresh after a connection that did its work, unless the server ended it for what this client did", async () => {
    const connection = await connect();
    const pauses = [];
    for (const code of [1006, 4010, 4008, 4029, 4001, 1006]) {
      network.last.welcome();
      void connection.request(TYPE);
      network.last.hear({ type: "ack", ref: network.last.sent[0]?.ref });
      network.last.drop(code);
      pauses.push(connection.state.kind === "waiting" ? connection.state.retryAt - Date.now() : 0);
      await vi.advanceTimersToNextTimerAsync();
    }
    expect(pauses).toEqual([500, 1_000, 2_000, 4_000, 500, 500]);
  });

  it("comes back when the server says, and not sooner for being woken", async () => {
    const connection = await online();
    network.last.drop(4001, '{"code":"draining","retry_after_ms":1840}');
    connection.wake();
    await vi.advanceTimersByTimeAsync(1_839);
    connection.wake();
    expect(network.sockets).toHaveLength(1);
    await vi.advanceTimersByTimeAsync(1);
    expect(network.sockets).toHaveLength(2);
  });

  it("dials at once when woken while it only backs off", async () => {
    const connection = await online();
    network.last.drop();
    connection.wake();
    await settle();
    expect(network.sockets).toHaveLength(2);
    await vi.advanceTimersByTimeAsync(1_000);
    expect(network.sockets).toHaveLength(2);
  });

  it("ends for good on 4500, until started again", async () => {
    const connection = await online();
    network.last.drop(4500, '{"code":"protocol_error"}');
    expect(connection.state).toEqual({ kind: "ended", why: "protocol_error" });
    connection.wake();
    await vi.advanceTimersByTimeAsync(60_000);
    expect(network.sockets).toHaveLength(1);
    connection.start();
    await settle();
    expect(network.sockets).toHaveLength(2);
  });

  it("stays away after it was replaced until somebody uses it", async () => {
    const connection = await online();
    network.last.drop(4509, '{"code":"replaced"}');
    expect(connection.state).toEqual({ kind: "replaced" });
    connection.wake();
    await vi.advanceTimersByTimeAsync(600_000);
    expect(network.sockets).toHaveLength(1);
    connection.use();
    await settle();
    expect(network.sockets).toHaveLength(2);
    network.last.welcome();
    expect(connection.state).toEqual({ kind: "online" });
  });

  it("takes a request for lost only if none is answered any more", async () => {
    const connection = await online();
    const last = connection.request(TYPE);
    const [lastRef] = network.last.sent.map(({ ref }) => ref).slice(-1);
    // The server answers one command after the other, and these come first.
    for (let n = 0; n < 4; n++) {
      void connection.request(TYPE);
      await vi.advanceTimersByTimeAsync(6_000);
      network.last.hear({ type: "ack", ref: network.last.sent.at(-1)?.ref });
    }
    expect(connection.state).toEqual({ kind: "online" });
    network.last.hear({ type: "ack", ref: lastRef });
    await last;
    void connection.request(TYPE).catch(() => undefined);
    await vi.advanceTimersByTimeAsync(10_000);
    expect(connection.state.kind).toBe("waiting");
  });

  it("leaves nothing behind when stopped", async () => {
    const connection = await online();
    const request = connection.request(TYPE);
    connection.stop();
    await expect(request).rejects.toBeInstanceOf(Disconnected);
    expect(network.last.isClosed).toBe(true);
    expect(vi.getTimerCount()).toBe(0);
  });
});

describe("tokens", () => {
  it("asks for another one when its own has expired", async () => {
    await online();
    get.mockImplementation(async (rejected) => (rejected === "t1" ? "t2" : "t1"));
    network.last.drop(4401, '{"code":"token_expired"}');
    await vi.advanceTimersByTimeAsync(500);
    expect(network.last.token).toBe("t2");
  });

  it("ends when there is no other", async () => {
    const connection = await online();
    network.last.drop(4401);
    await vi.advanceTimersByTimeAsync(500);
    expect(connection.state).toEqual({ kind: "ended", why: "token_refused" });
  });

  it("tells a refused handshake from a lost network by asking over REST", async () => {
    const connection = await connect();
    network.last.drop();
    await vi.advanceTimersByTimeAsync(500);
    expect(network.sockets).toHaveLength(2);
    isAccepted.mockResolvedValue(false);
    network.last.drop();
    await vi.advanceTimersByTimeAsync(1_000);
    expect(isAccepted).toHaveBeenLastCalledWith("t1");
    expect(connection.state.kind).toBe("ended");
  });

  it("comes back while tokens can't be had, and ends when there will never be one", async () => {
    get.mockRejectedValueOnce(new TypeError("Failed to fetch"));
    const connection = await connect();
    expect(connection.state.kind).toBe("waiting");
    get.mockRejectedValue(new Refusal("token_refused", "Nobody of that name"));
    await vi.advanceTimersByTimeAsync(500);
    expect(connection.state).toEqual({ kind: "ended", why: "token_refused", message: "Nobody of that name" });
  });

  it("ends when a token can't even be dialled with", async () => {
    const connection = await connect(() => {
      throw new SyntaxError("invalid subprotocol");
    });
    expect(connection.state).toMatchObject({ kind: "ended", why: "token_refused" });
    expect(vi.getTimerCount()).toBe(0);
  });

  it("renews when warned, and tries again until it has", async () => {
    await online();
    network.last.hear({ type: "token_expiring", expires_at: 0, expires_in_ms: 60_000 });
    await settle();
    expect(network.last.count("refresh_token")).toBe(0);
    get.mockResolvedValue("t2");
    await vi.advanceTimersByTimeAsync(10_000);
    const renewal = network.last.last("refresh_token");
    expect(renewal.token).toBe("t2");
    network.last.hear({ type: "ack", ref: renewal.ref });
    await vi.advanceTimersByTimeAsync(20_000);
    expect(network.last.count("refresh_token")).toBe(1);
  });
});

describe("requests", () => {
  it("are answered by ref, in any order; the rest are events", async () => {
    const connection = await online();
    const [first, second] = [connection.request(TYPE), connection.request(TYPE)];
    const [a, b] = network.last.sent;
    network.last.hear(newMessage(1));
    network.last.hear({ type: "error", ref: b?.ref, code: "rate_limited", message: "Slow down", retry_after_ms: 7 });
    network.last.hear({ type: "ack", ref: a?.ref, seq: 5 });
    await expect(first).resolves.toMatchObject({ seq: 5 });
    await expect(second).rejects.toEqual(new Refusal("rate_limited", "Slow down", 7));
    expect(onFrame.mock.calls).toEqual([[newMessage(1)]]);
  });

  it("hand over their answer before the frame behind it is looked at", async () => {
    const connection = await online();
    const order: string[] = [];
    onFrame.mockImplementation(({ type }) => void order.push(type));
    void connection.request(TYPE, ({ type }) => order.push(type));
    network.last.hear({ type: "ack", ref: network.last.sent[0]?.ref });
    network.last.hear(newMessage(1));
    expect(order).toEqual(["ack", "new_message"]);
  });

  it("fail when the connection is lost, and nothing is heard from the old socket", async () => {
    const connection = await online();
    const request = connection.request(TYPE);
    const old = network.last;
    old.drop();
    await expect(request).rejects.toBeInstanceOf(Disconnected);
    await vi.advanceTimersByTimeAsync(500);
    old.hear(newMessage(1));
    old.drop();
    expect(onFrame).not.toHaveBeenCalled();
    expect(connection.state.kind).toBe("connecting");
  });

  it("that get no answer in 10 s show that the connection is dead", async () => {
    const connection = await online();
    const request = connection.request(TYPE);
    request.catch(() => undefined);
    await vi.advanceTimersByTimeAsync(10_000);
    await expect(request).rejects.toBeInstanceOf(Disconnected);
    expect(network.sockets[0]?.isClosed).toBe(true);
    expect(connection.state.kind).toBe("waiting");
  });

  it("are made after a minute of silence, to see whether anybody is there", async () => {
    const connection = await online();
    await vi.advanceTimersByTimeAsync(40_000);
    network.last.hear(newMessage(1));
    await vi.advanceTimersByTimeAsync(59_999);
    expect(network.last.count("refresh_token")).toBe(0);
    await vi.advanceTimersByTimeAsync(1);
    network.last.hear({ type: "ack", ref: network.last.last("refresh_token").ref });
    await vi.advanceTimersByTimeAsync(59_999);
    expect(network.last.count("refresh_token")).toBe(1);
    await vi.advanceTimersByTimeAsync(10_001);
    expect(network.last.count("refresh_token")).toBe(2);
    expect(connection.state.kind).toBe("waiting");
  });
});
