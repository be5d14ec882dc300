import type { Chat, Conversation } from "@partyline/client";
import { Composer } from "./composer.ts";
import { avatar, h, icon, setText } from "./dom.ts";
import { ago } from "./format.ts";
import { LogView } from "./log.ts";
import { nameOf, others, pictureOf, titleOf } from "./names.ts";

/** Before `welcome` told how long a message may be. */
const DEFAULT_MAX_CHARS = 1_000;

export interface ThreadActions {
  failed(error: unknown): void;
}

/** The right pane: one conversation. */
export class Thread {
  readonly element: HTMLElement;
  readonly composer: Composer;
  private readonly log: LogView;
  private readonly avatarSlot = h("span", { class: "slot" });
  private readonly dot = h("span", { class: "dot", role: "img", "aria-label": "online", hidden: true });
  private readonly title = h("h2", { dir: "auto" });
  private readonly subtitle = h("span", { class: "subtitle", "aria-live": "polite", "data-testid": "subtitle" });
  private readonly problem = h("p", { class: "problem", role: "alert", hidden: true });

  constructor(
    private readonly chat: Chat,
    readonly conversation: Conversation,
    private readonly actions: ThreadActions,
  ) {
    this.log = new LogView(chat, conversation, {
      edit: ({ message }) => message && this.composer.startEdit(message),
      delete: ({ message }) => message && this.attempt(chat.delete(conversation.id, message.seq)),
      retry: (clientId) => chat.outbox.retry(clientId),
      discard: (clientId) => chat.outbox.remove(clientId),
    });
    this.composer = new Composer({
      send: (content) => {
        chat.send(content);
        this.log.toEnd();
      },
      edit: (message, content) => this.attempt(chat.edit(conversation.id, message.seq, content)),
      typing: (isTyping) => conversation.tellTyping(isTyping),
      last: () => conversation.timeline.messages.findLast(({ sender_id, deleted_at }) => sender_id === chat.me?.user_id && !deleted_at),
      maxChars: () => chat.limits?.max_content_chars ?? DEFAULT_MAX_CHARS,
    });
    this.element = h(
      "section",
      { class: "thread", "aria-label": "Conversation" },
      h(
        "header",
        { class: "pane-header" },
        h("a", { class: "round back", href: "#/", "aria-label": "Back to the conversations" }, icon("back")),
        h("span", { class: "picture" }, this.avatarSlot, this.dot),
        h("div", { class: "who" }, this.title, this.subtitle),
      ),
      this.log.element,
      this.problem,
      this.composer.element,
    );
  }

  update(): void {
    const { chat, conversation } = this;
    const me = chat.me?.user_id ?? "";
    const listed = chat.list.get(conversation.id);
    const company = others(conversation.participants, me);
    const title = listed ? titleOf(listed, me) : company.map(nameOf).join(", ");
    if (listed && !this.avatarSlot.hasChildNodes()) this.avatarSlot.append(avatar(pictureOf(listed, me), title));
    setText(this.title, title || "…");
    this.dot.hidden = !this.isOnline();
    setText(this.subtitle, this.describe());
    this.subtitle.classList.toggle("is-typing", conversation.typing.size > 0);
    this.problem.hidden = conversation.phase !== "refused";
    setText(this.problem, conversation.problem?.message ?? "");
    this.composer.enable(conversation.phase !== "refused");
    this.log.update();
  }

  /** The window came to the front. */
  seen(): void {
    this.log.seen();
  }

  private isOnline(): boolean {
    return others(this.conversation.participants, this.chat.me?.user_id ?? "").some(({ user_id }) => this.conversation.online.has(user_id));
  }

  private describe(): string {
    const { participants, typing, online } = this.conversation;
    const company = others(participants, this.chat.me?.user_id ?? "");
    if (typing.size > 0) {
      if (company.length <= 1) return "typing…";
      const names = [...typing.values()];
      return names.length > 2 ? "several people are typing…" : `${names.join(" and ")} ${names.length > 1 ? "are" : "is"} typing…`;
    }
    if (company.length > 1) return `${company.filter(({ user_id }) => online.has(user_id)).length + 1} of ${company.length + 1} online`;
    if (this.isOnline()) return "online";
    const seen = this.chat.list.get(this.conversation.id)?.participants.find(({ user_id }) => user_id === company[0]?.user_id)?.last_seen;
    return seen ? `last seen ${relative(seen)}` : company[0] ? "offline" : "";
  }

  private attempt(request: Promise<unknown>): void {
    request.catch((error: unknown) => this.actions.failed(error));
  }
}

function relative(iso: string): string {
  const text = ago(iso);
  if (text === "now") return "just now";
  return text.endsWith("min") ? `${text} ago` : text.includes(":") ? `at ${text}` : text;
}
