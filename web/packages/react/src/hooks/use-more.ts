import { type RefCallback, useCallback, useRef, useState } from "react";

/** This far below what is in sight the next page is asked for. */
const AHEAD = "600px";

/**
 * Loads the next page of a list when the element at its end, which gets `end` as its `ref`, comes near to what is in
 * sight; and again as long as it stays there, with every new `length`. Not by itself after a failure, as it would ask
 * without end: `more` tries again.
 */
export function useMore(load: () => Promise<void>, length: number, onError: (error: unknown) => void) {
  const [hasFailed, setHasFailed] = useState(false);
  const isLoading = useRef(false);
  const more = useCallback(async () => {
    if (isLoading.current) return;
    isLoading.current = true;
    try {
      await load();
      setHasFailed(false);
    } catch (error) {
      setHasFailed(true);
      onError(error);
    } finally {
      isLoading.current = false;
    }
  }, [load, onError]);
  const end: RefCallback<Element> = useCallback(
    (element) => {
      if (!element || hasFailed) return;
      const observer = new IntersectionObserver(([entry]) => void (entry?.isIntersecting && more()), { rootMargin: AHEAD });
      observer.observe(element);
      return () => observer.disconnect();
    },
    // A new list is a new end.
    [more, hasFailed, length],
  );
  return { more, hasFailed, end };
}
