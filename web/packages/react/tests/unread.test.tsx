import { act, fireEvent, render, screen } from "@testing-library/react";
import { beforeEach, expect, test, vi } from "vitest";
import { ChatProvider, CustomerChat } from "../src/index.ts";
import { FakeServer, ID, ME, message } from "./server.ts";

const ROW_PX = 60;
const LOG_PX = 600;

beforeEach(() => {
  // As much of a layout as the log needs to know where it is scrolled to.
  vi.spyOn(HTMLElement.prototype, "offsetHeight", "get").mockImplementation(function (this: HTMLElement) {
    return this.classList.contains("pl-row") ? ROW_PX : LOG_PX;
  });
  vi.spyOn(HTMLElement.prototype, "scrollHeight", "get").mockImplementation(function (this: HTMLElement) {
    return Number.parseFloat(this.querySelector<HTMLElement>(".pl-rows")?.style.height ?? "0");
  });
});

/** One's own message, which is read, then so many of somebody else's. */
function unread(count: number): FakeServer {
  const server = new FakeServer(Array.from({ length: count + 1 }, (_, index) => message(index + 1, index === 0 ? { sender_id: ME } : {})));
  server.readMarkers = { [ME]: 1 };
  return server;
}

function open(server: FakeServer) {
  render(
    <ChatProvider url="https://chat.example/" token={() => Promise.resolve("a.b.c")} transport={server.transport} locale="en-GB" defaultConversationId={ID}>
      <CustomerChat />
    </ChatProvider>,
  );
}

const log = () => screen.getByRole("log");
const divider = () => document.querySelector(".pl-new");
const bar = () => document.querySelector(".pl-unread");
const marks = (server: FakeServer) => server.sent.flatMap((sent) => (sent.type === "mark_read" ? [sent.seq] : []));
/** Longer than what is read is kept back. */
const aMoment = () => act(() => new Promise((resolve) => setTimeout(resolve, 300)));

/** A document without a layout doesn't tell that it was scrolled. */
const scrolled = () => fireEvent.scroll(log());

async function standsBefore(content: string, again = () => {}): Promise<void> {
  await vi.waitFor(() => {
    again();
    expect(divider()?.nextElementSibling?.textContent ?? "").toContain(content);
  });
}

function scrollTo(top: number): void {
  log().scrollTop = top;
  scrolled();
}

function setVisible(isVisible: boolean): void {
  vi.spyOn(document, "visibilityState", "get").mockReturnValue(isVisible ? "visible" : "hidden");
  act(() => void document.dispatchEvent(new Event("visibilitychange")));
}

test("few unread messages are read at once, at the end", async () => {
  const server = unread(3);
  open(server);
  await screen.findByText("content 4");
  await vi.waitFor(() => expect(marks(server)).toEqual([4]));
  expect(divider()?.nextElementSibling?.textContent).toContain("content 2");
});

test("more unread than a page holds: opens where they begin, and they are read as they come into sight", async () => {
  const server = unread(120);
  open(server);
  await standsBefore("content 2");
  expect(bar()).toBeNull();
  await aMoment();
  expect(marks(server)).toEqual([11]);
  screen.getByRole("button", { name: "110 new messages: to the end" });

  // Where they begin is where the arrow keys begin, too.
  log().focus();
  fireEvent.keyDown(log(), { key: "ArrowDown" });
  expect(document.activeElement?.textContent).toContain("content 2");

  scrollTo(20 * ROW_PX);
  await aMoment();
  scrollTo(0);
  await aMoment();
  expect(marks(server)).toEqual([11, 29]);
  fireEvent.click(screen.getByRole("button", { name: "92 new messages: to the end" }));
  scrolled();
  await vi.waitFor(() => expect(marks(server)).toEqual([11, 29, 121]));
});

test("where everything is unread, the conversation opens at its beginning", async () => {
  const server = new FakeServer(Array.from({ length: 80 }, (_, index) => message(index + 1)));
  open(server);
  await screen.findByText("content 1");
  await aMoment();
  expect([divider(), log().scrollTop < ROW_PX, marks(server)]).toEqual([null, true, [10]]);
});

test("whoever answered elsewhere has read what is before that", async () => {
  const server = unread(120);
  server.say({ sender_id: ME });
  server.say();
  open(server);
  await standsBefore("content 123", scrolled);
  await vi.waitFor(() => expect(marks(server)).toEqual([123]));
  expect(bar()).toBeNull();
});

test("far more unread: opens at the end, of which nothing is read until somebody goes to the first", async () => {
  const server = unread(400);
  open(server);
  await screen.findByText("content 401");
  expect(bar()?.textContent).toContain("400 unread");
  await aMoment();
  act(() => server.say({ content: "one more" }));
  setVisible(false);
  setVisible(true);
  scrollTo(log().scrollHeight - LOG_PX - 10 * ROW_PX);
  scrollTo(log().scrollHeight - LOG_PX);
  await aMoment();
  expect([marks(server), divider(), bar() !== null]).toEqual([[], null, true]);

  fireEvent.click(screen.getByRole("button", { name: "To the first" }));
  expect(document.activeElement).toBe(log());
  await standsBefore("content 2", scrolled);
  await aMoment();
  expect([marks(server), bar()]).toEqual([[11], null]);
});

test("far more unread than anybody wants to see is marked as read", async () => {
  const server = unread(400);
  open(server);
  fireEvent.click(await screen.findByRole("button", { name: "Mark as read" }));
  await vi.waitFor(() => expect(marks(server)).toEqual([401]));
  expect(bar()).toBeNull();
  screen.getByText("content 401");
});

test("whoever answers has read, however much it was", async () => {
  const server = unread(400);
  open(server);
  await vi.waitFor(() => expect(bar()?.textContent).toContain("400 unread"));
  fireEvent.change(screen.getByLabelText("Message"), { target: { value: "Later!" } });
  fireEvent.keyDown(screen.getByLabelText("Message"), { key: "Enter" });
  await vi.waitFor(() => expect(marks(server)).toEqual([401]));
  expect(bar()).toBeNull();
});

test("older pages that can't be had leave what is unread unread, and can be asked for again", async () => {
  const server = unread(120);
  server.restRefuses = { status: 503, problem: { code: "unavailable", detail: "the database does not answer" } };
  open(server);
  await screen.findByText("50+ unread");
  await vi.waitFor(() => {
    scrolled();
    screen.getByText("content 121");
  });
  fireEvent.click(screen.getByRole("button", { name: "To the first" }));
  await vi.waitFor(() => expect(document.querySelector(".pl-notice")?.textContent).toBe("the database does not answer"));
  await aMoment();
  expect(marks(server)).toEqual([]);

  server.restRefuses = undefined;
  fireEvent.click(await screen.findByRole("button", { name: "To the first" }));
  await standsBefore("content 2", scrolled);
});

test("what came while nobody looked is where one comes back to", async () => {
  const server = unread(0);
  open(server);
  await screen.findByText("content 1");
  setVisible(false);
  for (let count = 2; count <= 31; count++) act(() => server.say());
  await aMoment();
  expect(marks(server)).toEqual([]);
  setVisible(true);
  await standsBefore("content 2");
  await aMoment();
  expect(marks(server)).toEqual([11]);
});

test("a conversation that is opened again opens at what came since", async () => {
  const server = unread(3);
  open(server);
  await vi.waitFor(() => expect(marks(server)).toEqual([4]));
  act(() => server.tell({ type: "read", conversation_id: ID, seq: 5, prev_seq: 4, user_id: ME, last_read_seq: 4, read_at: "" }));
  server.readMarkers = { [ME]: 4 };
  fireEvent.click(screen.getByRole("button", { name: /^Luna Florals/ }));
  await vi.waitFor(() => expect(server.last("leave_conversation")).toBeDefined(), { timeout: 3_000 });
  for (let seq = 6; seq <= 35; seq++) server.messages.push(message(seq));
  fireEvent.click(screen.getByRole("button", { name: /^Vera/ }));
  await standsBefore("content 6");
  await aMoment();
  expect(Math.max(...marks(server))).toBeLessThan(20);
});
