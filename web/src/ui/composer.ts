import { contentLength, type Message } from "@partyline/client";
import { h, icon, setText } from "./dom.ts";

/** The counter shows from this share of the limit on. */
const NEAR_LIMIT = 0.8;

export interface ComposerActions {
  send(content: string): void;
  edit(message: Message, content: string): void;
  typing(isTyping: boolean): void;
  /** My last message, to be edited by the arrow key. */
  last(): Message | undefined;
  /** Code points that a message may have. */
  maxChars(): number;
}

/** Where a message is written, or written anew. */
export class Composer {
  readonly element: HTMLFormElement;
  private readonly input: HTMLTextAreaElement;
  private readonly counter = h("span", { class: "counter", "aria-live": "polite" });
  private readonly sendButton: HTMLButtonElement;
  private readonly editing: HTMLElement;
  /** The message that is written anew. */
  private edited: Message | undefined;
  /** What was being written before. */
  private draft = "";

  constructor(private readonly actions: ComposerActions) {
    this.input = h("textarea", {
      id: "message",
      rows: 1,
      placeholder: "Message",
      "aria-label": "Message",
      autocomplete: "off",
      enterkeyhint: "send",
      dir: "auto",
      oninput: () => this.changed(),
      onkeydown: (event) => this.key(event as KeyboardEvent),
      onblur: () => this.actions.typing(false),
    });
    this.sendButton = h("button", { class: "round primary", type: "submit", "aria-label": "Send" }, icon("send"));
    const cancel = h("button", { class: "quiet", type: "button", onclick: () => this.endEdit() }, "Cancel");
    this.editing = h("div", { class: "editing", hidden: true }, h("span", {}, "Editing a message"), cancel);
    this.element = h(
      "form",
      { class: "composer", onsubmit: (event) => this.submit(event) },
      this.editing,
      h("div", { class: "composer-row" }, this.input, this.counter, this.sendButton),
    );
    this.fit();
  }

  focus(): void {
    this.input.focus({ preventScroll: true });
  }

  /** Puts a message into the field, to be written anew. */
  startEdit(message: Message): void {
    if (!this.edited) this.draft = this.input.value;
    this.edited = message;
    this.editing.hidden = false;
    this.write(message.content);
    this.focus();
  }

  /** Whether anything can be written at all. */
  enable(isEnabled: boolean): void {
    this.input.disabled = !isEnabled;
    this.fit();
  }

  private endEdit(): void {
    this.edited = undefined;
    this.editing.hidden = true;
    this.write(this.draft);
    this.draft = "";
    this.focus();
  }

  private submit(event: Event): void {
    event.preventDefault();
    const content = this.input.value.trim();
    if (!this.isSendable()) return;
    if (this.edited) {
      if (content !== this.edited.content) this.actions.edit(this.edited, content);
      return this.endEdit();
    }
    this.actions.send(content);
    this.write("");
    this.focus();
  }

  private key(event: KeyboardEvent): void {
    // Enter that ends a word of an input method is not meant to send.
    if (event.isComposing) return;
    if (event.key === "Enter" && !event.shiftKey) {
      this.submit(event);
    } else if (event.key === "Escape" && this.edited) {
      this.endEdit();
    } else if (event.key === "ArrowUp" && this.input.value === "" && !this.edited) {
      const last = this.actions.last();
      if (!last) return;
      event.preventDefault();
      this.startEdit(last);
    }
  }

  private changed(): void {
    this.fit();
    if (!this.edited) this.actions.typing(this.input.value.trim() !== "");
  }

  private write(content: string): void {
    this.input.value = content;
    this.fit();
  }

  private isSendable(): boolean {
    const length = contentLength(this.input.value);
    return length > 0 && length <= this.actions.maxChars() && !this.input.disabled;
  }

  /** As high as its text, up to what the style allows. */
  private fit(): void {
    this.input.style.height = "auto";
    this.input.style.height = `${this.input.scrollHeight}px`;
    const [length, most] = [contentLength(this.input.value), this.actions.maxChars()];
    this.counter.hidden = length < most * NEAR_LIMIT;
    this.counter.classList.toggle("is-over", length > most);
    setText(this.counter, `${length} / ${most}`);
    this.sendButton.disabled = !this.isSendable();
  }
}
