/** State that can be watched; fits React's `useSyncExternalStore(store.subscribe, store.getSnapshot)`. */
export interface Store<T> {
  /** Calls `listener` after every change, until the function that it returns is called. */
  readonly subscribe: (listener: () => void) => () => void;
  /** The state now: the same object until something changes, never changed afterwards. */
  readonly getSnapshot: () => T;
}

/** Calls listeners, of which none can harm another, or whoever tells. */
export function tell<A extends unknown[]>(listeners: Iterable<(...args: A) => void>, ...args: A): void {
  for (const listener of [...listeners]) {
    try {
      listener(...args);
    } catch (error) {
      queueMicrotask(() => {
        throw error;
      });
    }
  }
}

/** A store whose snapshots are made when somebody asks. */
export abstract class Observable<T> implements Store<T> {
  readonly #listeners = new Set<() => void>();
  #snapshot: T | undefined;

  readonly subscribe = (listener: () => void): (() => void) => {
    // The same function may subscribe twice, and each time ends by itself.
    const entry = () => listener();
    this.#listeners.add(entry);
    if (this.#listeners.size === 1) this.watched(true);
    return () => {
      if (this.#listeners.delete(entry) && this.#listeners.size === 0) this.watched(false);
    };
  };

  readonly getSnapshot = (): T => (this.#snapshot ??= this.makeSnapshot());

  /** The first listener came, or the last one went. */
  protected watched(_isWatched: boolean): void {}

  protected abstract makeSnapshot(): T;

  protected changed(): void {
    this.#snapshot = undefined;
    tell(this.#listeners);
  }
}
