import type { Api } from "./api.ts";
import { reconnectDelay } from "./backoff.ts";
import { Refusal } from "./errors.ts";
import { type AfterJoin, Timeline } from "./timeline.ts";
import type { Command, Joined, LogEvent, Participant, Reply, Typing } from "./wire.ts";

/** How long somebody else is shown as typing, unless told again. */
const TYPING_LASTS_MS = 5_000;
/** Between two tellings that I type. */
const TYPING_EVERY_MS = 3_000;
/** Between two read markers. */
const MARK_READ_MS = 250;
/** Between two joins because of a gap. */
const GAP_MS = 1_000;

export interface ConversationOptions {
  me(): string;
  api: Api;
  request(command: Command, onReply?: (reply: Reply) => void): Promise<Reply>;
  notify(command: Command): void;
  onChange(): void;
}

/** `behind`: what is shown may not be all there is. */
export type Phase = "closed" | "behind" | "live" | "refused";

/** One conversation that is, or was, open: joined while it is, and brought up to date whenever something is missing. */
export class Conversation {
  readonly timeline = new Timeline();
  phase: Phase = "closed";
  /** Why it can't be joined. */
  problem: Refusal | undefined;
  participants: Participant[] = [];
  online = new Set<string>();
  /** By user: the last `seq` read. */
  readMarkers = new Map<string, number>();
  /** Names of those who type, by user. */
  typing = new Map<string, string>();
  isLoadingOlder = false;
  private isWanted = false;
  private isJoining = false;
  /** Counts the times it was left: an answer to a join from before that says nothing about now. */
  private departures = 0;
  /** No join because of a gap before this, in Unix milliseconds. */
  private joinNotBefore = 0;
  private attempt = 0;
  private retryTimer: ReturnType<typeof setTimeout> | undefined;
  private markTimer: ReturnType<typeof setTimeout> | undefined;
  private marked = 0;
  /** More was seen since the last marker. */
  private isMarkDue = false;
  private toldTypingAt = 0;
  private readonly typingTimers = new Map<string, ReturnType<typeof setTimeout>>();

  constructor(
    readonly id: string,
    private readonly options: ConversationOptions,
  ) {}

  /** Joins, and stays joined over every reconnect until `close`. */
  open(): void {
    this.isWanted = true;
    this.phase = "behind";
    this.problem = undefined;
    void this.join();
  }

  close(): void {
    this.isWanted = false;
    this.departures++;
    this.phase = "closed";
    clearTimeout(this.retryTimer);
    clearTimeout(this.markTimer);
    this.markTimer = undefined;
    this.forgetTyping();
    this.options.notify({ type: "leave_conversation", conversation_id: this.id });
  }

  /** A connection was made. */
  connected(): void {
    this.marked = 0;
    if (this.isWanted && this.phase !== "refused") void this.join();
  }

  /** The connection is gone: what is shown grows old. */
  disconnected(): void {
    clearTimeout(this.retryTimer);
    if (this.phase === "live") this.phase = "behind";
    this.forgetTyping();
  }

  /** A live event of this conversation's log. */
  handle(event: LogEvent): void {
    if (!this.isWanted) return;
    const applied = this.timeline.apply(event);
    if (applied === "stale") return;
    if (applied === "gap") return this.fillGap();
    this.take(event);
    this.options.onChange();
  }

  handleTyping({ user_id, username, is_typing }: Typing): void {
    if (!this.isWanted || user_id === this.options.me()) return;
    this.endTyping(user_id);
    if (is_typing) {
      this.typing.set(user_id, username);
      this.typingTimers.set(
        user_id,
        setTimeout(() => {
          this.endTyping(user_id);
          this.options.onChange();
        }, TYPING_LASTS_MS),
      );
    }
    this.options.onChange();
  }

  /** Asks for the page before the first message held. */
  async loadOlder(): Promise<void> {
    const before = this.timeline.messages[0]?.seq;
    if (this.isLoadingOlder || !this.timeline.hasOlder || before === undefined) return;
    this.isLoadingOlder = true;
    this.options.onChange();
    try {
      const page = await this.options.api.messagesBefore(this.id, before);
      // After a reload of the whole log the page belongs nowhere.
      if (this.timeline.find(before)) this.timeline.addOlder(page.results, page.next_before !== null);
    } finally {
      this.isLoadingOlder = false;
      this.options.onChange();
    }
  }

  /** All that is held was seen. */
  markRead(): void {
    const seq = this.timeline.lastSeqOfOthers(this.options.me());
    const marker = this.readMarkers.get(this.options.me()) ?? 0;
    if (this.phase !== "live" || seq <= Math.max(this.marked, marker)) return;
    this.isMarkDue = this.markTimer !== undefined;
    if (this.isMarkDue) return;
    this.markTimer = setTimeout(() => {
      this.markTimer = undefined;
      if (this.isMarkDue) this.markRead();
    }, MARK_READ_MS);
    this.marked = seq;
    this.options.request({ type: "mark_read", conversation_id: this.id, seq }).catch(() => {
      this.marked = 0;
    });
  }

  /** I type, or cleared what I typed. */
  tellTyping(isTyping: boolean): void {
    const now = Date.now();
    const wasTold = now - this.toldTypingAt < TYPING_LASTS_MS;
    if (isTyping ? now - this.toldTypingAt < TYPING_EVERY_MS : !wasTold) return;
    this.toldTypingAt = isTyping ? now : 0;
    this.options.notify({ type: "typing", conversation_id: this.id, is_typing: isTyping });
  }

  /** My message went out, which ends my typing for everybody. */
  sent(): void {
    this.toldTypingAt = 0;
  }

  private async join(): Promise<void> {
    if (this.isJoining) return;
    this.isJoining = true;
    clearTimeout(this.retryTimer);
    try {
      while (this.isJoining && this.isWanted) {
        const after = this.timeline.held;
        const { departures } = this;
        await this.options.request(
          { type: "join_conversation", conversation_id: this.id, ...(after !== undefined && { after }) },
          (reply) => this.joined(reply as Joined, after, departures === this.departures),
        );
      }
    } catch (error) {
      // Without a connection: `connected` joins again.
      if (error instanceof Refusal) this.refused(error);
    } finally {
      this.isJoining = false;
    }
  }

  /** `isCurrent`: it was not left since it was asked. */
  private joined(joined: Joined, after: number | undefined, isCurrent: boolean): void {
    const next: AfterJoin = this.timeline.join(joined, after);
    if (next === "done" && isCurrent) {
      this.isJoining = false;
      this.phase = "live";
      this.joinNotBefore = Date.now() + GAP_MS;
      this.attempt = 0;
    }
    this.participants = joined.participants;
    this.online = new Set(joined.online);
    this.readMarkers = new Map(Object.entries(joined.read_markers));
    this.options.onChange();
  }

  private refused(refusal: Refusal): void {
    if (refusal.isTemporary) {
      const delay = reconnectDelay(this.attempt++, refusal.retryAfterMs);
      this.joinNotBefore = Date.now() + delay;
      this.retryTimer = setTimeout(() => void this.join(), delay);
    } else {
      this.phase = "refused";
      this.problem = refusal;
      this.options.onChange();
    }
  }

  private fillGap(): void {
    // The answer to a join that is under way covers this event as well.
    if (this.isJoining) return;
    this.phase = "behind";
    const pause = this.joinNotBefore - Date.now();
    clearTimeout(this.retryTimer);
    if (pause <= 0) void this.join();
    else this.retryTimer = setTimeout(() => void this.join(), pause);
  }

  private take(event: LogEvent): void {
    if (event.type === "new_message") {
      this.endTyping(event.sender_id);
    } else if (event.type === "read") {
      const marker = this.readMarkers.get(event.user_id) ?? 0;
      this.readMarkers.set(event.user_id, Math.max(marker, event.last_read_seq));
    } else if (event.type === "participant_added") {
      const { participant } = event;
      this.participants = [...this.participants.filter(({ user_id }) => user_id !== participant.user_id), participant];
    } else if (event.type === "participant_removed") {
      this.participants = this.participants.filter(({ user_id }) => user_id !== event.user_id);
      if (event.user_id === this.options.me()) this.refused(new Refusal("forbidden", "You no longer take part"));
    }
  }

  private endTyping(userId: string): void {
    this.typing.delete(userId);
    clearTimeout(this.typingTimers.get(userId));
    this.typingTimers.delete(userId);
  }

  private forgetTyping(): void {
    [...this.typing.keys()].forEach((userId) => this.endTyping(userId));
    this.toldTypingAt = 0;
  }
}
