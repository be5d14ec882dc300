import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect } from "vitest";
import { install, pack } from "../pack.ts";
import { bundle } from "./client-window.ts";
import { test } from "./fixtures.ts";
import { call, say } from "./stack.ts";

const PACKAGE = join(import.meta.dirname, "../../packages/client");
/** What the example takes for its own: its server, and whom it talks with. */
const SERVER = "https://chat.example.com/";
const OTHER = '"vera"';

let project: string;

/** The example as a user of the package has it: the package as it is published, installed beside it. */
beforeAll(() => {
  project = mkdtempSync(join(tmpdir(), "partyline-example-"));
  const packed = pack(PACKAGE);
  install(packed, project);
  packed.remove();
}, 60_000);

afterAll(() => rmSync(project, { recursive: true }));

test("the README's first example is a chat, as it stands there", async ({ browser, stack, couple: { customer, vendor, conversation } }) => {
  const [, example = ""] = /```ts\n(.*?)```/s.exec(readFileSync(join(PACKAGE, "README.md"), "utf8")) ?? [];
  for (const part of [SERVER, OTHER]) expect(example.split(part)).toHaveLength(2);
  expect(example.trim().split("\n").filter(Boolean).length).toBeLessThanOrEqual(10);
  const entry = join(project, "example.ts");
  writeFileSync(entry, example.replace(SERVER, `${stack.url}/`).replace(OTHER, JSON.stringify(vendor.userId)));
  const script = await bundle(entry, []);

  const context = await browser.newContext({ permissions: ["local-network-access"] });
  try {
    const page = await context.newPage();
    const problems: string[] = [];
    page.on("pageerror", (error) => problems.push(String(error)));
    const body = `<!doctype html><input><pre><output></output></pre><script type="module">${script.replaceAll("</script", "<\\/script")}</script>`;
    await page.route(`${stack.url}/example`, (route) => route.fulfill({ contentType: "text/html", body }));
    await page.route(`${stack.url}/chat-token`, (route) => route.fulfill({ contentType: "text/plain", body: customer.token }));
    await page.goto(`${stack.url}/example`);

    // The example listens once the conversation is found.
    await page.waitForFunction(() => document.querySelector("input")?.onchange);
    await page.locator("input").fill("Is the 14th still free?");
    await page.locator("input").blur();
    const stored = () => call<{ results: { content: string }[] }>(stack, vendor, "GET", `conversations/${conversation}/messages/`);
    await expect.poll(async () => (await stored()).results.map(({ content }) => content)).toEqual(["Is the 14th still free?"]);
    await say(stack, conversation, vendor, "It is.");
    await call(stack, vendor, "POST", `conversations/${conversation}/mark_read/`);
    await expect.poll(() => page.locator("output").textContent()).toBe("Casey: Is the 14th still free? (read)\nVera: It is. (delivered)");
    expect(problems).toEqual([]);
  } finally {
    await context.close();
  }
});
