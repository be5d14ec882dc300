import type { ChatMessage } from "@partyline/client";
import { dayKey } from "./format.ts";

/** Messages of one sender within this time stand together. */
const GROUP_MS = 5 * 60_000;

/** A message as the log shows it. */
export interface Row {
  readonly key: string;
  readonly message: ChatMessage;
  /** A day begins here: its first message's time. */
  readonly day: string | undefined;
  /** What I haven't read yet begins here. */
  readonly isUnreadStart: boolean;
  /** First and last of a group. */
  readonly isFirst: boolean;
  readonly isLast: boolean;
  /** The message that this one answers, if it is loaded. */
  readonly answers: ChatMessage | undefined;
  /** How many of the others have read it; only of mine. */
  readonly readers: number;
}

export interface Log {
  messages: readonly ChatMessage[];
  /** There are messages before the first one. */
  hasOlder: boolean;
  /** The others' read markers. */
  markers: readonly number[];
  /** What comes after this `seq` is unread; undefined for no divider. */
  readUpTo: number | undefined;
}

/** Makes rows; the same object as before for a row of which nothing changed, so that it isn't drawn again. */
export class Rows {
  private held = new Map<string, Row>();
  private readonly days = new WeakMap<ChatMessage, string>();

  of(log: Log): Row[] {
    const { messages, hasOlder, markers } = log;
    const next = new Map<string, Row>();
    const bySeq = new Map(messages.map((message) => [message.seq, message]));
    // Nothing is divided from nothing.
    const unread = messages[firstUnread(log) || -1];
    const rows = messages.map((message, index) => {
      const [before, after] = [messages[index - 1], messages[index + 1]];
      // What is before the first of them isn't known: its day may have begun there.
      const beginsDay = before ? this.day(before) !== this.day(message) : !hasOlder;
      const row: Row = {
        key: message.key,
        message,
        day: beginsDay ? message.created_at : undefined,
        isUnreadStart: message === unread,
        isFirst: !before || message === unread || !this.belongTogether(before, message),
        isLast: !after || after === unread || !this.belongTogether(message, after),
        answers: message.reply_to === null ? undefined : bySeq.get(message.reply_to),
        readers: message.isMine && message.seq > 0 ? markers.filter((marker) => marker >= message.seq).length : 0,
      };
      const held = this.held.get(row.key);
      const kept = held && isSame(held, row) ? held : row;
      next.set(row.key, kept);
      return kept;
    });
    this.held = next;
    return rows;
  }

  private belongTogether(a: ChatMessage, b: ChatMessage): boolean {
    if (a.sender_id !== b.sender_id || a.message_type === "system" || b.message_type === "system") return false;
    return Math.abs(Date.parse(b.created_at) - Date.parse(a.created_at)) < GROUP_MS && this.day(a) === this.day(b);
  }

  /** Remembered, as telling a local day is slow and history is long. */
  private day(message: ChatMessage): string {
    let day = this.days.get(message);
    if (day === undefined) this.days.set(message, (day = dayKey(message.created_at)));
    return day;
  }
}

/** Where the first unread message of somebody else's stands; -1 if there is none, or if it may be one not loaded. */
export function firstUnread({ messages, hasOlder, readUpTo }: Omit<Log, "markers">): number {
  if (readUpTo === undefined || (hasOlder && (messages[0]?.seq ?? 0) > readUpTo)) return -1;
  return messages.findIndex(({ seq, isMine }) => seq > readUpTo && !isMine);
}

function isSame(a: Row, b: Row): boolean {
  return (Object.keys(a) as (keyof Row)[]).every((name) => a[name] === b[name]);
}
