/** Partyline's wire contract, version 1, as a client sees it. */

export const SUBPROTOCOL = "partyline.v1";

export interface User {
  user_id: string;
  username: string;
  user_type: string;
}

export interface Participant extends User {
  role: string;
  /** The last `seq` that this participant has read; 0 before the first. */
  last_read_seq: number;
}

/** A message in its current state. Times are RFC 3339. */
export interface Message {
  conversation_id: string;
  seq: number;
  prev_seq: number;
  message_id: string;
  client_id: string;
  sender_id: string;
  sender_username: string;
  sender_type: string;
  /** Empty once deleted. */
  content: string;
  message_type: string;
  metadata: Record<string, unknown>;
  /** The `seq` of the message that this one answers. */
  reply_to: number | null;
  created_at: string;
  edited_at?: string | null;
  deleted_at?: string | null;
}

interface Place {
  conversation_id: string;
  seq: number;
  /** The event before it in the conversation's log: `seq` has holes, this shows a missing one. */
  prev_seq: number;
}

export interface NewMessage extends Message {
  type: "new_message";
}
export interface MessageEdited extends Place {
  type: "message_edited";
  message_seq: number;
  editor_id: string;
  content: string;
  edited_at: string;
}
export interface MessageDeleted extends Place {
  type: "message_deleted";
  message_seq: number;
  deleted_by: string;
  deleted_at: string;
}
export interface Read extends Place {
  type: "read";
  user_id: string;
  last_read_seq: number;
}
export interface ParticipantAdded extends Place {
  type: "participant_added";
  participant: Participant;
}
export interface ParticipantRemoved extends Place {
  type: "participant_removed";
  user_id: string;
}

/** What a conversation's log holds. */
export type LogEvent = NewMessage | MessageEdited | MessageDeleted | Read | ParticipantAdded | ParticipantRemoved;

/** The limits in force; 0 means that there is none. */
export interface Limits {
  messages_per_minute: number;
  frames_per_second: number;
  max_content_chars: number;
}

export interface Welcome {
  type: "welcome";
  session_id: string;
  user: User;
  server_time: string;
  heartbeat_ms: number;
  limits: Limits;
}
export interface Joined {
  type: "joined";
  ref?: string;
  conversation_id: string;
  /** Everything up to here is among the events, or was held already. */
  seq: number;
  /** Changes only if the log was lost and begun again. */
  epoch: string;
  events: LogEvent[];
  /** The page was full: join again with `after` = `seq`; nothing live comes until then. */
  more: boolean;
  participants: Participant[];
  online: string[];
  read_markers: Record<string, number>;
  has_older: boolean;
}
/** Carries what the request asks for: of a send, `client_id`, `message_id`, `seq`, `created_at`, `duplicate`. */
export interface Ack {
  type: "ack";
  ref?: string;
  conversation_id?: string;
  client_id?: string;
  message_id?: string;
  seq?: number;
  created_at?: string;
  duplicate?: boolean;
  last_read_seq?: number;
}
export interface Left {
  type: "left";
  ref?: string;
  conversation_id: string;
}
export interface Typing {
  type: "typing";
  conversation_id: string;
  user_id: string;
  username: string;
  is_typing: boolean;
}
export interface Presence {
  type: "presence";
  user_id: string;
  online: boolean;
  last_seen: string | null;
}
/** Of a conversation that is mine but not joined. */
export interface ConversationUpdated {
  type: "conversation_updated";
  conversation_id: string;
  reason: string;
  last_message: Message | null;
  /** Null when the server can't tell now. */
  unread_count: number | null;
}
export interface TokenExpiring {
  type: "token_expiring";
}
export interface ErrorFrame {
  type: "error";
  ref?: string;
  code: string;
  message: string;
  retry_after_ms?: number;
}

export type Reply = Joined | Ack | Left;
export type ServerFrame =
  | Welcome
  | Reply
  | LogEvent
  | Typing
  | Presence
  | ConversationUpdated
  | TokenExpiring
  | ErrorFrame;

/** What a client sends, without its `ref`. */
export type Command =
  | { type: "join_conversation"; conversation_id: string; after?: number }
  | { type: "leave_conversation"; conversation_id: string }
  | { type: "send_message"; conversation_id: string; client_id: string; content: string }
  | { type: "typing"; conversation_id: string; is_typing: boolean }
  | { type: "mark_read"; conversation_id: string; seq: number }
  | { type: "edit_message"; conversation_id: string; seq: number; content: string }
  | { type: "delete_message"; conversation_id: string; seq: number }
  | { type: "refresh_token"; token: string };

/** REST: a participant in a list of conversations. */
export interface ListedParticipant extends Participant {
  online: boolean;
  last_seen: string | null;
}
/** REST: a conversation in a list. */
export interface ListedConversation {
  id: string;
  kind: string;
  title: string | null;
  participants: ListedParticipant[];
  last_message: Message | null;
  unread_count: number;
  last_read_seq: number;
  created_at: string;
  updated_at: string;
}
/** REST: a page of a list; `next` asks for the one that follows. */
export interface Page<T> {
  results: T[];
  next?: string | null;
}
/** REST: a page of messages, oldest first. */
export interface MessagePage {
  results: Message[];
  next_before: number | null;
  next_after: number | null;
}

/** Reads a text frame of the server; undefined if it is none. */
export function parseFrame(text: string): ServerFrame | undefined {
  try {
    const value: unknown = JSON.parse(text);
    const isFrame = typeof value === "object" && value !== null && typeof (value as { type?: unknown }).type === "string";
    return isFrame ? (value as ServerFrame) : undefined;
  } catch {
    return undefined;
  }
}

/** Length of a content as the server counts it: code points, without white space around. */
export function contentLength(content: string): number {
  return Array.from(content.trim()).length;
}
