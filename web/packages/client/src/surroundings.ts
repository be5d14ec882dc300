/**
 * Calls `wake` whenever the network may be another, or somebody looks again: a laptop that slept finds its sockets
 * dead. Calls `use` when somebody uses the page. Only in a page. Ends by the function that it returns.
 */
export function watchSurroundings(wake: () => void, use: () => void): () => void {
  const end = new AbortController();
  const on = (run: () => void, ...events: string[]) => {
    for (const event of events) (globalThis as Partial<EventTarget>).addEventListener?.(event, run, { signal: end.signal, capture: true });
  };
  on(wake, "online", "offline", "pageshow", "visibilitychange");
  on(use, "focus", "pointerdown", "keydown");
  return () => end.abort();
}
