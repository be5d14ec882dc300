/** Partyline's wire contract, version 1, as a client sees it. Times are RFC 3339 unless a name says otherwise. */

export const SUBPROTOCOL = "partyline.v1";

/** A value that this version knows, or one of a later version. */
export type Open<T extends string> = T | (string & {});

export type UserType = Open<"customer" | "vendor">;
export type MessageType = Open<"text" | "quote" | "booking_update" | "file" | "system">;

export interface User {
  user_id: string;
  username: string;
  user_type: UserType;
}

export interface Participant extends User {
  role: Open<"owner" | "member">;
  /** The last `seq` that this participant has read; 0 before the first. */
  last_read_seq: number;
}

/** A message in its current state. */
export interface Message {
  conversation_id: string;
  seq: number;
  prev_seq: number;
  message_id: string;
  client_id: string;
  sender_id: string;
  sender_username: string;
  sender_type: UserType;
  /** Empty once deleted. */
  content: string;
  message_type: MessageType;
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
  message_id: string;
  editor_id: string;
  content: string;
  edited_at: string;
}
export interface MessageDeleted extends Place {
  type: "message_deleted";
  message_seq: number;
  message_id: string;
  deleted_by: string;
  deleted_at: string;
}
export interface Read extends Place {
  type: "read";
  user_id: string;
  last_read_seq: number;
  read_at: string;
}
export interface ParticipantAdded extends Place {
  type: "participant_added";
  participant: Participant;
  added_by: string;
}
export interface ParticipantRemoved extends Place {
  type: "participant_removed";
  user_id: string;
  removed_by: string;
}

/** What a conversation's log holds. */
export type LogEvent = NewMessage | MessageEdited | MessageDeleted | Read | ParticipantAdded | ParticipantRemoved;

/** The limits in force; 0 means that there is none. */
export interface Limits {
  messages_per_minute: number;
  messages_burst: number;
  frames_per_second: number;
  /** Frames that a rested connection may send at once; faster ones are read later. Older servers close instead. */
  frames_burst?: number;
  connections_per_user: number;
  max_frame_bytes: number;
  /** Unicode code points. */
  max_content_chars: number;
  max_metadata_bytes: number;
  outbound_queue_bytes: number;
  ping_interval_ms: number;
  idle_timeout_ms: number;
}

export interface Welcome {
  type: "welcome";
  session_id: string;
  user: User;
  server_time: string;
  heartbeat_ms: number;
  limits: Limits;
  /** What the server can do beyond the first version. */
  features?: Open<"join_conversations">[];
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
  /** Ids of those participants who are connected. */
  online: string[];
  /** The last `seq` read, by user id. */
  read_markers: Record<string, number>;
  /** Whether REST has messages before the first one; of joins without `after`. */
  has_older: boolean;
}
/** A message is stored. */
export interface SendAck {
  conversation_id: string;
  client_id: string;
  message_id: string;
  seq: number;
  created_at: string;
  /** It was stored before: this is the first one's answer. */
  duplicate: boolean;
}
/** Carries what the request asks for: of a send, a `SendAck`. */
export interface Ack extends Partial<SendAck> {
  type: "ack";
  ref?: string;
  /** Of an edit or a deletion: the message's; `seq` is then the change's own place. */
  message_seq?: number;
  /** Of a read marker. */
  last_read_seq?: number;
  /** Of a token: seconds since 1970. */
  expires_at?: number;
  /** Of `join_conversations`: how many. */
  joined?: number;
  refused?: number;
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
  reason: Open<"message" | "edited" | "deleted" | "read" | "added" | "removed">;
  /** The newest message in its present state; null if neither it nor its state is new. */
  last_message: NewMessage | null;
  /** Null when the server can't tell now. */
  unread_count: number | null;
}
export interface TokenExpiring {
  type: "token_expiring";
  /** Seconds since 1970. */
  expires_at: number;
  expires_in_ms: number;
}
export interface ErrorFrame {
  type: "error";
  ref?: string;
  code: string;
  message: string;
  retry_after_ms?: number;
  /** Of one of several conversations. */
  conversation_id?: string;
}

export type Reply = Joined | Ack | Left;
export type ServerFrame = Welcome | Reply | LogEvent | Typing | Presence | ConversationUpdated | TokenExpiring | ErrorFrame;

/** What a client sends, without its `ref`. */
export type Command =
  | { type: "join_conversation"; conversation_id: string; after?: number }
  | { type: "join_conversations"; conversations: { conversation_id: string; after?: number; ref?: string }[] }
  | { type: "leave_conversation"; conversation_id: string }
  | SendMessage
  | { type: "typing"; conversation_id: string; is_typing: boolean }
  | { type: "mark_read"; conversation_id: string; seq: number }
  | { type: "edit_message"; conversation_id: string; seq: number; content: string }
  | { type: "delete_message"; conversation_id: string; seq: number }
  | { type: "refresh_token"; token: string };

export interface SendMessage {
  type: "send_message";
  conversation_id: string;
  client_id: string;
  content: string;
  message_type?: MessageType;
  metadata?: Record<string, unknown>;
  reply_to?: number;
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

/** A character that can be seen; `\u2800` is a Braille pattern without a dot. */
const VISIBLE = /[^\s\p{Default_Ignorable_Code_Point}\u2800]/u;

/**
 * Returns the length of a content as the server counts it: code points, without white space around; 0 if nothing of it
 * can be seen, which the server refuses.
 */
export function contentLength(content: string): number {
  return VISIBLE.test(content) ? Array.from(content.trim()).length : 0;
}
