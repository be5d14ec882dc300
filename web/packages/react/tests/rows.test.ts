import type { ChatMessage } from "@partyline/client";
import { expect, test } from "vitest";
import { firstUnread, type Log, Rows } from "../src/rows.ts";
import { ME, message } from "./server.ts";

const DAY_S = 24 * 3_600;

function shown(seq: number, more: Partial<ChatMessage> = {}): ChatMessage {
  const isMine = more.sender_id === ME;
  return { ...message(seq), key: `k${seq}`, isMine, state: isMine ? "sent" : "delivered", ...more } as ChatMessage;
}

function log(messages: ChatMessage[], more: Partial<Log> = {}): Log {
  return { messages, hasOlder: false, markers: [], readUpTo: undefined, ...more };
}

const at = (seconds: number) => new Date(Date.UTC(2026, 5, 14, 10) + seconds * 1_000).toISOString();

test("messages of one sender within five minutes stand together, on the same day", () => {
  const rows = new Rows().of(
    log([
      shown(1, { created_at: at(0) }),
      shown(2, { created_at: at(60) }),
      shown(3, { created_at: at(61), sender_id: ME }),
      shown(4, { created_at: at(62) }),
      shown(5, { created_at: at(62 + 301) }),
      shown(6, { created_at: at(DAY_S) }),
    ]),
  );
  expect(rows.map(({ isFirst, isLast }) => `${isFirst ? "[" : "-"}${isLast ? "]" : "-"}`).join("")).toBe("[--][][][][]");
  expect(rows.map(({ day }) => day !== undefined)).toEqual([true, false, false, false, false, true]);
});

test("what is before the first message isn't known, so no day begins with it and nothing is divided from it", () => {
  const messages = [shown(5, { sender_id: ME }), shown(6)];
  const unknown = new Rows().of(log(messages, { hasOlder: true, readUpTo: 3 }));
  expect(unknown.map(({ day, isUnreadStart }) => [day, isUnreadStart])).toEqual([[undefined, false], [undefined, false]]);
  const rows = new Rows().of(log(messages, { readUpTo: 5 }));
  expect(rows.map(({ isUnreadStart }) => isUnreadStart)).toEqual([false, true]);
  expect(rows[1]?.isFirst).toBe(true);
  // All of it is unread: it begins at the first, which nothing stands before.
  const all = log(messages, { readUpTo: 3 });
  expect([firstUnread(all), firstUnread(log(messages.slice(1), { readUpTo: 3 })), firstUnread({ ...all, hasOlder: true })]).toEqual([1, 0, -1]);
  expect(new Rows().of(log(messages.slice(1), { readUpTo: 3 })).some(({ isUnreadStart }) => isUnreadStart)).toBe(false);
});

test("a row of which nothing changed stays the same object, as its neighbours come and go", () => {
  const maker = new Rows();
  const messages = [shown(1), shown(2, { sender_id: ME, created_at: at(400) }), shown(3, { created_at: at(800) })];
  const before = maker.of(log(messages));
  const answer = shown(4, { created_at: at(1_200), reply_to: 2 });
  const after = maker.of(log([...messages, answer], { markers: [2] }));
  expect(after.slice(0, 3).map((row, index) => row === before[index])).toEqual([true, false, true]);
  expect(after[1]?.readers).toBe(1);
  expect(after[3]?.answers).toBe(messages[1]);
});
