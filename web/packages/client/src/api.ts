import type { TokenProvider } from "./connection.ts";
import { Disconnected, Refusal } from "./errors.ts";
import type { ListedConversation, MessagePage, Page } from "./rest.ts";

/** Messages in a page of history. */
const PAGE = 50;
/** An answer that takes longer isn't coming. */
const PATIENCE_MS = 15_000;

interface Problem {
  code?: string;
  title?: string;
  detail?: string;
  retry_after_ms?: number;
}

/** The REST part of the contract, as far as a chat page needs it. */
export class Api {
  readonly #base: string;
  readonly #token: TokenProvider;

  /** `base` ends in `/chat/api/`. */
  constructor(base: string, token: TokenProvider) {
    this.#base = base;
    this.#token = token;
  }

  /** My conversations, newest activity first. */
  conversations(cursor?: string): Promise<Page<ListedConversation>> {
    return this.#call("GET", `conversations/?limit=50${cursor === undefined ? "" : `&cursor=${encodeURIComponent(cursor)}`}`);
  }

  conversation(id: string): Promise<ListedConversation> {
    return this.#call("GET", `conversations/${encodeURIComponent(id)}/`);
  }

  /** Creates a conversation; the one of two is found if there is one. */
  create(participantIds: string[], kind: "direct" | "group", title: string | null): Promise<ListedConversation> {
    return this.#call("POST", "conversations/", { participant_ids: participantIds, title, kind });
  }

  messagesBefore(id: string, seq: number): Promise<MessagePage> {
    return this.#call("GET", `conversations/${encodeURIComponent(id)}/messages/?limit=${PAGE}&before=${seq}`);
  }

  /** Whether the server takes this token; true if it can't be asked. */
  async isAccepted(token: string): Promise<boolean> {
    const response = await this.#fetch("GET", "conversations/?limit=1", token);
    return response.status !== 401;
  }

  async #call<T>(method: string, path: string, body?: unknown): Promise<T> {
    let token = await this.#token();
    let response = await this.#fetch(method, path, token, body);
    if (response.status === 401) {
      const renewed = await this.#token(token);
      if (renewed !== token) {
        token = renewed;
        response = await this.#fetch(method, path, token, body);
      }
    }
    if (!response.ok) throw await refusal(response);
    return (await response.json()) as T;
  }

  async #fetch(method: string, path: string, token: string, body?: unknown): Promise<Response> {
    try {
      return await fetch(this.#base + path, {
        method,
        headers: { authorization: `Bearer ${token}`, ...(body !== undefined && { "content-type": "application/json" }) },
        ...(body !== undefined && { body: JSON.stringify(body) }),
        cache: "no-store",
        credentials: "omit",
        signal: AbortSignal.timeout(PATIENCE_MS),
      });
    } catch {
      throw new Disconnected();
    }
  }
}

async function refusal(response: Response): Promise<Refusal> {
  const problem = (await response.json().catch(() => ({}))) as Problem;
  const message = problem.detail ?? problem.title ?? `The server answered ${response.status}`;
  const code = problem.code ?? (response.status >= 500 ? "unavailable" : "internal");
  return new Refusal(code, message, problem.retry_after_ms);
}
