import type { ChatMessage } from "@partyline/client";
import { createContext, type ComponentType, useContext } from "react";
import { useLanguage } from "../language.ts";
import { BookingCard, FileCard, OtherCard, QuoteCard } from "./cards.tsx";
import { MessageText } from "./text.tsx";

/** What draws the messages of a type. */
export type Renderers = Partial<Record<string, ComponentType<{ message: ChatMessage }>>>;

const STANDARD: Renderers = { quote: QuoteCard, booking_update: BookingCard, file: FileCard };

/** Renderers of one's own, by `message_type`; before the standard ones. */
export const RenderersContext = createContext<Renderers>({});

export interface BubbleProps {
  id?: string;
  message: ChatMessage;
  /** The message that this one answers, if it is known. */
  answers: ChatMessage | undefined;
}

/** What a message says, by its type. */
export function Bubble({ id, message, answers }: BubbleProps) {
  const { words } = useLanguage();
  const own = useContext(RenderersContext);
  if (message.deleted_at) {
    return (
      <div className="pl-bubble" id={id}>
        <p className="pl-content">{words.deleted}</p>
      </div>
    );
  }
  const { message_type: type } = message;
  const Body = own[type] ?? STANDARD[type] ?? (type === "text" || type === "system" ? undefined : OtherCard);
  return (
    <div className="pl-bubble" id={id}>
      {answers && (
        <p className="pl-answers" dir="auto">
          {answers.deleted_at ? words.deleted : answers.content}
        </p>
      )}
      {Body ? <Body message={message} /> : <MessageText content={message.content} />}
    </div>
  );
}
