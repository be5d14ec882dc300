import type { Browser, BrowserContext } from "playwright-core";
import { expect } from "vitest";
import { type ClientOptions, ClientWindow } from "./client-window.ts";
import { test as base } from "./fixtures.ts";
import type { Road } from "./road.ts";
import { call, gatewayPid, type Person, person, type StackInfo, tokenOf } from "./stack.ts";

interface Fixtures {
  /** A browser of one person: its tabs share storage. */
  newBrowser(): Promise<BrowserContext>;
}

const test = base.extend<Fixtures>({
  newBrowser: async ({ browser }: { browser: Browser }, use: (open: () => Promise<BrowserContext>) => Promise<void>) => {
    const contexts: BrowserContext[] = [];
    await use(async () => {
      // What Playwright answers in the gateway's place counts as not of this machine, which the gateway is.
      const context = await browser.newContext({ permissions: ["local-network-access"] });
      contexts.push(context);
      return context;
    });
    await Promise.all(contexts.map((context) => context.close()));
  },
});

const numbered = (name: string, count: number) => Array.from({ length: count }, (_, index) => `${name} ${index + 1}`);

const isReady = ({ url }: StackInfo) => fetch(`${url}/readyz`).then(({ ok }) => ok, () => false);

/** What the server holds, oldest first. */
async function storedOnServer(stack: StackInfo, who: Person, conversation: string): Promise<string[]> {
  const { results } = await call<{ results: { content: string }[] }>(stack, who, "GET", `conversations/${conversation}/messages/?limit=200`);
  return results.map(({ content }) => content);
}

test("200 messages while the gateway is killed 5 times: all there, in order, once each, for both", async ({ open, stack, couple: { customer, vendor, conversation } }) => {
  const casey = await open({ person: customer, conversation });
  const vera = await open({ person: vendor, conversation });
  await casey.send("message 0");
  await expect.poll(() => vera.contents()).toEqual(["message 0"]);

  let kills = 0;
  let killed: number | undefined;
  for (let count = 1; count < 200; count++) {
    await casey.send(`message ${count}`);
    // Not waiting for answers: some are on their way. The one before is back, so that each kill meets a living one.
    if (count % 33 === 0 && kills < 5) {
      await expect.poll(() => gatewayPid(stack)).not.toBe(killed);
      await expect.poll(() => isReady(stack)).toBe(true);
      // Twice they come back by themselves; then, as back-off grows, because the browser says that there is a network.
      if (kills > 2) for (const { page } of [casey, vera]) await page.evaluate(() => window.dispatchEvent(new Event("online")));
      await expect.poll(() => casey.connection(), { timeout: 20_000 }).toBe("Connected");
      killed = gatewayPid(stack);
      process.kill(killed ?? 0, "SIGKILL");
      kills++;
    }
  }
  expect(kills).toBe(5);
  await expect.poll(() => isReady(stack)).toBe(true);
  for (const { page } of [casey, vera]) await page.evaluate(() => window.dispatchEvent(new Event("online")));
  const all = Array.from({ length: 200 }, (_, index) => `message ${index}`);
  await expect.poll(() => storedOnServer(stack, customer, conversation).catch(() => []), { timeout: 60_000 }).toEqual(all);
  for (const window of [casey, vera]) {
    await expect.poll(async () => (await window.contents()).at(-1), { timeout: 30_000 }).toBe("message 199");
    expect(await window.history()).toEqual(all);
    await expect.poll(() => window.page.locator('[data-delivery="sending"]').count()).toBe(0);
  }
}, 120_000);

test("two tabs use one connection, and go on with another when the one that has it is closed", async ({ newBrowser, stack, couple: { customer, vendor, conversation } }) => {
  const options: ClientOptions = { person: customer, conversation, url: stack.url, uses: ["tabs"] };
  const context = await newBrowser();
  const first = await ClientWindow.open(context, options);
  await expect.poll(() => first.phase()).toBe("live");
  const second = await ClientWindow.open(context, options);
  const third = await ClientWindow.open(context, options);
  const vera = await ClientWindow.open(await newBrowser(), { ...options, person: vendor });
  for (const tab of [second, third, vera]) await expect.poll(() => tab.phase()).toBe("live");
  expect([first, second, third].map(({ sockets }) => sockets.length)).toEqual([1, 0, 0]);

  await Promise.all([first.send(...numbered("first", 5)), second.send(...numbered("second", 5)), vera.send("vera 1")]);
  await expect.poll(async () => (await storedOnServer(stack, customer, conversation)).length).toBe(11);
  const before = await storedOnServer(stack, customer, conversation);
  for (const tab of [first, second, third, vera]) await expect.poll(() => tab.contents()).toEqual(before);

  // Nobody waits: the second one's messages are on their way through the tab that closes.
  await second.send(...numbered("handed over", 20));
  await Promise.all([first.close(), vera.send(...numbered("meanwhile", 5))]);
  await expect.poll(() => second.stored(), { timeout: 20_000 }).toEqual([...numbered("second", 5), ...numbered("handed over", 20)]);
  await expect.poll(async () => (await storedOnServer(stack, customer, conversation)).length).toBe(36);
  const all = await storedOnServer(stack, customer, conversation);
  expect(all.filter((content) => content.startsWith("handed over"))).toEqual(numbered("handed over", 20));
  for (const tab of [second, third, vera]) await expect.poll(() => tab.contents()).toEqual(all);
  expect([second, third].map(({ sockets }) => sockets.filter((socket) => !socket.isClosed()).length).sort()).toEqual([0, 1]);
  expect([first, second, third, vera].flatMap(({ problems }) => problems)).toEqual([]);
});

test("what a closed tab left unsent, the next one sends, once and in order; so does one that is open already", async ({ newBrowser, road, stack, couple: { customer, vendor, conversation } }) => {
  const options: ClientOptions = { person: customer, conversation, url: road.url, uses: ["tabs", "queue"] };
  const context = await newBrowser();
  const vera = await ClientWindow.open(await newBrowser(), { ...options, person: vendor, url: stack.url, uses: [] });
  const tab = await ClientWindow.open(context, options);
  await tab.send("before");
  await expect.poll(() => vera.contents()).toEqual(["before"]);

  const cut = async (road: Road, tab: ClientWindow, ...contents: string[]) => {
    road.cut();
    await expect.poll(() => tab.connection()).not.toBe("online");
    await tab.send(...contents);
    await expect.poll(async () => (await tab.states()).slice(-contents.length)).toEqual(contents.map((content) => `${content}: sending`));
    // Written down: the browser's storage tells when.
    await expect.poll(() => kept(tab)).toBe(contents.length);
    await tab.close();
  };
  await cut(road, tab, ...numbered("unsent", 3));
  const next = await ClientWindow.open(context, options);
  await expect.poll(() => next.states()).toEqual(numbered("unsent", 3).map((content) => `${content}: sending`));
  road.mend();
  await expect.poll(() => vera.contents()).toEqual(["before", ...numbered("unsent", 3)]);
  await expect.poll(() => next.contents()).toEqual(["before", ...numbered("unsent", 3)]);
  await expect.poll(() => kept(next)).toBe(0);

  const other = await ClientWindow.open(context, options);
  await expect.poll(() => other.phase()).toBe("live");
  await cut(road, other, ...numbered("left", 3));
  road.mend();
  const all = ["before", ...numbered("unsent", 3), ...numbered("left", 3)];
  await expect.poll(() => vera.contents()).toEqual(all);
  await expect.poll(() => next.contents()).toEqual(all);
  await expect.poll(() => kept(next)).toBe(0);
});

test("what a closed chat left unsent, the next one of the same page sends", async ({ newBrowser, road, stack, couple: { customer, vendor, conversation } }) => {
  const casey = await ClientWindow.open(await newBrowser(), { person: customer, conversation, url: road.url, uses: ["queue"] });
  await expect.poll(() => casey.phase()).toBe("live");
  road.cut();
  await expect.poll(() => casey.connection()).not.toBe("online");
  await casey.send(...numbered("unsent", 3));
  await expect.poll(() => kept(casey)).toBe(3);
  await casey.page.evaluate(() => {
    window.chat.close();
    window.begin();
  });
  await expect.poll(() => casey.states()).toEqual(numbered("unsent", 3).map((content) => `${content}: sending`));
  road.mend();
  await expect.poll(() => storedOnServer(stack, vendor, conversation)).toEqual(numbered("unsent", 3));
  await expect.poll(() => kept(casey)).toBe(0);
});

/** How many messages the browser keeps for the page's person. */
function kept({ page }: ClientWindow): Promise<number> {
  return page.evaluate(async () => {
    const user = new URLSearchParams(location.search).get("user");
    const done = <T>(request: IDBRequest<T>) => new Promise<T>((resolve) => (request.onsuccess = () => resolve(request.result)));
    const database = await done(indexedDB.open(`partyline ${user}`));
    const count = await done(database.transaction("unsent").objectStore("unsent").count());
    database.close();
    return count;
  });
}

test("a token that ends is renewed without a break, or else by a new connection", async ({ newBrowser, stack, couple: { customer, vendor, conversation } }) => {
  const lasting = person(stack, customer.name, "customer", customer.userId).token;
  let isOfficeOpen = true;
  const asked: string[] = [];
  let short = tokenOf(stack, customer, 3);
  const casey = await ClientWindow.open(await newBrowser(), {
    person: customer,
    conversation,
    url: stack.url,
    tokens: (rejected) => {
      asked.push(rejected);
      if (!rejected) return short;
      return isOfficeOpen ? lasting : "";
    },
  });
  const vera = await ClientWindow.open(await newBrowser(), { person: vendor, conversation, url: stack.url });
  const ends = Date.now() + 3_000;
  await casey.send("before");
  await expect.poll(() => vera.contents()).toEqual(["before"]);
  await expect.poll(() => asked).toContain(short);
  await expect.poll(() => Date.now()).toBeGreaterThan(ends + 1_000);
  await casey.send("after its end");
  await expect.poll(() => vera.contents()).toEqual(["before", "after its end"]);
  expect(casey.sockets).toHaveLength(1);

  // Now nobody gives a new one in time.
  short = tokenOf(stack, customer, 3);
  isOfficeOpen = false;
  await casey.page.reload();
  await expect.poll(() => casey.phase()).toBe("live");
  await expect.poll(() => casey.connection(), { timeout: 10_000 }).not.toBe("online");
  await casey.send("without a token");
  isOfficeOpen = true;
  await expect.poll(() => vera.contents(), { timeout: 20_000 }).toEqual(["before", "after its end", "without a token"]);
  expect(casey.sockets.length).toBeGreaterThan(2);
  expect(casey.problems).toEqual([]);
});
