import type { Locator, Page } from "playwright-core";
import { expect } from "vitest";
import { test } from "./fixtures.ts";
import { call, say } from "./stack.ts";
import type { ChatWindow } from "./window.ts";

test("scrolling up brings what is older, without a jump", { timeout: 60_000 }, async ({ open, stack, couple: { customer, vendor, conversation } }) => {
  // More than is asked for while the log is being opened.
  const all = Array.from({ length: 260 }, (_, index) => `message ${index + 1}`);
  for (const content of all) {
    await say(stack, conversation, vendor, content);
  }
  await call(stack, customer, "POST", `conversations/${conversation}/mark_read/`);
  const casey = await open({ person: customer, conversation });
  await expect.poll(async () => (await casey.contents()).at(-1)).toBe(all.at(-1));
  const log = casey.page.getByTestId("log");
  const isAtEnd = () => log.evaluate((element) => element.scrollHeight - element.scrollTop - element.clientHeight < 2);
  await expect.poll(isAtEnd).toBe(true);

  // Where the first message stood in the last frame before there was more above it, and where it stands in the next.
  const moved = await log.evaluate(async (element) => {
    let first: HTMLElement | undefined;
    let before = 0;
    for (;;) {
      if (first?.dataset.index !== undefined && first.dataset.index !== "0") return Math.abs(first.getBoundingClientRect().top - before);
      element.scrollTop = 0;
      first = element.querySelector<HTMLElement>('[data-index="0"]') ?? undefined;
      before = first?.getBoundingClientRect().top ?? 0;
      await new Promise(requestAnimationFrame);
    }
  });
  // It no longer begins its group, so it stands a little nearer to the one above.
  expect(moved).toBeLessThan(15);
  expect(await casey.history()).toEqual(all);

  await log.evaluate((element) => (element.scrollTop = 0));
  // Until the page knows that it has left the end, it would follow.
  await casey.page.locator(".pl-jump").waitFor();
  await say(stack, conversation, vendor, "news");
  await casey.page.getByRole("button", { name: "1 new" }).click();
  await expect.poll(isAtEnd).toBe(true);
  await expect.poll(async () => (await casey.contents()).at(-1)).toBe("news");
});

/** How far below the upper edge of the log the divider of what is unread stands. */
async function dividerFromTop({ page }: ChatWindow): Promise<number> {
  const top = async (locator: Locator) => (await locator.boundingBox())?.y ?? Number.NaN;
  return (await top(page.locator(".pl-new"))) - (await top(page.getByTestId("log")));
}

test("more unread than fits opens at its beginning, and is read as it comes into sight; the end stays in sight", async ({ open, stack, couple: { customer, vendor, conversation } }) => {
  await say(stack, conversation, customer, "Hello?");
  for (let count = 1; count <= 25; count++) await say(stack, conversation, vendor, `unread ${count}`);
  const casey = await open({ person: customer, conversation });
  await casey.page.locator(".pl-new").waitFor();
  await expect.poll(() => dividerFromTop(casey)).toBeLessThan(20);
  expect(await dividerFromTop(casey)).toBeGreaterThanOrEqual(0);
  // About a dozen have room.
  await expect.poll(async () => Number(await casey.unread("Vera"))).toBeLessThan(20);
  expect(Number(await casey.unread("Vera"))).toBeGreaterThan(5);
  await casey.page.getByRole("button", { name: /^\d+ new messages: to the end$/ }).click();
  await expect.poll(() => casey.unread("Vera")).toBe("");

  const vera = await open({ person: vendor, conversation });
  await vera.row("unread 25").waitFor();
  await vera.page.getByRole("button", { name: "Make a quote" }).click();
  const isAtEnd = () => vera.page.getByTestId("log").evaluate((element) => element.scrollHeight - element.scrollTop - element.clientHeight < 2);
  await expect.poll(isAtEnd).toBe(true);
  await vera.page.getByLabel("What for").press("Escape");
  await vera.page.getByLabel("What for").waitFor({ state: "detached" });
  await casey.send("long ".repeat(60));
  await vera.row("long long").waitFor();
  await expect.poll(isAtEnd).toBe(true);
});

test("more unread than a page holds opens at its beginning, and is read as far as one reads", { timeout: 60_000 }, async ({ open, stack, couple: { customer, vendor, conversation } }) => {
  const unread = async () => (await call<{ unread_count: number }>(stack, customer, "GET", `conversations/${conversation}/`)).unread_count;
  await say(stack, conversation, customer, "Hello?");
  for (let index = 1; index <= 120; index++) await say(stack, conversation, vendor, `unread ${index} of 120`);
  const casey = await open({ person: customer, conversation });
  await casey.row("unread 1 of 120").locator(".pl-new").waitFor();
  await expect.poll(() => dividerFromTop(casey)).toBeLessThan(60);
  await expect.poll(unread).toBeLessThan(115);
  expect(await unread()).toBeGreaterThan(100);

  await casey.page.getByTestId("log").hover();
  await casey.page.mouse.wheel(0, 1_500);
  await expect.poll(unread).toBeLessThan(90);
  // What comes into sight within a moment is told together.
  await casey.page.waitForTimeout(1_000);
  const left = await unread();
  expect(left).toBeGreaterThan(40);
  await casey.page.reload();
  await casey.row(`unread ${120 - left + 1} of 120`).locator(".pl-new").waitFor();
  await expect.poll(() => dividerFromTop(casey)).toBeLessThan(60);
  await casey.page.getByRole("button", { name: /new messages: to the end$/ }).click();
  await expect.poll(unread).toBe(0);
});

test("far more unread opens at its end, where nothing is read unseen, and leads to its beginning by keyboard", { timeout: 60_000 }, async ({ open, stack, couple: { customer, vendor, conversation } }) => {
  const unread = async () => (await call<{ unread_count: number }>(stack, customer, "GET", `conversations/${conversation}/`)).unread_count;
  await say(stack, conversation, customer, "Hello?");
  // On a phone these are higher than they are taken for before they are drawn.
  for (let index = 1; index <= 310; index++) await say(stack, conversation, vendor, `unread ${index} of 310, in two lines or three`);
  const casey = await open({ person: customer, conversation, viewport: { width: 320, height: 700 }, isMobile: true, hasTouch: true });
  const { page } = casey;
  await casey.row("unread 310 of 310").waitFor();
  await page.locator(".pl-unread", { hasText: "310 unread" }).waitFor();
  await page.waitForTimeout(1_000);
  expect(await unread()).toBe(310);
  await page.getByRole("button", { name: "To the first" }).press("Enter");
  await casey.row("unread 1 of 310").locator(".pl-new").waitFor();
  await expect.poll(() => dividerFromTop(casey)).toBeLessThan(60);
  expect(await page.locator(".pl-unread").count()).toBe(0);
  await page.keyboard.press("ArrowDown");
  await expect.poll(() => page.evaluate(() => document.activeElement?.textContent)).toContain("unread 1 of 310");
  const inSight = await page.getByTestId("log").evaluate((log) => {
    const bottom = log.getBoundingClientRect().bottom;
    return [...log.querySelectorAll(".pl-row")].filter((row) => row.textContent?.includes("unread") && row.getBoundingClientRect().bottom <= bottom).length;
  });
  await expect.poll(unread).toBe(310 - inSight);
});

/** Everything that sticks out of a window to the side. */
function wide(page: Page): Promise<string[]> {
  return page.evaluate(() => {
    const limit = document.documentElement.clientWidth;
    const sticksOut = (element: Element) => {
      const { left, right, width } = element.getBoundingClientRect();
      return width > 0 && (right > limit + 0.5 || left < -0.5);
    };
    const scrolls = (element: Element) => element.scrollWidth > element.clientWidth && /auto|scroll/.test(getComputedStyle(element).overflowX);
    const found = [...document.querySelectorAll("html, body, body *")].filter((element) => sticksOut(element) || scrolls(element));
    return found.map((element) => `${element.tagName}.${element.getAttribute("class") ?? ""}`);
  });
}

test.for([320, 390])("nothing sticks out of a phone %i px wide", async (width, { open, couple: { customer, vendor, conversation } }) => {
  const phone = { viewport: { width, height: 700 }, isMobile: true, hasTouch: true };
  const stranger = await open(phone);
  await stranger.page.getByText("Use a token of your own").tap();
  expect(await wide(stranger.page)).toEqual([]);

  const casey = await open({ ...phone, person: customer });
  await casey.item("Vera").tap();
  const vera = await open({ person: vendor, conversation });
  await vera.send(`https://example.org/${"a-very-long-path".repeat(20)}`);
  await casey.send("W".repeat(300));
  await casey.send("short");
  await expect.poll(() => casey.delivery("short")).toBe("read");
  await expect.poll(() => casey.contents()).toHaveLength(3);
  expect(await wide(casey.page)).toEqual([]);
  for (const content of ["short", "WWW"]) {
    await casey.row(content).locator(".pl-bubble").tap();
    await casey.row(content).getByRole("button", { name: "Edit", exact: true }).waitFor();
    expect(await wide(casey.page)).toEqual([]);
  }
  await casey.row("WWW").getByRole("button", { name: "Edit", exact: true }).tap();
  expect(await wide(casey.page)).toEqual([]);
  await casey.page.getByRole("button", { name: "Cancel" }).tap();

  expect(await casey.page.getByTestId("conversations").isVisible()).toBe(false);
  await casey.page.getByRole("button", { name: "Back to the conversations" }).tap();
  expect(await casey.page.getByTestId("log").isVisible()).toBe(false);
  await expect.poll(() => casey.item("Vera").locator(".pl-preview").innerText()).toBe("You: short");
  await casey.page.getByRole("button", { name: "New conversation" }).tap();
  await casey.page.getByLabel("Talk with (user id)").waitFor();
  expect(await wide(casey.page)).toEqual([]);
});

test.for([390, 1_200])("both demo people talk side by side, %i px wide", async (width, { open }) => {
  const { page } = await open({ as: "both", viewport: { width, height: 800 } });
  const [casey, vera] = [page.getByRole("region", { name: "Casey", exact: true }), page.getByRole("region", { name: "Vera", exact: true })];
  const what = `Lunch for ${width}`;
  // Each takes the focus when it appears.
  for (const side of [casey, vera]) await side.getByLabel("Message", { exact: true }).waitFor();
  await casey.getByLabel("Message", { exact: true }).fill(`${what}?`);
  await casey.getByLabel("Message", { exact: true }).press("Enter");
  await vera.locator(".pl-content", { hasText: `${what}?` }).waitFor();
  await vera.getByRole("button", { name: "Make a quote" }).click();
  await vera.getByLabel("What for").fill(what);
  await vera.getByLabel("Amount (GBP)").fill("1850");
  expect(await wide(page)).toEqual([]);
  await vera.getByRole("button", { name: "Send the quote" }).click();
  const card = casey.locator(".pl-card", { has: page.getByText(what, { exact: true }) });
  await card.getByText("£1,850.00").waitFor();
  expect(await wide(page)).toEqual([]);
});

test("a finger finds everything at least 44 px wide and high, and the focus goes along", async ({ open, stack, couple: { customer, vendor, conversation } }) => {
  await say(stack, conversation, customer, "Hello?");
  const vera = await open({ viewport: { width: 390, height: 700 }, isMobile: true, hasTouch: true, person: vendor });
  const { page } = vera;
  const isReached = page.locator("button:visible, input:visible, textarea:visible");
  // What can't be tapped is no target: the choices of a message are opened by tapping it.
  const small = () =>
    isReached.evaluateAll((elements) =>
      elements.flatMap((element) => {
        const { width, height } = element.getBoundingClientRect();
        const isTarget = getComputedStyle(element).pointerEvents !== "none";
        return isTarget && (width < 44 || height < 44) ? [`${element.getAttribute("aria-label") ?? element.textContent}: ${width} x ${height}`] : [];
      }),
    );
  await vera.item("Casey").waitFor();
  expect(await small()).toEqual([]);
  await vera.item("Casey").tap();
  await expect.poll(() => page.evaluate(() => document.activeElement?.textContent)).toBe("Casey");
  await page.getByRole("button", { name: "Make a quote" }).tap();
  await page.getByLabel("What for").waitFor();
  expect(await small()).toEqual([]);
  await page.getByLabel("What for").press("Escape");
  await page.getByLabel("What for").waitFor({ state: "detached" });
  await vera.send("Yes!");
  await expect.poll(() => vera.delivery("Yes!")).toMatch(/sent|delivered/);
  await vera.row("Yes!").locator(".pl-bubble").tap();
  await vera.row("Yes!").getByRole("button", { name: "Delete", exact: true }).waitFor();
  expect(await small()).toEqual([]);
  await vera.send("bad \u0007 words");
  await page.getByRole("button", { name: "Discard" }).waitFor();
  // What has failed takes more room than what is sent, and that is in sight.
  await expect.poll(() => page.getByTestId("log").evaluate((element) => element.scrollHeight - element.scrollTop - element.clientHeight)).toBeLessThan(2);
  expect(await small()).toEqual([]);
});

test("in a low window a form scrolls before the messages are gone", async ({ open, stack, couple: { customer, vendor, conversation } }) => {
  await say(stack, conversation, customer, "How much?");
  const { page } = await open({ viewport: { width: 844, height: 390 }, isMobile: true, hasTouch: true, person: vendor, conversation });
  await page.getByRole("button", { name: "Make a quote" }).tap();
  await page.getByLabel("What for").waitFor();
  expect((await page.getByTestId("log").boundingBox())?.height).toBeGreaterThanOrEqual(80);
  await page.getByRole("button", { name: "Send the quote" }).scrollIntoViewIfNeeded();
  expect(await wide(page)).toEqual([]);
  const { y = 0, height = 0 } = (await page.locator(".pl-composer").boundingBox()) ?? {};
  expect(y + height).toBeLessThanOrEqual(390);
});
