import { useEffect, useState } from "react";
import { useChatContext } from "../context.ts";
import type { UseConversation } from "./use-conversation.ts";

/** So many messages are loaded unasked to open a conversation at what is unread in it: a second or so, on a phone. */
const MOST = 300;

/** What is unread begins before the first message that is loaded. */
export interface Missed {
  /** Its beginning is on its way: the log opens there, and shows nothing until then. */
  isOnTheWay: boolean;
  /** It was too far, or asked for: a person decides. */
  isAsking: boolean;
  /** Loads all that is unread, however much it is. */
  toFirst(): void;
  /** It need not be seen. */
  dismiss(): void;
}

type Choice = "stay" | "go" | "dismiss";

/**
 * Goes back to where what is unread begins. As long as it isn't loaded nothing counts as read, since what is in sight
 * says nothing of what came before it. Undefined if nothing is missed.
 */
export function useMissed(conversation: UseConversation, readUpTo: number | undefined, me: string | undefined, unread: number): Missed | undefined {
  const { notices } = useChatContext();
  const { messages, hasOlder, isLoadingOlder, loadOlder, markRead, readMarkers } = conversation;
  // A choice is about what was unread when it was made.
  const [made, setMade] = useState<{ readUpTo: number | undefined; choice: Choice }>();
  const choose = (choice: Choice) => setMade({ readUpTo, choice });
  const choice = made?.readUpTo === readUpTo ? made?.choice : undefined;
  // It may have been read since, here or elsewhere, and what was read may have been dropped.
  const marker = Math.max(readUpTo ?? 0, readMarkers.get(me ?? "") ?? 0);
  const isMissed = readUpTo !== undefined && hasOlder && (messages[0]?.seq ?? 0) > marker && choice !== "dismiss";
  const isTooFar = unread > MOST || messages.length >= MOST;
  // Once somebody looks at something else, nothing takes it away.
  if (isMissed && choice === undefined && isTooFar) choose("stay");

  const isOnTheWay = isMissed && choice !== "stay" && (choice === "go" || !isTooFar);
  useEffect(() => {
    if (!isOnTheWay || isLoadingOlder) return;
    loadOlder().catch((error: unknown) => {
      if (choice === "go") notices.show(error);
      setMade({ readUpTo, choice: "stay" });
    });
  }, [isOnTheWay, isLoadingOlder, loadOlder, choice, readUpTo, notices]);

  if (!isMissed) return undefined;
  return {
    isOnTheWay,
    isAsking: choice === "go" || !isOnTheWay,
    toFirst: () => choose("go"),
    dismiss: () => {
      choose("dismiss");
      markRead();
    },
  };
}
