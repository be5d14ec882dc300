import { type Chat, type ChatOptions, createChat } from "@partyline/client";
import { type ReactNode, useEffect, useMemo, useRef, useState } from "react";
import { ChatContext, Notices } from "./context.ts";
import { Formats, secondsUntil } from "./format.ts";
import { defaultLocale, LanguageContext } from "./language.ts";
import { type Renderers, RenderersContext } from "./parts/bubble.tsx";
import { english, type Words } from "./words.ts";

interface CommonProps {
  children?: ReactNode;
  /** Words of one's own, instead of the English ones. */
  words?: Partial<Words>;
  /** The language of times and sums, a BCP 47 tag; the reader's own English unless given. */
  locale?: string;
  /** What draws messages, by their `message_type`; for the others there are standard ones. */
  renderers?: Renderers;
  /** The conversation that is open at the beginning. */
  defaultConversationId?: string;
}

/** `url` and what else a chat is made of; for another person give the provider another `key`. */
export interface OptionsProps extends CommonProps, Omit<ChatOptions, "url" | "onWait"> {
  /** Where the gateway is; the page's own place unless given. */
  url?: string | URL;
  chat?: undefined;
}

/** A chat of one's own, which is neither connected nor closed here. */
export interface OwnChatProps extends CommonProps {
  chat: Chat;
}

export type ChatProviderProps = OptionsProps | OwnChatProps;

const NO_WORDS: Partial<Words> = {};
const NO_RENDERERS: Renderers = {};

/** Connects as long as it is mounted, and gives the chat to all hooks and parts below. */
export function ChatProvider(props: ChatProviderProps) {
  const { children, words = NO_WORDS, locale, renderers = NO_RENDERERS, defaultConversationId } = props;
  const [notices] = useState(() => new Notices());
  const language = useMemo(() => ({ words: { ...english, ...words }, formats: new Formats(locale ?? defaultLocale()) }), [words, locale]);
  const chat = useOwnChat(props, notices, language.words);
  const [conversationId, setConversationId] = useState(defaultConversationId);
  const [drafts] = useState(() => new Map<string, string>());
  const value = useMemo(() => ({ chat, conversationId, setConversationId, drafts, notices }), [chat, conversationId, drafts, notices]);
  return (
    <LanguageContext value={language}>
      <RenderersContext value={renderers}>
        <ChatContext value={value}>{children}</ChatContext>
      </RenderersContext>
    </LanguageContext>
  );
}

/** The chat that was given, or one that lives as long as the provider. */
function useOwnChat(props: ChatProviderProps, notices: Notices, words: Words): Chat {
  const latest = useRef({ props, words });
  useEffect(() => {
    latest.current = { props, words };
  });
  // Not a state: strict mode makes the first value of a state twice, and a queue's messages belong to one chat.
  const own = useRef<Chat>(undefined);
  const closing = useRef<ReturnType<typeof setTimeout>>(undefined);
  const [, renew] = useState(0);
  const made = props.chat ? undefined : (own.current ??= make(props));
  useEffect(() => {
    if (!made) return;
    if (own.current !== made) {
      // It was closed, and is shown again.
      renew((count) => count + 1);
      return;
    }
    clearTimeout(closing.current);
    made.connect();
    return () => {
      // Not at once: in strict mode React mounts everything twice.
      closing.current = setTimeout(() => {
        made.close();
        own.current = undefined;
      });
    };
  }, [made]);
  return props.chat ?? (made as Chat);

  function make({ url = ".", historyLimit, queue, transport, token }: OptionsProps): Chat {
    return createChat({
      // Without a page, on a server, nothing is ever connected.
      url: new URL(url, typeof document === "undefined" ? "http://localhost" : document.baseURI),
      token: (rejected) => {
        const { props } = latest.current;
        return (props.chat ? token : props.token)(rejected);
      },
      ...(historyLimit !== undefined && { historyLimit }),
      ...(queue && { queue }),
      ...(transport && { transport }),
      onWait: (refusal, retryAt) => notices.show(latest.current.words.retryAfter(refusal.message, secondsUntil(retryAt))),
    });
  }
}
