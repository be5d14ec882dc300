import { useEffect, useState } from "react";
import { useChatContext } from "./context.ts";
import { useConnection } from "./hooks/use-chat.ts";
import { useLanguage } from "./language.ts";
import { ConnectionBanner } from "./parts/banner.tsx";
import { ChatFrame, type ChatFrameProps } from "./parts/frame.tsx";
import { NoticeArea } from "./parts/notices.tsx";
import { Problem } from "./parts/problem.tsx";
import { Thread } from "./parts/thread.tsx";

export interface CustomerChatProps extends ChatFrameProps {
  /** The user id of somebody to talk with, and nobody else: for the page of one vendor. */
  with?: string;
}

/** A customer's conversations; with `with`, only the one with this vendor. */
export function CustomerChat({ with: vendorId, ...frame }: CustomerChatProps) {
  if (vendorId !== undefined) return <DirectChat key={vendorId} vendorId={vendorId} {...frame} />;
  return <ChatFrame {...frame}>{(id, onBack) => <Thread conversationId={id} onBack={onBack} />}</ChatFrame>;
}

function DirectChat({ vendorId, theme, className, onSignIn }: { vendorId: string } & ChatFrameProps) {
  const { words } = useLanguage();
  const { chat } = useChatContext();
  const { isConnected } = useConnection();
  const [id, setId] = useState<string>();
  const [problem, setProblem] = useState<unknown>();
  const isWanted = id === undefined && problem === undefined && isConnected;
  useEffect(() => {
    if (!isWanted) return;
    let isOver = false;
    chat.startDirect(vendorId).then(
      (found) => isOver || setId(found),
      (error: unknown) => isOver || setProblem(error),
    );
    return () => {
      isOver = true;
    };
  }, [chat, vendorId, isWanted]);
  return (
    <div className={className === undefined ? "pl-chat" : `pl-chat ${className}`} data-theme={theme} data-alone="">
      <ConnectionBanner onSignIn={onSignIn} />
      <div className="pl-panes" data-view="thread">
        <div className="pl-pane">
          {id !== undefined ? (
            <Thread conversationId={id} />
          ) : problem !== undefined ? (
            <Problem about={problem} onRetry={() => setProblem(undefined)} />
          ) : (
            <p className="pl-nothing">{words.loading}</p>
          )}
        </div>
      </div>
      <NoticeArea />
    </div>
  );
}
