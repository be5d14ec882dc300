import { act, fireEvent, render, screen, within } from "@testing-library/react";
import { StrictMode } from "react";
import { expect, test, vi } from "vitest";
import { ChatProvider, CustomerChat, useChat, VendorChat } from "../src/index.ts";
import { FakeServer, ID, ME, message, OTHER } from "./server.ts";

function provide(server: FakeServer, children: React.ReactNode, more: object = {}) {
  return render(
    <StrictMode>
      <ChatProvider url="https://chat.example/" token={() => Promise.resolve("a.b.c")} transport={server.transport} locale="en-GB" {...more}>
        {children}
      </ChatProvider>
    </StrictMode>,
  );
}

const field = () => screen.getByLabelText<HTMLTextAreaElement>("Message");
const contents = () => [...document.querySelectorAll(".pl-content")].map((it) => it.textContent);
const row = (content: string) => screen.getByText(content).closest("article") as HTMLElement;

function write(content: string): void {
  fireEvent.change(field(), { target: { value: content } });
  fireEvent.keyDown(field(), { key: "Enter" });
}

test("a customer opens a conversation, reads, writes, and sees that it was read", async () => {
  const server = new FakeServer([message(1, { content: "See https://example.org/menu." })]);
  provide(server, <CustomerChat />);
  fireEvent.click(await screen.findByRole("button", { name: /^Vera/ }));
  const link = await screen.findByRole("link", { name: "https://example.org/menu" });
  expect(link.getAttribute("rel")).toContain("noopener");
  await vi.waitFor(() => expect(server.last("mark_read")?.seq).toBe(1));

  fireEvent.change(field(), { target: { value: "Thank" } });
  await vi.waitFor(() => expect(server.last("typing")?.is_typing).toBe(true));
  write("Thanks!");
  expect(contents()).toContain("Thanks!");
  await within(row("Thanks!")).findByText("Delivered");
  expect(field().value).toBe("");
  act(() => server.tell({ type: "read", conversation_id: ID, seq: 3, prev_seq: 2, user_id: OTHER, last_read_seq: 2 }));
  await within(row("Thanks!")).findByText("Read");

  act(() => server.tell({ type: "typing", conversation_id: ID, user_id: OTHER, username: "Vera", is_typing: true }));
  expect(screen.getByTestId("subtitle").textContent).toBe("typing…");
  act(() => server.say({ prev_seq: 3, seq: 4, content: "Good." }));
  expect(contents().at(-1)).toBe("Good.");
  await screen.findByText("Vera: Good."); // read out
  expect(screen.getByTestId("subtitle").textContent).toBe("online");
});

test("a message that is refused says why, and can be tried again; one without a connection waits", async () => {
  const server = new FakeServer();
  provide(server, <CustomerChat />, { defaultConversationId: ID });
  await screen.findByText("The conversation begins here.");
  server.refusing = "invalid_content";
  write("Rude");
  await screen.findByText("Not sent: no such words");
  server.refusing = undefined;
  fireEvent.click(screen.getByRole("button", { name: "Try again" }));
  await within(row("Rude")).findByText("Delivered");
  expect(server.messages).toHaveLength(1);

  act(() => server.cut());
  write("Hello?");
  expect(within(row("Hello?")).getByText("Waiting for a connection")).toBeTruthy();
  expect(screen.getByTestId("connection").textContent).toBe("No connection");
  await screen.findByText(/Trying again in \d+ s/);
  server.isDown = false;
  fireEvent.click(screen.getByRole("button", { name: "Try now" }));
  await within(row("Hello?")).findByText("Delivered");
  expect(server.messages.map(({ content }) => content)).toEqual(["Rude", "Hello?"]);
});

test("messages are drawn by their type, or by a renderer of one's own; a divider stands before what is unread", async () => {
  const server = new FakeServer([
    message(1, { sender_id: ME, content: "A quote, please" }),
    message(2, { message_type: "quote", content: "Menu: £5,240", metadata: { title: "Summer menu", amount: 5240, currency: "GBP", valid_until: "2026-07-01" } }),
    message(3, { message_type: "booking_update", content: "", metadata: { status: "confirmed", starts_at: "2026-06-14" } }),
    message(4, { message_type: "file", content: "menu.pdf", metadata: { url: "https://example.org/menu.pdf", name: "menu.pdf", size: 120_000 } }),
    message(5, { message_type: "delivery_note", content: "Three boxes" }),
    message(6, { message_type: "sticker", metadata: { name: "cake" } }),
    message(7, { content: "", deleted_at: "2026-06-14T11:00:00Z" }),
  ]);
  server.readMarkers = { [ME]: 1 };
  const renderers = { sticker: ({ message: { metadata } }: { message: { metadata: Record<string, unknown> } }) => <b>sticker of {String(metadata.name)}</b> };
  provide(server, <CustomerChat />, { defaultConversationId: ID, renderers });
  const quote = (await screen.findByText("Summer menu")).closest("article") as HTMLElement;
  for (const part of ["£5,240.00", "Valid until 1 July 2026", "Menu: £5,240"]) within(quote).getByText(part);
  screen.getByText("Confirmed");
  expect(document.querySelector(".pl-card-when")?.textContent).toBe("14 June 2026");
  expect(screen.getByRole("link", { name: /^menu\.pdf/ }).getAttribute("href")).toBe("https://example.org/menu.pdf");
  screen.getByText("delivery note");
  screen.getByText("sticker of cake");
  expect(contents()).toContain("Message deleted");
  expect(quote.previousElementSibling?.textContent).toBe("New messages");
  expect(document.querySelectorAll(".pl-new")).toHaveLength(1);
});

test("a message of mine is written anew by the up arrow, and asked about before it is deleted", async () => {
  const server = new FakeServer([message(1, { sender_id: ME, content: "Friday at nine" }), message(2)]);
  provide(server, <CustomerChat />, { defaultConversationId: ID });
  await screen.findByText("Friday at nine");
  fireEvent.keyDown(field(), { key: "ArrowUp" });
  expect(field().value).toBe("Friday at nine");
  write("Friday at ten");
  await vi.waitFor(() => expect(server.last("edit_message")).toMatchObject({ seq: 1, content: "Friday at ten" }));
  expect(field().value).toBe("");

  // From the log the arrows walk to it.
  const log = screen.getByRole("log");
  log.focus();
  for (let count = 0; count < 2; count++) fireEvent.keyDown(document.activeElement ?? log, { key: "ArrowUp" });
  expect(document.activeElement).toBe(row("Friday at nine"));
  fireEvent.keyDown(row("Friday at nine"), { key: "Enter" });
  fireEvent.click(screen.getByRole("button", { name: "Delete" }));
  expect(server.last("delete_message")).toBeUndefined();
  fireEvent.click(screen.getByRole("button", { name: "Delete for everybody?" }));
  await vi.waitFor(() => expect(server.last("delete_message")?.seq).toBe(1));
});

test("a vendor searches, sees what is unread, and makes a quote", async () => {
  const server = new FakeServer();
  provide(server, <VendorChat currency="GBP" />);
  const items = () => within(screen.getByTestId("conversations")).queryAllByRole("button").map((it) => it.querySelector(".pl-title")?.textContent);
  await vi.waitFor(() => expect(items()).toEqual(["Vera", "Luna Florals"]));
  fireEvent.change(screen.getByLabelText("Search"), { target: { value: "rose" } });
  expect(items()).toEqual(["Luna Florals"]);
  fireEvent.change(screen.getByLabelText("Search"), { target: { value: "" } });
  fireEvent.click(screen.getByRole("button", { name: "Unread" }));
  expect(items()).toEqual(["Luna Florals"]);
  fireEvent.click(screen.getByRole("button", { name: "All" }));

  fireEvent.click(screen.getByRole("button", { name: /^Vera/ }));
  fireEvent.click(await screen.findByRole("button", { name: "Make a quote" }));
  fireEvent.change(screen.getByLabelText("What for"), { target: { value: "Flowers" } });
  fireEvent.change(screen.getByLabelText("Amount (GBP)"), { target: { value: "99.50" } });
  fireEvent.submit(screen.getByRole("form", { name: "Make a quote" }));
  await vi.waitFor(() =>
    expect(server.last("send_message")).toMatchObject({ message_type: "quote", content: "Flowers: £99.50", metadata: { title: "Flowers", amount: 99.5, currency: "GBP" } }),
  );
  expect(screen.queryByRole("form", { name: "Make a quote" })).toBeNull();
});

test("the list shows an edit and a deletion of a last message, and counts the deleted one no more", async () => {
  const server = new FakeServer();
  provide(server, <CustomerChat />);
  const item = () => screen.getByRole("button", { name: /^Luna Florals/ });
  await vi.waitFor(() => expect(item().textContent).toContain("Roses?"));
  const news = (reason: string, unread_count: number, change: object) => {
    const last_message = { type: "new_message", ...message(1, { conversation_id: "c2", ...change }) };
    act(() => server.tell({ type: "conversation_updated", conversation_id: "c2", reason, last_message, unread_count }));
  };
  news("edited", 2, { content: "Tulips?", edited_at: message(2).created_at });
  expect(item().textContent).toContain("Tulips?");
  expect(item().textContent).toContain("2");
  news("deleted", 1, { content: "", deleted_at: message(3).created_at });
  expect(item().textContent).toContain("Message deleted");
  expect(item().textContent).not.toMatch(/Roses|Tulips/);
  within(item()).getByText("1");
});

test("drafts wait in their conversations, and too long a message can't be sent", async () => {
  const server = new FakeServer();
  provide(server, <CustomerChat />);
  fireEvent.click(await screen.findByRole("button", { name: /^Vera/ }));
  fireEvent.change(field(), { target: { value: "half a sen" } });
  fireEvent.click(screen.getByRole("button", { name: /^Luna Florals/ }));
  expect(field().value).toBe("");
  write("x".repeat(21)); // the server told 20
  screen.getByText("21 / 20");
  expect(screen.getByRole<HTMLButtonElement>("button", { name: "Send" }).disabled).toBe(true);
  fireEvent.click(screen.getByRole("button", { name: /^Vera/ }));
  expect(field().value).toBe("half a sen");
  expect(server.last("send_message")).toBeUndefined();
});

test("one connection as long as it is mounted, in strict mode too; hooks say who forgot the provider", async () => {
  const server = new FakeServer();
  const { unmount } = provide(server, <CustomerChat />);
  await screen.findByText("Connected");
  expect([server.dialled, server.connections]).toEqual([1, 1]);
  unmount();
  await vi.waitFor(() => expect(server.connections).toBe(0));

  vi.spyOn(console, "error").mockImplementation(() => {});
  const Stray = () => <p>{useChat().unreadCount}</p>;
  expect(() => render(<Stray />)).toThrow("<ChatProvider>");
});
