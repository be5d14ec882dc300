import { beforeEach, describe, expect, it, vi } from "vitest";
import { Disconnected, Refusal } from "../src/errors.ts";
import { Outbox, type Queue, type QueuedMessage } from "../src/outbox.ts";
import { uuidv7 } from "../src/uuid.ts";
import type { Command, Reply, SendAck, SendMessage } from "../src/wire.ts";
import { CONVERSATION, settle } from "./fake.ts";

let outbox: Outbox;
let frames = 0;
/** Every attempt, and how to end it. */
let attempts: { command: SendMessage; at: number; ack(): Promise<void>; fail(error: Error): Promise<void> }[];
const onSent = vi.fn<(sent: QueuedMessage, ack: SendAck) => void>();

function ackOf({ conversation_id, client_id }: SendMessage): SendAck {
  return { conversation_id, client_id, message_id: `m ${client_id}`, seq: 1, created_at: "", duplicate: false };
}

function begin(queue?: Queue): void {
  const request = (command: Command) =>
    new Promise<Reply>((resolve, reject) => {
      const end = async (run: () => void) => {
        run();
        await settle();
      };
      const ack: Reply = { type: "ack", ...ackOf(command as SendMessage) };
      attempts.push({ command: command as SendMessage, at: Date.now(), ack: () => end(() => resolve(ack)), fail: (error) => end(() => reject(error)) });
    });
  outbox = new Outbox({ connection: { request }, framesPerSecond: () => frames, queue, onChange: () => {}, onSent });
}

beforeEach(() => {
  vi.useFakeTimers();
  vi.spyOn(Math, "random").mockReturnValue(1);
  attempts = [];
  frames = 0;
  onSent.mockReset();
  begin();
});

const messageOf = (content: string): SendMessage => ({ type: "send_message", conversation_id: CONVERSATION, client_id: uuidv7(), content });
const add = (...contents: string[]) => contents.map((content) => outbox.add(messageOf(content)));
const tried = () => attempts.map(({ command }) => command.content);
const last = () => attempts.at(-1) ?? expect.fail("nothing was sent");
const waiting = () => outbox.of(CONVERSATION).map(({ message: { content }, state }) => `${content}: ${state}`);

describe("messages", () => {
  it("go one after another, each when the one before it is stored", async () => {
    add("a", "b");
    expect(tried()).toEqual(["a"]);
    await last().ack();
    expect(tried()).toEqual(["a", "b"]);
    await last().ack();
    expect(waiting()).toEqual([]);
    expect(onSent.mock.calls.map(([{ message }]) => message.content)).toEqual(["a", "b"]);
  });

  it("without an answer go again, in order, with the same client_id", async () => {
    add("a", "b");
    await last().fail(new Disconnected());
    expect(waiting()).toEqual(["a: sending", "b: sending"]);
    await vi.advanceTimersByTimeAsync(60_000);
    expect(attempts).toHaveLength(1); // there is no connection
    outbox.connected();
    outbox.connected();
    expect(tried()).toEqual(["a", "a"]);
    await last().ack();
    expect(tried()).toEqual(["a", "a", "b"]);
    const [first, again, other] = attempts.map(({ command }) => command.client_id);
    expect([first === again, first === other]).toEqual([true, false]);
  });

  it("over the budget wait as long as the server says, and are not overtaken", async () => {
    add("a", "b");
    await last().fail(new Refusal("rate_limited", "Too many", 6_000));
    expect(outbox.of(CONVERSATION)[0]).toMatchObject({ state: "sending", retryAt: Date.now() + 6_000 });
    outbox.connected();
    await vi.advanceTimersByTimeAsync(5_999);
    expect(tried()).toEqual(["a"]);
    await vi.advanceTimersByTimeAsync(1);
    expect(tried()).toEqual(["a", "a"]);
    expect(outbox.of(CONVERSATION)[0]?.retryAt).toBeUndefined();
    await last().ack();
    expect(tried()).toEqual(["a", "a", "b"]);
  });

  it("that the server won't have stay, failed, and hold up nobody", async () => {
    add("a", "b");
    await last().fail(new Refusal("invalid_content", "No"));
    expect(waiting()).toEqual(["a: failed", "b: sending"]);
    expect(tried()).toEqual(["a", "b"]);
    const retried = outbox.retry(outbox.of(CONVERSATION)[0]?.message.client_id ?? "");
    expect(waiting()).toEqual(["b: sending", "a: sending"]);
    await last().ack();
    expect(last().command.client_id).toBe(attempts[0]?.command.client_id);
    await last().fail(new Refusal("forbidden", "No"));
    await expect(retried).rejects.toMatchObject({ code: "forbidden" });
    outbox.discard(outbox.of(CONVERSATION)[0]?.message.client_id ?? "");
    expect(waiting()).toEqual([]);
  });

  it("that the log turned out to hold are done, whatever the answer is", async () => {
    add("a", "b");
    outbox.settle(ackOf(last().command));
    await last().fail(new Disconnected());
    outbox.connected();
    await last().ack();
    expect(tried()).toEqual(["a", "b"]);
    expect(onSent.mock.calls.map(([{ message }]) => message.content)).toEqual(["a", "b"]);
  });

  it("leave half of the allowed frames to everything else", async () => {
    frames = 20;
    add("a", "b", "c");
    for (let count = 0; count < 3; count++) {
      await last().ack();
      await vi.advanceTimersByTimeAsync(100);
    }
    const [a, b, c] = attempts.map(({ at }) => at);
    expect([(b ?? 0) - (a ?? 0), (c ?? 0) - (b ?? 0)]).toEqual([100, 100]);
  });
});

describe("the promise of a send", () => {
  it("is kept by the answer, or by the log", async () => {
    const [first, second] = add("a", "b");
    await last().ack();
    await expect(first).resolves.toMatchObject({ seq: 1, client_id: attempts[0]?.command.client_id });
    outbox.settle({ ...ackOf(last().command), seq: 7 });
    await expect(second).resolves.toMatchObject({ seq: 7 });
  });

  it("is broken by a refusal, by discarding, and by the end", async () => {
    const promised = add("a", "b", "c");
    await last().fail(new Refusal("invalid_content", "No"));
    outbox.discard(attempts[1]?.command.client_id ?? "");
    outbox.stop();
    const ends = await Promise.allSettled(promised);
    expect(ends.map((end) => end.status === "rejected" && [end.reason.name, end.reason.code])).toEqual([
      ["Refusal", "invalid_content"],
      ["Refusal", "discarded"],
      ["Disconnected", undefined],
    ]);
  });
});

describe("a queue", () => {
  /** Keeps things as IndexedDB does: by id, in order of ids, a moment later. */
  class FakeQueue implements Queue {
    readonly kept = new Map<string, QueuedMessage>();
    isClosed = false;
    load = async () => [...this.kept.values()].sort((a, b) => (a.message.client_id < b.message.client_id ? -1 : 1));
    put = async (message: QueuedMessage) => void this.kept.set(message.message.client_id, structuredClone(message));
    remove = async (clientId: string) => void this.kept.delete(clientId);
    close = () => void (this.isClosed = true);
    get contents(): string[] {
      return [...this.kept.values()].map(({ message, failure }) => `${message.content}${failure ? `: ${failure.code}` : ""}`);
    }
  }

  it("keeps what isn't stored, and gives it to the next page, which sends it first and with the same ids", async () => {
    const queue = new FakeQueue();
    begin(queue);
    await settle();
    add("stored", "unanswered", "unsent");
    await last().ack();
    expect(queue.contents).toEqual(["unanswered", "unsent"]);
    outbox.stop();
    expect([queue.contents, queue.isClosed]).toEqual([["unanswered", "unsent"], true]);

    begin(queue);
    add("new");
    expect(attempts).toHaveLength(2);
    await settle();
    expect(waiting()).toEqual(["unanswered: sending", "unsent: sending", "new: sending"]);
    expect(last().command).toEqual(attempts[1]?.command);
    for (let count = 0; count < 3; count++) await last().ack();
    expect([tried(), queue.contents]).toEqual([["stored", "unanswered", "unanswered", "unsent", "new"], []]);
  });

  it("keeps what failed as failed, until it is sent again or discarded", async () => {
    const queue = new FakeQueue();
    begin(queue);
    await settle();
    add("a", "b");
    await last().fail(new Refusal("invalid_content", "No"));
    await last().fail(new Refusal("forbidden", "No"));
    expect(queue.contents).toEqual(["a: invalid_content", "b: forbidden"]);
    outbox.stop();
    begin(queue);
    await settle();
    expect(waiting()).toEqual(["a: failed", "b: failed"]);
    const [a, b] = outbox.of(CONVERSATION);
    expect(a?.problem).toEqual(new Refusal("invalid_content", "No"));
    outbox.discard(b?.message.client_id ?? "");
    void outbox.retry(a?.message.client_id ?? "");
    expect(queue.contents).toEqual(["a"]);
    await last().ack();
    expect(queue.contents).toEqual([]);
  });

  it("that doesn't work keeps nobody from sending", async () => {
    const broken = () => Promise.reject(new Error("no storage"));
    begin({ load: broken, put: broken, remove: broken, close: () => {} });
    add("a");
    await settle();
    await last().ack();
    expect(waiting()).toEqual([]);
  });
});

it("sends nothing once it is stopped", async () => {
  add("a", "b");
  outbox.stop();
  await last().ack();
  await vi.advanceTimersByTimeAsync(60_000);
  expect(tried()).toEqual(["a"]);
});
