import type { useVirtualizer, VirtualItem } from "@tanstack/react-virtual";
import { type RefObject, useCallback, useEffect, useRef, useState } from "react";
import type { Row } from "../rows.ts";

/** What is drawn anew takes its true height first, and nobody reads faster. */
const LOOK_MS = 100;

export type LogVirtualizer = ReturnType<typeof useVirtualizer<HTMLDivElement, HTMLLIElement>>;

export interface SeenOptions {
  rows: readonly Row[];
  virtualizer: LogVirtualizer;
  /** Whether the log is at its end, where all of it counts as seen. */
  atEnd: RefObject<boolean>;
  onSeen(seq: number): void;
}

/** How far a log was seen, which is told while somebody looks, and how many messages came after that. */
export function useSeen(scroller: RefObject<HTMLDivElement | null>, { rows, virtualizer, atEnd, onSeen }: SeenOptions) {
  const [seen, setSeen] = useState(0);
  const tell = useCallback(
    (count: number) => {
      if (document.visibilityState !== "visible") return;
      const seq = lastSeq(rows, count);
      setSeen((held) => Math.max(held, seq));
      onSeen(seq);
    },
    [rows, onSeen],
  );
  const lookSoon = useSoon(() => {
    if (scroller.current && !atEnd.current) tell(inSight(virtualizer, scroller.current));
  });
  const look = useCallback(() => {
    if (atEnd.current) tell(rows.length);
    else lookSoon();
  }, [atEnd, rows, tell, lookSoon]);
  const forget = useCallback(() => setSeen(0), []);
  return { unseen: seen === 0 ? 0 : countAfter(rows, seen), look, forget };
}

/** Calls `run` a moment later, once for all that asked for it until then. */
function useSoon(run: () => void): () => void {
  const latest = useRef(run);
  const timer = useRef<ReturnType<typeof setTimeout>>(undefined);
  useEffect(() => {
    latest.current = run;
  });
  useEffect(
    () => () => {
      clearTimeout(timer.current);
      timer.current = undefined;
    },
    [],
  );
  return useCallback(() => {
    timer.current ??= setTimeout(() => {
      timer.current = undefined;
      latest.current();
    }, LOOK_MS);
  }, []);
}

/** How many rows end above the lower edge of what is in sight. */
function inSight(virtualizer: LogVirtualizer, { scrollTop, clientHeight }: HTMLElement): number {
  const isSeen = ({ end, key }: VirtualItem) => end <= scrollTop + clientHeight && virtualizer.elementsCache.has(key);
  return (virtualizer.getVirtualItems().findLast(isSeen)?.index ?? -1) + 1;
}

/** The last stored message of the first `count` rows. */
function lastSeq(rows: readonly Row[], count: number): number {
  for (let index = count - 1; index >= 0; index--) {
    const seq = rows[index]?.message.seq ?? 0;
    if (seq > 0) return seq;
  }
  return 0;
}

/** How many of others' messages stand after this one. */
function countAfter(rows: readonly Row[], seq: number): number {
  let count = 0;
  for (let index = rows.length - 1; index >= 0; index--) {
    const message = rows[index]?.message;
    if (!message || (message.seq > 0 && message.seq <= seq)) break;
    if (!message.isMine) count++;
  }
  return count;
}
