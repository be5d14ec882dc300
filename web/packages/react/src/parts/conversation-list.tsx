import type { ListedConversation } from "@partyline/client";
import { memo, type ReactNode, useEffect, useState } from "react";
import { useConversations, useConnection } from "../hooks/use-chat.ts";
import { useMore } from "../hooks/use-more.ts";
import { useNow } from "../hooks/use-now.ts";
import { useArrowKeys } from "../hooks/use-arrow-keys.ts";
import { useChatContext } from "../context.ts";
import { useLanguage } from "../language.ts";
import { nameOf, others, pictureOf, titleOf } from "../names.ts";
import type { Words } from "../words.ts";
import { Avatar } from "./avatar.tsx";
import { ConnectionLabel } from "./banner.tsx";
import { Icon } from "./icon.tsx";
import { Problem } from "./problem.tsx";

/** Relative times move on this often, in milliseconds. */
const TICK_MS = 30_000;
/** Who is online is told of joined conversations only; for the others the list is asked again. */
const REFRESH_MS = 60_000;

export interface ConversationListProps {
  /** The conversation that is open. */
  activeId?: string | undefined;
  onOpen(id: string): void;
  /** A field to search by name, and a choice of those with something unread. */
  hasFilter?: boolean;
  /** More buttons beside my name. */
  actions?: ReactNode;
  /** What stands between my name and the list. */
  children?: ReactNode;
}

/** Who I am, and my conversations. */
export function ConversationList({ activeId, onOpen, hasFilter = false, actions, children }: ConversationListProps) {
  const { words } = useLanguage();
  const { me, isConnected, connectionState } = useConnection();
  const { notices } = useChatContext();
  const { items, isLoaded, problem, hasMore, load, loadMore } = useConversations();
  const [search, setSearch] = useState("");
  const [isUnreadOnly, setIsUnreadOnly] = useState(false);
  const now = useNow(TICK_MS);
  const onKeyDown = useArrowKeys();
  useEffect(() => {
    if (!isConnected) return;
    const timer = setInterval(() => document.visibilityState === "visible" && void load(), REFRESH_MS);
    return () => clearInterval(timer);
  }, [isConnected, load]);
  const { more, hasFailed, end } = useMore(loadMore, items.length, notices.show);
  const myId = me?.user_id ?? "";
  // Without a connection the banner says what is wrong.
  const isFailing = isConnected && problem !== undefined;
  const wanted = search.trim().toLowerCase();
  const shown = items.filter(
    (item) =>
      (!isUnreadOnly || item.unread_count > 0 || item.id === activeId) &&
      (wanted === "" || `${titleOf(item, myId)} ${item.last_message?.content ?? ""}`.toLowerCase().includes(wanted)),
  );
  return (
    <nav className="pl-sidebar" aria-label={words.conversations}>
      <header className="pl-header">
        {me && <Avatar id={me.user_id} name={nameOf(me)} />}
        <div className="pl-who">
          <span className="pl-name" dir="auto">
            {me ? nameOf(me) : "…"}
          </span>
          <ConnectionLabel />
        </div>
        {actions}
      </header>
      {children}
      {hasFilter && (
        <div className="pl-filter">
          <label className="pl-search">
            <Icon name="search" />
            <input type="search" value={search} aria-label={words.search} placeholder={words.search} onChange={(event) => setSearch(event.target.value)} />
          </label>
          <div className="pl-tabs">
            {[false, true].map((isUnread) => (
              <button key={String(isUnread)} type="button" aria-pressed={isUnread === isUnreadOnly} onClick={() => setIsUnreadOnly(isUnread)}>
                {isUnread ? words.unread : words.all}
              </button>
            ))}
          </div>
        </div>
      )}
      <div className="pl-list">
        <ul data-testid="conversations" aria-busy={!isLoaded} onKeyDown={onKeyDown}>
          {shown.map((item) => (
            <li key={item.id} data-id={item.id} data-unread={item.unread_count > 0 || undefined}>
              <ConversationItem conversation={item} myId={myId} isActive={item.id === activeId} now={now} onOpen={onOpen} />
            </li>
          ))}
        </ul>
        {!isLoaded && isFailing && <Problem about={problem} onRetry={() => void load()} />}
        {!isLoaded && !isFailing && connectionState.kind !== "ended" && <Skeletons label={words.loading} />}
        {isLoaded && shown.length === 0 && <p className="pl-empty">{items.length === 0 ? words.noConversations : hasMore && !hasFailed ? words.searching : words.noMatch}</p>}
        {hasMore && (
          <button className="pl-quiet pl-wide" type="button" ref={end} onClick={() => void more()}>
            {words.showMore}
          </button>
        )}
      </div>
    </nav>
  );
}

export interface ConversationItemProps {
  conversation: ListedConversation;
  myId: string;
  isActive: boolean;
  /** In Unix milliseconds: what the times are relative to. */
  now: number;
  onOpen(id: string): void;
}

/** A conversation in a line or two. */
export const ConversationItem = memo(function ConversationItem({ conversation, myId, isActive, now, onOpen }: ConversationItemProps) {
  const { words, formats } = useLanguage();
  const { id, participants, last_message: last, unread_count: unread, created_at } = conversation;
  const title = titleOf(conversation, myId) || words.onlyYou;
  const when = last?.created_at ?? created_at;
  const isOnline = others(participants, myId).some(({ online }) => online);
  return (
    <button className="pl-item" type="button" aria-current={isActive || undefined} onClick={() => onOpen(id)}>
      <Avatar id={pictureOf(conversation, myId)} name={title} isOnline={isOnline} />
      <span className="pl-title" dir="auto">
        {title}
      </span>
      {isOnline && <span className="pl-hidden">{words.online}</span>}
      <time className="pl-when" dir="auto" dateTime={when} title={formats.fullTime(when)}>
        {formats.ago(when, new Date(now))}
      </time>
      <span className="pl-preview" dir="auto">
        {preview(conversation, myId, words)}
      </span>
      {unread > 0 && (
        <span className="pl-badge">
          <span aria-hidden="true">{unread > 99 ? "99+" : unread}</span>
          <span className="pl-hidden">{words.unreadCount(unread)}</span>
        </span>
      )}
    </button>
  );
});

/** The last message in a line. */
function preview({ last_message: last, kind }: ListedConversation, myId: string, words: Words): string {
  if (!last) return words.noMessages;
  if (last.deleted_at) return words.deleted;
  const content = last.content || { quote: words.quote, booking_update: words.booking, file: words.file }[last.message_type as string] || "";
  if (last.sender_id === myId) return words.said(words.you) + content;
  return kind === "direct" || last.message_type === "system" ? content : words.said(last.sender_username) + content;
}

function Skeletons({ label }: { label: string }) {
  return (
    <div role="status">
      <span className="pl-hidden">{label}</span>
      {[0, 1, 2].map((index) => (
        <div className="pl-skeleton" key={index} aria-hidden="true">
          <span />
          <span />
          <span />
        </div>
      ))}
    </div>
  );
}
