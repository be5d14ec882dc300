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
  if (!isOpened && phase === "live" && me !== undefined) {
    // While drawing, so that the log opens with the divider in its place.
    setIsOpened(true);
    const marker = readMarkers.get(me) ?? 0;
    if (hasUnread(messages, marker)) setReadUpTo(marker);
  }

  const latest = useRef(messages);
  useEffect(() => {
    latest.current = messages;
  });
  useEffect(() => {
    const look = () => {
      const newest = newestSeq(latest.current);
      if (document.visibilityState === "hidden") setReadUpTo(newest);
      else setReadUpTo((held) => (held !== undefined && hasUnread(latest.current, held) ? held : undefined));
    };
    document.addEventListener("visibilitychange", look);
    return () => document.removeEventListener("visibilitychange", look);
  }, []);

  // Who answers has read.
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

function newestSeq(messages: readonly ChatMessage[]): number {
  return messages.findLast(({ seq }) => seq > 0)?.seq ?? 0;
}
