import { vi } from "vitest";

interface Request {
  name: string;
  run(): Promise<unknown>;
  end(error: Error): void;
}

/** Web Locks and BroadcastChannel for several pages within one process, as browsers have them. */
export class FakeBrowser {
  private readonly held = new Map<string, { page: object; steal(): void }>();
  private readonly queue: (Request & { page: object })[] = [];
  private channels: { name: string; page: object; onmessage: ((event: { data: unknown }) => void) | null }[] = [];

  /** What a page is given in place of the globals. */
  stubFor(page: object): void {
    const browser = this;
    vi.stubGlobal("navigator", { locks: { request: (name: string, options: LockOptions, run: () => Promise<unknown>) => browser.request(page, name, options, run) } });
    vi.stubGlobal(
      "BroadcastChannel",
      class {
        onmessage: ((event: { data: unknown }) => void) | null = null;

        constructor(readonly name: string) {
          browser.channels.push(Object.assign(this, { page }));
        }

        postMessage(data: unknown): void {
          if (!browser.channels.includes(this as never)) return;
          // A browser delivers in order, a moment later, and not to whoever says it.
          const others = browser.channels.filter((it) => (it as unknown) !== this && it.name === this.name);
          for (const other of others) queueMicrotask(() => browser.channels.includes(other) && other.onmessage?.({ data: structuredClone(data) }));
        }

        close(): void {
          browser.channels = browser.channels.filter((it) => (it as unknown) !== this);
        }
      },
    );
  }

  /** The page crashes: it says nothing more, and its locks are given back. */
  crash(page: object): void {
    this.channels = this.channels.filter((it) => it.page !== page);
    for (const [index, request] of [...this.queue.entries()].reverse()) if (request.page === page) this.queue.splice(index, 1);
    for (const [name, lock] of this.held) if (lock.page === page) this.release(name);
  }

  /** The page neither hears nor says anything, but keeps its locks. */
  freeze(page: object): void {
    this.channels = this.channels.filter((it) => it.page !== page);
  }

  private request(page: object, name: string, { signal, steal }: LockOptions, run: () => Promise<unknown>): Promise<unknown> {
    return new Promise((resolve, reject) => {
      const request = { page, name, run: () => run().then(resolve), end: reject };
      signal?.addEventListener("abort", () => {
        const index = this.queue.indexOf(request);
        if (index < 0) return;
        this.queue.splice(index, 1);
        reject(new DOMException("The wait ended", "AbortError"));
      });
      if (steal) {
        this.queue.unshift(request);
        this.held.get(name)?.steal();
        this.held.delete(name);
      } else {
        this.queue.push(request);
      }
      queueMicrotask(() => this.grant(name));
    });
  }

  private grant(name: string): void {
    if (this.held.has(name)) return;
    const index = this.queue.findIndex((request) => request.name === name);
    const [request] = index < 0 ? [] : this.queue.splice(index, 1);
    if (!request) return;
    const lock = { page: request.page, steal: () => request.end(new DOMException("Stolen", "AbortError")) };
    this.held.set(name, lock);
    void request.run().then(() => this.held.get(name) === lock && this.release(name));
  }

  private release(name: string): void {
    this.held.delete(name);
    queueMicrotask(() => this.grant(name));
  }
}
