import type { Typing } from "./wire.ts";

/** How long somebody is taken for typing, unless told again. */
const LASTS_MS = 5_000;
/** Between two tellings that I type. */
const EVERY_MS = 3_000;

/** Somebody who types. */
export interface TypingUser {
  readonly user_id: string;
  readonly username: string;
}

/** Who types in a conversation, and what the others were told of my own typing. */
export class TypingState {
  readonly #others = new Map<string, TypingUser & { timer: ReturnType<typeof setTimeout> }>();
  #toldAt = 0;

  readonly #onChange: () => void;

  /** `onChange`: somebody's typing ended by itself. */
  constructor(onChange: () => void) {
    this.#onChange = onChange;
  }

  get users(): TypingUser[] {
    return [...this.#others.values()].map(({ user_id, username }) => ({ user_id, username }));
  }

  hear({ user_id, username, is_typing }: Typing): void {
    this.end(user_id);
    if (!is_typing) return;
    this.#others.set(user_id, {
      user_id,
      username,
      timer: setTimeout(() => {
        this.end(user_id);
        this.#onChange();
      }, LASTS_MS),
    });
  }

  /** They stopped, or sent what they typed. */
  end(userId: string): void {
    clearTimeout(this.#others.get(userId)?.timer);
    this.#others.delete(userId);
  }

  /** Whether the others are to be told now that I type, or stopped. */
  isNews(isTyping: boolean): boolean {
    const sinceTold = Date.now() - this.#toldAt;
    if (isTyping ? sinceTold < EVERY_MS : sinceTold >= LASTS_MS) return false;
    this.#toldAt = isTyping ? Date.now() : 0;
    return true;
  }

  /** My message went out, which ends my typing for everybody. */
  sent(): void {
    this.#toldAt = 0;
  }

  clear(): void {
    for (const userId of this.#others.keys()) this.end(userId);
    this.#toldAt = 0;
  }
}
