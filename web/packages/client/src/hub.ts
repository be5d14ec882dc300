import type { Transport } from "./transport.ts";
import { type Command, parseFrame, type Read } from "./wire.ts";

type Request = Command & { ref?: string };

/** Parts the socket's allowance of frames so that, with what was saved up, it is never exceeded within a second. */
const SPACING_MS = 1_250;
const SAVED_MS = 200;

export interface HubOptions {
  /** The tab that has the socket. */
  self: string;
  socket: Transport;
  /** Hands a frame to one tab, or to all. */
  tell(tab: string | undefined, text: string): void;
}

/**
 * One connection for several tabs: answers go to the tab that asked, everything else to all. A conversation stays
 * joined while one of them has joined it.
 */
export class Hub {
  /** What the server said first, for tabs that come later. */
  welcome: string | undefined;
  readonly #options: HubOptions;
  /** Tabs by conversation. */
  readonly #joined = new Map<string, Set<string>>();
  /** When the last frame was due, in Unix milliseconds. */
  #due = 0;
  #framesPerSecond = 0;
  readonly #timers = new Set<ReturnType<typeof setTimeout>>();

  constructor(options: HubOptions) {
    this.#options = options;
  }

  /** A frame of a tab. */
  send(tab: string, text: string): void {
    const request = JSON.parse(text) as Request;
    const { ref } = request;
    const reply = (frame: object) => {
      if (ref !== undefined) this.#options.tell(tab, JSON.stringify({ ...frame, ref }));
    };
    if (request.type === "refresh_token" && tab !== this.#options.self) {
      // The connection lives by the token of the tab that has it; whoever asks only wants to know if that one lives.
      return reply({ type: "ack" });
    }
    if (request.type === "join_conversation") this.#tabs(request.conversation_id).add(tab);
    if (request.type === "leave_conversation" && !this.#leave(request.conversation_id, tab)) {
      return reply({ type: "left", conversation_id: request.conversation_id });
    }
    this.#pace(JSON.stringify(ref === undefined ? request : { ...request, ref: `${tab}:${ref}` }));
  }

  /** A frame of the server. */
  hear(text: string): void {
    const { self, tell } = this.#options;
    const frame = parseFrame(text);
    if (!frame) return;
    if (frame.type === "welcome") {
      this.welcome = text;
      // A server that tells a burst reads later what comes too fast.
      this.#framesPerSecond = frame.limits.frames_burst ? 0 : frame.limits.frames_per_second;
    }
    if (!("ref" in frame) || frame.ref === undefined) return tell(frame.type === "token_expiring" ? self : undefined, text);
    const colon = frame.ref.indexOf(":");
    const tab = frame.ref.slice(0, colon);
    tell(tab, JSON.stringify({ ...frame, ref: frame.ref.slice(colon + 1) }));
    if (frame.type === "joined" && !frame.more) this.#hint(frame.conversation_id, frame.seq, tab);
  }

  /** A tab is gone. */
  drop(tab: string): void {
    for (const conversation_id of [...this.#joined.keys()]) {
      if (this.#joined.get(conversation_id)?.has(tab) && this.#leave(conversation_id, tab)) {
        this.#pace(JSON.stringify({ type: "leave_conversation", conversation_id }));
      }
    }
  }

  close(): void {
    for (const timer of this.#timers) clearTimeout(timer);
    this.#options.socket.close();
  }

  #tabs(conversation: string): Set<string> {
    const tabs = this.#joined.get(conversation) ?? new Set();
    this.#joined.set(conversation, tabs);
    return tabs;
  }

  /** Whether no tab has joined it any more. */
  #leave(conversation: string, tab: string): boolean {
    const tabs = this.#tabs(conversation);
    tabs.delete(tab);
    if (tabs.size > 0) return false;
    this.#joined.delete(conversation);
    return true;
  }

  /**
   * A join of one tab may have brought events that would have come live otherwise. The others see by an event that
   * stands nowhere in the log, and so changes nothing, how far the log is, and ask for what they lack.
   */
  #hint(conversation_id: string, seq: number, asked: string): void {
    const hint: Read = { type: "read", conversation_id, seq, prev_seq: seq, user_id: "", last_read_seq: 0, read_at: "" };
    for (const tab of this.#tabs(conversation_id)) if (tab !== asked) this.#options.tell(tab, JSON.stringify(hint));
  }

  #pace(text: string): void {
    const { socket } = this.#options;
    const now = Date.now();
    const spacing = this.#framesPerSecond > 0 ? SPACING_MS / this.#framesPerSecond : 0;
    this.#due = Math.max(this.#due + spacing, now - SAVED_MS);
    if (this.#due <= now) return socket.send(text);
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      socket.send(text);
    }, this.#due - now);
    this.#timers.add(timer);
  }
}
