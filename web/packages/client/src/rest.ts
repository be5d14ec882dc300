import type { Message, Open, Participant } from "./wire.ts";

/** A participant in a list of conversations. */
export interface ListedParticipant extends Participant {
  online: boolean;
  /** When the last connection ended; null if that was never seen. */
  last_seen: string | null;
}

/** A conversation in a list. */
export interface ListedConversation {
  id: string;
  kind: Open<"direct" | "group">;
  title: string | null;
  /** In a list, the first 50. */
  participants: ListedParticipant[];
  participant_count: number;
  last_message: Message | null;
  /** Others' messages behind my read marker; counted up to 1,000. */
  unread_count: number;
  /** My read marker. */
  last_read_seq: number;
  created_at: string;
  /** The newest message's time, else the creation's. */
  updated_at: string;
}

/** A page of a list; `next` asks for the one that follows. */
export interface Page<T> {
  results: T[];
  next: string | null;
}

/** A page of messages, oldest first. */
export interface MessagePage {
  results: Message[];
  next_before: number | null;
  next_after: number | null;
}
