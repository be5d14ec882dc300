import type { Page } from "playwright-core";
import { expect } from "vitest";
import { test } from "./fixtures.ts";
import { call } from "./stack.ts";

test("scrolling up brings what is older, without a jump", async ({ open, stack, couple: { customer, vendor, conversation } }) => {
  const all = Array.from({ length: 120 }, (_, index) => `message ${index + 1}`);
  for (const content of all) {
    await call(stack, vendor, "POST", `conversations/${conversation}/messages/`, { client_id: crypto.randomUUID(), content, message_type: "text", metadata: {} });
  }
  const casey = await open({ person: customer, conversation });
  await expect.poll(() => casey.contents()).toEqual(all.slice(-50));
  const log = casey.page.getByTestId("log");
  const isAtEnd = () => log.evaluate((element) => element.scrollHeight - element.scrollTop - element.clientHeight < 2);
  await expect.poll(isAtEnd).toBe(true);

  // Where the first message stood before, and stands when there is more above it; both in one turn of the page.
  const moved = await log.evaluate(async (element) => {
    element.scrollTop = 0;
    const first = element.querySelector(".row") as HTMLElement;
    const before = first.getBoundingClientRect().top;
    const rows = element.querySelector(".rows") as HTMLElement;
    await new Promise<void>((resolve) => new MutationObserver(() => rows.childElementCount > 60 && resolve()).observe(rows, { childList: true }));
    return Math.abs(first.getBoundingClientRect().top - before);
  });
  // It no longer begins its group, so it stands a little nearer to the one above.
  expect(moved).toBeLessThan(15);
  await expect.poll(() => casey.contents()).toEqual(all.slice(-100));
  await log.evaluate((element) => (element.scrollTop = 0));
  await expect.poll(() => casey.contents()).toEqual(all);
  await casey.page.getByText("The conversation begins here.").waitFor();

  await log.evaluate((element) => (element.scrollTop = 0));
  await call(stack, vendor, "POST", `conversations/${conversation}/messages/`, { client_id: crypto.randomUUID(), content: "news", message_type: "text", metadata: {} });
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
    await casey.row(content).locator(".bubble").tap();
    await casey.row(content).getByRole("button", { name: "Edit", exact: true }).waitFor();
    expect(await wide(casey.page)).toEqual([]);
  }
  await casey.row("WWW").getByRole("button", { name: "Edit", exact: true }).tap();
  expect(await wide(casey.page)).toEqual([]);
  await casey.page.getByRole("button", { name: "Cancel" }).tap();

  expect(await casey.page.getByTestId("conversations").isVisible()).toBe(false);
  await casey.page.getByRole("link", { name: "Back to the conversations" }).tap();
  await casey.page.getByRole("button", { name: "New conversation" }).tap();
  expect(await casey.page.getByTestId("log").isVisible()).toBe(false);
  expect(await casey.item("Vera").locator(".preview").innerText()).toBe("You: short");
  expect(await wide(casey.page)).toEqual([]);
});
