/** Between two read markers. */
const EVERY_MS = 250;

/** Tells how far I have read: at once, then for all that was seen within a moment together. */
export class Reading {
  #seen = 0;
  #told = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;
  readonly #tell: (seq: number) => Promise<unknown>;

  constructor(tell: (seq: number) => Promise<unknown>) {
    this.#tell = tell;
  }

  see(seq: number): void {
    this.#seen = Math.max(this.#seen, seq);
    if (this.#timer === undefined) this.#next();
  }

  /** What was told may have been lost. */
  reset(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#seen = this.#told = 0;
  }

  #next(): void {
    this.#timer = undefined;
    if (this.#seen <= this.#told) return;
    this.#told = this.#seen;
    this.#timer = setTimeout(() => this.#next(), EVERY_MS);
    this.#tell(this.#told).catch(() => {
      this.#told = 0;
    });
  }
}
