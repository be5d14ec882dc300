/**
 * Pictures of the chat page for the documentation, in `docs/images`: a customer and three vendors really talk, over a
 * stack of their own. `make screenshots` runs it, on a machine with a font for emoji (Debian's fonts-noto-color-emoji).
 */
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { call, converse, type Person, person, say, Stack } from "./stack.ts";
import { ChatWindow, launch } from "./window.ts";

const FOLDER = join(import.meta.dirname, "../../../docs/images");
const PHONE = { viewport: { width: 412, height: 892 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true };
const DESKTOP = { viewport: { width: 1200, height: 826 }, deviceScaleFactor: 1.5 };

const stack = await Stack.start();
const browser = await launch();
try {
  await pictures();
} finally {
  await browser.close();
  await stack.stop();
}

async function pictures(): Promise<void> {
  const { info } = stack;
  const maya = person(info, "Maya Lindqvist", "customer", "maya");
  const ember = person(info, "Oak & Ember Catering", "vendor", "oak");
  const talk = await furnish(maya, ember);
  mkdirSync(FOLDER, { recursive: true });
  for (const [name, who] of [["customer", maya], ["vendor", ember]] as const) {
    for (const [device, options] of [["desktop", DESKTOP], ["phone", PHONE]] as const) {
      for (const colorScheme of ["light", "dark"] as const) {
        // The other one is there, too.
        const other = await ChatWindow.open(browser, info.url, { person: who === maya ? ember : maya, conversation: talk });
        await other.row("long tables").waitFor();
        const window = await ChatWindow.open(browser, info.url, { ...options, colorScheme, person: who, conversation: talk });
        await window.row("long tables").waitFor();
        await window.page.getByTestId("subtitle").getByText("online", { exact: true }).waitFor();
        await window.page.locator('.pl-message[data-mine]:not([data-delivery="read"])').first().waitFor({ state: "detached" });
        await shoot(window, `${name}-${device}-${colorScheme}`);
        await Promise.all([window.close(), other.close()]);
      }
    }
  }
  await sideBySide();
}

/** A customer's conversations with three vendors, and a vendor's with more customers. Resolves to the one of the pictures. */
async function furnish(maya: Person, ember: Person): Promise<string> {
  const { info } = stack;
  const begin = async (one: Person, other: Person) => {
    const id = await converse(info, one, other);
    return async (who: Person, content: string) => {
      await say(info, id, who, content);
      // Whoever says something has read what was said before.
      await call(info, who, "POST", `conversations/${id}/mark_read/`);
    };
  };
  const harbour = person(info, "Harbour House", "vendor", "harbour");
  const venue = await begin(maya, harbour);
  await venue(harbour, "The terrace is yours from noon. Keys are at the front desk.");
  await venue(maya, "Wonderful, see you then.");

  const noor = person(info, "Noor Haddad", "customer", "noor");
  const wedding = await begin(noor, ember);
  await wedding(noor, "We would love to taste the tasting menu again!");
  await wedding(ember, "Come by on Thursday at six?");
  const ivo = person(info, "Ivo Marchetti", "customer", "ivo");
  const party = await begin(ivo, ember);
  await party(ivo, "Hello! Do you cater for twenty on a boat?");
  await party(ivo, "It has a small galley.");

  const id = await converse(info, maya, ember);
  const talk = (who: Person, content: string, more: object = {}) => say(info, id, who, content, more);
  await talk(maya, "Hi! We're 80 guests on Saturday 12 June. Is the late summer menu still possible?");
  await talk(ember, "Hello Maya! It is, and we kept the date for you. Any allergies?");
  const allergies = await talk(maya, "Two guests eat gluten-free, one is allergic to nuts.");
  await talk(ember, "No problem, the whole menu works without nuts: https://oakandember.example/menu", { reply_to: allergies.seq });
  const items = [
    { label: "Three courses, 80 guests", amount: 4_400 },
    { label: "Staff until midnight", amount: 840 },
  ];
  await talk(ember, "Late summer menu: £5,240.00", {
    message_type: "quote",
    metadata: { title: "Late summer menu", amount: 5_240, currency: "GBP", valid_until: "2026-12-15", items },
  });
  await talk(maya, "That's within our budget 🎉");
  await talk(ember, "Your date is booked.", {
    message_type: "booking_update",
    metadata: { title: "Lindqvist summer party", status: "confirmed", starts_at: "2027-06-12", reference: "Booking OE-2231" },
  });
  await talk(maya, "Can you bring the long tables as well?");

  const luna = person(info, "Luna Florals", "vendor", "luna");
  const flowers = await begin(maya, luna);
  await flowers(luna, "Your sample bouquet is ready!");
  await flowers(luna, "Shall I send a photo, or would you like to drop by?");
  return id;
}

/** The demo's two people in one window, one of them typing. */
async function sideBySide(): Promise<void> {
  const window = await ChatWindow.open(browser, stack.info.url, { ...DESKTOP, as: "both" });
  const { page } = window;
  const [casey, vera] = [page.getByLabel("Casey", { exact: true }), page.getByLabel("Vera", { exact: true })];
  const send = async (who: typeof casey, content: string) => {
    await who.getByLabel("Message", { exact: true }).fill(content);
    await who.getByLabel("Message", { exact: true }).press("Enter");
    await (who === casey ? vera : casey).locator(".pl-content", { hasText: content }).waitFor();
  };
  await send(casey, "Is the 14th still free?");
  await send(vera, "It is! Shall I keep it for you?");
  await send(casey, "Yes please. What would 40 guests cost?");
  await vera.getByRole("button", { name: "Make a quote" }).click();
  await vera.getByLabel("What for").fill("Garden lunch for 40");
  await vera.getByLabel("Amount (GBP)").fill("1850");
  await vera.getByRole("button", { name: "Send the quote" }).click();
  await casey.getByText("Garden lunch for 40", { exact: true }).waitFor();
  await casey.getByLabel("Message", { exact: true }).pressSequentially("That sounds good, let me ask", { delay: 140 });
  await vera.getByTestId("subtitle").getByText("typing…").waitFor();
  await shoot(window, "side-by-side");
}

/** A blinking caret is no part of a picture, nor what a mouse hovers over. */
async function shoot(window: ChatWindow, name: string): Promise<void> {
  await window.page.mouse.move(0, 0);
  await window.page.screenshot({ path: join(FOLDER, `${name}.png`), caret: "hide", animations: "disabled" });
}
