import { Disconnected, Refusal } from "./errors.ts";
import { uuidv7 } from "./uuid.ts";
import type { Ack, Command, Reply } from "./wire.ts";

/** Before a refused message is tried again when the server names no time. */
const RETRY_MS = 2_000;

/** A message on its way. */
export interface Outgoing {
  readonly conversation_id: string;
  /** The same in every attempt: the server stores it once. */
  readonly client_id: string;
  readonly content: string;
  readonly created_at: string;
  /** `failed`: not stored, and not tried again by itself. */
  state: "sending" | "failed";
  /** Why it isn't sent yet, or failed. */
  problem?: Refusal;
  /** When it is tried again, in Unix milliseconds. */
  retryAt?: number;
}

export interface OutboxOptions {
  request(command: Command): Promise<Reply>;
  /** Commands that may be sent in a second; 0 for any number. */
  framesPerSecond(): number;
  onChange(conversationId: string): void;
  onSent(sent: Outgoing, ack: Ack): void;
}

/**
 * Messages on their way, sent one after another: a later one never overtakes an earlier one that has to wait.
 * Whatever has no answer is sent again with the same `client_id`.
 */
export class Outbox {
  private entries: Outgoing[] = [];
  private inFlight = false;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private lastSent = 0;

  constructor(private readonly options: OutboxOptions) {}

  get isEmpty(): boolean {
    return this.entries.length === 0;
  }

  of(conversationId: string): Outgoing[] {
    return this.entries.filter((entry) => entry.conversation_id === conversationId);
  }

  add(conversationId: string, content: string): void {
    this.entries.push({
      conversation_id: conversationId,
      client_id: uuidv7(),
      content,
      created_at: new Date().toISOString(),
      state: "sending",
    });
    this.options.onChange(conversationId);
    this.pump();
  }

  /** Tries a failed message again, as the newest. */
  retry(clientId: string): void {
    const entry = this.take(clientId);
    if (!entry) return;
    this.entries.push(entry);
    entry.state = "sending";
    delete entry.problem;
    this.options.onChange(entry.conversation_id);
    this.pump();
  }

  /** Forgets a message: it failed, or the log was seen to hold it. */
  remove(clientId: string): void {
    const entry = this.take(clientId);
    if (entry) this.options.onChange(entry.conversation_id);
  }

  /** Sends nothing more. */
  stop(): void {
    clearTimeout(this.timer);
    this.entries = [];
  }

  /** There is a connection: sends what waits. */
  pump(): void {
    if (this.inFlight || this.timer !== undefined) return;
    const entry = this.entries.find(({ state }) => state === "sending");
    if (!entry) return;
    const frames = this.options.framesPerSecond();
    // Half of the allowance at most: typing, read markers and joins need the rest.
    const pause = frames > 0 ? this.lastSent + 2_000 / frames - Date.now() : 0;
    if (pause > 0) this.pumpIn(pause);
    else void this.send(entry);
  }

  private async send(entry: Outgoing): Promise<void> {
    this.inFlight = true;
    this.lastSent = Date.now();
    delete entry.retryAt;
    try {
      const { conversation_id, client_id, content } = entry;
      const ack = await this.options.request({ type: "send_message", conversation_id, client_id, content });
      if (this.take(client_id)) this.options.onSent(entry, ack as Ack);
    } catch (error) {
      this.inFlight = false;
      this.refused(entry, error);
      return;
    }
    this.inFlight = false;
    this.pump();
  }

  private refused(entry: Outgoing, error: unknown): void {
    if (error instanceof Disconnected) {
      // It just waits: `pump` is called when there is a connection.
      delete entry.problem;
      delete entry.retryAt;
      this.options.onChange(entry.conversation_id);
      return;
    }
    const refusal = error instanceof Refusal ? error : new Refusal("internal", String(error));
    entry.problem = refusal;
    if (refusal.isTemporary) {
      const delay = refusal.retryAfterMs ?? RETRY_MS;
      entry.retryAt = Date.now() + delay;
      this.pumpIn(delay);
    } else {
      entry.state = "failed";
      delete entry.retryAt;
      this.pump();
    }
    this.options.onChange(entry.conversation_id);
  }

  private pumpIn(ms: number): void {
    this.timer = setTimeout(() => {
      this.timer = undefined;
      this.pump();
    }, ms);
  }

  private take(clientId: string): Outgoing | undefined {
    const index = this.entries.findIndex(({ client_id }) => client_id === clientId);
    return index < 0 ? undefined : this.entries.splice(index, 1)[0];
  }
}
