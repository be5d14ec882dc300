import { expect } from "vitest";
import { test } from "./fixtures.ts";
import { call, gatewayPid } from "./stack.ts";

interface History {
  results: { content: string }[];
}

test("what was said while the network was away is there afterwards, once and in order", async ({ open, road, couple: { customer, vendor, conversation } }) => {
  const casey = await open({ person: customer, conversation }, road);
  const vera = await open({ person: vendor, conversation });
  await casey.send("before");
  await expect.poll(() => vera.contents()).toEqual(["before"]);

  await casey.page.context().setOffline(true);
  road.cut();
  await expect.poll(() => casey.connection()).toBe("No connection");
  await casey.send("from the tunnel");
  await casey.send("still there?");
  expect(await casey.row("still there?").locator(".pl-delivery").innerText()).toBe("Waiting for a connection");
  await vera.send("Hello?");
  await vera.send("I can't hear you");
  await expect.poll(() => vera.delivery("I can't hear you")).toMatch(/sent|delivered/);
  await casey.page.getByTestId("banner").waitFor();

  road.mend();
  await casey.page.context().setOffline(false);
  const all = ["before", "Hello?", "I can't hear you", "from the tunnel", "still there?"];
  await expect.poll(() => vera.contents()).toEqual(all);
  await expect.poll(() => casey.contents()).toEqual(all);
  await expect.poll(() => casey.delivery("still there?")).toBe("read");
  expect(await casey.page.getByTestId("banner").isVisible()).toBe(false);
});

test("a gateway killed in the middle of it loses nothing and doubles nothing", async ({ open, stack, couple: { customer, vendor, conversation } }) => {
  const casey = await open({ person: customer, conversation });
  const vera = await open({ person: vendor, conversation });
  await casey.send("casey 0");
  await expect.poll(() => vera.contents()).toEqual(["casey 0"]);

  const killed = gatewayPid(stack);
  expect(killed).toBeDefined();
  for (let count = 1; count <= 8; count++) {
    await Promise.all([casey.send(`casey ${count}`), vera.send(`vera ${count}`)]);
    // Not waiting for an answer: some of these are on their way.
    if (count === 4) process.kill(killed ?? 0, "SIGKILL");
  }
  const ofEach = (name: string, from: number) => Array.from({ length: 9 - from }, (_, index) => `${name} ${index + from}`);
  const by = (contents: string[], name: string) => contents.filter((content) => content.startsWith(name));
  for (const window of [casey, vera]) {
    await expect.poll(async () => by(await window.contents(), "casey")).toEqual(ofEach("casey", 0));
    await expect.poll(async () => by(await window.contents(), "vera")).toEqual(ofEach("vera", 1));
    await expect.poll(() => window.page.locator('[data-delivery="sending"]').count()).toBe(0);
  }
  expect(gatewayPid(stack)).not.toBe(killed);
  const stored = (await call<History>(stack, customer, "GET", `conversations/${conversation}/messages/`)).results.map(({ content }) => content);
  expect(stored).toHaveLength(17);
  expect(await casey.contents()).toEqual(stored);
  expect(await vera.contents()).toEqual(stored);
});
