import { type ReactNode, useCallback, useRef } from "react";
import { useChatContext } from "../context.ts";
import { useLanguage } from "../language.ts";
import { ConnectionBanner } from "./banner.tsx";
import { ConversationList } from "./conversation-list.tsx";
import { NoticeArea } from "./notices.tsx";

/** What `<CustomerChat>` and `<VendorChat>` have in common. */
export interface ChatFrameProps {
  /** The conversation that is open, if this is decided outside; null for none. */
  conversationId?: string | null | undefined;
  /** Another one is to be opened, or none. */
  onConversationChange?: ((id: string | undefined) => void) | undefined;
  /** Colours: those of the reader's system, or always the same; those of the page around unless given. */
  theme?: "auto" | "light" | "dark" | undefined;
  className?: string | undefined;
  /** More buttons beside my name. */
  actions?: ReactNode;
  /** What stands between my name and the list. */
  sidebar?: ReactNode;
  /** What to do when the sign-in has ended. */
  onSignIn?: (() => void) | undefined;
}

interface FrameProps extends ChatFrameProps {
  hasFilter?: boolean;
  /** Draws the conversation that is open; without `onBack` it stands alone. */
  children(id: string, onBack: (() => void) | undefined): ReactNode;
}

/** Both panes: the list of conversations and one of them; in a narrow place one or the other. */
export function ChatFrame({ conversationId: given, onConversationChange, theme, className, actions, sidebar, onSignIn, hasFilter = false, children }: FrameProps) {
  const { words } = useLanguage();
  const { conversationId: own, setConversationId } = useChatContext();
  const element = useRef<HTMLDivElement>(null);
  const id = given === undefined ? own : (given ?? undefined);
  const open = useCallback(
    (next: string | undefined) => {
      if (given === undefined) setConversationId(next);
      onConversationChange?.(next);
      // Where it takes the place of the list, and no field takes the focus, that is lost.
      requestAnimationFrame(() => {
        const isLost = (document.activeElement as HTMLElement | null)?.offsetParent == null;
        if (next !== undefined && isLost) element.current?.querySelector<HTMLElement>(".pl-thread h2")?.focus({ preventScroll: true });
      });
    },
    [given, setConversationId, onConversationChange],
  );
  const back = () => {
    open(undefined);
    // Where one was in the list.
    requestAnimationFrame(() => element.current?.querySelector<HTMLElement>(`[data-id="${CSS.escape(id ?? "")}"] > button`)?.focus());
  };
  return (
    <div className={className === undefined ? "pl-chat" : `pl-chat ${className}`} data-theme={theme} ref={element}>
      <ConnectionBanner onSignIn={onSignIn} />
      <div className="pl-panes" data-view={id === undefined ? "list" : "thread"}>
        <ConversationList activeId={id} onOpen={open} hasFilter={hasFilter} actions={actions}>
          {sidebar}
        </ConversationList>
        <div className="pl-pane">{id === undefined ? <p className="pl-nothing">{words.chooseConversation}</p> : children(id, back)}</div>
      </div>
      <NoticeArea />
    </div>
  );
}
