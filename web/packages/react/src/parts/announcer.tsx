import type { ChatMessage } from "@partyline/client";
import { useEffect, useRef, useState } from "react";
import { useLanguage } from "../language.ts";

/** Reads out what others say while one is there, and not what was said before. */
export function Announcer({ messages, isLive }: { messages: readonly ChatMessage[]; isLive: boolean }) {
  const { words } = useLanguage();
  const [text, setText] = useState("");
  const told = useRef<number>(undefined);
  useEffect(() => {
    if (!isLive) return;
    const newest = messages.findLast(({ seq }) => seq > 0)?.seq ?? 0;
    const since = told.current;
    told.current = Math.max(newest, since ?? 0);
    if (since === undefined) return;
    const fresh = messages.filter(({ seq, isMine }) => seq > since && !isMine);
    const [first] = fresh;
    if (!first) return;
    const name = first.sender_username || first.sender_id;
    setText(fresh.length === 1 ? words.said(name) + first.content : words.newCount(fresh.length));
  }, [messages, isLive, words]);
  return (
    <div className="pl-hidden" role="status">
      {text}
    </div>
  );
}
