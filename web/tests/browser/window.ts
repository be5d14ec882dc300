import { type Browser, type BrowserContextOptions, chromium, type Locator, type Page } from "playwright-core";
import { type Person, required } from "./stack.ts";

export function launch(): Promise<Browser> {
  // Chromium's sandbox refuses root.
  const isRoot = process.getuid?.() === 0;
  return chromium.launch({ executablePath: required("PARTYLINE_CHROMIUM"), args: isRoot ? ["--no-sandbox"] : [] });
}

export interface WindowOptions extends BrowserContextOptions {
  /** Who is signed in; nobody unless given. */
  person?: Person;
  /** A demo person, or `both`, in the address. */
  as?: string;
  /** The conversation that is open from the start. */
  conversation?: string;
}

/** One window of somebody's browser, with storage of its own. */
export class ChatWindow {
  /** What went wrong in the page's own code. */
  readonly problems: string[] = [];

  private constructor(readonly page: Page) {
    page.on("pageerror", (error) => this.problems.push(String(error)));
    // The console also reports a cut network, a refused token and a gateway that can't answer yet: not problems of the page.
    page.on("console", (line) => line.type() === "error" && !/net::ERR_|WebSocket connection|status of (401|503)/.test(line.text()) && this.problems.push(line.text()));
  }

  static async open(browser: Browser, url: string, { person, as, conversation, ...options }: WindowOptions = {}): Promise<ChatWindow> {
    const context = await browser.newContext({ locale: "en-GB", ...options });
    if (person) await context.addInitScript((token) => sessionStorage.setItem("partyline.token", token), person.token);
    const window = new ChatWindow(await context.newPage());
    await window.page.goto(`${url}/${as === undefined ? "" : `?as=${as}`}${conversation === undefined ? "" : `#/${conversation}`}`);
    return window;
  }

  close(): Promise<void> {
    return this.page.context().close();
  }

  /** What the messages of the log say, in order: those that are drawn, which are all near to what is in sight. */
  contents(): Promise<string[]> {
    return this.page.locator(".pl-message .pl-content").allTextContents();
  }

  /** What all messages of the conversation say, in order: scrolls up to its beginning. */
  async history(): Promise<string[]> {
    const log = this.page.getByTestId("log");
    return log.evaluate(async (element) => {
      const found = new Map<number, string>();
      const collect = () => {
        for (const message of element.querySelectorAll<HTMLElement>(".pl-message[data-seq]")) {
          found.set(Number(message.dataset.seq), message.querySelector(".pl-content")?.textContent ?? "");
        }
      };
      const frame = () => new Promise((resolve) => requestAnimationFrame(resolve));
      element.scrollTop = element.scrollHeight;
      const isBegun = () => element.scrollTop === 0 && element.querySelector(".pl-log-top")?.textContent === "The conversation begins here.";
      for (let count = 0; count === 0 || !isBegun(); count++) {
        element.scrollTop -= element.clientHeight;
        await frame();
        await frame();
        collect();
      }
      element.scrollTop = element.scrollHeight;
      return [...found].sort(([a], [b]) => a - b).map(([, text]) => text);
    });
  }

  row(content: string): Locator {
    return this.page.locator(".pl-row", { hasText: content });
  }

  /** How far a message of one's own is: "sending", "failed", "sent", "delivered", "read". */
  delivery(content: string): Promise<string | null> {
    return this.row(content).locator(".pl-message").getAttribute("data-delivery");
  }

  get input(): Locator {
    return this.page.getByLabel("Message", { exact: true });
  }

  async send(content: string): Promise<void> {
    await this.input.fill(content);
    await this.input.press("Enter");
  }

  /** Under the name of whom one talks with: "online", "typing…". */
  subtitle(): Promise<string | null> {
    return this.page.getByTestId("subtitle").textContent();
  }

  connection(): Promise<string | null> {
    return this.page.getByTestId("connection").textContent();
  }

  /** A conversation in the list. */
  item(title: string): Locator {
    return this.page.getByTestId("conversations").locator("li", { hasText: title });
  }

  /** How many messages of it are unread; empty for none. */
  async unread(title: string): Promise<string> {
    return (await this.item(title).locator('.pl-badge > [aria-hidden="true"]').allTextContents()).join();
  }
}
