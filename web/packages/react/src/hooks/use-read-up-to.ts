import type { ChatMessage } from "@partyline/client";
import { useEffect, useRef, useState } from "react";
import type { UseConversation } from "./use-conversation.ts";

type Shown = Pick<UseConversation, "messages" | "phase" | "readMarkers">;

/**
 * The `seq` after which the divider of what is unread stands: what was unread when the conversation was opened, or what
 * came while nobody looked. Undefined for none.
 */
export function useReadUpTo({ messages, phase, readMarkers }: Shown, me: string | undefined): number | undefined {
  const [readUpTo, setReadUpTo] = useState<number>();
  const [isOpened, setIsOpened] = useState(false);
  // Who answers has read, wherever that was.
  const read = Math.max(readMarkers.get(me ?? "") ?? 0, messages.findLast(({ isMine, seq }) => isMine && seq > 0)?.seq ?? 0);
  if (!isOpened && phase === "live" && me !== undefined) {
    // While drawing, so that the log opens with the divider in its place.
    setIsOpened(true);
    if (hasUnread(messages, read)) setReadUpTo(read);
  }

  const latest = useRef({ messages, read: isOpened ? read : undefined });
  useEffect(() => {
    latest.current = { messages, read: isOpened ? read : undefined };
  });
  useEffect(() => {
    const look = () => {
      const { messages, read } = latest.current;
      if (document.visibilityState === "hidden") setReadUpTo(read);
      else setReadUpTo((held) => (held !== undefined && hasUnread(messages, held) ? held : undefined));
    };
    document.addEventListener("visibilitychange", look);
    return () => document.removeEventListener("visibilitychange", look);
  }, []);

  const sent = messages.at(-1)?.isMine ? messages.at(-1)?.key : undefined;
  const [lastSent, setLastSent] = useState(sent);
  if (sent !== lastSent) {
    setLastSent(sent);
    if (isOpened && sent !== undefined) setReadUpTo(undefined);
  }
  return readUpTo;
}

function hasUnread(messages: readonly ChatMessage[], seq: number): boolean {
  return messages.some((message) => !message.isMine && message.seq > seq);
}
