import { useVirtualizer } from "@tanstack/react-virtual";
import { type RefObject, useCallback, useEffect, useLayoutEffect, useRef, useState } from "react";
import type { Row } from "../rows.ts";

/** This near to its end the log counts as read to its end, and follows what comes. */
const NEAR_END_PX = 48;
/** This near to its beginning the log asks for what is older; further away in a tall window. */
const NEAR_START_PX = 600;
/** Rows drawn beyond what is in sight, either way: room for a fast finger, for find-in-page and for a virtual cursor. */
const OVERSCAN = 24;
/** Above the first row stands whether there is more. */
const TOP_PX = 48;
const BOTTOM_PX = 12;

export interface LogOptions {
  rows: readonly Row[];
  hasOlder: boolean;
  isLoadingOlder: boolean;
  loadOlder(): Promise<void>;
  /** The end is in sight. */
  onSeen(): void;
}

/** What is drawn of a long log, and where it is scrolled to: it stays at its end if it is there, else where it is. */
export function useLog(scroller: RefObject<HTMLDivElement | null>, { rows, hasOlder, isLoadingOlder, loadOlder, onSeen }: LogOptions) {
  const [isAtEnd, setIsAtEnd] = useState(true);
  const [olderFailed, setOlderFailed] = useState(false);
  const atEnd = useRef(true);
  const seenSeq = useRef(0);

  const virtualizer = useVirtualizer<HTMLDivElement, HTMLLIElement>({
    count: rows.length,
    getScrollElement: () => scroller.current,
    getItemKey: useCallback((index: number) => rows[index]?.key ?? index, [rows]),
    estimateSize: useCallback((index: number) => estimate(rows[index]), [rows]),
    anchorTo: "end",
    followOnAppend: true,
    scrollEndThreshold: NEAR_END_PX,
    overscan: OVERSCAN,
    paddingStart: TOP_PX,
    paddingEnd: BOTTOM_PX,
    directDomUpdates: true,
    directDomUpdatesMode: "position",
  });

  /** Says where the log is, and asks for more if that is near its beginning. */
  const settle = useCallback(() => {
    const element = scroller.current;
    if (!element || element.clientHeight === 0) return;
    const { scrollTop, scrollHeight, clientHeight } = element;
    atEnd.current = scrollHeight - scrollTop - clientHeight <= NEAR_END_PX;
    setIsAtEnd(atEnd.current);
    if (atEnd.current && document.visibilityState === "visible") {
      seenSeq.current = Math.max(seenSeq.current, lastSeq(rows));
      onSeen();
    }
    const isNearStart = scrollTop < Math.max(NEAR_START_PX, clientHeight);
    if (isNearStart && hasOlder && !isLoadingOlder && !olderFailed && rows.length > 0) {
      // Not again by itself: scrolling would ask without end.
      loadOlder().catch(() => setOlderFailed(true));
    }
  }, [scroller, rows, hasOlder, isLoadingOlder, olderFailed, loadOlder, onSeen]);

  const toEnd = useCallback(() => virtualizer.scrollToEnd(), [virtualizer]);

  useOpening(rows, scroller, virtualizer);
  useFollowing(rows, toEnd);

  // After everything that moves the log.
  useEffect(settle);
  useEffect(() => {
    const element = scroller.current;
    if (!element) return;
    // The window, or a keyboard on the screen, takes room: the end stays in sight.
    const observer = new ResizeObserver(() => {
      if (atEnd.current) virtualizer.scrollToEnd();
    });
    observer.observe(element);
    return () => observer.disconnect();
  }, [scroller, virtualizer]);
  useEffect(() => {
    document.addEventListener("visibilitychange", settle);
    return () => document.removeEventListener("visibilitychange", settle);
  }, [settle]);

  const unseen = isAtEnd || seenSeq.current === 0 ? 0 : countAfter(rows, seenSeq.current);
  return { virtualizer, isAtEnd, unseen, olderFailed, settle, toEnd, tryOlder: () => setOlderFailed(false) };
}

type Log = ReturnType<typeof useVirtualizer<HTMLDivElement, HTMLLIElement>>;

/** Opens at the end; at what is unread, if that is more than fits. */
function useOpening(rows: readonly Row[], scroller: RefObject<HTMLDivElement | null>, virtualizer: Log): void {
  const isOpened = useRef(false);
  useLayoutEffect(() => {
    if (isOpened.current || rows.length === 0) return;
    isOpened.current = true;
    const unread = rows.findIndex(({ isUnreadStart }) => isUnreadStart);
    const height = unread < 0 ? 0 : rows.slice(unread).reduce((sum, row) => sum + estimate(row), 0);
    if (height > (scroller.current?.clientHeight ?? 0)) virtualizer.scrollToIndex(unread, { align: "start" });
    else virtualizer.scrollToEnd();
  }, [rows, scroller, virtualizer]);
}

/** What I send, I want to see. */
function useFollowing(rows: readonly Row[], toEnd: () => void): void {
  const last = rows.at(-1);
  const sending = last?.message.isMine && last.message.state === "sending" ? last.key : undefined;
  useLayoutEffect(() => {
    if (sending !== undefined) toEnd();
  }, [sending, toEnd]);
}

/** Height of a row in pixels, before it was measured. */
function estimate(row: Row | undefined): number {
  if (!row) return 0;
  const lines = row.message.content.split("\n").reduce((sum, line) => sum + Math.ceil((line.length + 1) / 60), 0);
  return 16 + 22 * lines + (row.isLast ? 20 : 0) + (row.isFirst ? 8 : 0) + (row.day ? 44 : 0) + (row.isUnreadStart ? 40 : 0);
}

function lastSeq(rows: readonly Row[]): number {
  return rows.findLast(({ message }) => message.seq > 0)?.message.seq ?? 0;
}

function countAfter(rows: readonly Row[], seq: number): number {
  let count = 0;
  for (let index = rows.length - 1; index >= 0; index--) {
    const message = rows[index]?.message;
    if (!message || (message.seq > 0 && message.seq <= seq)) break;
    if (!message.isMine) count++;
  }
  return count;
}
