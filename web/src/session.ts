import { Refusal, type TokenProvider, type User } from "@partyline/client";

/** Somebody to try the chat as; `token` is a fresh one. */
export interface DemoPerson extends User {
  token: string;
  expires_at: string;
}

/** Who uses this window: a demo person, both of them side by side, or whoever a token was signed for. */
export type Session = { as: string } | { token: string };

/** In the address, instead of a user id: a customer and a vendor side by side. */
export const BOTH = "both";

/** Where a token that was pasted in lives: in this window, until it is closed. */
const TOKEN_KEY = "partyline.token";

/** The demo people, if the server has them. */
export async function demoPeople(): Promise<DemoPerson[]> {
  const response = await fetch(new URL("demo.json", document.baseURI), { cache: "no-store" });
  if (response.status === 404) return [];
  if (!response.ok) throw new Error(`The server answered ${response.status}`);
  try {
    const { people } = (await response.json()) as { people?: DemoPerson[] };
    return Array.isArray(people) ? people : [];
  } catch {
    // A server that answers every path with its page.
    return [];
  }
}

/** Tokens of a demo person: whoever serves the page writes new ones before they end. */
export function demoTokens(userId: string): TokenProvider {
  return async () => {
    const person = (await demoPeople()).find(({ user_id }) => user_id === userId);
    if (!person) throw new Refusal("token_refused", `There is no demo person ${userId} here.`);
    return person.token;
  };
}

/** A window remembers who uses it, a demo person in its address and a token in its own storage: a reload keeps it. */
export function remembered(): Session | undefined {
  const as = new URLSearchParams(location.search).get("as");
  if (as) return { as };
  const token = sessionStorage.getItem(TOKEN_KEY);
  return token === null ? undefined : { token };
}

export function remember(session: Session): void {
  if ("as" in session) history.replaceState(null, "", `?${new URLSearchParams({ as: session.as })}${location.hash}`);
  else sessionStorage.setItem(TOKEN_KEY, session.token);
}

export function forget(): void {
  sessionStorage.removeItem(TOKEN_KEY);
  history.replaceState(null, "", location.pathname);
}

/** What a token says of its person; not checked, as the server does that. */
export function claimsOf(token: string): { sub?: unknown; user_type?: unknown } {
  try {
    const payload = token.split(".")[1] ?? "";
    return JSON.parse(atob(payload.replaceAll("-", "+").replaceAll("_", "/"))) as object;
  } catch {
    return {};
  }
}
