import { avatar, h } from "./dom.ts";
import { type DemoPerson, demoPeople } from "./session.ts";

/** What was chosen: a demo person, or a token. */
export type SignIn = { as: string } | { token: string };

/** Asks who to be. */
export async function signInScreen(root: HTMLElement, choose: (choice: SignIn) => void): Promise<void> {
  const card = h("main", { class: "sign-in" }, h("h1", {}, "Partyline"));
  root.replaceChildren(card);
  let people: DemoPerson[] = [];
  try {
    people = await demoPeople();
  } catch {
    card.append(h("p", { class: "problem", role: "alert" }, "The server does not answer."));
  }
  if (!card.isConnected) return;
  if (people.length > 0) card.append(h("p", { class: "muted" }, "Sign in as"), peopleButtons(people, choose));
  const form = tokenForm(choose);
  card.append(
    people.length > 0
      ? h("details", {}, h("summary", {}, "Use a token of your own"), form)
      : h("div", {}, h("p", { class: "muted" }, "Sign in with a token of your own."), form),
  );
  card.querySelector<HTMLElement>("button, input")?.focus();
}

function peopleButtons(people: DemoPerson[], choose: (choice: SignIn) => void): HTMLElement {
  const button = ({ user_id, username, user_type }: DemoPerson) =>
    h(
      "button",
      { class: "person", type: "button", onclick: () => choose({ as: user_id }) },
      avatar(user_id, username),
      h("span", { class: "person-name" }, username),
      h("span", { class: "tag" }, user_type),
    );
  return h("ul", { class: "people" }, ...people.map((person) => h("li", {}, button(person))));
}

function tokenForm(choose: (choice: SignIn) => void): HTMLElement {
  // A password field: what is pasted is as good as one, and is not to be seen or completed.
  const input = h("input", { id: "token", type: "password", autocomplete: "off", spellcheck: "false", required: true });
  const submit = (event: Event) => {
    event.preventDefault();
    const token = input.value.trim();
    if (token) choose({ token });
  };
  return h(
    "form",
    { class: "token-form", onsubmit: submit },
    h("label", { for: "token" }, "Token (JWT)"),
    h("div", { class: "field-row" }, input, h("button", { class: "primary", type: "submit" }, "Sign in")),
  );
}
