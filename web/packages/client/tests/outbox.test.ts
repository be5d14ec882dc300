import { beforeEach, describe, expect, it, vi } from "vitest";
import { Disconnected, Refusal } from "../src/errors.ts";
import { Outbox } from "../src/outbox.ts";
import type { Ack, Command, Reply } from "../src/wire.ts";
import { CONVERSATION, settle } from "./fake.ts";

type Send = Extract<Command, { type: "send_message" }>;

let outbox: Outbox;
let frames = 0;
/** Every attempt, and how to end it. */
let attempts: { command: Send; at: number; ack(): Promise<void>; fail(error: Error): Promise<void> }[];
const onSent = vi.fn();

beforeEach(() => {
  vi.useFakeTimers();
  attempts = [];
  frames = 0;
  onSent.mockReset();
  const request = (command: Command) =>
    new Promise<Reply>((resolve, reject) => {
      const end = async (run: () => void) => {
        run();
        await settle();
      };
      const ack: Ack = { type: "ack" };
      attempts.push({ command: command as Send, at: Date.now(), ack: () => end(() => resolve(ack)), fail: (error) => end(() => reject(error)) });
    });
  outbox = new Outbox({ request, framesPerSecond: () => frames, onChange: () => {}, onSent });
});

const add = (...contents: string[]) => contents.forEach((content) => outbox.add(CONVERSATION, content));
const tried = () => attempts.map(({ command }) => command.content);
const last = () => attempts.at(-1) ?? expect.fail("nothing was sent");
const waiting = () => outbox.of(CONVERSATION).map(({ content, state }) => `${content}: ${state}`);

describe("messages", () => {
  it("go one after another, each when the one before it is stored", async () => {
    add("a", "b");
    expect(tried()).toEqual(["a"]);
    await last().ack();
    expect(tried()).toEqual(["a", "b"]);
    await last().ack();
    expect(outbox.isEmpty).toBe(true);
    expect(onSent.mock.calls.map(([{ content }]) => content)).toEqual(["a", "b"]);
  });

  it("without an answer go again, in order, with the same client_id", async () => {
    add("a", "b");
    await last().fail(new Disconnected());
    expect(waiting()).toEqual(["a: sending", "b: sending"]);
    await vi.advanceTimersByTimeAsync(60_000);
    expect(attempts).toHaveLength(1); // there is no connection
    outbox.pump();
    outbox.pump();
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
    outbox.pump();
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
    outbox.retry(outbox.of(CONVERSATION)[0]?.client_id ?? "");
    expect(waiting()).toEqual(["b: sending", "a: sending"]);
    await last().ack();
    expect(last().command.client_id).toBe(attempts[0]?.command.client_id);
    await last().fail(new Refusal("forbidden", "No"));
    outbox.remove(outbox.of(CONVERSATION)[0]?.client_id ?? "");
    expect(outbox.isEmpty).toBe(true);
  });

  it("that the log turned out to hold are done, whatever the answer is", async () => {
    add("a", "b");
    outbox.remove(attempts[0]?.command.client_id ?? "");
    await last().fail(new Disconnected());
    outbox.pump();
    await last().ack();
    expect(tried()).toEqual(["a", "b"]);
    expect(onSent.mock.calls.map(([{ content }]) => content)).toEqual(["b"]);
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

it("sends nothing once it is stopped", async () => {
  add("a", "b");
  outbox.stop();
  await last().ack();
  await vi.advanceTimersByTimeAsync(60_000);
  expect(tried()).toEqual(["a"]);
});
