import { Hub } from "./hub.ts";
import { type Dial, type Transport, type TransportEvents, webSocketDial } from "./transport.ts";

/** The tab that has the connection answers at once; one that doesn't is frozen, and loses it. */
const PATIENCE_MS = 3_000;

export interface TabsOptions {
  /** Whose chat it is: only tabs of the same person share a connection. */
  user: string;
  /** How the one socket is opened; a WebSocket unless given. */
  transport?: (url: string) => Dial;
}

/** What tabs say to each other; `from` is the id of whoever says it. */
type Word = { from: string } & (
  | { kind: "leading" }
  | { kind: "seeking" }
  | { kind: "following"; to: string }
  | { kind: "up"; to: string; text: string }
  | { kind: "down"; to: string | undefined; text: string }
  | { kind: "leaving" }
  | { kind: "closed"; code: number; reason: string }
);
/** Without `from`, for each of them. */
type Said<W = Word> = W extends Word ? Omit<W, "from"> : never;

/**
 * A transport by which all tabs of a person use one connection: `createChat({ …, transport: sharedBetweenTabs({ user }) })`.
 *
 * The tab that holds a Web Lock has the socket, the others speak with it over a BroadcastChannel. When it goes, every
 * other tab sees its connection end, and connects again: with the tab that is first to have the lock. Nothing is lost
 * or doubled by that, as by the end of any connection. Without Web Locks or BroadcastChannel each tab has its own.
 */
export function sharedBetweenTabs({ user, transport = webSocketDial }: TabsOptions): (url: string) => Dial {
  return (url) => {
    const dial = transport(url);
    const isPossible = typeof BroadcastChannel === "function" && typeof navigator === "object" && "locks" in navigator;
    return isPossible ? (token, events) => new Tab(`partyline ${url} ${user}`, dial, token, events) : dial;
  };
}

/** One dialled connection of one tab. */
class Tab implements Transport {
  readonly #id = crypto.getRandomValues(new Uint32Array(2)).join("-");
  readonly #name: string;
  readonly #events: TransportEvents;
  readonly #channel: BroadcastChannel;
  readonly #end = new AbortController();
  /** Ends the wait for the lock, not its possession. */
  readonly #waiting = new AbortController();
  /** Who has the socket, if it is another tab. */
  #leader: string | undefined;
  /** If it is this one. */
  #hub: Hub | undefined;
  #patience: ReturnType<typeof setTimeout> | undefined;

  constructor(name: string, dial: Dial, token: string, events: TransportEvents) {
    this.#name = name;
    this.#events = events;
    this.#channel = new BroadcastChannel(name);
    this.#channel.onmessage = ({ data }) => this.#hear(data as Word);
    globalThis.addEventListener?.("pagehide", () => this.#finish(1001, ""), { signal: this.#end.signal });
    const lead = () => this.#lead(dial, token);
    this.#request({ signal: this.#waiting.signal }, lead);
    this.#say({ kind: "seeking" });
    this.#patience = setTimeout(() => {
      this.#waiting.abort();
      this.#request({ steal: true }, lead);
    }, PATIENCE_MS);
  }

  send(text: string): void {
    if (this.#hub) this.#hub.send(this.#id, text);
    else if (this.#leader !== undefined) this.#say({ kind: "up", to: this.#leader, text });
  }

  close(): void {
    if (this.#end.signal.aborted) return;
    if (this.#hub) this.#say({ kind: "closed", code: 1001, reason: "" });
    else this.#say({ kind: "leaving" });
    this.#end.abort();
    this.#waiting.abort();
    clearTimeout(this.#patience);
    this.#hub?.close();
    this.#channel.close();
  }

  /** `lead` runs while the lock is held, and gives it back by resolving. */
  #request(options: LockOptions, lead: () => Promise<void>): void {
    // Rejected if the wait for it ended, or if another tab took it away.
    navigator.locks.request(this.#name, options, lead).catch(() => {
      if (this.#hub) this.#finish(1006, "");
    });
  }

  #lead(dial: Dial, token: string): Promise<void> {
    clearTimeout(this.#patience);
    if (this.#end.signal.aborted) return Promise.resolve();
    if (this.#leader !== undefined) {
      // That tab is gone, and what it knew of this one's conversations with it.
      this.#finish(1006, "");
      return Promise.resolve();
    }
    const tell = (tab: string | undefined, text: string) => {
      if (tab !== this.#id) this.#say({ kind: "down", to: tab, text });
      if (tab === this.#id || tab === undefined) this.#events.message(text);
    };
    try {
      const socket = dial(token, { message: (text) => this.#hub?.hear(text), closed: (code, reason) => this.#finish(code, reason) });
      this.#hub = new Hub({ self: this.#id, socket, tell });
    } catch {
      // What can't even be dialled with is no token.
      this.#finish(4401, "");
      return Promise.resolve();
    }
    this.#say({ kind: "leading" });
    return new Promise((resolve) => this.#end.signal.addEventListener("abort", () => resolve()));
  }

  #hear(word: Word): void {
    if (this.#hub) this.#serve(this.#hub, word);
    else this.#follow(word);
  }

  #serve(hub: Hub, word: Word): void {
    const { from } = word;
    if (word.kind === "seeking") {
      this.#say({ kind: "following", to: from });
      if (hub.welcome !== undefined) this.#say({ kind: "down", to: from, text: hub.welcome });
    } else if (word.kind === "up" && word.to === this.#id) {
      hub.send(from, word.text);
    } else if (word.kind === "leaving") {
      hub.drop(from);
    } else if (word.kind === "leading") {
      // It took the lock away.
      this.#finish(1006, "");
    }
  }

  #follow(word: Word): void {
    const isLeader = word.from === this.#leader;
    if (word.kind === "leading") {
      if (this.#leader === undefined) this.#say({ kind: "seeking" });
      else this.#finish(1006, "");
    } else if (word.kind === "following" && word.to === this.#id) {
      clearTimeout(this.#patience);
      this.#leader = word.from;
    } else if (word.kind === "down" && isLeader && (word.to === undefined || word.to === this.#id)) {
      this.#events.message(word.text);
    } else if (word.kind === "closed" && isLeader) {
      this.#finish(word.code, word.reason);
    }
  }

  #say(word: Said): void {
    this.#channel.postMessage({ ...word, from: this.#id });
  }

  /** The connection ended, for this tab and, if it had the socket, for all. */
  #finish(code: number, reason: string): void {
    if (this.#end.signal.aborted) return;
    if (this.#hub) this.#say({ kind: "closed", code, reason });
    this.close();
    this.#events.closed(code, reason);
  }
}
