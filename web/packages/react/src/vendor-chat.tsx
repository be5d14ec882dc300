import { useState } from "react";
import { useConversation } from "./hooks/use-conversation.ts";
import { useLanguage } from "./language.ts";
import { ChatFrame, type ChatFrameProps } from "./parts/frame.tsx";
import { Icon } from "./parts/icon.tsx";
import { QuoteForm } from "./parts/quote-form.tsx";
import { Thread } from "./parts/thread.tsx";

export interface VendorChatProps extends ChatFrameProps {
  /** ISO 4217: what quotes are made in; "EUR" unless given. */
  currency?: string;
}

/** A vendor's inbox: search, what is unread, and quotes. */
export function VendorChat({ currency = "EUR", ...frame }: VendorChatProps) {
  return (
    <ChatFrame {...frame} hasFilter>
      {(id, onBack) => <VendorThread key={id} id={id} onBack={onBack} currency={currency} />}
    </ChatFrame>
  );
}

function VendorThread({ id, onBack, currency }: { id: string; onBack: (() => void) | undefined; currency: string }) {
  const { words } = useLanguage();
  const { sendMessage, phase } = useConversation(id);
  const [isQuoting, setIsQuoting] = useState(false);
  const button = (
    <button
      className="pl-round"
      type="button"
      aria-label={words.makeQuote}
      title={words.makeQuote}
      aria-expanded={isQuoting}
      disabled={phase === "refused"}
      onClick={() => setIsQuoting(!isQuoting)}
    >
      <Icon name="quote" />
    </button>
  );
  return (
    <Thread conversationId={id} onBack={onBack} composerActions={button}>
      {isQuoting && (
        <QuoteForm currency={currency} send={(content, options) => void sendMessage(content, options).catch(() => undefined)} onClose={() => setIsQuoting(false)} />
      )}
    </Thread>
  );
}
