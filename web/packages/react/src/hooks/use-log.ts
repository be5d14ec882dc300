import { defaultRangeExtractor, type Range, useVirtualizer } from "@tanstack/react-virtual";
import { type RefObject, useCallback, useEffect, useLayoutEffect, useRef, useState } from "react";
import type { Row } from "../rows.ts";
import { useSeen } from "./use-seen.ts";

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
  /** Where what is unread begins; -1 for nowhere. */
  unreadAt: number;
  /** All up to this `seq` was in sight. */
  onSeen(seq: number): void;
  /** The row that has the focus: it is drawn wherever it is. */
  pinned: string | undefined;
}

/** What is drawn of a long log, and where it is scrolled to: it stays at its end if it is there, else where it is. */
export function useLog(scroller: RefObject<HTMLDivElement | null>, { rows, unreadAt, hasOlder, isLoadingOlder, loadOlder, onSeen, pinned }: LogOptions) {
  const [isAtEnd, setIsAtEnd] = useState(true);
  const [olderFailed, setOlderFailed] = useState(false);
  const atEnd = useRef(true);

  const virtualizer = useVirtualizer<HTMLDivElement, HTMLLIElement>({
    count: rows.length,
    getScrollElement: () => scroller.current,
    getItemKey: useCallback((index: number) => rows[index]?.key ?? index, [rows]),
    estimateSize: useCallback((index: number) => estimate(rows[index]), [rows]),
    anchorTo: "end",
    followOnAppend: true,
    scrollEndThreshold: NEAR_END_PX,
    overscan: OVERSCAN,
    rangeExtractor: useCallback(
      (range: Range) => {
        const drawn = defaultRangeExtractor(range);
        const index = pinned === undefined ? -1 : rows.findIndex(({ key }) => key === pinned);
        return index < 0 || drawn.includes(index) ? drawn : [...drawn, index].sort((a, b) => a - b);
      },
      [rows, pinned],
    ),
    paddingStart: TOP_PX,
    paddingEnd: BOTTOM_PX,
    directDomUpdates: true,
    directDomUpdatesMode: "position",
  });

  const { unseen, look, forget } = useSeen(scroller, { rows, virtualizer, atEnd, onSeen });

  /** Tells what is in sight, and asks for more if that is near the beginning. */
  const settle = useCallback(() => {
    const element = scroller.current;
    if (!element || element.clientHeight === 0) return;
    setIsAtEnd(atEnd.current);
    look();
    const isNearStart = element.scrollTop < Math.max(NEAR_START_PX, element.clientHeight);
    if (isNearStart && hasOlder && !isLoadingOlder && !olderFailed && rows.length > 0) {
      // Not again by itself: scrolling would ask without end.
      loadOlder().catch(() => setOlderFailed(true));
    }
  }, [scroller, look, rows, hasOlder, isLoadingOlder, olderFailed, loadOlder]);

  /** Only scrolling leaves the end: what comes, or takes room, does not. */
  const scrolled = useCallback(() => {
    const { scrollTop = 0, scrollHeight = 0, clientHeight = 0 } = scroller.current ?? {};
    atEnd.current = scrollHeight - scrollTop - clientHeight <= NEAR_END_PX;
    settle();
  }, [scroller, settle]);

  const toEnd = useCallback(() => {
    atEnd.current = true;
    virtualizer.scrollToEnd();
  }, [virtualizer]);

  /** To the end; to what is unread, if that is more than fits. */
  const open = useCallback(() => {
    const height = unreadAt < 0 ? 0 : rows.slice(unreadAt).reduce((sum, row) => sum + estimate(row), 0);
    atEnd.current = height <= (scroller.current?.clientHeight ?? 0);
    forget();
    if (atEnd.current) virtualizer.scrollToEnd();
    else virtualizer.scrollToIndex(unreadAt, { align: "start" });
  }, [rows, unreadAt, scroller, virtualizer, forget]);

  useOpening(rows, unreadAt, atEnd, open);
  useFollowing(rows, atEnd, toEnd);

  // After everything that moves the log.
  useEffect(settle);
  useEffect(() => {
    const element = scroller.current;
    if (!element) return;
    // The window, a form, or a keyboard on the screen takes room: the end stays in sight.
    const observer = new ResizeObserver(() => {
      if (atEnd.current) virtualizer.scrollToEnd();
    });
    observer.observe(element);
    return () => observer.disconnect();
  }, [scroller, virtualizer]);
  useEffect(() => {
    const cameBack = () => {
      // The end was followed while nobody looked.
      if (atEnd.current && document.visibilityState === "visible") open();
      settle();
    };
    document.addEventListener("visibilitychange", cameBack);
    return () => document.removeEventListener("visibilitychange", cameBack);
  }, [open, settle]);

  return { virtualizer, isAtEnd, unseen: isAtEnd ? 0 : unseen, olderFailed, scrolled, toEnd, tryOlder: () => setOlderFailed(false) };
}

/** Opens the log when there is something in it, and again when something begins to be unread below what is in sight. */
function useOpening(rows: readonly Row[], unreadAt: number, atEnd: RefObject<boolean>, open: () => void): void {
  const isOpened = useRef(false);
  const begun = useRef<string>(undefined);
  useLayoutEffect(() => {
    const first = rows[unreadAt]?.key;
    const isNew = first !== undefined && first !== begun.current && atEnd.current;
    begun.current = first;
    if (rows.length > 0 && (isNew || !isOpened.current)) open();
    isOpened.current = rows.length > 0;
  }, [rows, unreadAt, atEnd, open]);
}

/** Who is at the end sees what comes; and what I send, I want to see. */
function useFollowing(rows: readonly Row[], atEnd: RefObject<boolean>, toEnd: () => void): void {
  const last = rows.at(-1);
  const held = useRef(last?.key);
  useLayoutEffect(() => {
    const isNew = last !== undefined && held.current !== undefined && last.key !== held.current;
    held.current = last?.key;
    if (isNew && (atEnd.current || (last.message.isMine && last.message.state === "sending"))) toEnd();
  }, [last, atEnd, toEnd]);
}

/** Height of a row in pixels, before it was measured. */
function estimate(row: Row | undefined): number {
  if (!row) return 0;
  const lines = row.message.content.split("\n").reduce((sum, line) => sum + Math.ceil((line.length + 1) / 60), 0);
  return 16 + 22 * lines + (row.isLast ? 20 : 0) + (row.isFirst ? 8 : 0) + (row.day ? 44 : 0) + (row.isUnreadStart ? 40 : 0);
}
