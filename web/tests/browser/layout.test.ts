import type { Page } from "playwright-core";
import { expect } from "vitest";
import { test } from "./fixtures.ts";
import { say } from "./stack.ts";

test("scrolling up brings what is older, without a jump", async ({ open, stack, couple: { customer, vendor, conversation } }) => {
  const all = Array.from({ length: 120 }, (_, index) => `message ${index + 1}`);
  for (const content of all) {
    await say(stack, conversation, vendor, content);
  }
  const casey = await open({ person: customer, conversation });
  await expect.poll(async () => (await casey.contents()).at(-1)).toBe(all.at(-1));
  const log = casey.page.getByTestId("log");
  const isAtEnd = () => log.evaluate((element) => element.scrollHeight - element.scrollTop - element.clientHeight < 2);
  await expect.poll(isAtEnd).toBe(true);

  // Where the first message stood before, and stands when there is more above it; both in one turn of the page.
  const moved = await log.evaluate(async (element) => {
    const top = () => element.querySelector(".pl-log-top")?.textContent;
    element.scrollTop = 0;
    const shown = () => [...element.querySelectorAll<HTMLElement>(".pl-message")];
    while (shown()[0]?.closest("li")?.dataset.index !== "0") await new Promise(requestAnimationFrame);
    const first = shown()[0] as HTMLElement;
    const before = first.getBoundingClientRect().top;
    const count = element.scrollHeight;
    while (element.scrollHeight < count + 500 && top() !== "The conversation begins here.") await new Promise(requestAnimationFrame);
    return Math.abs(first.getBoundingClientRect().top - before);
  });
  // It no longer begins its group, so it stands a little nearer to the one above.
  expect(moved).toBeLessThan(15);
  expect(await casey.history()).toEqual(all);

  await log.evaluate((element) => (element.scrollTop = 0));
  await say(stack, conversation, vendor, "news");
  await casey.page.getByRole("button", { name: "1 new" }).click();
  await expect.poll(isAtEnd).toBe(true);
  expect((await casey.contents()).at(-1)).toBe("news");
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
  expect(await casey.item("Vera").locator(".pl-preview").innerText()).toBe("You: short");
  await casey.page.getByRole("button", { name: "New conversation" }).tap();
  await casey.page.getByLabel("Talk with (user id)").waitFor();
  expect(await wide(casey.page)).toEqual([]);
});
