/**
 * Pictures of the chat page for the documentation, in `docs/images`: a customer and three vendors really talk, over a
 * stack of their own. `npm run screenshots` with PARTYLINE_CHROMIUM and PARTYLINE_DEVSTACK set, as `make test` does.
 */
import { randomUUID } from "node:crypto";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { call, converse, type Person, person, Stack } from "./stack.ts";
import { ChatWindow, launch } from "./window.ts";

const FOLDER = join(import.meta.dirname, "../../../docs/images");

const stack = await Stack.start();
const browser = await launch();
try {
  await picture();
} finally {
  await browser.close();
  await stack.stop();
}

async function picture(): Promise<void> {
  const { info } = stack;
  const maya = person(info, "Maya Lindqvist", "customer", "maya");
  const ember = person(info, "Oak & Ember Catering", "vendor", "oak");
  const luna = person(info, "Luna Florals", "vendor", "luna");
  const harbour = person(info, "Harbour House", "vendor", "harbour");

  const say = (conversation: string) => (who: Person, content: string, more: object = {}) =>
    call<{ seq: number }>(info, who, "POST", `conversations/${conversation}/messages/`, { client_id: randomUUID(), content, message_type: "text", metadata: {}, ...more });

  const terrace = await converse(info, maya, harbour);
  const venue = say(terrace);
  await venue(harbour, "The terrace is yours from noon. Keys are at the front desk.");
  await venue(maya, "Wonderful, see you then.");
  await call(info, maya, "POST", `conversations/${terrace}/mark_read/`);

  const main = await converse(info, maya, ember);
  const talk = say(main);
  await talk(maya, "Hi! We're 80 guests on Saturday 14 June. Is the late summer menu still possible?");
  await talk(ember, "Hello Maya! It is, and we kept the date for you.");
  await talk(ember, "Any allergies we should plan for?");
  const allergies = await talk(maya, "Two guests eat gluten-free, one is allergic to nuts.");
  await talk(ember, "No problem at all, the whole menu works without nuts.", { reply_to: allergies.seq });
  await talk(ember, "80 guests, three courses, staff until midnight: £5,240", { message_type: "quote" });
  await talk(maya, "That's within our budget 🎉");
  await talk(maya, "Can you bring the long tables as well?");

  const flowers = say(await converse(info, maya, luna));
  await flowers(luna, "Your sample bouquet is ready!");
  await flowers(luna, "Shall I send a photo, or would you like to drop by?");

  mkdirSync(FOLDER, { recursive: true });
  // A blinking caret is no part of a picture.
  const shoot = (window: ChatWindow, name: string) => window.page.screenshot({ path: join(FOLDER, `${name}.png`), caret: "hide", animations: "disabled" });
  const phone = { viewport: { width: 412, height: 915 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true };
  const desktop = { viewport: { width: 1200, height: 800 }, deviceScaleFactor: 1.5 };
  const open = async (who: Person, options: object) => {
    const window = await ChatWindow.open(browser, info.url, { ...options, person: who, conversation: main });
    await window.row("long tables").waitFor();
    return window;
  };

  const vendor = await open(ember, phone);
  const customer = await open(maya, desktop);
  await customer.row("long tables").locator(".delivery", { hasText: "Read" }).waitFor();
  await vendor.row("£5,240").locator(".delivery", { hasText: "Read" }).waitFor();
  await vendor.page.getByText("online", { exact: true }).waitFor();
  await shoot(vendor, "phone");

  await customer.item("Oak & Ember").locator(".badge").waitFor({ state: "hidden" });
  await vendor.input.pressSequentially("We can");
  await customer.page.getByTestId("subtitle").getByText("typing…").waitFor();
  await shoot(customer, "desktop");

  await vendor.send("We can, ten of them.");
  const dark = await open(maya, { ...desktop, colorScheme: "dark" });
  await dark.item("Oak & Ember").locator(".badge").waitFor({ state: "hidden" });
  await shoot(dark, "desktop-dark");
}
