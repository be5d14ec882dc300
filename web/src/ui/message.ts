import { h, icon, setAttribute, setText } from "./dom.ts";
import { day, fullTime, secondsUntil, time } from "./format.ts";
import type { MessageRow, Row } from "./rows.ts";

export interface MessageActions {
  edit(row: MessageRow): void;
  delete(row: MessageRow): void;
  retry(clientId: string): void;
  discard(clientId: string): void;
}

/** What a row depends on besides itself. */
export interface MessageContext {
  isDirect: boolean;
  isOnline: boolean;
  /** How many take part besides me. */
  company: number;
}

/** An empty row: `updateRow` fills it. */
export function createRow(row: Row, actions: MessageActions): HTMLLIElement {
  if (row.kind === "day") return h("li", { class: "day", role: "separator" }, h("span"));
  const element: HTMLLIElement = h(
    "li",
    { class: "row" },
    h("span", { class: "author", dir: "auto" }),
    h("span", { class: "said" }),
    h(
      "div",
      { class: "line" },
      h("div", { class: "bubble" }, h("p", { class: "answers", dir: "auto" }), h("span", { class: "tag kind" }), h("p", { class: "content", dir: "auto" })),
    ),
    h("div", { class: "choices" }),
    h("div", { class: "meta" }, h("time"), h("span", { class: "edited" }, "edited"), h("span", { class: "delivery" })),
    h("div", { class: "failure" }),
  );
  if (row.isMine) fillActions(element, row, actions);
  return element;
}

/** Shows a row as it is now. */
export function updateRow(element: HTMLLIElement, row: Row, context: MessageContext): void {
  if (row.kind === "day") return setText(element.firstElementChild as Element, day(row.at));
  current.set(element, row);
  const part = (name: string) => element.querySelector(`.${name}`) as HTMLElement;
  const { message, outgoing, delivery } = row;
  const isDeleted = Boolean(message?.deleted_at);
  element.classList.toggle("is-mine", row.isMine);
  element.classList.toggle("is-first", row.isFirst);
  element.classList.toggle("is-last", row.isLast);
  element.classList.toggle("is-deleted", isDeleted);
  element.classList.toggle("is-system", message?.message_type === "system");
  setAttribute(element, "data-seq", message?.seq);
  setAttribute(element, "data-delivery", delivery);

  part("author").hidden = row.isMine || context.isDirect || !row.isFirst;
  setText(part("author"), row.sender);
  setText(part("said"), row.isMine ? "You: " : `${row.sender}: `);
  part("answers").hidden = !row.answers;
  if (row.answers) setText(part("answers"), row.answers.deleted_at ? "Message deleted" : row.answers.content);
  const kind = message?.message_type ?? "text";
  part("kind").hidden = kind === "text" || kind === "system" || isDeleted;
  setText(part("kind"), kind.replaceAll("_", " "));
  setText(part("content"), isDeleted ? "Message deleted" : row.content);

  const when = element.querySelector("time") as HTMLTimeElement;
  setText(when, time(row.at));
  setAttribute(when, "datetime", row.at);
  setAttribute(when, "title", fullTime(row.at));
  part("edited").hidden = !message?.edited_at || isDeleted;
  setText(part("delivery"), deliveryText(row, context));
  // In a group the last one tells for all, but for what is out of the ordinary.
  part("meta").hidden = !row.isLast && part("edited").hidden && (delivery === undefined || delivery === "sent" || delivery === "read");

  element.classList.toggle("is-changeable", row.isMine && message !== undefined && !isDeleted);
  part("failure").hidden = delivery !== "failed";
  if (delivery === "failed") {
    const explanation = part("failure").querySelector("span");
    if (explanation) setText(explanation, `Not sent: ${outgoing?.problem?.message ?? "unknown reason"}`);
  }
}

/** Closes the choices that are open: one message's at a time. */
let closeOpen = () => {};
/** What each element shows now, for its buttons. */
const current = new WeakMap<HTMLElement, MessageRow>();

function deliveryText({ delivery, outgoing, readers }: MessageRow, { isOnline, company, isDirect }: MessageContext): string {
  switch (delivery) {
    case "sending":
      return isOnline ? "Sending…" : "Waiting for a connection";
    case "waiting": {
      const reason = outgoing?.problem?.code === "rate_limited" ? "Too many messages" : "Not stored yet";
      return `${reason}: trying again in ${secondsUntil(outgoing?.retryAt ?? 0)} s`;
    }
    case "sent":
      return "Sent";
    case "read":
      return isDirect || readers >= company ? "Read" : `Read by ${readers} of ${company}`;
    case "failed": // explained below, with what can be done
    case undefined:
      return "";
  }
}

function fillActions(element: HTMLLIElement, first: MessageRow, actions: MessageActions): void {
  const row = () => current.get(element) ?? first;
  const toggle = h("button", { class: "toggle round small", type: "button", "aria-label": "Edit or delete", "aria-expanded": "false" }, icon("more"));
  const setOpen = (isOpen: boolean) => {
    element.classList.toggle("is-open", isOpen);
    toggle.setAttribute("aria-expanded", String(isOpen));
    setText(remove, "Delete");
  };
  const close = () => setOpen(false);
  toggle.addEventListener("click", () => {
    const isOpen = element.classList.contains("is-open");
    closeOpen();
    if (isOpen) return;
    setOpen(true);
    closeOpen = close;
  });
  // A finger has no pointer that hovers: it taps the message itself.
  element.querySelector(".bubble")?.addEventListener("click", () => {
    const isTap = matchMedia("(hover: none)").matches && !getSelection()?.toString();
    if (isTap && element.classList.contains("is-changeable")) toggle.click();
  });
  element.addEventListener("keydown", (event) => event.key === "Escape" && close());
  const button = (label: string, run: () => void, name = "quiet") => h("button", { class: name, type: "button", onclick: run }, label);
  const remove = button("Delete", () => {
    // Asks first: it is gone for everybody.
    if (remove.textContent === "Delete") return setText(remove, "Delete for everybody?");
    close();
    actions.delete(row());
  });
  remove.classList.add("danger");
  const edit = button("Edit", () => {
    close();
    actions.edit(row());
  });
  element.querySelector(".line")?.append(toggle);
  element.querySelector(".choices")?.append(edit, remove);
  const clientId = () => row().outgoing?.client_id ?? "";
  element
    .querySelector(".failure")
    ?.append(h("span"), button("Try again", () => actions.retry(clientId())), button("Discard", () => actions.discard(clientId())));
}
