import type { Chat, Conversation } from "@partyline/client";
import { h, icon, Keyed, setAttribute, setText } from "./dom.ts";
import { createRow, type MessageActions, type MessageContext, updateRow } from "./message.ts";
import { others } from "./names.ts";
import { type Row, rows } from "./rows.ts";

/** This near to its end the log counts as read to its end, and follows what comes. */
const NEAR_END_PX = 48;
/** This near to its beginning the log asks for what is older. */
const NEAR_START_PX = 240;

/** The messages of one conversation, and where they are scrolled to. */
export class LogView {
  readonly element: HTMLElement;
  private readonly scroller: HTMLElement;
  private readonly top = h("div", { class: "log-top" });
  private readonly jump: HTMLButtonElement;
  private readonly items: Keyed<Row, HTMLLIElement>;
  private context: MessageContext = { isDirect: true, isOnline: false, company: 1 };
  private isAtEnd = true;
  private firstSeq: number | undefined;
  private lastSeq = 0;
  /** What came since the end was last in sight. */
  private unseen = 0;
  private olderFailed = false;

  constructor(
    private readonly chat: Chat,
    private readonly conversation: Conversation,
    actions: MessageActions,
  ) {
    const list = h("ol", { class: "rows" });
    this.items = new Keyed(list, ({ key }) => key, (row) => createRow(row, actions), (element, row) => updateRow(element, row, this.context));
    this.scroller = h(
      "div",
      { class: "log", role: "log", "aria-live": "polite", "aria-label": "Messages", tabindex: "0", "data-testid": "log", onscroll: () => this.scrolled() },
      this.top,
      list,
    );
    this.jump = h("button", { class: "jump", type: "button", hidden: true, onclick: () => this.toEnd() }, icon("down"), h("span"));
    this.element = h("div", { class: "log-frame" }, this.scroller, this.jump);
    // The window, or a keyboard on the screen, takes room: the end stays in sight.
    new ResizeObserver(() => this.settle()).observe(this.scroller);
  }

  update(): void {
    const { timeline, participants, isLoadingOlder } = this.conversation;
    const me = this.chat.me?.user_id ?? "";
    const listed = this.chat.list.get(this.conversation.id);
    const company = others(participants, me).length;
    this.context = {
      isDirect: listed ? listed.kind === "direct" : company <= 1,
      isOnline: this.chat.connectionState.kind === "online",
      company,
    };
    const [height, position] = [this.scroller.scrollHeight, this.scroller.scrollTop];
    const firstSeq = timeline.messages[0]?.seq;
    const isLonger = this.firstSeq !== undefined && firstSeq !== undefined && firstSeq < this.firstSeq;
    // What is old is not to be read out as if it were new.
    setAttribute(this.scroller, "aria-busy", this.conversation.phase !== "live" || isLoadingOlder || isLonger ? "true" : null);

    this.items.show(rows(this.conversation, this.chat.outbox.of(this.conversation.id), me));
    this.updateTop();
    this.countUnseen(me);
    if (isLonger && !this.isAtEnd) this.scroller.scrollTop = position + this.scroller.scrollHeight - height;
    this.firstSeq = firstSeq;
    this.settle();
  }

  /** Somebody may look at the end now. */
  seen(): void {
    if (this.isAtEnd && document.visibilityState === "visible") this.conversation.markRead();
  }

  toEnd(): void {
    this.isAtEnd = true;
    this.settle();
    this.scrolled();
  }

  /** Follows the end, asks for more if there is room, and says what was seen. */
  private settle(): void {
    if (this.isAtEnd) this.scroller.scrollTop = this.scroller.scrollHeight;
    const isShort = this.scroller.scrollHeight <= this.scroller.clientHeight + NEAR_START_PX;
    if (isShort && this.scroller.clientHeight > 0) this.loadOlder();
    this.updateJump();
    this.seen();
  }

  private scrolled(): void {
    const { scrollTop, scrollHeight, clientHeight } = this.scroller;
    this.isAtEnd = scrollHeight - scrollTop - clientHeight <= NEAR_END_PX;
    if (this.isAtEnd) this.unseen = 0;
    if (scrollTop < NEAR_START_PX) this.loadOlder();
    this.updateJump();
    this.seen();
  }

  private loadOlder(): void {
    const { timeline, isLoadingOlder, phase } = this.conversation;
    if (this.olderFailed || isLoadingOlder || !timeline.hasOlder || phase === "closed") return;
    this.conversation.loadOlder().catch(() => {
      // Not again by itself: scrolling would ask without end.
      this.olderFailed = true;
      this.updateTop();
    });
  }

  private updateTop(): void {
    const { timeline, phase } = this.conversation;
    const isKnown = timeline.held !== undefined;
    if (this.olderFailed) {
      const again = () => {
        this.olderFailed = false;
        this.loadOlder();
      };
      if (!this.top.querySelector("button")) {
        this.top.replaceChildren("Older messages could not be loaded. ", h("button", { class: "quiet", type: "button", onclick: again }, "Try again"));
      }
    } else if (!isKnown) {
      setText(this.top, phase === "refused" ? "" : "Loading…");
    } else {
      setText(this.top, timeline.hasOlder ? "Loading older messages…" : "The conversation begins here.");
    }
  }

  private countUnseen(me: string): void {
    const { messages } = this.conversation.timeline;
    const isFirstLoad = this.lastSeq === 0;
    const fresh = messages.filter(({ seq, sender_id }) => seq > this.lastSeq && sender_id !== me).length;
    if (!this.isAtEnd && !isFirstLoad) this.unseen += fresh;
    this.lastSeq = Math.max(this.lastSeq, messages.at(-1)?.seq ?? 0);
  }

  private updateJump(): void {
    this.jump.hidden = this.isAtEnd;
    const label = this.unseen > 0 ? `${this.unseen} new` : "";
    setText(this.jump.querySelector("span") as Element, label);
    setAttribute(this.jump, "aria-label", label ? `${label} messages: to the end` : "To the newest message");
  }
}
