import { vi } from "vitest";
import type { Dial, Transport, TransportEvents } from "../src/transport.ts";
import type { Command, Joined, Message, NewMessage, ServerFrame, Welcome } from "../src/wire.ts";

/** A command as it was sent. */
export type Sent = Command & { ref?: string };

/** The server's end of one socket. */
export class FakeSocket implements Transport {
  readonly sent: Sent[] = [];
  /** By the client. */
  isClosed = false;

  constructor(
    readonly token: string,
    private readonly events: TransportEvents,
    private readonly onSent: (sent: Sent) => void,
  ) {}

  send(text: string): void {
    const sent = JSON.parse(text) as Sent;
    this.sent.push(sent);
    this.onSent(sent);
  }

  close(): void {
    this.isClosed = true;
  }

  hear(frame: object): void {
    this.events.message(JSON.stringify(frame));
  }

  /** The connection ends from the other side. */
  drop(code = 1006, reason = ""): void {
    this.events.closed(code, reason);
  }

  welcome(limits: Partial<Welcome["limits"]> = {}): void {
    this.hear(welcome(limits));
  }

  /** The newest command of a type. */
  last<T extends Sent["type"]>(type: T): Extract<Sent, { type: T }> {
    const found = this.sent.findLast((sent) => sent.type === type);
    if (!found) throw new Error(`no ${type} among ${JSON.stringify(this.sent)}`);
    return found as Extract<Sent, { type: T }>;
  }

  count(type: Sent["type"]): number {
    return this.sent.filter((sent) => sent.type === type).length;
  }
}

/** Every socket that was dialled. */
export class FakeNetwork {
  readonly sockets: FakeSocket[] = [];
  /** What a server does by itself. */
  onDial: (socket: FakeSocket) => void = () => {};
  onSent: (socket: FakeSocket, sent: Sent) => void = () => {};

  readonly dial: Dial = (token, events) => {
    const socket: FakeSocket = new FakeSocket(token, events, (sent) => this.onSent(socket, sent));
    this.sockets.push(socket);
    this.onDial(socket);
    return socket;
  };

  get last(): FakeSocket {
    const socket = this.sockets.at(-1);
    if (!socket) throw new Error("nothing was dialled");
    return socket;
  }
}

export const ME = "me";
export const OTHER = "other";
export const CONVERSATION = "c1";

export function welcome(limits: Partial<Welcome["limits"]> = {}): Welcome {
  return {
    type: "welcome",
    session_id: "s",
    user: { user_id: ME, username: "Me", user_type: "customer" },
    server_time: "2025-01-01T00:00:00Z",
    heartbeat_ms: 25_000,
    limits: {
      messages_per_minute: 0,
      messages_burst: 0,
      frames_per_second: 0,
      connections_per_user: 10,
      max_frame_bytes: 20_480,
      max_content_chars: 1_000,
      max_metadata_bytes: 4_096,
      outbound_queue_bytes: 1_048_576,
      ping_interval_ms: 25_000,
      idle_timeout_ms: 60_000,
      ...limits,
    },
  };
}

export function message(seq: number, more: Partial<Message> = {}): Message {
  return {
    conversation_id: CONVERSATION,
    seq,
    prev_seq: seq - 1,
    message_id: `m${seq}`,
    client_id: `k${seq}`,
    sender_id: OTHER,
    sender_username: "Other",
    sender_type: "vendor",
    content: `content ${seq}`,
    message_type: "text",
    metadata: {},
    reply_to: null,
    created_at: new Date(1_700_000_000_000 + seq * 1_000).toISOString(),
    ...more,
  };
}

export function newMessage(seq: number, more: Partial<Message> = {}): NewMessage {
  return { type: "new_message", ...message(seq, more) };
}

export function joined(seq: number, events: ServerFrame[], more: Partial<Joined> = {}): Joined {
  return {
    type: "joined",
    conversation_id: CONVERSATION,
    seq,
    epoch: "e1",
    events: events as Joined["events"],
    more: false,
    participants: [ME, OTHER].map((user_id) => ({ user_id, username: user_id, user_type: "customer", role: "member", last_read_seq: 0 })),
    online: [],
    read_markers: {},
    has_older: false,
    ...more,
  };
}

/** Lets promises run that wait for nothing. */
export async function settle(): Promise<void> {
  await vi.advanceTimersByTimeAsync(0);
}

/** Mulberry32: the same numbers for the same seed, from 0 to 1. */
export function seeded(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
