import type { Ack, Joined, LogEvent, Message, MessageDeleted, MessageEdited } from "./wire.ts";

/**
 * What became of an event: `gap` means that an event before it is missing, and the log must be asked for it
 * with `after`; `stale` that it was held already.
 */
export type Applied = "applied" | "stale" | "gap";

/** What to do after an answer to a join: nothing, ask on from where it ended, or ask for everything. */
export type AfterJoin = "done" | "more" | "reload";

/** The part of a conversation's log that this client holds: messages in their current state. No clock, no network. */
export class Timeline {
  /** By `seq`. */
  messages: Message[] = [];
  /** Whether there are messages before the first one. */
  hasOlder = false;
  /** The last `seq` held; undefined before the first join. */
  held: number | undefined;
  private epoch: string | undefined;
  /** The last edit or deletion of messages, for those that arrive later by an older page. */
  private readonly changes = new Map<number, MessageEdited | MessageDeleted>();

  /** Takes in the answer to a join that asked from `after`. */
  join(joined: Joined, after: number | undefined): AfterJoin {
    if (this.epoch !== undefined && this.epoch !== joined.epoch) {
      this.clear();
      // The answer tells what is after a place of the old log.
      if (after !== undefined) return "reload";
    }
    if (after === undefined) {
      this.clear();
      this.hasOlder = joined.has_older;
    }
    this.epoch = joined.epoch;
    // The server told all there is between: no gaps among these.
    for (const event of joined.events) {
      if (event.seq > (this.held ?? 0)) this.take(event);
    }
    this.held = Math.max(this.held ?? 0, joined.seq);
    return joined.more ? "more" : "done";
  }

  /** Takes in a live event. */
  apply(event: LogEvent): Applied {
    if (this.held === undefined || event.prev_seq > this.held) return "gap";
    if (event.seq <= this.held) return "stale";
    this.take(event);
    return "applied";
  }

  /** Takes in a page of history that was asked for with `before` = the first `seq`. */
  addOlder(page: Message[], hasOlder: boolean): void {
    this.hasOlder = hasOlder;
    for (const message of page) {
      if (!this.find(message.seq)) this.insert(message);
    }
  }

  /** An own message is stored. The log's event follows, or came already; until then this stands in for it. */
  acked(ack: Required<Pick<Ack, "seq">>, message: Message): void {
    const first = this.messages[0];
    // A repeat of something from long ago has its place in a page that isn't loaded.
    const beforeAllHeld = this.hasOlder && first !== undefined && ack.seq < first.seq;
    if (!beforeAllHeld && !this.find(ack.seq)) this.insert(message);
  }

  /** The message with this `seq`, if it is held. */
  find(seq: number): Message | undefined {
    const index = this.place(seq);
    const message = this.messages[index];
    return message?.seq === seq ? message : undefined;
  }

  /** The newest message of somebody else's; 0 if none is held. */
  lastSeqOfOthers(me: string): number {
    return this.messages.findLast((message) => message.sender_id !== me)?.seq ?? 0;
  }

  private take(event: LogEvent): void {
    this.held = Math.max(this.held ?? 0, event.seq);
    if (event.type === "new_message") {
      const { type: _, ...message } = event;
      this.insert(message);
    } else if (event.type === "message_edited" || event.type === "message_deleted") {
      this.changes.set(event.message_seq, event);
      const message = this.find(event.message_seq);
      if (message) this.replace(changed(message, event));
    }
  }

  private insert(message: Message): void {
    const change = this.changes.get(message.seq);
    const current = change ? changed(message, change) : message;
    if (this.find(message.seq)) this.replace(current);
    else this.messages.splice(this.place(message.seq), 0, current);
  }

  /** A new object, so that whoever draws sees that something changed. */
  private replace(message: Message): void {
    this.messages[this.place(message.seq)] = message;
  }

  /** Index of the first message at or after `seq`. */
  private place(seq: number): number {
    let [low, high] = [0, this.messages.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((this.messages[middle]?.seq ?? 0) < seq) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  private clear(): void {
    this.messages = [];
    this.changes.clear();
    this.held = undefined;
    this.epoch = undefined;
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
