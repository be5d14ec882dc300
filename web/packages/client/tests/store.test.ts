import { expect, it, vi } from "vitest";
import { Observable } from "../src/store.ts";

class Counter extends Observable<{ count: number }> {
  count = 0;
  readonly watches: boolean[] = [];

  add(): void {
    this.count++;
    this.changed();
  }

  protected override watched(isWatched: boolean): void {
    this.watches.push(isWatched);
  }

  protected makeSnapshot(): { count: number } {
    return { count: this.count };
  }
}

it("gives the same snapshot until something changes, then another, and leaves the old one as it was", () => {
  const { getSnapshot, ...counter } = new Counter();
  expect(getSnapshot()).toBe(getSnapshot());
  const store = new Counter();
  const before = store.getSnapshot();
  store.add();
  expect([before, store.getSnapshot()]).toEqual([{ count: 0 }, { count: 1 }]);
  expect(counter.count).toBe(0);
});

it("tells each subscription of each change until it ends, the same function's too", () => {
  const store = new Counter();
  const listener = vi.fn();
  const [end, endOther] = [store.subscribe(listener), store.subscribe(listener)];
  store.add();
  end();
  end();
  store.add();
  endOther();
  store.add();
  expect(listener).toHaveBeenCalledTimes(3);
  expect(store.watches).toEqual([true, false]);
});

it("lets no listener harm another", async () => {
  const store = new Counter();
  const told = vi.fn();
  const thrown: unknown[] = [];
  vi.stubGlobal("queueMicrotask", (run: () => void) => {
    try {
      run();
    } catch (error) {
      thrown.push(error);
    }
  });
  const error = new Error("mine");
  store.subscribe(() => {
    throw error;
  });
  store.subscribe(told);
  store.add();
  vi.unstubAllGlobals();
  expect([told.mock.calls.length, thrown]).toEqual([1, [error]]);
});

it("lets a listener end while it is told", () => {
  const store = new Counter();
  const told: string[] = [];
  const end = store.subscribe(() => {
    told.push("first");
    end();
  });
  store.subscribe(() => told.push("second"));
  store.add();
  store.add();
  expect(told).toEqual(["first", "second", "second"]);
});
