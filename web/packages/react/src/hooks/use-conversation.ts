import type { Conversation, ConversationSnapshot, SendAck, SendOptions, Store, TypingUser } from "@partyline/client";
import { useMemo } from "react";
import { useChatContext, useStore } from "../context.ts";

/** One conversation, and what can be done in it. Whatever returns a promise rejects with `Refusal` or `Disconnected`. */
export interface UseConversation extends Omit<ConversationSnapshot, "typing"> {
  /** Its messages aren't known yet. */
  isLoading: boolean;
  /** The others who are typing. */
  typingUsers: readonly TypingUser[];
  /** Sends a message. It stands among `messages` at once; resolves when it is stored, and need not be awaited. */
  sendMessage(content: string, options?: SendOptions): Promise<SendAck>;
  /** Sends a failed message again, or forgets it; both by `client_id`. */
  retry(clientId: string): void;
  discard(clientId: string): void;
  editMessage(seq: number, content: string): Promise<void>;
  deleteMessage(seq: number): Promise<void>;
  /** Asks for the page before the first message; `hasOlder` tells whether there is one. */
  loadOlder(): Promise<void>;
  /** What is held was seen, up to this `seq` if one is given. */
  markRead(upTo?: number): void;
  /** I type, or cleared what I typed; may be called for every key. */
  setTyping(isTyping: boolean): void;
}

/** A conversation, joined as long as this is mounted. */
export function useConversation(id: string): UseConversation {
  return useOptionalConversation(id);
}

export function useOptionalConversation(id: string | undefined): UseConversation {
  const { chat } = useChatContext();
  const conversation = id === undefined ? undefined : chat.conversation(id);
  const snapshot = useStore<ConversationSnapshot>(conversation ?? NONE);
  const actions = useMemo(() => actionsOf(conversation), [conversation]);
  return useMemo(() => {
    const { typing, ...shown } = snapshot;
    const isKnown = snapshot.messages.length > 0 || snapshot.phase === "live" || snapshot.phase === "refused";
    return { ...shown, ...actions, typingUsers: typing, isLoading: conversation !== undefined && !isKnown };
  }, [snapshot, actions, conversation]);
}

const NOTHING: ConversationSnapshot = {
  id: "",
  phase: "closed",
  problem: undefined,
  messages: [],
  hasOlder: false,
  isLoadingOlder: false,
  participants: [],
  online: new Set(),
  typing: [],
  readMarkers: new Map(),
};
const NONE: Store<ConversationSnapshot> = { subscribe: () => () => {}, getSnapshot: () => NOTHING };

type Actions = Omit<UseConversation, keyof ConversationSnapshot | "isLoading" | "typingUsers">;

function actionsOf(conversation: Conversation | undefined): Actions {
  const none = () => Promise.reject(new Error("No conversation is open."));
  if (!conversation) {
    const nothing = () => {};
    return { sendMessage: none, retry: nothing, discard: nothing, editMessage: none, deleteMessage: none, loadOlder: none, markRead: nothing, setTyping: nothing };
  }
  return {
    sendMessage: conversation.send,
    // What becomes of it stands in its message's state.
    retry: (clientId) => void conversation.retry(clientId).catch(() => undefined),
    discard: conversation.discard,
    editMessage: (seq, content) => conversation.edit(seq, content),
    deleteMessage: (seq) => conversation.delete(seq),
    loadOlder: conversation.loadOlder,
    markRead: conversation.markRead,
    setTyping: conversation.setTyping,
  };
}
