import type { ChatMessage } from "@partyline/client";
import { useLanguage } from "../language.ts";
import { secondsUntil } from "../format.ts";
import { useNow } from "../hooks/use-now.ts";
import type { Words } from "../words.ts";

export interface DeliveryProps {
  message: ChatMessage;
  /** Whether there is a connection. */
  isConnected: boolean;
  /** How many of the others have read it, and how many there are. */
  readers: number;
  company: number;
}

/** How far a message of mine is: "Sending…", "Sent", "Read". */
export function Delivery({ message, isConnected, readers, company }: DeliveryProps) {
  const { words } = useLanguage();
  const now = useNow(message.retryAt === undefined ? undefined : 1_000);
  return <span className="pl-delivery">{tell(message, isConnected, readers, company, now, words)}</span>;
}

function tell({ state, retryAt, problem }: ChatMessage, isConnected: boolean, readers: number, company: number, now: number, words: Words): string {
  switch (state) {
    case "sending": {
      if (retryAt === undefined) return isConnected ? words.sending : words.waitingForConnection;
      const reason = problem?.code === "rate_limited" ? words.tooMany : words.notStored;
      return words.retryIn(reason, secondsUntil(retryAt, now));
    }
    case "sent":
      return words.sent;
    case "delivered":
      return words.delivered;
    case "read":
      return company <= 1 || readers >= company ? words.read : words.readBy(readers, company);
    case "failed": // explained below the message, with what can be done
      return "";
  }
}
