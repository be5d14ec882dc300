import { type KeyboardEvent, memo, useMemo, useRef, useState } from "react";
import { useLog } from "../hooks/use-log.ts";
import { useLanguage } from "../language.ts";
import { firstUnread, type Log, Rows } from "../rows.ts";
import { Icon } from "./icon.tsx";
import { Message, type MessageActions, type MessageProps } from "./message.tsx";

export interface MessageListProps extends Log {
  /** Nothing is known yet. */
  isLoading: boolean;
  /** More may be missing at the end: nothing is read out as if it were new. */
  isBusy: boolean;
  isLoadingOlder: boolean;
  loadOlder(): Promise<void>;
  /** All up to this `seq` was in sight. */
  onSeen(seq: number): void;
  actions: Omit<MessageActions, "toggle">;
  isConnected: boolean;
  company: number;
  isDirect: boolean;
}

/** The messages of one conversation: only those near to what is in sight are drawn. */
export const MessageList = memo(function MessageList(props: MessageListProps) {
  const { messages, hasOlder, markers, readUpTo, isLoading, isLoadingOlder, loadOlder, onSeen, isBusy } = props;
  const { words } = useLanguage();
  const scroller = useRef<HTMLDivElement>(null);
  const [maker] = useState(() => new Rows());
  const rows = useMemo(() => maker.of({ messages, hasOlder, markers, readUpTo }), [maker, messages, hasOlder, markers, readUpTo]);
  const unreadAt = useMemo(() => firstUnread({ messages, hasOlder, readUpTo }), [messages, hasOlder, readUpTo]);
  const [open, setOpen] = useState<string>();
  const [current, setCurrent] = useState<string>();
  const log = useLog(scroller, { rows, unreadAt, hasOlder, isLoadingOlder, loadOlder, onSeen, pinned: current });
  const { virtualizer, isAtEnd, unseen, olderFailed, scrolled, toEnd, tryOlder } = log;
  const { actions: given } = props;
  const actions = useMemo(() => ({ ...given, toggle: setOpen }), [given]);

  /** Arrows walk from message to message, up from the end or down from what is unread; Escape leads back to the log. */
  const walk = (event: KeyboardEvent<HTMLDivElement>) => {
    if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    if (event.key === "Escape") {
      setCurrent(undefined);
      scroller.current?.focus();
      return;
    }
    const at = rows.findIndex(({ key }) => key === current);
    const isInside = at >= 0 && event.target !== event.currentTarget;
    const to = isInside ? { ArrowUp: at - 1, ArrowDown: at + 1 }[event.key] : { ArrowUp: rows.length - 1, ArrowDown: unreadAt < 0 ? undefined : unreadAt }[event.key];
    const row = to === undefined ? undefined : rows[Math.max(0, to)];
    if (to === undefined || !row) return;
    event.preventDefault();
    setCurrent(row.key);
    virtualizer.scrollToIndex(Math.max(0, to));
    focusRow(scroller.current, row.key);
  };

  return (
    <div className="pl-log-frame">
      <div
        className="pl-log"
        ref={scroller}
        role="log"
        // New messages are announced by `Announcer`: here, whatever scrolls into sight would be.
        aria-live="off"
        aria-label={words.messages}
        aria-busy={isBusy || isLoadingOlder}
        tabIndex={0}
        data-testid="log"
        onScroll={scrolled}
        onKeyDown={walk}
      >
        <div className="pl-rows" ref={virtualizer.containerRef}>
          <div className="pl-log-top">
            {olderFailed ? (
              <>
                {words.olderFailed}{" "}
                <button className="pl-quiet" type="button" onClick={tryOlder}>
                  {words.tryAgain}
                </button>
              </>
            ) : isLoading ? (
              words.loading
            ) : hasOlder ? (
              words.loadingOlder
            ) : (
              words.begins
            )}
          </div>
          <ol>
            {virtualizer.getVirtualItems().map(({ index, key }) => {
              const row = rows[index];
              return (
                row && (
                  <li className="pl-row" key={key} data-index={index} data-key={row.key} ref={virtualizer.measureElement} aria-setsize={hasOlder ? -1 : rows.length} aria-posinset={index + 1}>
                    <Item
                      row={row}
                      actions={actions}
                      isConnected={props.isConnected}
                      company={props.company}
                      isDirect={props.isDirect}
                      isOpen={open === row.key}
                      isCurrent={current === row.key}
                    />
                  </li>
                )
              );
            })}
          </ol>
        </div>
      </div>
      {!isAtEnd && (
        <button className="pl-jump" type="button" aria-label={unseen > 0 ? words.toNewestOf(unseen) : words.toNewest} onClick={toEnd}>
          <Icon name="down" />
          {unseen > 0 && words.newCount(unseen)}
        </button>
      )}
    </div>
  );
});

/** A message, and what divides it from those before. */
const Item = memo(function Item(props: MessageProps) {
  const { words, formats } = useLanguage();
  const { day, isUnreadStart } = props.row;
  return (
    <>
      {day !== undefined && (
        <p className="pl-day">
          <span dir="auto">{formats.day(day)}</span>
        </p>
      )}
      {isUnreadStart && <p className="pl-new">{words.newMessages}</p>}
      <Message {...props} />
    </>
  );
});

/** Focuses a message as soon as it is drawn, which takes a moment if it was out of sight. */
function focusRow(scroller: HTMLElement | null, key: string, tries = 10): void {
  const row = scroller?.querySelector<HTMLElement>(`[data-key="${CSS.escape(key)}"] > .pl-message`);
  if (row) row.focus({ preventScroll: true });
  else if (tries > 0) requestAnimationFrame(() => focusRow(scroller, key, tries - 1));
}
