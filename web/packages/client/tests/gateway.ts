import type { FakeNetwork, FakeSocket, Sent } from "./fake.ts";
import { CONVERSATION, joined, ME, message, newMessage, OTHER } from "./fake.ts";
import type { ListedConversation } from "../src/rest.ts";
import type { LogEvent, Message, NewMessage } from "../src/wire.ts";

/** How often things go wrong, from 0 to 1. */
export interface Trouble {
  /** A socket ends instead of bringing a frame, or taking a command. */
  cut: number;
  /** A live event never comes. */
  lose: number;
  /** A live event comes twice. */
  double: number;
  /** A message is refused for a while. */
  refuse: number;
}

const CALM: Trouble = { cut: 0, lose: 0, double: 0, refuse: 0 };
const PAGE = 10;

/** A gateway with one conversation of two, as the contract has it, on a road as bad as one likes. */
export class FakeGateway {
  readonly log: LogEvent[] = [];
  trouble = CALM;
  private readonly members = new Set<FakeSocket>();

  constructor(
    network: FakeNetwork,
    private readonly random: () => number,
  ) {
    network.onDial = (socket) => queueMicrotask(() => this.happens("cut") || socket.welcome());
    network.onSent = (socket, sent) => queueMicrotask(() => this.take(socket, sent));
  }

  get messages(): NewMessage[] {
    return this.log.filter((event) => event.type === "new_message");
  }

  /** Somebody sends a message from elsewhere. */
  say(content: string, sender = OTHER): void {
    const seq = this.last + 1 + Math.floor(this.random() * 3);
    this.append(newMessage(seq, { prev_seq: this.last, content, sender_id: sender }));
  }

  /** Every socket ends, as when the process is killed. */
  kill(): void {
    this.members.forEach((socket) => this.cut(socket));
  }

  /** The REST part, in place of `fetch`. */
  readonly fetch = async (url: string): Promise<Response> => {
    if (this.happens("cut")) throw new TypeError("Failed to fetch");
    const before = /messages\/.*before=(\d+)/.exec(url)?.[1];
    if (before === undefined) return Response.json({ results: [this.listed()], next: null });
    const older = this.messages.filter(({ seq }) => seq < Number(before)).map(({ type: _, ...rest }) => rest);
    const results = older.slice(-PAGE);
    return Response.json({ results, next_before: older.length > PAGE ? results[0]?.seq : null, next_after: null });
  };

  private get last(): number {
    return this.log.at(-1)?.seq ?? 0;
  }

  private happens(what: keyof Trouble): boolean {
    return this.random() < this.trouble[what];
  }

  private listed(): ListedConversation {
    const last_message: Message | null = this.messages.at(-1) ?? null;
    return { id: CONVERSATION, kind: "direct", title: null, participants: [], participant_count: 2, last_message, unread_count: 0, last_read_seq: 0, created_at: message(0).created_at, updated_at: message(this.last).created_at };
  }

  private take(socket: FakeSocket, sent: Sent): void {
    if (socket.isClosed || (this.happens("cut") && this.cut(socket))) return;
    if (sent.type === "join_conversation") this.join(socket, sent.ref, sent.after);
    else if (sent.type === "leave_conversation") this.members.delete(socket);
    else if (sent.type === "send_message") this.store(socket, sent);
    else if (sent.ref !== undefined) this.tell(socket, { type: "ack", ref: sent.ref });
  }

  private join(socket: FakeSocket, ref: string | undefined, after: number | undefined): void {
    const all = after === undefined ? this.messages : this.log.filter(({ seq }) => seq > after);
    const events = after === undefined ? all.slice(-PAGE) : all.slice(0, PAGE);
    const more = after !== undefined && all.length > PAGE;
    if (more) this.members.delete(socket);
    else this.members.add(socket);
    this.tell(socket, { ...joined(more ? (events.at(-1)?.seq ?? 0) : this.last, events, { more, has_older: all.length > PAGE }), ref });
  }

  private store(socket: FakeSocket, { ref, client_id, content }: Extract<Sent, { type: "send_message" }>): void {
    if (this.happens("refuse")) return this.tell(socket, { type: "error", ref, code: "rate_limited", message: "Too many", retry_after_ms: 700 });
    let stored = this.messages.find((held) => held.sender_id === ME && held.client_id === client_id);
    const duplicate = stored !== undefined;
    const seq = this.last + 1;
    stored ??= newMessage(seq, { prev_seq: this.last, sender_id: ME, client_id, content });
    const ack = { type: "ack", ref, client_id, message_id: stored.message_id, seq: stored.seq, created_at: stored.created_at, duplicate };
    // Either may come first.
    const isFirst = this.random() < 0.5;
    if (isFirst) this.tell(socket, ack);
    if (!duplicate) this.append(stored);
    if (!isFirst) this.tell(socket, ack);
  }

  private append(event: LogEvent): void {
    this.log.push(event);
    for (const socket of [...this.members]) {
      if (this.happens("lose")) continue;
      this.tell(socket, event);
      if (this.happens("double")) this.tell(socket, event);
    }
  }

  private tell(socket: FakeSocket, frame: object): void {
    if (socket.isClosed || (this.happens("cut") && this.cut(socket))) return;
    socket.hear(frame);
  }

  private cut(socket: FakeSocket): true {
    this.members.delete(socket);
    socket.drop();
    return true;
  }
}
