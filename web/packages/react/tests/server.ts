import type { Command, Dial, Joined, ListedConversation, Message } from "@partyline/client";
import { vi } from "vitest";

export const ME = "me";
export const OTHER = "vera";
export const ID = "c1";
const START = Date.UTC(2026, 5, 14, 10);

export function message(seq: number, more: Partial<Message> = {}): Message {
  return {
    conversation_id: ID,
    seq,
    prev_seq: seq - 1,
    message_id: `m${seq}`,
    client_id: `k${seq}`,
    sender_id: OTHER,
    sender_username: "Vera",
    sender_type: "vendor",
    content: `content ${seq}`,
    message_type: "text",
    metadata: {},
    reply_to: null,
    created_at: new Date(START + seq * 1_000).toISOString(),
    ...more,
  };
}

type Sent = Command & { ref?: string };

/** A server with one conversation of two, that answers at once; `refusing` and `isDown` make it difficult. */
export class FakeServer {
  readonly sent: Sent[] = [];
  readonly messages: Message[];
  /** Sends are refused with this code. */
  refusing: string | undefined;
  /** Every request is answered so. */
  restRefuses: { status: number; problem: object } | undefined;
  isDown = false;
  readMarkers: Record<string, number> = {};
  /** Messages in a page: the last of them come with a join. */
  page = 50;
  /** Connections that are open. */
  connections = 0;
  dialled = 0;
  private hear: (frame: object) => void = () => {};
  private drop: () => void = () => {};

  constructor(messages: Message[] = []) {
    this.messages = messages;
    vi.stubGlobal("fetch", this.fetch);
  }

  /** To be a chat's `transport`. */
  readonly transport = (): Dial => (_token, events) => {
    this.dialled++;
    if (this.isDown) {
      queueMicrotask(() => events.closed(1006, ""));
      return { send: () => {}, close: () => {} };
    }
    this.connections++;
    const end = () => {
      this.connections--;
      this.hear = () => {};
    };
    this.hear = (frame) => events.message(JSON.stringify(frame));
    this.drop = () => {
      end();
      events.closed(1006, "");
    };
    const user = { user_id: ME, username: "Casey", user_type: "customer" };
    queueMicrotask(() => this.hear({ type: "welcome", session_id: "s", user, limits: { max_content_chars: 20, frames_per_second: 0 } }));
    return { send: (text) => queueMicrotask(() => this.take(JSON.parse(text) as Sent)), close: end };
  };

  cut(): void {
    this.isDown = true;
    this.drop();
  }

  say(more: Partial<Message> = {}): void {
    const last = this.messages.at(-1)?.seq ?? 0;
    const said = message(last + 1, { prev_seq: last, ...more });
    this.messages.push(said);
    this.hear({ type: "new_message", ...said });
  }

  tell(frame: object): void {
    this.hear(frame);
  }

  last<T extends Sent["type"]>(type: T): Extract<Sent, { type: T }> | undefined {
    return this.sent.findLast((sent): sent is Extract<Sent, { type: T }> => sent.type === type);
  }

  private take(sent: Sent): void {
    this.sent.push(sent);
    const { ref } = sent;
    if (sent.type === "join_conversation") this.hear({ ...this.joined(sent.after), ref });
    else if (sent.type === "send_message" && this.refusing) this.hear({ type: "error", ref, code: this.refusing, message: "no such words" });
    else if (sent.type === "send_message") this.store(sent);
    else if (ref !== undefined) this.hear({ type: "ack", ref });
  }

  private store({ ref, type: _, ...sent }: Extract<Sent, { type: "send_message" }>): void {
    this.say({ sender_id: ME, sender_username: "Casey", ...(sent as Partial<Message>) });
    const { conversation_id, client_id, message_id, seq, created_at } = this.messages.at(-1) ?? message(0);
    this.hear({ type: "ack", ref, conversation_id, client_id, message_id, seq, created_at, duplicate: false });
  }

  private joined(after?: number): Omit<Joined, "ref"> {
    const people = [ME, OTHER].map((user_id) => ({ user_id, username: user_id === ME ? "Casey" : "Vera", user_type: "customer", role: "member", last_read_seq: 0 }));
    return {
      type: "joined",
      conversation_id: ID,
      seq: this.messages.at(-1)?.seq ?? 0,
      epoch: "e",
      events: (after === undefined ? this.messages.slice(-this.page) : this.messages.filter(({ seq }) => seq > after)).map((held) => ({ type: "new_message" as const, ...held })),
      more: false,
      has_older: this.messages.length > this.page,
      participants: people,
      online: [OTHER],
      read_markers: this.readMarkers,
    };
  }

  /** The REST part. */
  private readonly fetch = async (url: string | URL, { method }: RequestInit = {}): Promise<Response> => {
    if (this.isDown) throw new TypeError("Failed to fetch");
    if (this.restRefuses) return Response.json(this.restRefuses.problem, { status: this.restRefuses.status });
    if (String(url).includes("/chat-token")) return new Response("a.b.c");
    const before = Number(new URL(url).searchParams.get("before"));
    if (before > 0) {
      const older = this.messages.filter(({ seq }) => seq < before);
      const results = older.slice(-this.page);
      return Response.json({ results, next_before: older.length > results.length ? results[0]?.seq : null, next_after: null });
    }
    const people = this.joined().participants.map((it) => ({ ...it, online: it.user_id === OTHER, last_seen: null }));
    const listed = (id: string, more: Partial<ListedConversation> = {}): ListedConversation => ({
      id,
      kind: "direct",
      title: null,
      participants: people,
      participant_count: 2,
      last_message: this.messages.at(-1) ?? null,
      unread_count: this.messages.filter(({ seq, sender_id }) => sender_id !== ME && seq > (this.readMarkers[ME] ?? 0)).length,
      last_read_seq: this.readMarkers[ME] ?? 0,
      created_at: message(0).created_at,
      updated_at: message(1).created_at,
      ...more,
    });
    if (method === "POST") return Response.json(listed(ID));
    const other = listed("c2", { title: "Luna Florals", last_message: message(1, { conversation_id: "c2", content: "Roses?" }), unread_count: 2, updated_at: message(0).created_at });
    return Response.json({ results: [listed(ID), other], next: null });
  };
}
