import { describe, expect, it } from "vitest";
import { Timeline } from "../src/timeline.ts";
import type { LogEvent, Message, MessageDeleted, MessageEdited } from "../src/wire.ts";
import { CONVERSATION, joined, message, newMessage, OTHER, seeded } from "./fake.ts";

function edited(seq: number, messageSeq: number, content: string): MessageEdited {
  const at = new Date(1_700_000_000_000 + seq * 1_000).toISOString();
  return { type: "message_edited", conversation_id: CONVERSATION, seq, prev_seq: seq - 1, message_seq: messageSeq, message_id: `m${messageSeq}`, editor_id: OTHER, content, edited_at: at };
}

function deleted(seq: number, messageSeq: number): MessageDeleted {
  const at = new Date(1_700_000_000_000 + seq * 1_000).toISOString();
  return { type: "message_deleted", conversation_id: CONVERSATION, seq, prev_seq: seq - 1, message_seq: messageSeq, message_id: `m${messageSeq}`, deleted_by: OTHER, deleted_at: at };
}

/** A timeline that joined when the log was these messages. */
function holding(seqs: number[], hasOlder = false): Timeline {
  const timeline = new Timeline();
  timeline.join(joined(seqs.at(-1) ?? 0, seqs.map((seq) => newMessage(seq)), { has_older: hasOlder }), undefined);
  return timeline;
}

const seqs = (timeline: Timeline) => timeline.messages.map(({ seq }) => seq);

describe("live events", () => {
  it("follow on each other by prev_seq, which alone shows a gap", () => {
    const timeline = holding([3]);
    expect(timeline.apply(newMessage(9, { prev_seq: 3 }))).toBe("applied"); // a hole in seq is none in the log
    expect(timeline.apply(newMessage(12, { prev_seq: 11 }))).toBe("gap");
    expect(timeline.held).toBe(9);
    expect(seqs(timeline)).toEqual([3, 9]);
  });

  it("that are held already change nothing", () => {
    const timeline = holding([3]);
    timeline.apply(edited(4, 3, "new"));
    expect(timeline.apply(newMessage(3, { prev_seq: 2 }))).toBe("stale");
    expect(timeline.apply(edited(4, 3, "doubled"))).toBe("stale");
    expect(timeline.messages).toMatchObject([{ seq: 3, content: "new" }]);
  });

  it("before the first join belong nowhere yet", () => {
    expect(new Timeline().apply(newMessage(1))).toBe("gap");
  });
});

describe("a join", () => {
  it("from a place of a log that was lost asks for everything", () => {
    const timeline = holding([1, 2]);
    expect(timeline.join(joined(9, [newMessage(9)], { epoch: "e2" }), 2)).toBe("reload");
    expect(timeline.held).toBeUndefined();
    expect(timeline.join(joined(9, [newMessage(9)], { epoch: "e2", has_older: true }), undefined)).toBe("done");
    expect([seqs(timeline), timeline.hasOlder]).toEqual([[9], true]);
  });

  it("whose page was full is asked on from its end", () => {
    const timeline = holding([1]);
    expect(timeline.join(joined(3, [newMessage(2), newMessage(3)], { more: true }), 1)).toBe("more");
    expect(timeline.held).toBe(3);
    expect(timeline.apply(newMessage(6, { prev_seq: 5 }))).toBe("gap");
  });
});

describe("a message", () => {
  it("of an older page gets the changes that came before it did", () => {
    const timeline = holding([8], true);
    timeline.apply(edited(9, 5, "new"));
    timeline.apply(deleted(10, 6));
    timeline.addOlder([message(5), message(6)], false);
    expect(timeline.messages).toMatchObject([{ seq: 5, content: "new" }, { seq: 6, content: "", deleted_at: deleted(10, 6).deleted_at }, { seq: 8 }]);
  });

  it("that an older page knows in a later state keeps it", () => {
    const timeline = holding([8], true);
    timeline.apply(edited(9, 5, "second"));
    const { edited_at } = edited(10, 5, "third");
    timeline.addOlder([message(5, { content: "third", edited_at }), message(6, { content: "", deleted_at: edited_at })], false);
    timeline.apply(edited(10, 5, "third"));
    timeline.apply(edited(11, 6, "too late"));
    expect(timeline.messages).toMatchObject([{ content: "third" }, { content: "" }, { seq: 8 }]);
  });

  it("of one's own stands in its place from the ack on, once", () => {
    const timeline = holding([3]);
    timeline.acked(message(5, { prev_seq: 0 }));
    expect([seqs(timeline), timeline.held]).toEqual([[3, 5], 3]);
    timeline.apply(newMessage(4));
    timeline.apply(newMessage(5));
    expect(timeline.messages.map(({ prev_seq }) => prev_seq)).toEqual([2, 3, 4]);
    timeline.acked(message(5, { prev_seq: 0 }));
    expect(seqs(timeline)).toEqual([3, 4, 5]);
  });

  it("that was acked as a repeat of long ago waits for its page", () => {
    const timeline = holding([8], true);
    timeline.acked(message(2));
    expect(seqs(timeline)).toEqual([8]);
    timeline.addOlder([message(2)], false);
    timeline.acked(message(1));
    expect(seqs(timeline)).toEqual([1, 2, 8]);
  });
});

describe("memory", () => {
  it("holds the newest messages, and the older pages that were asked for until nobody looks", () => {
    const timeline = new Timeline(3);
    timeline.join(joined(5, [3, 4, 5].map((seq) => newMessage(seq)), { has_older: false }), undefined);
    timeline.apply(newMessage(6));
    expect([seqs(timeline), timeline.hasOlder]).toEqual([[4, 5, 6], true]);
    timeline.addOlder([message(1), message(2), message(3)], false);
    for (const seq of [7, 8, 9]) timeline.apply(newMessage(seq));
    expect([seqs(timeline), timeline.hasOlder]).toEqual([[1, 2, 3, 4, 5, 6, 7, 8, 9], false]);
    timeline.apply(newMessage(10));
    expect([seqs(timeline), timeline.hasOlder]).toEqual([[5, 6, 7, 8, 9, 10], true]);
    timeline.shrink();
    expect([seqs(timeline), timeline.hasOlder]).toEqual([[8, 9, 10], true]);
  });

  it("is bounded however much comes by, and an edit of what was dropped is not lost", () => {
    const timeline = new Timeline(3);
    timeline.join(joined(1, [newMessage(1)]), undefined);
    for (let seq = 2; seq <= 5_000; seq++) timeline.apply(newMessage(seq));
    timeline.apply(edited(5_001, 4_990, "new"));
    expect(seqs(timeline)).toEqual([4_998, 4_999, 5_000]);
    timeline.addOlder([message(4_990)], true);
    expect(timeline.messages[0]?.content).toBe("new");
  });
});

/** The messages of a log in their state after its first events. */
function fold(log: LogEvent[]): Message[] {
  const messages = new Map<number, Message>();
  for (const event of log) {
    if (event.type === "new_message") {
      const { type: _, ...rest } = event;
      messages.set(event.seq, rest);
    } else if (event.type === "message_edited" || event.type === "message_deleted") {
      const held = messages.get(event.message_seq);
      if (!held || held.deleted_at) continue;
      if (event.type === "message_edited") Object.assign(held, { content: event.content, edited_at: event.edited_at });
      else Object.assign(held, { content: "", deleted_at: event.deleted_at });
    }
  }
  return [...messages.values()];
}

function randomLog(random: () => number): LogEvent[] {
  const log: LogEvent[] = [];
  let prev = 0;
  for (let index = 0; index < 60; index++) {
    const seq = prev + 1 + Math.floor(random() * 3);
    const messages = log.filter(({ type }) => type === "new_message");
    const target = messages[Math.floor(random() * messages.length)]?.seq;
    const kind = random();
    if (kind < 0.6 || target === undefined) log.push(newMessage(seq, { prev_seq: prev }));
    else if (kind < 0.8) log.push({ ...edited(seq, target, `edit ${seq}`), prev_seq: prev });
    else if (kind < 0.9) log.push({ ...deleted(seq, target), prev_seq: prev });
    else log.push({ type: "read", conversation_id: CONVERSATION, seq, prev_seq: prev, user_id: OTHER, last_read_seq: prev, read_at: "" });
    prev = seq;
  }
  return log;
}

/** One client's history with a random log: what it holds in the end, and what it should. */
function scenario(seed: number): { found: Timeline; expected: LogEvent[] } {
  const random = seeded(seed);
  const upTo = (count: number) => Math.floor(random() * (count + 1));
  const log = randomLog(random);
  const timeline = new Timeline();
  const lastSeq = (count: number) => log[count - 1]?.seq ?? 0;
  /** How much of the log there was at the first join, and is now. */
  const begun = upTo(log.length);
  let told = begun;

  const join = () => {
    const after = timeline.held;
    if (after === undefined) {
      const state = fold(log.slice(0, told));
      const page = state.slice(-5).map((it) => ({ type: "new_message" as const, ...it }));
      timeline.join(joined(lastSeq(told), page, { has_older: state.length > 5 }), undefined);
      return;
    }
    const missing = log.slice(0, told).filter(({ seq }) => seq > after);
    const page = missing.slice(0, 7);
    const more = page.length < missing.length;
    if (timeline.join(joined(more ? (page.at(-1)?.seq ?? 0) : lastSeq(told), page, { more }), after) === "more") join();
  };
  const loadOlder = () => {
    const before = timeline.messages[0]?.seq;
    if (before === undefined || !timeline.hasOlder) return;
    // As it was at some time since the first join: older than the events that came since, or newer.
    const at = begun + upTo(Math.min(told + 5, log.length) - begun);
    const state = fold(log.slice(0, at)).filter(({ seq }) => seq < before);
    const page = state.slice(-4);
    timeline.addOlder(page, page.length < state.length);
  };

  join();
  while (told < log.length) {
    const event = log[told++] as LogEvent;
    const chance = random();
    if (chance < 0.2) continue; // lost
    if (event.type === "new_message" && chance < 0.4) timeline.acked({ ...event, prev_seq: 0 } as Message);
    if (timeline.apply(event) === "gap" && random() < 0.7) join();
    if (random() < 0.2) timeline.apply(log[upTo(told - 1)] as LogEvent); // repeated, or a gap
    if (random() < 0.2) loadOlder();
  }
  join();
  for (let pages = 0; timeline.hasOlder && pages < log.length; pages++) loadOlder();
  return { found: timeline, expected: log };
}

it("holds what the log says, whatever was lost, repeated or late", () => {
  const state = ({ seq, content, deleted_at }: Message) => ({ seq, content, isDeleted: Boolean(deleted_at) });
  for (let seed = 0; seed < 300; seed++) {
    const { found, expected } = scenario(seed);
    expect(found.messages.map(state), `seed ${seed}`).toEqual(fold(expected).map(state));
    expect(found.held, `seed ${seed}`).toBe(expected.at(-1)?.seq);
  }
});
