/** When to come back: the rules, without timers. */

/** The first attempt comes within this, in milliseconds; doubled for each that follows. */
const BASE_MS = 500;
/** No attempt waits longer, unless the server asks for it. */
const CAP_MS = 30_000;
/** Nor longer than this, whatever the server asks. */
const RETRY_AFTER_CAP_MS = 5 * 60_000;

/**
 * Milliseconds before attempt number `attempt` (from 0): full jitter, so that many clients of one lost server
 * don't come back at one moment; never sooner than the server asks.
 */
export function reconnectDelay(attempt: number, retryAfterMs = 0, random: () => number = Math.random): number {
  const ceiling = Math.min(CAP_MS, BASE_MS * 2 ** Math.min(attempt, 16));
  return Math.max(Math.round(random() * ceiling), Math.min(retryAfterMs, RETRY_AFTER_CAP_MS));
}

/** Whether a socket closed with this code is to be opened again: all but 4500 to 4999. */
export function comesBack(code: number): boolean {
  return code < 4500 || code > 4999;
}

/** What a close reason tells; empty if it isn't the server's JSON. */
export function parseCloseReason(reason: string): { code?: string; retryAfterMs?: number } {
  try {
    const { code, retry_after_ms: after } = JSON.parse(reason) as { code?: unknown; retry_after_ms?: unknown };
    return { ...(typeof code === "string" && { code }), ...(typeof after === "number" && after >= 0 && { retryAfterMs: after }) };
  } catch {
    return {};
  }
}
