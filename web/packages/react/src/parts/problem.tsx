import { Disconnected, Refusal } from "@partyline/client";
import { secondsUntil } from "../format.ts";
import { useLanguage } from "../language.ts";
import type { Words } from "../words.ts";

export interface ProblemProps {
  /** What went wrong: an error, or a text. */
  about: unknown;
  onRetry(): void;
}

/** What went wrong, in the place of what should be there, and a way to try again. */
export function Problem({ about, onRetry }: ProblemProps) {
  const { words } = useLanguage();
  return (
    <div className="pl-nothing">
      <p className="pl-problem" role="alert">
        {explain(about, words)}
      </p>
      <button className="pl-quiet" type="button" onClick={onRetry}>
        {words.tryAgain}
      </button>
    </div>
  );
}

/** An error as a person reads it. */
export function explain(about: unknown, words: Words): string {
  if (typeof about === "string") return about;
  if (about instanceof Disconnected) return words.failedOffline;
  if (!(about instanceof Refusal)) return words.failed;
  return about.retryAfterMs === undefined ? about.message : words.retryAfter(about.message, secondsUntil(Date.now() + about.retryAfterMs));
}
