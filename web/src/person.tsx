import type { TokenProvider } from "@partyline/client";
import { indexedDbQueue } from "@partyline/client/indexeddb";
import { sharedBetweenTabs } from "@partyline/client/tabs";
import { ChatProvider, CustomerChat, Icon, useChat, VendorChat } from "@partyline/react";
import { useEffect, useMemo, useRef } from "react";
import { NewConversation } from "./new-conversation.tsx";

interface PersonProps {
  token: TokenProvider;
  userId: string;
  userType: unknown;
  leave(): void;
  /** The only one of this window: its address names the open conversation. */
  isAlone?: boolean;
}

/** The chat of one person: one connection for all windows of theirs, and a closed one loses nothing. */
export function Person({ token, userId, ...rest }: PersonProps) {
  const queue = useMemo(() => indexedDbQueue({ user: userId }), [userId]);
  const transport = useMemo(() => sharedBetweenTabs({ user: userId }), [userId]);
  const fromAddress = rest.isAlone ? conversationInAddress() : undefined;
  return (
    <ChatProvider token={token} queue={queue} transport={transport} {...(fromAddress !== undefined && { defaultConversationId: fromAddress })}>
      <PersonChat {...rest} />
    </ChatProvider>
  );
}

function PersonChat({ userType, leave, isAlone = false }: Omit<PersonProps, "token" | "userId">) {
  useAddress(isAlone);
  useFirstConversation(!isAlone);
  useTitle(isAlone);
  const Chat = userType === "vendor" ? VendorChat : CustomerChat;
  const signOut = (
    <button className="pl-round" type="button" aria-label="Sign out" title="Sign out" onClick={leave}>
      <Icon name="exit" />
    </button>
  );
  return (
    <Chat
      actions={
        <>
          {isAlone && <NewConversation />}
          {signOut}
        </>
      }
      onSignIn={leave}
      {...(userType === "vendor" && { currency: "GBP" })}
    />
  );
}

function conversationInAddress(): string | undefined {
  return decodeURIComponent(location.hash.replace(/^#\/?/, "")) || undefined;
}

/** The address names the open conversation, so that a reload and the back button find it. */
function useAddress(isUsed: boolean): void {
  const { conversationId, openConversation, closeConversation } = useChat();
  useEffect(() => {
    if (!isUsed) return;
    const follow = () => {
      const id = conversationInAddress();
      if (id === undefined) closeConversation();
      else openConversation(id);
    };
    window.addEventListener("hashchange", follow);
    return () => window.removeEventListener("hashchange", follow);
  }, [isUsed, openConversation, closeConversation]);
  useEffect(() => {
    if (isUsed && conversationId !== conversationInAddress()) location.hash = `#/${encodeURIComponent(conversationId ?? "")}`;
  }, [isUsed, conversationId]);
}

/** Side by side they are to talk with each other: at the beginning, as who goes back to the list wants to see it. */
function useFirstConversation(isWanted: boolean): void {
  const { conversations, openConversation } = useChat();
  const isOpened = useRef(false);
  const first = conversations[0]?.id;
  useEffect(() => {
    if (!isWanted || isOpened.current || first === undefined) return;
    isOpened.current = true;
    openConversation(first);
  }, [isWanted, first, openConversation]);
}

function useTitle(isUsed: boolean): void {
  const { unreadCount } = useChat();
  useEffect(() => {
    if (!isUsed) return;
    document.title = unreadCount > 0 ? `(${unreadCount}) Partyline` : "Partyline";
    return () => {
      document.title = "Partyline";
    };
  }, [isUsed, unreadCount]);
}
