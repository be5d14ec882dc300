import type { Chat, ListedConversation } from "@partyline/client";
import { avatar, h, icon, Keyed, setAttribute, setText } from "./dom.ts";
import { ago, fullTime } from "./format.ts";
import { nameOf, others, pictureOf, titleOf } from "./names.ts";

export interface SidebarActions {
  start(userId: string): Promise<void>;
  signOut(): void;
  failed(error: unknown): void;
}

/** The left pane: who I am, how to begin a conversation, and my conversations. */
export class Sidebar {
  readonly element: HTMLElement;
  private readonly me = h("span", { class: "me-name" });
  private readonly state = h("span", { class: "connection", "data-testid": "connection" });
  private readonly avatarSlot = h("span", { class: "slot" });
  private readonly form: HTMLFormElement;
  private readonly empty = h("p", { class: "muted empty" }, "No conversations yet.");
  private readonly more: HTMLButtonElement;
  private readonly items: Keyed<ListedConversation, HTMLLIElement>;

  constructor(
    private readonly chat: Chat,
    private readonly actions: SidebarActions,
  ) {
    const list = h("ul", { class: "conversations", "data-testid": "conversations" });
    this.items = new Keyed(list, ({ id }) => id, createItem, (item, conversation) => this.updateItem(item, conversation));
    this.form = this.newConversation();
    this.more = h("button", { class: "quiet wide", type: "button", onclick: () => this.loadMore() }, "Show more");
    const toggle = h(
      "button",
      { class: "round", type: "button", "aria-expanded": "false", "aria-label": "New conversation", onclick: () => this.toggle(toggle) },
      icon("plus"),
    );
    this.element = h(
      "nav",
      { class: "sidebar", "aria-label": "Conversations" },
      h(
        "header",
        { class: "pane-header" },
        this.avatarSlot,
        h("div", { class: "who" }, this.me, this.state),
        toggle,
        h("button", { class: "round", type: "button", "aria-label": "Sign out", onclick: () => actions.signOut() }, icon("exit")),
      ),
      this.form,
      h("div", { class: "list-scroll" }, list, this.empty, this.more),
    );
  }

  update(connection: string, isOnline: boolean): void {
    const { me, list } = this.chat;
    if (me && !this.avatarSlot.hasChildNodes()) this.avatarSlot.append(avatar(me.user_id, nameOf(me)));
    setText(this.me, me ? nameOf(me) : "…");
    setText(this.state, connection);
    this.state.classList.toggle("is-online", isOnline);
    const { all } = list;
    this.items.show(all);
    this.empty.hidden = !list.isLoaded || all.length > 0;
    this.more.hidden = !list.hasMore;
  }

  private updateItem(item: HTMLLIElement, conversation: ListedConversation): void {
    const me = this.chat.me?.user_id ?? "";
    const isActive = this.chat.active?.id === conversation.id;
    const part = (name: string) => item.querySelector(`.${name}`) as HTMLElement;
    const title = titleOf(conversation, me);
    const company = others(conversation.participants, me);
    const isOnline = company.some(({ online }) => online);
    const { last_message: last, unread_count: unread } = conversation;

    setAttribute(item, "data-id", conversation.id);
    setAttribute(part("item"), "href", `#/${encodeURIComponent(conversation.id)}`);
    setAttribute(part("item"), "aria-current", isActive ? "true" : null);
    if (!part("slot").hasChildNodes()) part("slot").append(avatar(pictureOf(conversation, me), title));
    setText(part("title"), title);
    const isTyping = isActive && this.chat.active !== undefined && this.chat.active.typing.size > 0;
    setText(part("preview"), isTyping ? "typing…" : preview(conversation, me));
    part("preview").classList.toggle("is-typing", isTyping);
    item.classList.toggle("is-unread", unread > 0);
    const when = last?.created_at ?? conversation.created_at;
    setText(part("when"), ago(when));
    setAttribute(part("when"), "title", fullTime(when));
    setAttribute(part("when"), "datetime", when);
    part("dot").hidden = !isOnline;
    part("badge").hidden = unread === 0;
    setText(part("badge"), unread > 99 ? "99+" : String(unread));
    setAttribute(part("badge"), "aria-label", `${unread} unread`);
  }

  private newConversation(): HTMLFormElement {
    const input = h("input", { id: "user-id", autocomplete: "off", autocapitalize: "none", spellcheck: "false", maxlength: 128, required: true });
    const submit = async (event: Event) => {
      event.preventDefault();
      const userId = input.value.trim();
      if (!userId) return;
      try {
        await this.actions.start(userId);
        input.value = "";
        this.form.hidden = true;
        this.element.querySelector("[aria-expanded]")?.setAttribute("aria-expanded", "false");
      } catch (error) {
        this.actions.failed(error);
      }
    };
    return h(
      "form",
      { class: "new-conversation", hidden: true, onsubmit: (event) => void submit(event) },
      h("label", { for: "user-id" }, "Talk with (user id)"),
      h("div", { class: "field-row" }, input, h("button", { class: "primary", type: "submit" }, "Start")),
    );
  }

  private toggle(button: HTMLElement): void {
    this.form.hidden = !this.form.hidden;
    button.setAttribute("aria-expanded", String(!this.form.hidden));
    if (!this.form.hidden) this.form.querySelector("input")?.focus();
  }

  private loadMore(): void {
    this.chat.list.loadMore().catch((error: unknown) => this.actions.failed(error));
  }
}

/** The last message in a line. */
function preview({ last_message: last, kind }: ListedConversation, me: string): string {
  if (!last) return "No messages yet";
  if (last.deleted_at) return "Message deleted";
  const isMine = last.sender_id === me;
  return `${isMine ? "You: " : kind === "direct" ? "" : `${last.sender_username}: `}${last.content}`;
}

function createItem(): HTMLLIElement {
  return h(
    "li",
    {},
    h(
      "a",
      { class: "item" },
      h("span", { class: "picture" }, h("span", { class: "slot" }), h("span", { class: "dot", role: "img", "aria-label": "online", hidden: true })),
      h("span", { class: "title", dir: "auto" }),
      h("time", { class: "when" }),
      h("span", { class: "preview", dir: "auto" }),
      h("span", { class: "badge", hidden: true }),
    ),
  );
}
