import { expect } from "vitest";
import { test } from "./fixtures.ts";
import { call, converse, person } from "./stack.ts";

test("the demo people sign in and find each other", async ({ open }) => {
  const [customer, vendor] = [await open(), await open()];
  await customer.page.getByRole("button", { name: "Casey" }).click();
  await vendor.page.getByRole("button", { name: "Vera" }).click();
  await customer.item("Vera").click();
  await customer.send("Is the 14th still free?");
  await expect.poll(() => vendor.unread("Casey")).toBe("1");
  await vendor.item("Casey").click();
  // They talk in other tests, too.
  await expect.poll(async () => (await vendor.contents()).at(-1)).toBe("Is the 14th still free?");

  await vendor.page.getByRole("button", { name: "Sign out" }).click();
  await vendor.page.getByText("Use a token of your own").click();
  await vendor.page.getByLabel("Token (JWT)").fill("not a token");
  await vendor.page.getByRole("button", { name: "Sign in", exact: true }).click();
  await vendor.page.getByRole("button", { name: "Sign in again" }).waitFor();
});

test("two people talk: stored, read, typing, online, as text and nothing else", async ({ open, couple: { customer, vendor, conversation } }) => {
  const casey = await open({ person: customer, conversation });
  await expect.poll(() => casey.subtitle()).toBe("offline");
  await casey.send("Is the 14th still free?");
  await expect.poll(() => casey.delivery("14th")).toBe("sent");

  const vera = await open({ person: vendor, conversation });
  await expect.poll(() => vera.contents()).toEqual(["Is the 14th still free?"]);
  await expect.poll(() => casey.delivery("14th")).toBe("read");
  await expect.poll(() => casey.subtitle()).toBe("online");
  expect(await casey.page.locator(".pl-thread .pl-dot").isVisible()).toBe(true);

  await vera.input.pressSequentially("It is, and");
  await expect.poll(() => casey.subtitle()).toBe("typing…");
  const markup = `<img src=x onerror="document.title='hurt'"> *stars* &amp; 👋🏽\nsecond line`;
  await vera.send(markup);
  await expect.poll(() => casey.contents()).toEqual(["Is the 14th still free?", markup]);
  expect(await casey.subtitle()).toBe("online");
  await expect.poll(() => vera.delivery("second line")).toBe("read");
  expect(await casey.page.title()).toBe("Partyline");

  await vera.close();
  await expect.poll(() => casey.subtitle()).toBe("last seen just now");
  expect(await casey.page.locator(".pl-thread .pl-dot").isVisible()).toBe(false);
});

test("a reload shows what was said", async ({ open, couple: { customer, vendor, conversation } }) => {
  const casey = await open({ person: customer, conversation });
  const vera = await open({ person: vendor, conversation });
  const said = ["one", "two", "three", "four"];
  for (const [index, content] of said.entries()) {
    const [from, to] = index % 2 ? [vera, casey] : [casey, vera];
    await from.send(content);
    await expect.poll(() => to.contents()).toEqual(said.slice(0, index + 1));
  }
  await casey.page.reload();
  await expect.poll(() => casey.contents()).toEqual(said);
  await casey.send("five");
  await expect.poll(() => vera.contents()).toEqual([...said, "five"]);
});

test("what was said elsewhere counts as unread until it is opened, on every device", async ({ open, stack, couple: { customer, conversation } }) => {
  const second = person(stack, "Victor", "vendor");
  const other = await converse(stack, customer, second);
  const casey = await open({ person: customer, conversation });
  const tablet = await open({ person: customer });
  await casey.item("Victor").waitFor();
  await tablet.item("Victor").waitFor();
  const victor = await open({ person: second, conversation: other });
  const stored = async () => (await call<{ unread_count: number }>(stack, customer, "GET", `conversations/${other}/`)).unread_count;
  for (const [index, content] of ["Hello", "Are you there?", "Just asking"].entries()) {
    await victor.send(content);
    await expect.poll(stored).toBe(index + 1);
    for (const window of [casey, tablet]) await expect.poll(() => window.unread("Victor")).toBe(String(index + 1));
  }
  expect(await casey.page.title()).toBe("(3) Partyline");
  expect(await casey.item("Victor").locator(".pl-preview").innerText()).toBe("Just asking");
  expect(await casey.page.getByTestId("conversations").locator(".pl-title").allTextContents()).toEqual(["Victor", "Vera"]);
  await casey.page.reload();
  await expect.poll(() => casey.unread("Victor")).toBe("3");

  await casey.item("Victor").click();
  await expect.poll(() => casey.unread("Victor")).toBe("");
  await expect.poll(() => victor.delivery("Just asking")).toBe("read");
  await expect.poll(stored).toBe(0);
  for (const window of [casey, tablet]) {
    await window.page.reload();
    await window.item("Victor").waitFor();
    expect([await window.unread("Victor"), await window.page.title()]).toEqual(["", "Partyline"]);
  }
});

test("a message is edited and deleted, for both and after a reload", async ({ open, couple: { customer, vendor, conversation } }) => {
  const casey = await open({ person: customer, conversation });
  const vera = await open({ person: vendor, conversation });
  await casey.send("Friday at nine");
  await casey.send("Or never");
  await expect.poll(() => casey.delivery("Or never")).toMatch(/sent|delivered|read/);

  await casey.row("Friday at nine").getByRole("button", { name: "Edit or delete" }).click();
  await casey.row("Friday at nine").getByRole("button", { name: "Edit", exact: true }).click();
  await casey.send("Friday at ten");
  await expect.poll(() => vera.contents()).toEqual(["Friday at ten", "Or never"]);
  expect(await vera.row("Friday at ten").locator(".pl-edited").isVisible()).toBe(true);

  await casey.row("Or never").getByRole("button", { name: "Edit or delete" }).click();
  await casey.row("Or never").getByRole("button", { name: "Delete", exact: true }).click();
  expect(await vera.contents()).toContain("Or never"); // it asks first
  await casey.row("Or never").getByRole("button", { name: "Delete for everybody?" }).click();
  await expect.poll(() => vera.contents()).toEqual(["Friday at ten", "Message deleted"]);
  await vera.page.reload();
  await expect.poll(() => vera.contents()).toEqual(["Friday at ten", "Message deleted"]);
  expect(await vera.row("Message deleted").getByRole("button").count()).toBe(0);
});
