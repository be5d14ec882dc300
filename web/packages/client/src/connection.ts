import { comesBack, parseCloseReason, reconnectDelay } from "./backoff.ts";
import { Disconnected, Refusal } from "./errors.ts";
import type { Dial, Transport } from "./transport.ts";
import { type Command, parseFrame, type Reply, type ServerFrame, type Welcome } from "./wire.ts";

/** From dialling to `welcome`, and from a request to its answer: longer means that nobody is there. */
const PATIENCE_MS = 10_000;
/** A connection that lasted this long was well: the next attempt comes quickly again. */
const WELL_MS = 10_000;
/** Pings are not seen from here, so after this much silence a question shows whether the server is still there. */
const SILENCE_MS = 60_000;
/** The close code of a connection whose place a newer one took. */
const REPLACED = 4509;
/** Between two tries to get a new token for an open connection. */
const RENEWAL_RETRY_MS = 10_000;

/**
 * Gives a token (a JWT): another one than `rejected`, which the server no longer takes or is about to. Rejects with a
 * `Refusal` if there will never be one, as when nobody is signed in, and with anything else if there may be later.
 */
export type TokenProvider = (rejected?: string) => Promise<string>;

export type ConnectionState =
  /** Before `connect`, and after `close`. */
  | { readonly kind: "stopped" }
  | { readonly kind: "connecting" }
  | { readonly kind: "online" }
  /** Lost, or never had: it is tried again at `retryAt`, in Unix milliseconds. */
  | { readonly kind: "waiting"; readonly retryAt: number }
  /** A newer connection of the same person took its place. It comes back when somebody uses the page: see `use`. */
  | { readonly kind: "replaced" }
  /** For good: a person has to do something. `why` is the server's code, or `token_refused`. */
  | { readonly kind: "ended"; readonly why: string; readonly message?: string };

export interface ConnectionOptions {
  dial: Dial;
  token: TokenProvider;
  /** Whether the server takes this token: a refused handshake looks like a lost network to a browser. */
  isAccepted(token: string): Promise<boolean>;
  onState(state: ConnectionState): void;
  onWelcome(welcome: Welcome): void;
  /** Every frame that answers no request. */
  onFrame(frame: ServerFrame): void;
}

/** What is asked of a connection. */
export type Wire = Pick<Connection, "request" | "notify">;

interface Waiting {
  resolve(reply: Reply): void;
  reject(error: Error): void;
  onReply: ((reply: Reply) => void) | undefined;
  timer: ReturnType<typeof setTimeout>;
}

/** One connection to the gateway, as long as it is wanted: opened again whenever it is lost. */
export class Connection {
  state: ConnectionState = { kind: "stopped" };
  #transport: Transport | undefined;
  #token: string | undefined;
  /** A token that the server no longer takes. */
  #rejected: string | undefined;
  #attempt = 0;
  /** When it was welcomed, in Unix milliseconds. */
  #welcomedAt: number | undefined;
  /** The server did something that was asked for. */
  #isAnswered = false;
  /** The server asked not to come back before. */
  #notBefore = 0;
  #lastHeard = 0;
  /** When a request was answered last, in Unix milliseconds. */
  #lastReply = 0;
  #nextRef = 0;
  /** Tells a dialling that was overtaken. */
  #generation = 0;
  readonly #waiting = new Map<string, Waiting>();
  readonly #timers = new Set<ReturnType<typeof setTimeout>>();

  readonly #options: ConnectionOptions;

  constructor(options: ConnectionOptions) {
    this.#options = options;
  }

  /** Connects, and stays connected until `stop`. */
  start(): void {
    if (this.state.kind !== "stopped" && this.state.kind !== "ended") return this.use();
    this.#attempt = 0;
    this.#rejected = undefined;
    void this.#dial();
  }

  stop(): void {
    this.#hangUp();
    this.#setState({ kind: "stopped" });
  }

  /** There may be a network again, or somebody looks: no waiting longer than the server asked for. */
  wake(): void {
    if (this.state.kind === "online") void this.#checkAlive();
    else if (this.state.kind === "waiting" && Date.now() >= this.#notBefore) void this.#dial();
  }

  /** Somebody uses the page: a connection that was replaced takes a place again. */
  use(): void {
    if (this.state.kind === "replaced") void this.#dial();
  }

  /**
   * Sends a command and waits for its answer.
   *
   * `onReply` runs before any later frame is looked at, which a promise does not promise.
   * Rejects with `Refusal`, or `Disconnected`.
   */
  request(command: Command, onReply?: (reply: Reply) => void): Promise<Reply> {
    const transport = this.#transport;
    if (this.state.kind !== "online" || !transport) return Promise.reject(new Disconnected());
    const ref = String(++this.#nextRef);
    return new Promise((resolve, reject) => {
      this.#waiting.set(ref, { resolve, reject, onReply, timer: this.#patience(ref, PATIENCE_MS) });
      transport.send(JSON.stringify({ ...command, ref }));
    });
  }

  /** Sends a command that has no answer; dropped without a connection. */
  notify(command: Command): void {
    if (this.state.kind === "online") this.#transport?.send(JSON.stringify(command));
  }

  /**
   * Silence means a dead connection; the next one finds out what became of the request. Commands are answered in their
   * order: while others are answered, this one waits for its turn.
   */
  #patience(ref: string, ms: number): ReturnType<typeof setTimeout> {
    return setTimeout(() => {
      const left = this.#lastReply + PATIENCE_MS - Date.now();
      const waiting = this.#waiting.get(ref);
      if (left > 0 && waiting) waiting.timer = this.#patience(ref, left);
      else this.#lost(1006, "");
    }, ms);
  }

  async #dial(): Promise<void> {
    this.#hangUp();
    const generation = this.#generation;
    this.#setState({ kind: "connecting" });
    let token: string;
    try {
      token = await this.#options.token(this.#rejected);
    } catch (error) {
      if (generation !== this.#generation) return;
      if (error instanceof Refusal) this.#end("token_refused", error.message);
      else this.#lost(1006, "");
      return;
    }
    if (generation !== this.#generation) return;
    if (token === this.#rejected) return this.#end("token_refused");
    this.#token = token;
    this.#later(PATIENCE_MS, () => {
      if (this.#welcomedAt === undefined) this.#lost(1006, "");
    });
    try {
      this.#transport = this.#options.dial(token, {
        message: (text) => {
          if (generation === this.#generation) this.#hear(text);
        },
        closed: (code, reason) => {
          if (generation === this.#generation) this.#lost(code, reason);
        },
      });
    } catch {
      // What can't be a subprotocol (RFC 6455, 4.1) can't be a token either.
      this.#end("token_refused", "That is not a token.");
    }
  }

  #hear(text: string): void {
    this.#lastHeard = Date.now();
    const frame = parseFrame(text);
    if (!frame) return;
    if (frame.type === "welcome") return this.#welcome(frame);
    const waiting = "ref" in frame && frame.ref !== undefined ? this.#waiting.get(frame.ref) : undefined;
    if (!waiting) {
      if (frame.type === "token_expiring") void this.#renew(this.#generation);
      else this.#options.onFrame(frame);
      return;
    }
    const reply = frame as Extract<ServerFrame, { ref?: string }>;
    this.#waiting.delete(reply.ref ?? "");
    this.#lastReply = Date.now();
    clearTimeout(waiting.timer);
    if (reply.type === "error") {
      waiting.reject(new Refusal(reply.code, reply.message, reply.retry_after_ms));
    } else {
      this.#isAnswered = true;
      waiting.onReply?.(reply);
      waiting.resolve(reply);
    }
  }

  #welcome(welcome: Welcome): void {
    if (this.#welcomedAt !== undefined) return;
    this.#welcomedAt = Date.now();
    this.#watchSilence();
    this.#setState({ kind: "online" });
    this.#options.onWelcome(welcome);
  }

  #watchSilence(): void {
    const left = this.#lastHeard + SILENCE_MS - Date.now();
    if (left <= 0) void this.#checkAlive();
    this.#later(left > 0 ? left : SILENCE_MS, () => this.#watchSilence());
  }

  /** Asks for something harmless; no answer in time counts as lost. */
  async #checkAlive(): Promise<void> {
    if (!this.#token) return;
    await this.request({ type: "refresh_token", token: this.#token }).catch(() => undefined);
  }

  async #renew(generation: number): Promise<void> {
    const isOver = () => generation !== this.#generation;
    try {
      const token = await this.#options.token(this.#token);
      if (isOver()) return;
      if (token !== this.#token) {
        await this.request({ type: "refresh_token", token });
        if (!isOver()) this.#token = token;
        return;
      }
    } catch {
      if (isOver()) return;
    }
    this.#later(RENEWAL_RETRY_MS, () => void this.#renew(generation));
  }

  #lost(code: number, reason: string): void {
    const wasRefused = this.#welcomedAt === undefined;
    // One that did its work was well, too, unless the server ended it for what this client did.
    if (Date.now() - (this.#welcomedAt ?? Date.now()) >= WELL_MS || (this.#isAnswered && code < 4002)) this.#attempt = 0;
    const told = parseCloseReason(reason);
    const token = this.#token;
    this.#hangUp();
    if (code === REPLACED) return this.#setState({ kind: "replaced" });
    if (!comesBack(code)) return this.#end(told.code ?? String(code));
    if (code === 4401) this.#rejected = token;
    const delay = reconnectDelay(this.#attempt++, told.retryAfterMs);
    this.#notBefore = Date.now() + (told.retryAfterMs === undefined ? 0 : delay);
    this.#setState({ kind: "waiting", retryAt: Date.now() + delay });
    this.#later(delay, () => void this.#dial());
    if (wasRefused && token !== undefined) void this.#checkToken(token);
  }

  async #checkToken(token: string): Promise<void> {
    // No answer says nothing about the token.
    const accepted = await this.#options.isAccepted(token).catch(() => true);
    if (!accepted) this.#rejected = token;
  }

  #end(why: string, message?: string): void {
    this.#hangUp();
    this.#setState({ kind: "ended", why, ...(message !== undefined && { message }) });
  }

  /** Nothing of the old connection is heard any more, and nothing waits for it. */
  #hangUp(): void {
    this.#generation++;
    this.#transport?.close();
    this.#transport = undefined;
    this.#welcomedAt = undefined;
    this.#isAnswered = false;
    this.#timers.forEach(clearTimeout);
    this.#timers.clear();
    const waiting = [...this.#waiting.values()];
    this.#waiting.clear();
    for (const { timer, reject } of waiting) {
      clearTimeout(timer);
      reject(new Disconnected());
    }
  }

  /** A timer of this connection: it ends with it. */
  #later(ms: number, run: () => void): void {
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      run();
    }, ms);
    this.#timers.add(timer);
  }

  #setState(state: ConnectionState): void {
    this.state = state;
    this.#options.onState(state);
  }
}
