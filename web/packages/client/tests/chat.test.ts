import { beforeEach, describe, expect, it, vi } from "vitest";
import { Chat } from "../src/chat.ts";
import type { Conversation } from "../src/conversation.ts";
import { Refusal } from "../src/errors.ts";
import { CONVERSATION, FakeNetwork, joined, ME, newMessage, OTHER, seeded, settle } from "./fake.ts";
import { FakeGateway } from "./gateway.ts";

let network: FakeNetwork;
let chat: Chat;
let conversation: Conversation;
/** Stops watching it. */
let end = () => {};
const onWait = vi.fn();

function begin(fetch: (url: string) => Promise<Response> = async () => Response.json({ results: [], next: null })): void {
  network = new FakeNetwork();
  vi.stubGlobal("fetch", fetch);
  chat = new Chat({ url: "http://test/", transport: () => network.dial, token: async () => "t", onWait });
  conversation = chat.conversation(CONVERSATION);
}

beforeEach(() => {
  vi.useFakeTimers();
  begin();
});

const messages = () => conversation.getSnapshot().messages;
const contents = () => messages().flatMap(({ seq, content }) => (seq > 0 ? content : []));
const waiting = () => messages().flatMap(({ seq, content }) => (seq > 0 ? [] : content));
function watch(): void {
  end = conversation.subscribe(() => {});
}

/** Connected, with the conversation open; nothing is answered by itself. */
async function open(): Promise<void> {
  chat.connect();
  await settle();
  network.last.welcome();
  watch();
  network.last.hear({ ...joined(1, [newMessage(1)]), ref: network.last.last("join_conversation").ref });
  await settle();
}

describe("a message of mine", () => {
  it("is shown once at every moment, whichever of ack and event comes first", async () => {
    for (const order of [["ack", "event"], ["event", "ack"], ["event"]]) {
      begin();
      await open();
      void conversation.send(" hello ");
      const { ref, client_id } = network.last.last("send_message");
      for (const what of order) {
        expect([...contents(), ...waiting()].map((content) => content.trim())).toEqual(["content 1", "hello"]);
        if (what === "ack") network.last.hear({ type: "ack", ref, client_id, seq: 2, message_id: "m2", created_at: newMessage(2).created_at });
        else network.last.hear(newMessage(2, { sender_id: ME, client_id, content: "hello" }));
        await settle();
      }
      expect([contents(), waiting()]).toEqual([["content 1", "hello"], []]);
    }
  });

  it("does not vanish when its event shows a gap", async () => {
    await open();
    void conversation.send("hello");
    const { client_id } = network.last.last("send_message");
    network.last.hear(newMessage(5, { sender_id: ME, client_id, content: "hello" }));
    expect([contents(), waiting()]).toEqual([["content 1"], ["hello"]]);
    await vi.advanceTimersByTimeAsync(1_000);
    const events = [2, 3, 4].map((seq) => newMessage(seq)).concat(newMessage(5, { sender_id: ME, client_id, content: "hello" }));
    network.last.hear({ ...joined(5, events), ref: network.last.last("join_conversation").ref });
    expect([contents().length, contents().at(-1), waiting()]).toEqual([5, "hello", []]);
  });

  it("of somebody else's with my client_id is not mine", async () => {
    await open();
    void conversation.send("mine");
    network.last.hear(newMessage(2, { sender_id: OTHER, client_id: network.last.last("send_message").client_id }));
    expect(waiting()).toEqual(["mine"]);
  });
});

describe("an edit", () => {
  it("is tried again when the server says, and the person is told", async () => {
    await open();
    const edit = conversation.edit(1, "new");
    network.last.hear({ type: "error", ref: network.last.last("edit_message").ref, code: "rate_limited", message: "Too many", retry_after_ms: 3_000 });
    await settle();
    expect(onWait).toHaveBeenCalledWith(new Refusal("rate_limited", "Too many", 3_000), Date.now() + 3_000);
    await vi.advanceTimersByTimeAsync(3_000);
    expect(network.last.count("edit_message")).toBe(2);
    network.last.hear({ type: "ack", ref: network.last.last("edit_message").ref });
    await expect(edit).resolves.toBeUndefined();
  });
});

it("joins again what it was removed from and then added to", async () => {
  await open();
  network.last.hear({ type: "participant_removed", conversation_id: CONVERSATION, seq: 2, prev_seq: 1, user_id: ME, removed_by: OTHER });
  expect(conversation.getSnapshot().phase).toBe("refused");
  network.last.hear({ type: "conversation_updated", conversation_id: CONVERSATION, reason: "added", last_message: null, unread_count: null });
  await settle();
  network.last.hear({ ...joined(3, []), ref: network.last.last("join_conversation").ref });
  expect(conversation.getSnapshot().phase).toBe("live");
});

describe("the chat", () => {
  it("says who I am, what the limits are, and how many messages wait", async () => {
    expect(chat.getSnapshot()).toEqual({ connection: { kind: "stopped" }, me: undefined, limits: undefined, pending: 0 });
    await open();
    void conversation.send("hello");
    expect(chat.getSnapshot()).toMatchObject({ connection: { kind: "online" }, me: { user_id: ME }, limits: { max_content_chars: 1_000 }, pending: 1 });
  });

  it("gives the same conversation for the same id, and always the newest state of each", async () => {
    await open();
    expect(chat.conversation(CONVERSATION)).toBe(conversation);
    const snapshot = conversation.getSnapshot();
    network.last.hear({ type: "typing", conversation_id: "other", user_id: OTHER, username: "", is_typing: true });
    expect(conversation.getSnapshot()).toBe(snapshot);
    network.last.hear({ type: "typing", conversation_id: CONVERSATION, user_id: OTHER, username: "", is_typing: true });
    expect([conversation.getSnapshot().typing.length, snapshot.typing.length]).toEqual([1, 0]);
    expect(conversation.getSnapshot().messages[0]).toBe(snapshot.messages[0]);
  });

  it("forgets what the conversations held that nobody has watched for longest", async () => {
    await open();
    const held = [];
    for (let index = 0; index < 25; index++) {
      const other = chat.conversation(`c ${index}`);
      const stop = other.subscribe(() => {});
      network.last.hear({ ...joined(1, [newMessage(1)], { conversation_id: other.id }), ref: network.last.last("join_conversation").ref });
      stop();
      await vi.advanceTimersByTimeAsync(1_000);
      held.push(other);
    }
    expect(held.map((it) => it.getSnapshot().messages.length)).toEqual([...Array(5).fill(0), ...Array(20).fill(1)]);
    expect(contents()).toHaveLength(1);
    held[0]?.subscribe(() => {});
    expect(network.last.last("join_conversation")).not.toHaveProperty("after");
  });

  it("tells every event after it was taken in, until nobody listens", async () => {
    await open();
    const heard: string[] = [];
    const stop = chat.onEvent((frame) => heard.push(`${frame.type} ${contents().length}`));
    network.last.hear(newMessage(2));
    network.last.hear({ type: "presence", user_id: OTHER, online: true, last_seen: null });
    stop();
    network.last.hear(newMessage(3));
    expect(heard).toEqual(["new_message 2", "presence 2"]);
  });

  it("connects at once when the browser says that there may be a network, or that somebody looks", async () => {
    const page = new EventTarget();
    vi.stubGlobal("addEventListener", page.addEventListener.bind(page));
    await open();
    for (const [index, event] of ["online", "visibilitychange", "pageshow"].entries()) {
      network.last.drop();
      page.dispatchEvent(new Event(event));
      await settle();
      expect(network.sockets).toHaveLength(index + 2);
    }
    network.last.welcome();
    page.dispatchEvent(new Event("offline"));
    expect(network.last.count("refresh_token")).toBe(1);
    chat.close();
    page.dispatchEvent(new Event("online"));
    await settle();
    expect(network.sockets).toHaveLength(4);
  });

  it("finds its gateway below any path", () => {
    const dialled: string[] = [];
    const transport = (url: string) => {
      dialled.push(url);
      return network.dial;
    };
    for (const url of ["https://chat.example.com", "http://example.com/partyline", new URL("https://example.com/a/")]) new Chat({ url, transport, token: async () => "t" });
    vi.stubGlobal("document", { baseURI: "https://example.com/page/index.html" });
    new Chat({ url: ".", transport, token: async () => "t" });
    expect(dialled).toEqual(["wss://chat.example.com/ws", "ws://example.com/partyline/ws", "wss://example.com/a/ws", "wss://example.com/page/ws"]);
  });
});

it("leaves nothing running behind when it is stopped", async () => {
  await open();
  network.last.hear({ type: "typing", conversation_id: CONVERSATION, user_id: OTHER, username: "", is_typing: true });
  conversation.markRead();
  network.last.hear(newMessage(9));
  void conversation.send("unsent");
  chat.close();
  expect(vi.getTimerCount()).toBe(0);
});

it("loses nothing, doubles nothing and keeps the order, whatever the road is like", async () => {
  for (let seed = 0; seed < 60; seed++) {
    const random = seeded(seed);
    vi.spyOn(Math, "random").mockImplementation(random);
    let gateway: FakeGateway | undefined;
    begin((url) => gateway?.fetch(url) ?? Promise.reject(new Error("no gateway")));
    gateway = new FakeGateway(network, random);
    for (let count = 0; count < 15; count++) gateway.say(`before ${count}`);
    gateway.trouble = { cut: 0.08, lose: 0.15, double: 0.15, refuse: 0.1 };
    chat.connect();
    watch();

    const mine: string[] = [];
    for (let step = 0; step < 60; step++) {
      const chance = random();
      if (chance < 0.35) void conversation.send(mine[mine.push(`mine ${step}`) - 1] ?? "");
      else if (chance < 0.7) gateway.say(`theirs ${step}`);
      else if (chance < 0.74) gateway.kill();
      else if (chance < 0.8) conversation.loadOlder().catch(() => undefined);
      else if (chance < 0.84) end();
      else if (chance < 0.9) chat.wake();
      end();
      if (chance < 0.84 || chance > 0.86) watch();
      await vi.advanceTimersByTimeAsync(random() * 400);
    }
    gateway.trouble = { cut: 0, lose: 0, double: 0, refuse: 0 };
    await vi.advanceTimersByTimeAsync(60_000);
    end();
    watch();
    gateway.say("last"); // shows a gap, if there still is one
    await vi.advanceTimersByTimeAsync(5_000);
    for (let pages = 0; conversation.getSnapshot().hasOlder && pages < 20; pages++) await conversation.loadOlder();

    expect(waiting(), `seed ${seed}`).toEqual([]);
    expect(contents(), `seed ${seed}`).toEqual(gateway.messages.map(({ content }) => content));
    const stored = gateway.messages.filter(({ sender_id }) => sender_id === ME).map(({ content }) => content);
    expect(stored, `seed ${seed}`).toEqual(mine);
    expect(chat.conversations.get(CONVERSATION)?.last_message?.content).toBe("last");
    chat.close();
    expect(vi.getTimerCount(), `seed ${seed}`).toBe(0);
  }
});
