import type { ChatMessage, ListedConversation } from "@partyline/client";
import { type ReactNode, useMemo, useRef, useState } from "react";
import { useChatContext, useStore } from "../context.ts";
import { useConnection } from "../hooks/use-chat.ts";
import { type UseConversation, useConversation } from "../hooks/use-conversation.ts";
import { useMissed } from "../hooks/use-missed.ts";
import { useReadUpTo } from "../hooks/use-read-up-to.ts";
import { useLanguage } from "../language.ts";
import { others } from "../names.ts";
import type { Row } from "../rows.ts";
import { Announcer } from "./announcer.tsx";
import { Composer } from "./composer.tsx";
import { MessageList } from "./message-list.tsx";
import { ThreadHeader } from "./thread-header.tsx";
import { UnreadBar } from "./unread-bar.tsx";

/** While it isn't known where to open. */
const NO_MESSAGES: readonly ChatMessage[] = [];
const NOTHING_SEEN = () => {};
/** Before the server told how long a message may be. */
const DEFAULT_MAX_CHARS = 1_000;

export interface ThreadProps {
  conversationId: string;
  /** Leads back to the list, where there is room for one of the two only. */
  onBack?: (() => void) | undefined;
  /** More buttons in its head. */
  actions?: ReactNode;
  /** More buttons beside the field. */
  composerActions?: ReactNode;
  /** What stands between the messages and the field: a form that one of those buttons opened. */
  children?: ReactNode;
}

/** One conversation: joined as long as it is shown. */
export function Thread(props: ThreadProps) {
  // Nothing of one conversation is left in the next one.
  return <OpenThread key={props.conversationId} {...props} />;
}

function OpenThread({ conversationId, onBack, actions, composerActions, children }: ThreadProps) {
  const { words } = useLanguage();
  const { drafts, notices } = useChatContext();
  const { me, limits, isConnected } = useConnection();
  const conversation = useConversation(conversationId);
  const { messages, phase, problem, participants } = conversation;
  const [edited, setEdited] = useState<ChatMessage>();
  const readUpTo = useReadUpTo(conversation, me?.user_id);
  const listed = useListed(conversationId);
  const unread = listed?.unread_count ?? messages.filter(({ isMine, seq }) => !isMine && seq > (readUpTo ?? 0)).length;
  const missed = useMissed(conversation, readUpTo, me?.user_id, unread);
  const isOnTheWay = missed?.isOnTheWay ?? false;
  const company = others(participants, me?.user_id ?? "").length;
  const isRefused = phase === "refused";
  const messageActions = useMessageActions(conversation, setEdited);
  const markers = useOthersMarkers(conversation, me?.user_id);
  const isDirect = listed ? listed.kind === "direct" : company <= 1;
  const thread = useRef<HTMLElement>(null);
  // From there the arrow keys lead on.
  const focusLog = () => thread.current?.querySelector<HTMLElement>('[role="log"]')?.focus();
  return (
    <section className="pl-thread" aria-label={words.conversation} ref={thread}>
      <ThreadHeader conversation={conversation} onBack={onBack} actions={actions} />
      <UnreadBar missed={missed} count={unread} isAtLeast={!listed} onPress={focusLog} />
      <MessageList
        messages={isOnTheWay ? NO_MESSAGES : messages}
        hasOlder={conversation.hasOlder}
        markers={markers}
        readUpTo={readUpTo}
        isLoading={conversation.isLoading || isOnTheWay}
        isBusy={phase !== "live" || isOnTheWay}
        isLoadingOlder={conversation.isLoadingOlder}
        loadOlder={conversation.loadOlder}
        onSeen={missed ? NOTHING_SEEN : conversation.markRead}
        actions={messageActions}
        isConnected={isConnected}
        company={company}
        isDirect={isDirect}
      />
      <Announcer messages={messages} isLive={phase === "live"} />
      {isRefused && (
        <p className="pl-problem" role="alert">
          {problem?.message}
        </p>
      )}
      {children}
      <Composer
        send={(content) => void conversation.sendMessage(content).catch(() => undefined)}
        edit={({ seq }, content) => void conversation.editMessage(seq, content).catch(notices.show)}
        setTyping={conversation.setTyping}
        edited={edited}
        onEdit={(which) => setEdited(which && messages.findLast(({ isMine, seq, deleted_at, message_type }) => isMine && seq > 0 && !deleted_at && message_type === "text"))}
        maxChars={limits?.max_content_chars ?? DEFAULT_MAX_CHARS}
        isDisabled={isRefused}
        draft={drafts.get(conversationId) ?? ""}
        onDraft={(content) => drafts.set(conversationId, content)}
      >
        {composerActions}
      </Composer>
    </section>
  );
}

function useMessageActions(conversation: UseConversation, edit: (message: ChatMessage) => void) {
  const { notices } = useChatContext();
  const { deleteMessage, retry, discard } = conversation;
  return useMemo(
    () => ({
      edit: ({ message }: Row) => edit(message),
      delete: ({ message }: Row) => void deleteMessage(message.seq).catch(notices.show),
      retry,
      discard,
    }),
    [edit, deleteMessage, retry, discard, notices],
  );
}

function useOthersMarkers({ readMarkers }: UseConversation, myId: string | undefined): number[] {
  return useMemo(() => [...readMarkers].filter(([user]) => user !== myId).map(([, seq]) => seq), [readMarkers, myId]);
}

/** Its entry in the list, if that was loaded so far. */
function useListed(id: string): ListedConversation | undefined {
  const { chat } = useChatContext();
  const { items } = useStore(chat.conversations);
  return items.find((item) => item.id === id);
}
