import type { Refusal } from "./errors.ts";
import type { Outgoing, QueuedMessage } from "./outbox.ts";
import type { Message, SendAck, User } from "./wire.ts";

/**
 * How far a message is.
 *
 * Of mine: `sending` until the server has stored it; `failed` if it won't, or can't; `sent` when it is stored;
 * `delivered` once one of the others has been connected since; `read` once one of them has read it.
 * Of others: `delivered`, and `read` once I have read it.
 */
export type MessageState = "sending" | "failed" | "sent" | "delivered" | "read";

/** A message as it is shown: of the log, or on its way there. */
export interface ChatMessage extends Message {
  /** 0 until it is stored; `message_id` is empty until then. */
  readonly seq: number;
  /** The same before and after it is stored; unique within the conversation. */
  readonly key: string;
  readonly isMine: boolean;
  readonly state: MessageState;
  /** Why it failed, or has to wait. */
  readonly problem?: Refusal | undefined;
  /** When it is tried again, in Unix milliseconds; nothing while it only waits for a connection. */
  readonly retryAt?: number | undefined;
}

/** What a message's state depends on. */
export interface Audience {
  me: string;
  /** The last `seq` read, by user id. */
  readMarkers: ReadonlyMap<string, number>;
  /** The last `seq` that reached one of the others. */
  delivered: number;
  /** When one of the others was last connected, in Unix milliseconds. */
  seenAt: number;
}

/** What was made of a message last: it stays the same object while nothing changes about it. */
const views = new WeakMap<object, ChatMessage>();

/** A message of the log as it is shown. */
export function logged(message: Message, audience: Audience): ChatMessage {
  const isMine = message.sender_id === audience.me;
  const state = stateOf(message, isMine, audience);
  const key = isMine ? message.client_id : `${message.sender_id} ${message.client_id}`;
  return viewOf(message, { ...message, key, isMine, state });
}

/** A message that is on its way, as it is shown. */
export function onItsWay(entry: Outgoing, me: User): ChatMessage {
  const { state, problem, retryAt } = entry;
  return viewOf(entry, { ...asMessage(entry, me), key: entry.message.client_id, isMine: true, state, problem, retryAt });
}

function viewOf(source: object, view: ChatMessage): ChatMessage {
  const held = views.get(source);
  // The rest is as unchangeable as what it was made of.
  if (held?.state === view.state && held.sender_id === view.sender_id && held.isMine === view.isMine) return held;
  views.set(source, view);
  return view;
}

/** A message of mine as the log will have it, as far as that is known. */
export function asMessage({ message, created_at }: QueuedMessage, me: User, ack?: SendAck): Message {
  return {
    conversation_id: message.conversation_id,
    seq: ack?.seq ?? 0,
    prev_seq: 0,
    message_id: ack?.message_id ?? "",
    client_id: message.client_id,
    sender_id: me.user_id,
    sender_username: me.username,
    sender_type: me.user_type,
    content: message.content.trim(),
    message_type: message.message_type ?? "text",
    metadata: message.metadata ?? {},
    reply_to: message.reply_to ?? null,
    created_at: ack?.created_at ?? created_at,
  };
}

function stateOf({ seq, created_at }: Message, isMine: boolean, { me, readMarkers, delivered, seenAt }: Audience): MessageState {
  if (!isMine) return (readMarkers.get(me) ?? 0) >= seq ? "read" : "delivered";
  for (const [user, marker] of readMarkers) if (user !== me && marker >= seq) return "read";
  return delivered >= seq || seenAt >= Date.parse(created_at) ? "delivered" : "sent";
}
