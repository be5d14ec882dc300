import type { CDPSession } from "playwright-core";
import { expect } from "vitest";
import { test } from "./fixtures.ts";
import { call, person } from "./stack.ts";

const COUNT = 1_000;
/** Requests at once. */
const AT_ONCE = 32;

async function threadTime(session: CDPSession): Promise<number> {
  const { metrics } = await session.send("Performance.getMetrics");
  return 1_000 * (metrics.find(({ name }) => name === "ThreadTime")?.value ?? 0);
}

test("1,000 conversations: the list goes on by itself, finds what it did not have, and holds up nobody who writes", { timeout: 120_000 }, async ({ open, stack }) => {
  const vendor = person(stack, "Vera", "vendor");
  const group = Math.random().toString(36).slice(2);
  const customers = Array.from({ length: COUNT }, (_, index) => `${group}-${String(index).padStart(4, "0")}`);
  const waiting = [...customers];
  const begin = async () => {
    for (let id = waiting.shift(); id !== undefined; id = waiting.shift()) {
      await call(stack, vendor, "POST", "conversations/", { participant_ids: [id], kind: "direct", title: null });
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, begin));

  const vera = await open({ person: vendor });
  const { page } = vera;
  const items = page.locator(".pl-item");
  await items.first().waitFor();
  const first = await items.count();
  expect(first).toBeLessThan(200);
  await page.locator(".pl-list").evaluate((element) => (element.scrollTop = element.scrollHeight));
  await expect.poll(() => items.count()).toBeGreaterThan(first);

  // What was begun first stands last.
  await page.getByLabel("Search").fill(`${group}-0000`);
  await vera.item(`${group}-0000`).waitFor({ timeout: 30_000 });
  await page.getByLabel("Search").fill("");
  await expect.poll(() => items.count()).toBe(COUNT);
  expect(await page.getByRole("button", { name: "Show more" }).count()).toBe(0);

  await vera.item(`${group}-0500`).click();
  await vera.input.waitFor();
  const session = await page.context().newCDPSession(page);
  await session.send("Performance.enable", { timeDomain: "threadTicks" });
  // A key that is pressed must not touch a list of a thousand; what it costs depends on the machine, and is printed.
  const touched = await page.locator(".pl-list").evaluateHandle((element) => {
    const found = { changes: 0 };
    new MutationObserver((changes) => (found.changes += changes.length)).observe(element, { subtree: true, childList: true, attributes: true, characterData: true });
    return found;
  });
  const before = await threadTime(session);
  await vera.input.pressSequentially("twenty keys are hit.");
  const work = ((await threadTime(session)) - before) / 20;
  console.log(`${COUNT} conversations in the list: ${work.toFixed(1)} ms of work for a key`);
  expect(await touched.evaluate((found) => found.changes)).toBe(0);
});
