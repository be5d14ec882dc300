import type { Chat } from "@partyline/client";
import { createContext, useContext, useSyncExternalStore } from "react";
import type { Store } from "@partyline/client";

export interface ChatContextValue {
  chat: Chat;
  /** The conversation that is open. */
  conversationId: string | undefined;
  setConversationId(id: string | undefined): void;
  /** What was begun to be written, by conversation: it is there again when one comes back. */
  drafts: Map<string, string>;
  notices: Notices;
}

export const ChatContext = createContext<ChatContextValue | undefined>(undefined);

export function useChatContext(): ChatContextValue {
  const value = useContext(ChatContext);
  if (!value) throw new Error("There is no <ChatProvider> around this part.");
  return value;
}

/** A store's state; draws anew when it changes. */
export function useStore<T>(store: Store<T>): T {
  return useSyncExternalStore(store.subscribe, store.getSnapshot, store.getSnapshot);
}

/** What is to be told once: the newest notice, until it is closed or grows old. */
export class Notices implements Store<Notice | undefined> {
  private notice: Notice | undefined;
  private readonly listeners = new Set<() => void>();

  readonly subscribe = (listener: () => void): (() => void) => {
    this.listeners.add(listener);
    return () => void this.listeners.delete(listener);
  };

  readonly getSnapshot = (): Notice | undefined => this.notice;

  /** An error, or a text. */
  readonly show = (about: unknown): void => this.set({ about });

  readonly close = (): void => this.set(undefined);

  private set(notice: Notice | undefined): void {
    this.notice = notice;
    for (const listener of [...this.listeners]) listener();
  }
}

export interface Notice {
  about: unknown;
}
