import { beforeEach, describe, expect, it, vi } from "vitest";
import type { Api } from "../src/api.ts";
import { Disconnected, Refusal } from "../src/errors.ts";
import { Conversations, type Followed } from "../src/list.ts";
import type { ListedConversation, Page } from "../src/rest.ts";
import type { ConversationUpdated, LogEvent, Message } from "../src/wire.ts";
import { ME, message, newMessage, OTHER, settle } from "./fake.ts";

const conversations = vi.fn<Api["conversations"]>();
const conversation = vi.fn<Api["conversation"]>();
let list: Conversations;
let followed: Followed[];

beforeEach(() => {
  vi.useFakeTimers();
  vi.spyOn(Math, "random").mockReturnValue(1);
  conversations.mockReset();
  conversation.mockReset();
  followed = [];
  list = new Conversations({ conversations, conversation } as unknown as Api, () => ME, () => followed);
});

/** A conversation whose last message has this `seq`; later means newer. */
function listed(id: string, seq: number, more: Partial<ListedConversation> = {}): ListedConversation {
  const last = message(seq, { conversation_id: id });
  const at = last.created_at;
  return { id, kind: "direct", title: null, participants: [], participant_count: 2, last_message: last, unread_count: 0, last_read_seq: 0, created_at: at, updated_at: at, ...more };
}

async function load(results: ListedConversation[], next?: string): Promise<void> {
  conversations.mockResolvedValueOnce({ results, next: next ?? null });
  await list.load();
}

function news(id: string, last: Message | null, unread: number | null, reason = "message"): ConversationUpdated {
  return { type: "conversation_updated", conversation_id: id, reason, last_message: last && { type: "new_message", ...last, conversation_id: id }, unread_count: unread };
}

const ids = () => list.getSnapshot().items.map(({ id }) => id);
const unread = (id: string) => list.get(id)?.unread_count;

describe("the list", () => {
  it("is asked for until it is had, unless nobody wants it any more", async () => {
    conversations.mockRejectedValue(new Disconnected());
    void list.load();
    await vi.advanceTimersByTimeAsync(500 + 1_000);
    expect(conversations).toHaveBeenCalledTimes(3);
    expect(list.getSnapshot()).toMatchObject({ isLoaded: false, problem: new Disconnected() });
    conversations.mockResolvedValue({ results: [listed("a", 1)], next: null });
    await vi.advanceTimersByTimeAsync(2_000);
    expect([ids(), vi.getTimerCount(), list.getSnapshot().problem]).toEqual([["a"], 0, undefined]);
    conversations.mockRejectedValue(new Disconnected());
    const loading = list.load();
    list.stop();
    await loading;
    expect(vi.getTimerCount()).toBe(0);
  });

  it("loses what is no longer mine, but not what stands on other pages or came meanwhile", async () => {
    await load([listed("c", 30), listed("b", 20)], "page 2");
    conversations.mockResolvedValueOnce({ results: [listed("a", 10)], next: null });
    await list.loadMore();
    let answer = (_: Page<ListedConversation>) => {};
    conversations.mockReturnValueOnce(new Promise((resolve) => (answer = resolve)));
    const loading = list.load();
    list.put(listed("new", 40));
    answer({ results: [listed("b", 20)], next: "page 2" });
    await loading;
    expect(ids()).toEqual(["new", "b", "a"]);
    expect(list.getSnapshot().hasMore).toBe(false);
  });

  it("keeps what an event told when an older answer arrives", async () => {
    await load([listed("a", 1)]);
    list.update(news("a", message(5), 4));
    await load([listed("a", 1)]);
    expect(list.get("a")).toMatchObject({ last_message: { seq: 5 }, unread_count: 4, updated_at: message(5).created_at });
  });
});

describe("news of a conversation that isn't open", () => {
  it("moves it to the top and brings the count of unread messages", async () => {
    await load([listed("b", 2), listed("a", 1)]);
    list.update(news("a", message(3), 7));
    expect([ids(), unread("a")]).toEqual([["a", "b"], 7]);
    list.update(news("a", null, 0, "read"));
    expect([ids(), unread("a"), list.get("a")?.last_message?.seq]).toEqual([["a", "b"], 0, 3]);
  });

  it("is counted here when the server can't: each message of others once", async () => {
    await load([listed("a", 1)]);
    list.update(news("a", message(2), null));
    list.update(news("a", message(2), null));
    list.update(news("a", message(3, { sender_id: ME }), null));
    list.update(news("a", null, null, "read"));
    expect(unread("a")).toBe(1);
  });

  it("shows what became of the last message, and what is unread without a deleted one", async () => {
    await load([listed("b", 9), listed("a", 5, { unread_count: 3 })]);
    const at = message(6).created_at;
    list.update(news("a", message(5, { content: "better", edited_at: at }), 3, "edited"));
    expect(list.get("a")).toMatchObject({ last_message: { seq: 5, content: "better" }, unread_count: 3, updated_at: message(5).created_at });
    // One before the last.
    list.update(news("a", null, 2, "deleted"));
    expect(list.get("a")).toMatchObject({ last_message: { content: "better" }, unread_count: 2 });
    list.update(news("a", message(5, { content: "", deleted_at: at }), 1, "deleted"));
    expect(list.get("a")).toMatchObject({ last_message: { seq: 5, content: "", deleted_at: at }, unread_count: 1 });
    expect(ids()).toEqual(["b", "a"]);
  });

  it("doesn't bring back what was deleted, from another node or from an answer that was made before", async () => {
    await load([listed("a", 5, { unread_count: 1 })]);
    const at = message(6).created_at;
    list.update(news("a", message(5, { content: "", deleted_at: at }), 0, "deleted"));
    list.update(news("a", message(5, { content: "better", edited_at: at }), 0, "edited"));
    await load([listed("a", 5, { unread_count: 1 })]);
    expect(list.get("a")).toMatchObject({ last_message: { content: "", deleted_at: at }, unread_count: 0 });
    list.update(news("a", message(7), 1));
    expect(list.get("a")).toMatchObject({ last_message: { seq: 7 }, unread_count: 1 });
  });

  it("that isn't listed, or was changed in who takes part, is asked for", async () => {
    await load([listed("a", 1), listed("gone", 2)]);
    conversation.mockResolvedValueOnce(listed("new", 3));
    list.update(news("new", null, null, "added"));
    conversation.mockRejectedValueOnce(new Refusal("forbidden", "Not yours"));
    list.update(news("gone", null, null, "removed"));
    conversation.mockRejectedValueOnce(new Disconnected());
    list.update(news("a", null, null, "removed"));
    await settle();
    expect(ids()).toEqual(["new", "a"]);
  });
});

describe("an open conversation", () => {
  const news = (last_read_seq: number): Followed => ({ id: "a", news: () => ({ last_read_seq, unread_count: 2 }) });

  it("knows better than the list, also than an answer that comes later", async () => {
    await load([listed("a", 9, { unread_count: 9 })]);
    list.follow(news(5));
    expect(unread("a")).toBe(2);
    followed = [news(6)];
    await load([listed("a", 9, { unread_count: 9 })]);
    expect(list.get("a")).toMatchObject({ unread_count: 2, last_read_seq: 6 });
  });

  it("that tells nothing new is no change", async () => {
    await load([listed("a", 9, { unread_count: 9 })]);
    const listener = vi.fn();
    list.subscribe(listener);
    list.follow(news(5));
    const before = list.getSnapshot();
    list.follow(news(5));
    expect([listener.mock.calls.length, list.getSnapshot() === before]).toEqual([1, true]);
  });
});

describe("an event that only another tab asked for", () => {
  it("moves its conversation to the top, and asks for what it can't tell", async () => {
    await load([listed("b", 2), listed("a", 1)]);
    list.overhear({ ...newMessage(3), conversation_id: "a" });
    expect([ids(), unread("a"), list.get("a")?.last_message]).toMatchObject([["a", "b"], 1, message(3, { conversation_id: "a" })]);
    const read: LogEvent = { type: "read", conversation_id: "a", seq: 4, prev_seq: 3, user_id: OTHER, last_read_seq: 3, read_at: "" };
    list.overhear(read);
    expect(conversation).not.toHaveBeenCalled();
    conversation.mockResolvedValueOnce(listed("a", 3));
    list.overhear({ ...read, user_id: ME });
    await settle();
    expect(unread("a")).toBe(0);
  });
});

it("shows who comes and goes, and when", async () => {
  const person = { user_id: OTHER, username: "", user_type: "vendor", role: "member", last_read_seq: 0, online: true, last_seen: "then" };
  await load([listed("a", 1, { participants: [{ ...person }] }), listed("b", 2, { participants: [{ ...person }] })]);
  list.presence({ type: "presence", user_id: OTHER, online: false, last_seen: "now" });
  list.presence({ type: "presence", user_id: OTHER, online: true, last_seen: null });
  expect(list.getSnapshot().items.map(({ participants }) => participants[0])).toEqual([1, 2].map(() => ({ ...person, online: true, last_seen: "now" })));
});
