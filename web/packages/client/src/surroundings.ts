/**
 * Calls `wake` whenever the network may be another, or somebody looks again: a laptop that slept finds its sockets
 * dead. Only in a page. Ends by the function that it returns.
 */
export function watchSurroundings(wake: () => void): () => void {
  const end = new AbortController();
  for (const event of ["online", "offline", "pageshow", "visibilitychange"]) {
    (globalThis as Partial<EventTarget>).addEventListener?.(event, wake, { signal: end.signal });
  }
  return () => end.abort();
}
