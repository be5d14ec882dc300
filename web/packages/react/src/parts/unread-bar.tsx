import type { Missed } from "../hooks/use-missed.ts";
import { useLanguage } from "../language.ts";

/** The server counts no further. */
const COUNTED = 1_000;

export interface UnreadBarProps {
  missed: Missed | undefined;
  /** How many messages are unread, as far as that is known. */
  count: number;
  /** There may be more. */
  isAtLeast: boolean;
  /** A button was pressed, which may go. */
  onPress(): void;
}

/** So much is unread that the conversation opened at its end: leads to where it begins. */
export function UnreadBar({ missed, count, isAtLeast, onPress }: UnreadBarProps) {
  const { words } = useLanguage();
  if (!missed?.isAsking) return <div role="status" />;
  const press = (act: () => void) => () => {
    act();
    onPress();
  };
  return (
    <div className="pl-unread" role="status">
      <span>{isAtLeast || count >= COUNTED ? words.unreadAtLeast(count) : words.unreadCount(count)}</span>
      {missed.isOnTheWay ? (
        <span className="pl-muted">{words.loading}</span>
      ) : (
        <button className="pl-quiet" type="button" onClick={press(missed.toFirst)}>
          {words.toFirstUnread}
        </button>
      )}
      <button className="pl-quiet" type="button" onClick={press(missed.dismiss)}>
        {words.markAsRead}
      </button>
    </div>
  );
}
