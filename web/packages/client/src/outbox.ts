import { reconnectDelay } from "./backoff.ts";
import type { Wire } from "./connection.ts";
import { Disconnected, Refusal } from "./errors.ts";
import type { Ack, SendAck, SendMessage } from "./wire.ts";

/** A message that isn't known to be stored, as a queue keeps it: plain data. */
export interface QueuedMessage {
  /** Its `client_id`, a UUIDv7, is the same in every attempt: the server stores it once. */
  readonly message: SendMessage;
  readonly created_at: string;
  /** The server won't have it. */
  readonly failure?: { code: string; message: string };
}

/** Keeps unsent messages beyond the end of the page: see `@partyline/client/indexeddb`. */
export interface Queue {
  /** What pages that are gone left unsent, oldest first; from then on it belongs to this page. May be asked again. */
  load(): Promise<QueuedMessage[]>;
  /** Keeps a message, or what became of it. */
  put(message: QueuedMessage): Promise<void>;
  remove(clientId: string): Promise<void>;
  /** This page sends nothing more: what is left belongs to whoever loads it next. */
  close(): void;
}

/** A message on its way; a new object whenever something about it changes. */
export interface Outgoing extends QueuedMessage {
  /** `failed`: not stored, and not tried again by itself. */
  readonly state: "sending" | "failed";
  /** Why it isn't sent yet, or failed. */
  readonly problem?: Refusal | undefined;
  /** When it is tried again, in Unix milliseconds. */
  readonly retryAt?: number | undefined;
  /** Tell whoever sent it. */
  resolve?(ack: SendAck): void;
  reject?(error: Error): void;
}

export interface OutboxOptions {
  connection: Pick<Wire, "request">;
  /** Commands that may be sent in a second; 0 for any number. */
  framesPerSecond(): number;
  queue?: Queue | undefined;
  onChange(conversationId: string): void;
  /** A message is stored; `onChange` follows. */
  onSent(sent: Outgoing, ack: SendAck): void;
}

/**
 * Messages on their way, sent one after another: a later one never overtakes an earlier one that has to wait.
 * Whatever has no answer is sent again with the same `client_id`.
 */
export class Outbox {
  #entries: Outgoing[] = [];
  #inFlight = false;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #lastSent = 0;
  #attempt = 0;
  /** Nothing is sent before it is known what earlier pages left. */
  #isLoading = false;
  #isStopped = false;

  readonly #options: OutboxOptions;

  constructor(options: OutboxOptions) {
    this.#options = options;
    void this.#load();
  }

  /** How many wait to be sent. */
  get pending(): number {
    return this.#entries.filter(({ state }) => state === "sending").length;
  }

  of(conversationId: string): Outgoing[] {
    return this.#entries.filter(({ message }) => message.conversation_id === conversationId);
  }

  /** Sends when it can. The promise never counts as unhandled, since `failed` is told otherwise as well. */
  add(message: SendMessage, created_at = new Date().toISOString()): Promise<SendAck> {
    const ack = new Promise<SendAck>((resolve, reject) => {
      this.#entries.push({ message, created_at, state: "sending", resolve, reject });
    });
    ack.catch(() => undefined);
    this.#keep({ message, created_at });
    this.#options.onChange(message.conversation_id);
    this.#pump();
    return ack;
  }

  /** Tries a failed message again, as the newest. */
  retry(clientId: string): Promise<SendAck> {
    const entry = this.#take(clientId);
    return entry ? this.add(entry.message, entry.created_at) : Promise.reject(new Refusal("not_found", "No such message"));
  }

  /** Forgets a message. */
  discard(clientId: string): void {
    const entry = this.#take(clientId);
    entry?.reject?.(new Refusal("discarded", "Not sent"));
    this.#forget(entry);
  }

  /** A message turned out to be stored. */
  settle(ack: SendAck): void {
    const entry = this.#take(ack.client_id);
    if (entry) this.#options.onSent(entry, ack);
    entry?.resolve?.(ack);
    this.#forget(entry);
  }

  /** Sends nothing more; what a queue holds stays there. */
  stop(): void {
    this.#isStopped = true;
    clearTimeout(this.#timer);
    for (const { reject } of this.#entries) reject?.(new Disconnected());
    this.#entries = [];
    this.#options.queue?.close();
  }

  /** There is a connection: sends what waits, and what other pages left meanwhile. */
  connected(): void {
    void this.#load();
    this.#pump();
  }

  #pump(): void {
    if (this.#inFlight || this.#timer !== undefined || this.#isLoading || this.#isStopped) return;
    const entry = this.#entries.find(({ state }) => state === "sending");
    if (!entry) return;
    const frames = this.#options.framesPerSecond();
    // Half of the allowance at most: typing, read markers and joins need the rest.
    const pause = frames > 0 ? this.#lastSent + 2_000 / frames - Date.now() : 0;
    if (pause > 0) this.#pumpIn(pause);
    else void this.#send(entry);
  }

  async #load(): Promise<void> {
    const { queue } = this.#options;
    if (!queue) return;
    this.#isLoading = true;
    // A browser that keeps nothing, as in private windows, is no reason to send nothing.
    const left = await queue.load().catch(() => []);
    if (this.#isStopped) return;
    this.#isLoading = false;
    const known = new Set(this.#entries.map(({ message }) => message.client_id));
    const found = left.filter(({ message }) => !known.has(message.client_id));
    this.#entries.unshift(
      ...found.map(({ failure, ...entry }): Outgoing =>
        failure ? { ...entry, state: "failed", problem: new Refusal(failure.code, failure.message) } : { ...entry, state: "sending" },
      ),
    );
    for (const { message } of found) this.#options.onChange(message.conversation_id);
    this.#pump();
  }

  async #send(entry: Outgoing): Promise<void> {
    this.#inFlight = true;
    this.#lastSent = Date.now();
    const trying = this.#replace(entry, { problem: undefined, retryAt: undefined });
    try {
      const ack = (await this.#options.connection.request(entry.message)) as Ack;
      this.#inFlight = false;
      this.#attempt = 0;
      this.settle(ack as SendAck);
    } catch (error) {
      this.#inFlight = false;
      // Without a connection everything just waits: `connected` is called when there is one.
      if (!(error instanceof Refusal)) return;
      // Unless the log was seen to hold it, or somebody discarded it.
      if (this.#entries.includes(trying)) this.#refused(trying, error);
    }
    this.#pump();
  }

  #refused(entry: Outgoing, problem: Refusal): void {
    if (problem.isTemporary) {
      const delay = problem.retryAfterMs ?? reconnectDelay(this.#attempt++);
      this.#pumpIn(delay);
      this.#replace(entry, { problem, retryAt: Date.now() + delay });
    } else {
      const { message, created_at } = entry;
      this.#keep({ message, created_at, failure: { code: problem.code, message: problem.message } });
      entry.reject?.(problem);
      this.#replace(entry, { state: "failed", problem });
    }
  }

  #replace(entry: Outgoing, change: Partial<Outgoing>): Outgoing {
    const next = { ...entry, ...change };
    this.#entries = this.#entries.map((it) => (it === entry ? next : it));
    this.#options.onChange(entry.message.conversation_id);
    return next;
  }

  #pumpIn(ms: number): void {
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      this.#pump();
    }, ms);
  }

  #take(clientId: string): Outgoing | undefined {
    const index = this.#entries.findIndex(({ message }) => message.client_id === clientId);
    return index < 0 ? undefined : this.#entries.splice(index, 1)[0];
  }

  #keep(message: QueuedMessage): void {
    this.#options.queue?.put(message).catch(() => undefined);
  }

  #forget(entry: Outgoing | undefined): void {
    if (!entry) return;
    this.#options.queue?.remove(entry.message.client_id).catch(() => undefined);
    this.#options.onChange(entry.message.conversation_id);
  }
}
