import { Refusal, type TokenSource, type User } from "@partyline/client";

/** Somebody to try the chat as; `token` is a fresh one. */
export interface DemoPerson extends User {
  token: string;
  expires_at: string;
}

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
export class DemoTokens implements TokenSource {
  private token: string | undefined;

  constructor(private readonly userId: string) {}

  async get(rejected?: string): Promise<string> {
    if (this.token === undefined || this.token === rejected) {
      this.token = (await demoPeople()).find(({ user_id }) => user_id === this.userId)?.token;
    }
    if (this.token === undefined) throw new Refusal("token_refused", `There is no demo person ${this.userId} here.`);
    return this.token;
  }
}

/** A token that somebody pasted in: there is no other. */
export class PastedToken implements TokenSource {
  constructor(private readonly token: string) {}

  get(): Promise<string> {
    return Promise.resolve(this.token);
  }

  static remembered(): string | null {
    return sessionStorage.getItem(TOKEN_KEY);
  }

  static remember(token: string): void {
    sessionStorage.setItem(TOKEN_KEY, token);
  }

  static forget(): void {
    sessionStorage.removeItem(TOKEN_KEY);
  }
}
