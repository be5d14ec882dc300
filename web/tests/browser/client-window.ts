import { join } from "node:path";
import type { BrowserContext, Page, Route, WebSocket } from "playwright-core";
import { rolldown } from "rolldown";
import type { Person } from "./stack.ts";

let script: Promise<string> | undefined;

/** A module with all that it imports, as a browser takes it; packages of the workspace from their sources. */
export async function bundle(input: string, conditions = ["@partyline/source"]): Promise<string> {
  const build = await rolldown({ input, platform: "browser", resolve: { conditionNames: [...conditions, "import", "browser", "default"] } });
  const { output } = await build.generate({ format: "esm" });
  await build.close();
  return output[0].code;
}

/** Answers what a page asks for a token, with the token that the server no longer takes. */
export type TokenOffice = (rejected: string) => string | Promise<string>;

export interface ClientOptions {
  person: Person;
  conversation: string;
  /** Where the gateway is. */
  url: string;
  /** `tabs`: one connection for all; `queue`: unsent messages are kept. */
  uses?: ("tabs" | "queue")[];
  tokens?: TokenOffice;
}

/** One tab with a page of nothing but the client. */
export class ClientWindow {
  /** What was opened to the gateway, from the first on. */
  readonly sockets: WebSocket[] = [];
  /** What came from the gateway. */
  readonly frames: string[] = [];
  /** What went wrong in the page's own code. */
  readonly problems: string[] = [];

  private constructor(readonly page: Page) {
    page.on("websocket", (socket) => {
      this.sockets.push(socket);
      socket.on("framereceived", ({ payload }) => this.frames.push(payload.toString()));
    });
    page.on("pageerror", (error) => this.problems.push(String(error)));
  }

  static async open(context: BrowserContext, { person, conversation, url, uses = [], tokens = () => person.token }: ClientOptions): Promise<ClientWindow> {
    script ??= bundle(join(import.meta.dirname, "client-page.ts"));
    const window = new ClientWindow(await context.newPage());
    const serve = (path: string, answer: (route: Route) => Promise<void>) => window.page.route(`${url}/client/${path}`, answer);
    await serve("*", (route) => route.fulfill({ contentType: "text/html", body: `<!doctype html><script type="module" src="script.js"></script>` }));
    await serve("script.js", async (route) => route.fulfill({ contentType: "text/javascript", body: await script }));
    await serve("token", async (route) => {
      const token = await tokens(route.request().postData() ?? "");
      await route.fulfill(token ? { contentType: "text/plain", body: token } : { status: 503 });
    });
    const address = new URLSearchParams({ user: person.userId, conversation, ...Object.fromEntries(uses.map((use) => [use, ""])) });
    await window.page.goto(`${url}/client/?${address}`);
    return window;
  }

  /** Sends, and waits for nothing. */
  send(...contents: string[]): Promise<void> {
    return this.page.evaluate((list) => {
      for (const content of list) {
        void window.conversation.send(content).then(() => window.stored.push(content), () => undefined);
      }
    }, contents);
  }

  contents(): Promise<string[]> {
    return this.page.evaluate(() => window.conversation.getSnapshot().messages.map(({ content }) => content));
  }

  states(): Promise<string[]> {
    return this.page.evaluate(() => window.conversation.getSnapshot().messages.map(({ content, state }) => `${content}: ${state}`));
  }

  /** What the page was told to be stored. */
  stored(): Promise<string[]> {
    return this.page.evaluate(() => window.stored);
  }

  connection(): Promise<string> {
    return this.page.evaluate(() => window.chat.getSnapshot().connection.kind);
  }

  phase(): Promise<string> {
    return this.page.evaluate(() => window.conversation.getSnapshot().phase);
  }

  /** Everything that is in the log, in order: asks for older pages up to the beginning. */
  history(): Promise<string[]> {
    return this.page.evaluate(async () => {
      const { conversation } = window;
      while (conversation.getSnapshot().hasOlder) await conversation.loadOlder();
      return conversation.getSnapshot().messages.map(({ content }) => content);
    });
  }

  close(): Promise<void> {
    return this.page.close();
  }
}
