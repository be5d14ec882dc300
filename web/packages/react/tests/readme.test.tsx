import { act, fireEvent, render, screen } from "@testing-library/react";
import { expect, test, vi } from "vitest";
import { ChatProvider } from "../src/index.ts";
import { FakeServer, ID, message } from "./server.ts";

test("the README's example is a chat", async () => {
  const server = new FakeServer([message(1, { content: "Hello from the README" })]);
  const urls: string[] = [];
  vi.stubGlobal("WebSocket", fakeWebSocket(server, urls));
  document.body.innerHTML = '<div id="chat"></div>';
  // Its own root, which no test's `act` knows of.
  vi.stubGlobal("IS_REACT_ACT_ENVIRONMENT", false);
  await import("readme:0.tsx");
  fireEvent.click(await screen.findByRole("button", { name: /^Vera/ }));
  await screen.findByText("Hello from the README");
  expect(urls).toEqual(["wss://chat.example.com/ws"]);
});

test("its hook talks", async () => {
  const server = new FakeServer([message(1, { content: "Anybody?" })]);
  const { Talk } = (await import("readme:1.tsx")) as { Talk: React.ComponentType<{ id: string }> };
  render(
    <ChatProvider url="https://chat.example/" token={() => Promise.resolve("t")} transport={server.transport}>
      <Talk id={ID} />
    </ChatProvider>,
  );
  await screen.findByText(/Anybody/);
  act(() => fireEvent.click(screen.getByRole("button", { name: "Say hello" })));
  await vi.waitFor(() => expect(server.messages.at(-1)?.content).toBe("Hello"));
});

/** A browser's sockets, over the fake server's transport. */
function fakeWebSocket(server: FakeServer, urls: string[]) {
  return class {
    static readonly OPEN = 1;
    readonly readyState = 1;
    onmessage?: (event: { data: string }) => void;
    onclose?: (event: { code: number; reason: string }) => void;
    readonly #line;

    constructor(url: string) {
      urls.push(url);
      this.#line = server.transport()("", {
        message: (data) => this.onmessage?.({ data }),
        closed: (code, reason) => this.onclose?.({ code, reason }),
      });
    }

    send(text: string): void {
      this.#line.send(text);
    }

    close(): void {
      this.#line.close();
    }
  };
}
