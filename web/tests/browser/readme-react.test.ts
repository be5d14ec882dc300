import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { build } from "vite";
import { afterAll, beforeAll, expect } from "vitest";
import { install, pack } from "../pack.ts";
import { test } from "./fixtures.ts";
import { say } from "./stack.ts";

const WEB = join(import.meta.dirname, "../..");
/** What the example takes for its own. */
const SERVER = "https://chat.example.com";

let project: string;

/** The packages as they are published, installed beside what npm would install with them. */
beforeAll(() => {
  project = mkdtempSync(join(tmpdir(), "partyline-example-"));
  for (const name of ["client", "react"]) {
    const packed = pack(join(WEB, "packages", name));
    install(packed, project);
    packed.remove();
  }
  mkdirSync(join(project, "node_modules/@tanstack"), { recursive: true });
  for (const name of ["react", "react-dom", "@tanstack/react-virtual"]) symlinkSync(join(WEB, "node_modules", name), join(project, "node_modules", name));
}, 60_000);

afterAll(() => rmSync(project, { recursive: true }));

test("the React README's first example is a chat, as it stands there, with its styles", async ({ browser, stack, couple: { customer, vendor, conversation } }) => {
  const [, example = ""] = /```tsx\n(.*?)```/s.exec(readFileSync(join(WEB, "packages/react/README.md"), "utf8")) ?? [];
  expect(example.split(SERVER)).toHaveLength(2);
  writeFileSync(join(project, "example.tsx"), example.replace(SERVER, stack.url));
  writeFileSync(join(project, "index.html"), `<!doctype html><div id="chat" style="height: 600px"></div><script type="module" src="./example.tsx"></script>`);
  await build({ root: project, configFile: false, logLevel: "error", base: "/example/", build: { cssTarget: ["chrome123"] } });

  const context = await browser.newContext({ permissions: ["local-network-access"] });
  try {
    const page = await context.newPage();
    const problems: string[] = [];
    page.on("pageerror", (error) => problems.push(String(error)));
    await page.route(`${stack.url}/example/**`, (route) => route.fulfill({ path: join(project, "dist", new URL(route.request().url()).pathname.replace("/example/", "") || "index.html") }));
    await page.route(`${stack.url}/chat-token`, (route) => route.fulfill({ contentType: "text/plain", body: customer.token }));
    await say(stack, conversation, vendor, "Welcome!");
    await page.goto(`${stack.url}/example/`);
    await page.getByRole("button", { name: /^Vera/ }).click();
    await page.getByText("Welcome!").last().waitFor();
    await page.getByLabel("Message", { exact: true }).fill("Thank you");
    await page.getByLabel("Message", { exact: true }).press("Enter");
    await page.locator('[data-delivery="sent"]', { hasText: "Thank you" }).waitFor();
    expect(await page.locator(".pl-panes").evaluate((element) => getComputedStyle(element).display)).toBe("grid");
    expect(problems).toEqual([]);
  } finally {
    await context.close();
  }
});
