import axe from "axe-core";
import type { Page } from "playwright-core";
import { expect } from "vitest";
import { test } from "./fixtures.ts";
import { type Person, say, type StackInfo } from "./stack.ts";

/** What axe holds to be serious or critical, by rule and place. */
async function findings(page: Page): Promise<string[]> {
  await page.evaluate(axe.source);
  const { violations } = await page.evaluate(() => (globalThis as unknown as { axe: typeof axe }).axe.run(document, { resultTypes: ["violations"] }));
  return violations
    .filter(({ impact }) => impact === "serious" || impact === "critical")
    .flatMap(({ id, nodes }) => nodes.map(({ target, failureSummary }) => `${id} ${target.join(" ")}: ${failureSummary}`));
}

/** A conversation with something of everything. */
async function furnish(stack: StackInfo, conversation: string, customer: Person, vendor: Person): Promise<void> {
  const { seq } = await say(stack, conversation, customer, "Is the menu on https://example.org still right?");
  await say(stack, conversation, vendor, "Summer menu: £5,240", {
    message_type: "quote",
    metadata: { title: "Summer menu", amount: 5240, currency: "GBP", valid_until: "2030-01-01", items: [{ label: "80 guests", amount: 5240 }] },
  });
  await say(stack, conversation, vendor, "See you then", { message_type: "booking_update", metadata: { status: "confirmed", starts_at: "2030-06-14" } });
  await say(stack, conversation, vendor, "menu.pdf", { message_type: "file", metadata: { url: "https://example.org/menu.pdf", name: "menu.pdf", size: 120_000 }, reply_to: seq });
  await say(stack, conversation, customer, "Good!");
}

test.for(["light", "dark"] as const)("axe finds nothing serious in the %s", async (colorScheme, { open, stack, couple: { customer, vendor, conversation } }) => {
  await furnish(stack, conversation, customer, vendor);
  const stranger = await open({ colorScheme });
  await stranger.page.getByRole("button", { name: "Casey" }).waitFor();
  expect(await findings(stranger.page)).toEqual([]);
  for (const [person, other] of [[customer, "Vera"], [vendor, "Casey"]] as const) {
    const window = await open({ person, conversation, colorScheme });
    await window.row("Good!").waitFor();
    await window.item(other).waitFor();
    await window.page.locator(".pl-message[data-mine]").first().hover();
    expect(await findings(window.page)).toEqual([]);
    if (person === vendor) await window.page.getByRole("button", { name: "Make a quote" }).click();
    await window.page.setViewportSize({ width: 390, height: 800 });
    expect(await findings(window.page)).toEqual([]);
    await window.page.getByRole("button", { name: "Back to the conversations" }).click();
    await expect.poll(() => window.page.evaluate(() => document.activeElement?.className)).toBe("pl-item");
    expect(await findings(window.page)).toEqual([]);
  }
});

test("dark and light are what the system says, what a theme says, or what is put on it", async ({ open, stack, couple: { customer, vendor, conversation } }) => {
  await furnish(stack, conversation, customer, vendor);
  const colours = async (colorScheme: "light" | "dark") => {
    const window = await open({ person: customer, conversation, colorScheme });
    await window.row("Good!").waitFor();
    const of = async () =>
      window.page.evaluate(() => [".pl-chat", ".pl-composer", ".pl-bubble"].map((part) => getComputedStyle(document.querySelector(part) as Element).backgroundColor));
    const bySystem = await of();
    await window.page.locator(".pl-chat").evaluate((element) => element.setAttribute("data-theme", "dark"));
    const byTheme = await of();
    await window.page.evaluate(() => document.documentElement.style.setProperty("--pl-bg", "rgb(1, 2, 3)"));
    return { bySystem, byTheme, byVariable: (await of())[0] };
  };
  const [light, dark] = [await colours("light"), await colours("dark")];
  light.bySystem.forEach((colour, index) => expect(colour).not.toBe(dark.bySystem[index]));
  expect([light.byTheme, dark.byTheme]).toEqual([dark.bySystem, dark.bySystem]);
  expect([light.byVariable, dark.byVariable]).toEqual(["rgb(1, 2, 3)", "rgb(1, 2, 3)"]);
});

test("right to left is the mirror image", async ({ open, stack, couple: { customer, vendor, conversation } }) => {
  await furnish(stack, conversation, customer, vendor);
  const window = await open({ person: vendor, conversation });
  await window.row("Good!").waitFor();
  await window.item("Casey").waitFor();
  const places = () =>
    window.page.evaluate(() => {
      const width = document.documentElement.clientWidth;
      const isMirrored = document.documentElement.dir === "rtl";
      const parts = [".pl-sidebar", ".pl-thread", ".pl-item .pl-avatar", ".pl-when", ".pl-search .pl-icon", ".pl-composer textarea", ".pl-composer [type=submit]"];
      const inLog = ["[data-mine] .pl-bubble", ".pl-message:not([data-mine]) .pl-bubble", ".pl-card-sum strong", ".pl-card .pl-tag"];
      return [...parts, ...inLog].map((part) => {
        const { left, right } = (document.querySelector(part) as Element).getBoundingClientRect();
        return [part, Math.round(isMirrored ? width - right : left), Math.round(isMirrored ? width - left : right)];
      });
    });
  const leftToRight = await places();
  await window.page.evaluate(() => (document.documentElement.dir = "rtl"));
  await expect.poll(places).toEqual(leftToRight);
});
