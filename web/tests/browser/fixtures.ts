import type { Browser } from "playwright-core";
import { test as base, expect, inject } from "vitest";
import { openRoad, type Road } from "./road.ts";
import { converse, type Person, person, type StackInfo } from "./stack.ts";
import { ChatWindow, launch, type WindowOptions } from "./window.ts";

/** A customer and a vendor that nobody has met before, and their conversation. */
export interface Couple {
  customer: Person;
  vendor: Person;
  conversation: string;
}

interface Fixtures {
  browser: Browser;
  stack: StackInfo;
  couple: Couple;
  /** Opens a window that ends with the test; by another road than the direct one, if given. */
  open(options?: WindowOptions, road?: Road): Promise<ChatWindow>;
  road: Road;
}

export const test = base.extend<Fixtures>({
  browser: [
    async ({}, use) => {
      const browser = await launch();
      await use(browser);
      await browser.close();
    },
    { scope: "worker" },
  ],
  stack: async ({}, use) => use(inject("stack")),
  couple: async ({ stack }, use) => {
    const customer = person(stack, "Casey", "customer");
    const vendor = person(stack, "Vera", "vendor");
    await use({ customer, vendor, conversation: await converse(stack, customer, vendor) });
  },
  open: async ({ browser, stack }, use) => {
    const windows: ChatWindow[] = [];
    await use(async (options, road) => {
      const window = await ChatWindow.open(browser, road?.url ?? stack.url, options);
      windows.push(window);
      return window;
    });
    const problems = windows.flatMap((window) => window.problems);
    await Promise.all(windows.map((window) => window.close()));
    expect(problems).toEqual([]);
  },
  road: async ({ stack }, use) => {
    const road = await openRoad(stack.port);
    await use(road);
    await road.close();
  },
});
