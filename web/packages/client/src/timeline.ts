import type { Joined, LogEvent, Message, MessageDeleted, MessageEdited } from "./wire.ts";

/**
 * What became of an event: `gap` means that an event before it is missing, and the log must be asked for it
 * with `after`; `stale` that it was held already.
 */
export type Applied = "applied" | "stale" | "gap";

/** What to do after an answer to a join: nothing, ask on from where it ended, or ask for everything. */
export type AfterJoin = "done" | "more" | "reload";

/** Edits and deletions that are remembered for messages of older pages. */
const MAX_CHANGES = 500;

/**
 * The part of a conversation's log that this client holds: messages in their current state. No clock, no network.
 *
 * Holds the newest `limit` messages. Once older pages are asked for, it holds these as well, and lets `limit` new ones
 * come before it drops the oldest, so that nothing vanishes from before somebody's eyes; until `shrink`.
 */
export class Timeline {
  /** By `seq`. */
  messages: Message[] = [];
  /** Whether there are messages before the first one. */
  hasOlder = false;
  /** The last `seq` held; undefined before the first join. */
  held: number | undefined;
  #epoch: string | undefined;
  /** The last edit or deletion of messages, for those that arrive later by an older page. */
  readonly #changes = new Map<number, MessageEdited | MessageDeleted>();
  /** Messages that were asked for besides the newest. */
  #extra = 0;

  readonly #limit: number;

  constructor(limit = Number.POSITIVE_INFINITY) {
    this.#limit = limit;
  }

  /** Takes in the answer to a join that asked from `after`. */
  join(joined: Joined, after: number | undefined): AfterJoin {
    if (this.#epoch !== undefined && this.#epoch !== joined.epoch) {
      this.clear();
      // The answer tells what is after a place of the old log.
      if (after !== undefined) return "reload";
    }
    if (after === undefined) {
      this.clear();
      this.hasOlder = joined.has_older;
    }
    this.#epoch = joined.epoch;
    // The server told all there is between: no gaps among these.
    for (const event of joined.events) {
      if (event.seq > (this.held ?? 0)) this.#take(event);
    }
    this.held = Math.max(this.held ?? 0, joined.seq);
    this.#trim();
    return joined.more ? "more" : "done";
  }

  /** Takes in a live event. */
  apply(event: LogEvent): Applied {
    if (this.held === undefined || event.prev_seq > this.held) return "gap";
    if (event.seq <= this.held) return "stale";
    this.#take(event);
    this.#trim();
    return "applied";
  }

  /** Takes in a page of history that was asked for with `before` = the first `seq`. */
  addOlder(page: Message[], hasOlder: boolean): void {
    this.hasOlder = hasOlder;
    for (const message of page) this.#insert(message);
    this.#extra += page.length;
  }

  /** Somebody looks at what is old: it stays until as many have come anew. */
  look(): void {
    this.#extra ||= 1;
  }

  /** Nobody looks at the older pages any more. */
  shrink(): void {
    this.#extra = 0;
    this.#trim();
  }

  /** An own message is stored. The log's event follows, or came already; until then this stands in for it. */
  acked(message: Message): void {
    const first = this.messages[0];
    // A repeat of something from long ago has its place in a page that isn't loaded.
    const beforeAllHeld = this.hasOlder && first !== undefined && message.seq < first.seq;
    if (!beforeAllHeld && !this.find(message.seq)) this.#insert(message);
    this.#trim();
  }

  /** The message with this `seq`, if it is held. */
  find(seq: number): Message | undefined {
    return this.messages.findLast((message) => message.seq === seq);
  }

  /** The newest message of somebody else's, up to that place; 0 if none is held. */
  lastSeqOfOthers(me: string, upTo = Number.POSITIVE_INFINITY): number {
    return this.messages.findLast((message) => message.sender_id !== me && message.seq <= upTo)?.seq ?? 0;
  }

  #trim(): void {
    const limit = this.#limit + this.#extra;
    const surplus = this.messages.length - limit;
    if (surplus <= (this.#extra && this.#limit)) return;
    this.messages.splice(0, surplus);
    this.hasOlder = true;
  }

  #take(event: LogEvent): void {
    this.held = Math.max(this.held ?? 0, event.seq);
    if (event.type === "new_message") {
      const { type: _, ...message } = event;
      this.#insert(message);
    } else if (event.type === "message_edited" || event.type === "message_deleted") {
      this.#remember(event);
      const message = this.find(event.message_seq);
      if (message) this.#insert(message);
    }
  }

  #remember(change: MessageEdited | MessageDeleted): void {
    this.#changes.delete(change.message_seq);
    this.#changes.set(change.message_seq, change);
    for (const oldest of this.#changes.keys()) if (this.#changes.size > MAX_CHANGES) this.#changes.delete(oldest);
  }

  /** Puts a message in its place, as it is by now: a new object, so that whoever draws sees that something changed. */
  #insert(message: Message): void {
    const change = this.#changes.get(message.seq);
    const before = this.messages.findLastIndex(({ seq }) => seq < message.seq);
    const isHeld = this.messages[before + 1]?.seq === message.seq;
    this.messages.splice(before + 1, isHeld ? 1 : 0, change ? changed(message, change) : message);
  }

  /** Forgets everything: the next join brings the last page. */
  clear(): void {
    this.messages = [];
    this.#extra = 0;
    this.#changes.clear();
    this.held = undefined;
    this.#epoch = undefined;
    this.hasOlder = false;
  }
}

function changed(message: Message, change: MessageEdited | MessageDeleted): Message {
  // Deleted is for good; an older page may know of a later change than this one.
  if (message.deleted_at) return message;
  if (change.type === "message_deleted") return { ...message, content: "", metadata: {}, deleted_at: change.deleted_at };
  if (message.edited_at && Date.parse(message.edited_at) > Date.parse(change.edited_at)) return message;
  return { ...message, content: change.content, edited_at: change.edited_at };
}
