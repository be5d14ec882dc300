import { Chat, type ConnectionState, Disconnected, Refusal, type TokenSource, webSocketDial } from "@partyline/client";
import { h, icon, setText } from "./dom.ts";
import { secondsUntil } from "./format.ts";
import { Sidebar } from "./sidebar.ts";
import { Thread } from "./thread.ts";

/** How long a notice stays. */
const NOTICE_MS = 8_000;
/** A connection that comes back sooner is not worth a banner. */
const BANNER_DELAY_MS = 700;
/** Countdowns move on; relative times only every so many of these. */
const TICK_MS = 1_000;
const TICKS_AT_REST = 30;
/** Who of the list is online is asked for again: only joined conversations tell by themselves. */
const LIST_EVERY_MS = 60_000;

/** The whole page of somebody who is signed in: both panes, what is wrong, and what the window tells. */
export class App {
  private readonly chat: Chat;
  private readonly sidebar: Sidebar;
  private readonly frame: HTMLElement;
  private readonly pane = h("main", { class: "pane" });
  private readonly banner = h("div", { class: "banner", role: "status", "data-testid": "banner", hidden: true });
  private readonly bannerText = h("span");
  private readonly bannerButton: HTMLButtonElement;
  private readonly notices = h("div", { class: "notices", role: "alert" });
  private readonly end = new AbortController();
  private readonly timers: ReturnType<typeof setInterval>[] = [];
  private thread: Thread | undefined;
  private lostAt: number | undefined;
  private isDue = false;
  private ticks = 0;

  constructor(
    root: HTMLElement,
    tokens: TokenSource,
    private readonly leave: () => void,
  ) {
    const socketUrl = new URL("ws", document.baseURI);
    socketUrl.protocol = socketUrl.protocol === "https:" ? "wss:" : "ws:";
    this.chat = new Chat({
      dial: webSocketDial(socketUrl.href),
      apiUrl: new URL("chat/api/", document.baseURI).href,
      tokens,
      onChange: () => this.changed(),
      onWait: (refusal, retryAt) => this.notify(`${refusal.message}. Trying again in ${secondsUntil(retryAt)} s.`),
    });
    this.sidebar = new Sidebar(this.chat, {
      start: async (userId) => {
        location.hash = `#/${encodeURIComponent(await this.chat.startDirect(userId))}`;
      },
      signOut: () => this.signOut(),
      failed: (error) => this.failed(error),
    });
    this.bannerButton = h("button", { class: "quiet", type: "button", onclick: () => this.bannerPressed() });
    this.banner.append(this.bannerText, this.bannerButton);
    this.frame = h("div", { class: "app" }, this.banner, this.sidebar.element, this.pane, this.notices);
    root.replaceChildren(this.frame);
    this.listen();
    this.chat.start();
    this.route();
  }

  private listen(): void {
    const { signal } = this.end;
    const wake = () => this.chat.wake();
    window.addEventListener("hashchange", () => this.route(), { signal });
    for (const event of ["online", "offline"]) window.addEventListener(event, wake, { signal });
    window.addEventListener("pageshow", (event) => event.persisted && wake(), { signal });
    document.addEventListener("visibilitychange", () => this.visibilityChanged(), { signal });
    window.addEventListener("beforeunload", (event) => !this.chat.outbox.isEmpty && event.preventDefault(), { signal });
    this.timers.push(setInterval(() => this.tick(), TICK_MS));
    this.timers.push(setInterval(() => document.visibilityState === "visible" && this.isOnline && void this.chat.list.load(), LIST_EVERY_MS));
  }

  private tick(): void {
    this.ticks++;
    const isCounting = !this.isOnline || !this.chat.outbox.isEmpty;
    if (isCounting || this.ticks % TICKS_AT_REST === 0) this.changed();
  }

  private get isOnline(): boolean {
    return this.chat.connectionState.kind === "online";
  }

  private visibilityChanged(): void {
    if (document.visibilityState !== "visible") return;
    this.chat.wake();
    this.thread?.seen();
    this.changed();
  }

  /** The address names the open conversation, so that a reload and the back button find it. */
  private route(): void {
    const id = decodeURIComponent(location.hash.replace(/^#\/?/, ""));
    if (!id) {
      this.chat.close();
      this.thread = undefined;
      this.pane.replaceChildren(h("p", { class: "nothing muted" }, "Choose a conversation."));
    } else if (this.thread?.conversation.id !== id) {
      this.thread = new Thread(this.chat, this.chat.open(id), { failed: (error) => this.failed(error) });
      this.pane.replaceChildren(this.thread.element);
      this.thread.update();
      // On a touch screen the keyboard would cover what is to be read.
      if (matchMedia("(hover: hover)").matches) this.thread.composer.focus();
    }
    this.frame.classList.toggle("has-thread", this.thread !== undefined);
    this.changed();
  }

  /** Draws once for all that changed together. Not by animation frames, which a hidden window doesn't have. */
  private changed(): void {
    if (this.isDue) return;
    this.isDue = true;
    queueMicrotask(() => {
      this.isDue = false;
      if (!this.end.signal.aborted) this.update();
    });
  }

  private update(): void {
    const state = this.chat.connectionState;
    this.sidebar.update(describe(state), this.isOnline);
    this.thread?.update();
    this.updateBanner(state);
    const unread = this.chat.list.all.reduce((sum, { unread_count }) => sum + unread_count, 0);
    const title = unread > 0 ? `(${unread}) Partyline` : "Partyline";
    if (document.title !== title) document.title = title;
  }

  private updateBanner(state: ConnectionState): void {
    this.lostAt = state.kind === "online" ? undefined : (this.lostAt ?? Date.now());
    const isLate = this.lostAt !== undefined && Date.now() - this.lostAt >= BANNER_DELAY_MS;
    this.banner.hidden = !isLate && state.kind !== "ended";
    if (this.banner.hidden) return;
    setText(this.bannerText, explain(state));
    this.bannerButton.hidden = state.kind === "connecting";
    setText(this.bannerButton, state.kind === "ended" ? (state.why === "token_refused" ? "Sign in again" : "Connect again") : "Try now");
  }

  private bannerPressed(): void {
    const state = this.chat.connectionState;
    if (state.kind === "ended" && state.why === "token_refused") this.signOut();
    else if (state.kind === "ended") this.chat.start();
    else this.chat.wake();
  }

  private failed(error: unknown): void {
    if (error instanceof Disconnected) this.notify("No connection: try again when it is back.");
    else if (error instanceof Refusal) this.notify(error.retryAfterMs === undefined ? error.message : `${error.message}. Try again in ${secondsUntil(Date.now() + error.retryAfterMs)} s.`);
    else this.notify("That did not work.");
  }

  private notify(text: string): void {
    const notice: HTMLElement = h(
      "p",
      { class: "notice" },
      text,
      h("button", { class: "round small", type: "button", "aria-label": "Close", onclick: () => notice.remove() }, icon("close")),
    );
    this.notices.replaceChildren(notice);
    setTimeout(() => notice.remove(), NOTICE_MS);
  }

  private signOut(): void {
    this.end.abort();
    this.timers.forEach(clearInterval);
    this.chat.stop();
    document.title = "Partyline";
    this.leave();
  }
}

/** The state in a word or two. */
function describe(state: ConnectionState): string {
  switch (state.kind) {
    case "online":
      return "Connected";
    case "connecting":
      return "Connecting…";
    case "waiting":
      return "No connection";
    case "ended":
    case "stopped":
      return "Disconnected";
  }
}

function explain(state: ConnectionState): string {
  switch (state.kind) {
    case "waiting":
      return `No connection. Trying again in ${secondsUntil(state.retryAt)} s.`;
    case "ended":
      if (state.message !== undefined) return state.message;
      return state.why === "token_refused" ? "Your sign-in has ended." : `The server closed the connection (${state.why}).`;
    default:
      return "Connecting…";
  }
}
