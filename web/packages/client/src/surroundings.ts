/** What browsers tell of the network and of who looks; absent where there is no page. */
interface Page {
  addEventListener?: EventTarget["addEventListener"];
  document?: EventTarget & { visibilityState: string };
}

/**
 * Calls `wake` whenever the network may be another, or somebody looks again: a laptop that slept finds its sockets
 * dead. Ends by the function that it returns.
 */
export function watchSurroundings(wake: () => void): () => void {
  const page = globalThis as Page;
  const end = new AbortController();
  const { signal } = end;
  for (const event of ["online", "offline", "pageshow"]) page.addEventListener?.(event, wake, { signal });
  const look = () => {
    if (page.document?.visibilityState === "visible") wake();
  };
  for (const event of ["visibilitychange", "resume"]) page.document?.addEventListener(event, look, { signal });
  return () => end.abort();
}
