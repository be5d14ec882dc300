import type { ReactNode } from "react";
import { useChatContext, useStore } from "../context.ts";
import { useConnection } from "../hooks/use-chat.ts";
import type { UseConversation } from "../hooks/use-conversation.ts";
import { useNow } from "../hooks/use-now.ts";
import { useLanguage } from "../language.ts";
import { nameOf, others, pictureOf, titleOf } from "../names.ts";
import { Avatar } from "./avatar.tsx";
import { Icon } from "./icon.tsx";

const TICK_MS = 30_000;

export interface ThreadHeaderProps {
  conversation: UseConversation;
  /** Leads back to the list, where there is room for one of the two only. */
  onBack?: (() => void) | undefined;
  /** More buttons. */
  actions?: ReactNode;
}

/** Whom one talks with, and whether they are here. */
export function ThreadHeader({ conversation, onBack, actions }: ThreadHeaderProps) {
  const { words } = useLanguage();
  const { me } = useConnection();
  const { chat } = useChatContext();
  const { items } = useStore(chat.conversations);
  const myId = me?.user_id ?? "";
  const { id, participants, online, typingUsers } = conversation;
  const listed = items.find((item) => item.id === id);
  const company = others(listed?.participants ?? participants, myId);
  const title = listed ? titleOf(listed, myId) || words.onlyYou : company.map(nameOf).join(", ") || "…";
  const isOnline = others(participants, myId).some(({ user_id }) => online.has(user_id));
  return (
    <header className="pl-header">
      {onBack && (
        <button className="pl-round pl-back" type="button" aria-label={words.back} onClick={onBack}>
          <Icon name="back" />
        </button>
      )}
      <Avatar id={listed ? pictureOf(listed, myId) : (company[0]?.user_id ?? id)} name={title} isOnline={isOnline} onlineLabel={words.online} />
      <div className="pl-who">
        <h2 className="pl-name" dir="auto" tabIndex={-1}>
          {title}
        </h2>
        <span className={typingUsers.length > 0 ? "pl-subtitle pl-is-typing" : "pl-subtitle"} data-testid="subtitle">
          <Presence conversation={conversation} myId={myId} lastSeen={company.length === 1 ? lastSeenOf(company[0]) : undefined} />
        </span>
      </div>
      {actions}
    </header>
  );
}

function lastSeenOf(participant: object | undefined): string | undefined {
  return (participant as { last_seen?: string | null } | undefined)?.last_seen ?? undefined;
}

function Presence({ conversation, myId, lastSeen }: { conversation: UseConversation; myId: string; lastSeen: string | undefined }) {
  const { words, formats } = useLanguage();
  const { participants, typingUsers, online } = conversation;
  const company = others(participants, myId);
  const here = company.filter(({ user_id }) => online.has(user_id)).length;
  const now = useNow(here === 0 ? TICK_MS : undefined);
  if (typingUsers.length > 0) return company.length <= 1 ? words.typing : words.typingNames(typingUsers.map(nameOf));
  if (company.length > 1) return words.onlineOf(here + 1, company.length + 1);
  if (here > 0) return words.online;
  if (lastSeen !== undefined) return words.lastSeen(formats.since(lastSeen, new Date(now)) ?? words.justNow);
  return company.length > 0 ? words.offline : "";
}
