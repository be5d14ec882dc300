import type { ConnectionState, Limits, ListedConversation, User } from "@partyline/client";
import { useCallback } from "react";
import { useChatContext, useStore } from "../context.ts";
import { type UseConversation, useOptionalConversation } from "./use-conversation.ts";

/** The whole chat, and the conversation that is open. */
export interface UseChat extends Omit<UseConversation, "id"> {
  isConnected: boolean;
  connectionState: ConnectionState;
  /** Tries again now: after the connection ended, or while it waits. */
  reconnect(): void;
  /** Who I am; undefined before the first connection. */
  me: User | undefined;
  limits: Limits | undefined;
  /** How many messages wait to be sent. */
  pending: number;

  /** Newest activity first. */
  conversations: readonly ListedConversation[];
  isLoadingConversations: boolean;
  /** Why they could not be had last; they are asked for again. */
  conversationsProblem: Error | undefined;
  hasMoreConversations: boolean;
  unreadCount: number;
  /** Asks for the newest conversations again, though they are kept up to date by themselves. */
  loadConversations(): Promise<void>;
  loadMoreConversations(): Promise<void>;

  conversationId: string | undefined;
  openConversation(id: string): void;
  closeConversation(): void;
  /** Finds or creates the conversation with somebody, and opens it. Resolves to its id. */
  startConversation(userId: string): Promise<string>;
}

/**
 * The chat of the `<ChatProvider>` above. What is about one conversation is about the one with this id, which is
 * joined as long as somebody watches it, or about the one that is open.
 */
export function useChat(id?: string): UseChat {
  const { conversationId: openId, setConversationId } = useChatContext();
  const conversationId = id ?? openId;
  const connection = useConnection();
  const list = useConversations();
  const { id: _, ...conversation } = useOptionalConversation(conversationId);
  const { chat } = useChatContext();
  return {
    ...connection,
    conversations: list.items,
    isLoadingConversations: !list.isLoaded,
    conversationsProblem: list.problem,
    hasMoreConversations: list.hasMore,
    unreadCount: list.unreadCount,
    loadConversations: list.load,
    loadMoreConversations: list.loadMore,
    ...conversation,
    conversationId,
    openConversation: setConversationId,
    closeConversation: useCallback(() => setConversationId(undefined), [setConversationId]),
    startConversation: useCallback(
      async (userId) => {
        const started = await chat.startDirect(userId);
        setConversationId(started);
        return started;
      },
      [chat, setConversationId],
    ),
  };
}

/** The way to the server, and who I am. */
export function useConnection() {
  const { chat } = useChatContext();
  const { connection, me, limits, pending } = useStore(chat);
  const reconnect = useCallback(() => {
    chat.connect();
    chat.wake();
  }, [chat]);
  return { isConnected: connection.kind === "online", connectionState: connection, reconnect, me, limits, pending };
}

/** My conversations. */
export function useConversations() {
  const { chat } = useChatContext();
  const { conversations } = chat;
  const load = useCallback(() => conversations.load(), [conversations]);
  const loadMore = useCallback(() => conversations.loadMore(), [conversations]);
  return { ...useStore(conversations), load, loadMore };
}
