import { reconnectDelay } from "./backoff.ts";
import { Refusal } from "./errors.ts";
import type { Wire } from "./connection.ts";
import type { Timeline } from "./timeline.ts";
import type { Joined, LogEvent } from "./wire.ts";

/** Between two joins because of a gap. */
const GAP_MS = 1_000;
/** Somebody who stops looking may look again at once: a page that is drawn anew, a list that is walked through. */
const LEAVE_MS = 1_000;

/** `closed`: not joined; `behind`: what is shown may not be all there is; `live`: it is; `refused`: it can't be joined. */
export type Phase = "closed" | "behind" | "live" | "refused";

export interface JoiningEvents {
  /** `after`: what the join followed, if anything. */
  onJoined(joined: Joined, after: number | undefined): void;
  onLeft(): void;
  onChange(): void;
}

/** Joins a conversation as long as it is wanted, and joins it again whenever its timeline lacks something. */
export class Joining {
  phase: Phase = "closed";
  /** Why it can't be joined. */
  problem: Refusal | undefined;
  isWanted = false;
  #isUnderWay = false;
  /** Counts the times it was left: an answer to a join from before that says nothing about now. */
  #departures = 0;
  /** No join because of a gap before this, in Unix milliseconds. */
  #notBefore = 0;
  #attempt = 0;
  #retryTimer: ReturnType<typeof setTimeout> | undefined;
  #leaveTimer: ReturnType<typeof setTimeout> | undefined;

  readonly #id: string;
  readonly #timeline: Timeline;
  readonly #connection: Wire;
  readonly #events: JoiningEvents;

  constructor(id: string, timeline: Timeline, connection: Wire, events: JoiningEvents) {
    this.#id = id;
    this.#timeline = timeline;
    this.#connection = connection;
    this.#events = events;
  }

  /** Joins, and stays joined over every reconnect, until nobody wants it any more. */
  want(isWanted: boolean): void {
    clearTimeout(this.#leaveTimer);
    if (!isWanted) this.#leaveTimer = setTimeout(() => this.leave(), LEAVE_MS);
    else if (!this.isWanted) this.again();
  }

  /** Joins anew, even after a refusal. */
  again(): void {
    this.isWanted = true;
    this.phase = "behind";
    this.problem = undefined;
    void this.#join();
    this.#events.onChange();
  }

  leave(): void {
    this.stop();
    if (!this.isWanted) return;
    this.isWanted = false;
    this.#departures++;
    this.phase = "closed";
    this.#connection.notify({ type: "leave_conversation", conversation_id: this.#id });
    this.#events.onLeft();
  }

  /** Stops every timer. */
  stop(): void {
    clearTimeout(this.#retryTimer);
    clearTimeout(this.#leaveTimer);
  }

  connected(): void {
    if (this.isWanted && this.phase !== "refused") void this.#join();
  }

  disconnected(): void {
    clearTimeout(this.#retryTimer);
    if (this.phase === "live") this.phase = "behind";
  }

  /** Takes in a live event; false if it changes nothing, or has to wait for what is missing before it. */
  accept(event: LogEvent): boolean {
    if (!this.isWanted) return false;
    const applied = this.#timeline.apply(event);
    if (applied === "gap") this.#fillGap();
    return applied === "applied";
  }

  refuse(refusal: Refusal): void {
    this.phase = "refused";
    this.problem = refusal;
    this.#events.onChange();
  }

  async #join(): Promise<void> {
    if (this.#isUnderWay) return;
    this.#isUnderWay = true;
    clearTimeout(this.#retryTimer);
    try {
      while (this.#isUnderWay && this.isWanted) {
        const after = this.#timeline.held;
        const departures = this.#departures;
        await this.#connection.request({ type: "join_conversation", conversation_id: this.#id, after }, (reply) =>
          this.#joined(reply as Joined, after, departures === this.#departures),
        );
      }
    } catch (error) {
      // Without a connection: `connected` joins again.
      if (error instanceof Refusal) this.#refused(error);
    } finally {
      this.#isUnderWay = false;
    }
  }

  /** `isCurrent`: it was not left since it was asked. */
  #joined(joined: Joined, after: number | undefined, isCurrent: boolean): void {
    const next = this.#timeline.join(joined, after);
    if (next === "done" && isCurrent) {
      this.#isUnderWay = false;
      this.phase = "live";
      this.#notBefore = Date.now() + GAP_MS;
      this.#attempt = 0;
    }
    this.#events.onJoined(joined, after);
  }

  #refused(refusal: Refusal): void {
    if (!refusal.isTemporary) return this.refuse(refusal);
    const delay = reconnectDelay(this.#attempt++, refusal.retryAfterMs);
    this.#notBefore = Date.now() + delay;
    this.#retryTimer = setTimeout(() => void this.#join(), delay);
  }

  #fillGap(): void {
    // The answer to a join that is under way covers this event as well.
    if (this.#isUnderWay) return;
    this.phase = "behind";
    this.#events.onChange();
    const pause = this.#notBefore - Date.now();
    clearTimeout(this.#retryTimer);
    if (pause <= 0) void this.#join();
    else this.#retryTimer = setTimeout(() => void this.#join(), pause);
  }
}
