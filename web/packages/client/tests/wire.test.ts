import { describe, expect, it, test } from "vitest";
import { comesBack, parseCloseReason, reconnectDelay } from "../src/backoff.ts";
import { layOut, uuidv7 } from "../src/uuid.ts";
import { contentLength, parseFrame } from "../src/wire.ts";

describe("the delay before a reconnect", () => {
  it("is full jitter below a ceiling that doubles up to 30 s", () => {
    const ceilings = Array.from({ length: 8 }, (_, attempt) => reconnectDelay(attempt, 0, () => 1));
    expect(ceilings).toEqual([500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]);
    expect(reconnectDelay(1e6, 0, () => 1)).toBe(30_000);
    expect(reconnectDelay(3, 0, () => 0)).toBe(0);
  });

  it("is never shorter than the server asks, but for an absurd wish", () => {
    expect(reconnectDelay(0, 1_840, () => 0.5)).toBe(1_840);
    expect(reconnectDelay(6, 1_840, () => 0.5)).toBe(15_000);
    expect(reconnectDelay(0, 1e12, () => 0)).toBe(300_000);
  });
});

test("only 4500 to 4999 end for good", () => {
  expect([1000, 1006, 4000, 4001, 4499, 5000].every(comesBack)).toBe(true);
  expect([4500, 4999].some(comesBack)).toBe(false);
});

test("a close reason is the server's JSON, or nothing", () => {
  expect(parseCloseReason('{"code":"draining","retry_after_ms":1840}')).toEqual({ code: "draining", retryAfterMs: 1_840 });
  for (const reason of ["", "bye", "null", "7", '{"code":1,"retry_after_ms":"soon"}', '{"retry_after_ms":-1}']) {
    expect(parseCloseReason(reason)).toEqual({});
  }
});

test("a frame is an object with a type", () => {
  expect(parseFrame('{"type":"from_the_future"}')).toEqual({ type: "from_the_future" });
  for (const text of ["", "{", "null", "[]", '"text"', '{"type":7}']) expect(parseFrame(text)).toBeUndefined();
});

test("content is counted in code points, trimmed", () => {
  expect(contentLength("  héllo 👍🏽\n")).toBe(8);
  expect(contentLength(" \n\t")).toBe(0);
  for (const blank of ["\u200b", "\u2060\ufeff", "\u3164", "\u2800", "\u00ad", "\ufe0f", "\u202e"]) expect(contentLength(blank)).toBe(0);
  expect(contentLength("\u2764\ufe0f\u{1f469}\u200d\u{1f680}")).toBe(5);
});

test("UUIDs are of version 7 and sort in the order in which they were made", () => {
  const id = layOut(0x0123456789ab, new Uint8Array(10).fill(0xff));
  expect(id).toBe("01234567-89ab-7fff-bfff-ffffffffffff");
  const made = Array.from({ length: 100 }, () => uuidv7());
  expect(made).toEqual([...new Set(made)].sort());
  expect(uuidv7()).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
});
