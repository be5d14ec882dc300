import type { ConnectionState } from "@partyline/client";
import { useEffect, useState } from "react";
import { secondsUntil } from "../format.ts";
import { useConnection } from "../hooks/use-chat.ts";
import { useNow } from "../hooks/use-now.ts";
import { useLanguage } from "../language.ts";
import type { Words } from "../words.ts";

/** A connection that comes back sooner is not worth a banner. */
const DELAY_MS = 700;

export interface ConnectionBannerProps {
  /** What to do when the sign-in has ended; without it there is no button then. */
  onSignIn?: (() => void) | undefined;
}

/** Says that there is no connection, and what can be done about it. */
export function ConnectionBanner({ onSignIn }: ConnectionBannerProps) {
  const { words } = useLanguage();
  const { isConnected, connectionState: state, reconnect } = useConnection();
  const [isLate, setIsLate] = useState(false);
  const now = useNow(state.kind === "waiting" ? 1_000 : undefined);
  useEffect(() => {
    setIsLate(false);
    if (isConnected) return;
    const timer = setTimeout(() => setIsLate(true), DELAY_MS);
    return () => clearTimeout(timer);
  }, [isConnected]);
  if (isConnected || (!isLate && state.kind !== "ended")) return <div role="status" />;
  const button = buttonOf(state, words, reconnect, onSignIn);
  return (
    <div className="pl-banner" role="status" data-testid="banner">
      <span>{explain(state, now, words)}</span>
      {button && (
        <button className="pl-quiet" type="button" onClick={button.press}>
          {button.label}
        </button>
      )}
    </div>
  );
}

/** The state in a word or two. */
export function ConnectionLabel() {
  const { words } = useLanguage();
  const { connectionState, isConnected } = useConnection();
  const text = { online: words.connected, connecting: words.connecting, waiting: words.noConnection, ended: words.disconnected, replaced: words.disconnected, stopped: words.disconnected };
  return (
    <span className="pl-subtitle pl-connection" data-online={isConnected || undefined} data-state={connectionState.kind} data-testid="connection">
      {text[connectionState.kind]}
    </span>
  );
}

function buttonOf(state: ConnectionState, words: Words, reconnect: () => void, onSignIn: (() => void) | undefined) {
  if (state.kind === "waiting") return { label: words.tryNow, press: reconnect };
  if (state.kind === "replaced") return { label: words.connectAgain, press: reconnect };
  if (state.kind !== "ended") return undefined;
  if (state.why !== "token_refused") return { label: words.connectAgain, press: reconnect };
  return onSignIn && { label: words.signInAgain, press: onSignIn };
}

function explain(state: ConnectionState, now: number, words: Words): string {
  switch (state.kind) {
    case "waiting":
      return words.retryingIn(secondsUntil(state.retryAt, now));
    case "replaced":
      return words.replaced;
    case "ended":
      return state.message ?? (state.why === "token_refused" ? words.signInEnded : words.closedByServer(state.why));
    default:
      return words.connecting;
  }
}
