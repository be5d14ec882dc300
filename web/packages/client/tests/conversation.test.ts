import { beforeEach, describe, expect, it, vi } from "vitest";
import type { Api } from "../src/api.ts";
import { Connection } from "../src/connection.ts";
import { Conversation } from "../src/conversation.ts";
import { Outbox } from "../src/outbox.ts";
import type { ListedConversation, MessagePage } from "../src/rest.ts";
import type { Joined, LogEvent, Typing } from "../src/wire.ts";
import { CONVERSATION, FakeNetwork, type FakeSocket, joined, ME, message, newMessage, OTHER, settle } from "./fake.ts";

let network: FakeNetwork;
let conversation: Conversation;
let outbox: Outbox;
/** What the list knows of it. */
let entry: ListedConversation | undefined;
const messagesBefore = vi.fn<Api["messagesBefore"]>();

/** One conversation over a real connection; `socket.hear` is the server. */
beforeEach(async () => {
  vi.useFakeTimers();
  vi.spyOn(Math, "random").mockReturnValue(1);
  messagesBefore.mockReset();
  entry = undefined;
  network = new FakeNetwork();
  const connection: Connection = new Connection({
    dial: network.dial,
    token: async () => "t",
    isAccepted: async () => true,
    onState: ({ kind }) => kind !== "online" && conversation.disconnected(),
    onWelcome: () => {
      conversation.connected();
      outbox.connected();
    },
    onFrame: (frame) => (frame.type === "typing" ? conversation.handleTyping(frame) : frame.type === "presence" ? conversation.presence(frame) : conversation.handle(frame as LogEvent)),
  });
  outbox = new Outbox({
    connection,
    framesPerSecond: () => 0,
    onChange: () => conversation.changed(),
    onSent: (sent, ack) => conversation.acked(sent, ack),
  });
  conversation = new Conversation(CONVERSATION, {
    me: { user_id: ME, username: "Me", user_type: "customer" },
    api: { messagesBefore },
    outbox,
    connection,
    conversations: { get: () => entry, follow: () => {} },
    historyLimit: 100,
    insist: async (command) => void (await connection.request(command)),
    onLeft: () => {},
  });
  connection.start();
  await settle();
  network.last.welcome();
});

const watch = () => conversation.subscribe(() => {});
/** Nobody watches any more, for longer than it takes to look again. */
async function unwatch(end: () => void): Promise<void> {
  end();
  await vi.advanceTimersByTimeAsync(1_000);
}

function answerJoin(socket: FakeSocket, answer: Joined): Promise<void> {
  socket.hear({ ...answer, ref: socket.last("join_conversation").ref });
  return settle();
}

async function open(seq: number, events: LogEvent[] = [newMessage(seq)], more: Partial<Joined> = {}): Promise<FakeSocket> {
  watch();
  await answerJoin(network.last, joined(seq, events, more));
  expect(phase()).toBe("live");
  return network.last;
}

const snapshot = () => conversation.getSnapshot();
const phase = () => snapshot().phase;
const seqs = () => snapshot().messages.map(({ seq }) => seq);

describe("joining", () => {
  it("asks for the last page first, and after a reconnect for what came since", async () => {
    const first = await open(3);
    expect(first.last("join_conversation")).not.toHaveProperty("after");
    first.hear(newMessage(4));
    first.drop();
    expect(phase()).toBe("behind");
    await vi.advanceTimersByTimeAsync(500);
    network.last.welcome();
    expect(network.last.last("join_conversation").after).toBe(4);
    await answerJoin(network.last, joined(6, [newMessage(5), newMessage(6)]));
    network.last.hear(newMessage(7));
    expect([seqs(), phase()]).toEqual([[3, 4, 5, 6, 7], "live"]);
  });

  it("asks on while pages are full", async () => {
    const socket = await open(1);
    socket.drop();
    await vi.advanceTimersByTimeAsync(500);
    network.last.welcome();
    await answerJoin(network.last, joined(3, [newMessage(2), newMessage(3)], { more: true }));
    expect(phase()).toBe("behind");
    expect(network.last.last("join_conversation").after).toBe(3);
    await answerJoin(network.last, joined(4, [newMessage(4)]));
    expect([seqs(), phase(), network.last.count("join_conversation")]).toEqual([[1, 2, 3, 4], "live", 2]);
  });

  it("begins anew when the log did", async () => {
    const socket = await open(5);
    conversation.markRead();
    await vi.advanceTimersByTimeAsync(250);
    socket.hear({ type: "ack", ref: socket.last("mark_read").ref });
    socket.drop(4010, '{"code":"log_restarted"}');
    await vi.advanceTimersByTimeAsync(500);
    network.last.welcome();
    await answerJoin(network.last, joined(2, [], { epoch: "e2" }));
    expect(network.last.last("join_conversation")).not.toHaveProperty("after");
    await answerJoin(network.last, joined(2, [newMessage(2)], { epoch: "e2" }));
    expect([seqs(), phase()]).toEqual([[2], "live"]);
    conversation.markRead();
    await vi.advanceTimersByTimeAsync(250);
    expect(network.last.last("mark_read").seq).toBe(2);
  });

  it("that crossed a leave is no join", async () => {
    await unwatch(watch());
    watch();
    await answerJoin(network.last, joined(1, [newMessage(1)]));
    expect(phase()).toBe("behind");
    expect(network.last.sent.map(({ type }) => type)).toEqual(["join_conversation", "leave_conversation", "join_conversation"]);
    await answerJoin(network.last, joined(1, []));
    expect([seqs(), phase()]).toEqual([[1], "live"]);
  });

  it("that is refused for now is tried again, not before the server says", async () => {
    watch();
    const { ref } = network.last.last("join_conversation");
    network.last.hear({ type: "error", ref, code: "unavailable", message: "", retry_after_ms: 4_000 });
    await settle();
    network.last.hear(newMessage(9));
    await vi.advanceTimersByTimeAsync(3_999);
    expect(network.last.count("join_conversation")).toBe(1);
    await vi.advanceTimersByTimeAsync(1);
    await answerJoin(network.last, joined(9, [newMessage(9)]));
    expect([seqs(), network.last.count("join_conversation")]).toEqual([[9], 2]);
  });

  it("that is refused for good isn't tried again", async () => {
    watch();
    network.last.hear({ type: "error", ref: network.last.last("join_conversation").ref, code: "forbidden", message: "Not yours" });
    await settle();
    conversation.connected();
    await vi.advanceTimersByTimeAsync(60_000);
    expect([phase(), snapshot().problem?.message, network.last.count("join_conversation")]).toEqual(["refused", "Not yours", 1]);
  });
});

describe("watching", () => {
  it("joins, and leaves a second after the last one stopped looking", async () => {
    const [end, endOther] = [watch(), watch()];
    await answerJoin(network.last, joined(1, [newMessage(1)]));
    end();
    endOther();
    await vi.advanceTimersByTimeAsync(999);
    const endAnew = watch();
    await vi.advanceTimersByTimeAsync(1_000);
    expect(network.last.sent.map(({ type }) => type)).toEqual(["join_conversation"]);
    await unwatch(endAnew);
    expect([network.last.count("leave_conversation"), phase(), seqs()]).toEqual([1, "closed", [1]]);
    watch();
    expect(network.last.last("join_conversation").after).toBe(1);
  });

  it("keeps the last 100 messages, and gives back the rest when nobody looks any more", async () => {
    const events = Array.from({ length: 150 }, (_, index) => newMessage(index + 51));
    const end = watch();
    await answerJoin(network.last, joined(200, events));
    expect([seqs().length, seqs()[0], snapshot().hasOlder]).toEqual([100, 101, true]);
    messagesBefore.mockResolvedValue({ results: [message(99), message(100)], next_before: 99, next_after: null });
    await conversation.loadOlder();
    expect(seqs().length).toBe(102);
    await unwatch(end);
    expect([seqs().length, seqs()[0]]).toEqual([100, 101]);
  });
});

describe("a message of mine", () => {
  const states = () => snapshot().messages.map(({ content, state }) => `${content}: ${state}`);
  const ack = (seq: number) => {
    const { ref, client_id } = network.last.last("send_message");
    network.last.hear({ type: "ack", ref, client_id, conversation_id: CONVERSATION, seq, message_id: "m", created_at: message(seq).created_at, duplicate: false });
    return settle();
  };

  it("is sending, sent, delivered when somebody is there, and read", async () => {
    const socket = await open(1, []);
    const sent = conversation.send("hello");
    expect(states()).toEqual(["hello: sending"]);
    const { key } = snapshot().messages[0] ?? expect.fail();
    await ack(2);
    await expect(sent).resolves.toMatchObject({ seq: 2 });
    expect(states()).toEqual(["hello: sent"]);
    socket.hear(newMessage(2, { prev_seq: 1, sender_id: ME, client_id: network.last.last("send_message").client_id, content: "hello" }));
    expect(states()).toEqual(["hello: sent"]);
    socket.hear({ type: "presence", user_id: OTHER, online: true, last_seen: null });
    expect(states()).toEqual(["hello: delivered"]);
    socket.hear({ type: "presence", user_id: OTHER, online: false, last_seen: "2025-01-01T00:00:00Z" });
    expect(states()).toEqual(["hello: delivered"]);
    socket.hear({ type: "read", conversation_id: CONVERSATION, seq: 3, prev_seq: 2, user_id: OTHER, last_read_seq: 2, read_at: "" });
    expect(states()).toEqual(["hello: read"]);
    expect(snapshot().messages[0]).toMatchObject({ key, isMine: true });
  });

  it("was delivered if the list says that somebody was there since", async () => {
    const other = { user_id: OTHER, username: "", user_type: "vendor", role: "member", last_read_seq: 0, online: false };
    const listed = (last_seen: string | null) => ({ participants: [{ ...other, last_seen }] }) as unknown as ListedConversation;
    entry = listed(message(1).created_at);
    await open(2, [newMessage(1, { sender_id: ME, content: "a" }), newMessage(2, { sender_id: ME, content: "b" })]);
    expect(states()).toEqual(["a: delivered", "b: sent"]);
    entry = listed(null);
    conversation.changed();
    expect(states()).toEqual(["a: sent", "b: sent"]);
  });

  it("that fails stays as failed, with its reason, until it is sent again or discarded", async () => {
    await open(1, []);
    const refuse = () => {
      network.last.hear({ type: "error", ref: network.last.last("send_message").ref, code: "invalid_content", message: "No" });
      return settle();
    };
    const first = conversation.send("hello");
    await refuse();
    await expect(first).rejects.toMatchObject({ code: "invalid_content" });
    expect([states(), snapshot().messages[0]?.problem?.message]).toEqual([["hello: failed"], "No"]);
    const { client_id } = snapshot().messages[0] ?? expect.fail();
    const again = conversation.retry(client_id);
    expect(states()).toEqual(["hello: sending"]);
    await ack(2);
    await expect(again).resolves.toMatchObject({ client_id });
    void conversation.send("other");
    await refuse();
    conversation.discard(snapshot().messages[1]?.client_id ?? "");
    expect(states()).toEqual(["hello: sent"]);
  });

  it("takes its type, metadata and what it answers along", async () => {
    await open(1);
    void conversation.send(" £10 ", { message_type: "quote", metadata: { amount: 10 }, reply_to: 1, client_id: "0190" });
    const more = { message_type: "quote", metadata: { amount: 10 }, reply_to: 1, client_id: "0190" };
    expect(network.last.last("send_message")).toMatchObject({ content: " £10 ", ...more });
    expect(snapshot().messages[1]).toMatchObject({ content: "£10", seq: 0, ...more });
  });
});

it("shows messages of others as delivered until I have read them", async () => {
  const socket = await open(2, [newMessage(1), newMessage(2)], { read_markers: { [ME]: 1 } });
  const states = () => snapshot().messages.map(({ state }) => state);
  expect(states()).toEqual(["read", "delivered"]);
  const [first] = snapshot().messages;
  socket.hear({ type: "read", conversation_id: CONVERSATION, seq: 3, prev_seq: 2, user_id: ME, last_read_seq: 2, read_at: "" });
  expect([states(), snapshot().messages[0] === first]).toEqual([["read", "read"], true]);
});

describe("news for the list", () => {
  const listed = (more: object = {}) => ({ last_message: null, last_read_seq: 0, unread_count: 0, participants: [], ...more }) as unknown as ListedConversation;

  it("has as many unread messages as others wrote behind my marker", async () => {
    await open(7, [5, 6, 7].map((seq) => newMessage(seq)), { has_older: true, read_markers: { [ME]: 5 } });
    expect(conversation.news(listed({ unread_count: 9 }))).toMatchObject({ unread_count: 2, last_read_seq: 5, last_message: { seq: 7 } });
  });

  it("has nothing unread before a message of mine", async () => {
    const socket = await open(7, [5, 6, 7].map((seq) => newMessage(seq)), { has_older: true, read_markers: { [ME]: 5 } });
    socket.hear(newMessage(8, { sender_id: ME }));
    expect(conversation.news(listed({ unread_count: 9 }))).toMatchObject({ unread_count: 0, last_read_seq: 8 });
    socket.hear(newMessage(9));
    expect(conversation.news(listed({ unread_count: 9 }))).toMatchObject({ unread_count: 1, last_read_seq: 8 });
  });

  it("knows that more may be unread than is held", async () => {
    await open(7, [5, 6, 7].map((seq) => newMessage(seq)), { has_older: true, read_markers: { [ME]: 2 } });
    expect(conversation.news(listed({ unread_count: 60 })).unread_count).toBe(60);
  });

  it("counts no deleted message, and while it is behind takes back no change of one", async () => {
    const socket = await open(7, [5, 6, 7].map((seq) => newMessage(seq)), { read_markers: { [ME]: 5 } });
    socket.hear({ type: "message_deleted", conversation_id: CONVERSATION, seq: 8, prev_seq: 7, message_seq: 6, message_id: "m6", deleted_by: OTHER, deleted_at: message(8).created_at });
    expect(conversation.news(listed({ unread_count: 2 })).unread_count).toBe(1);
    socket.drop();
    expect(conversation.news(listed({ last_message: message(7, { content: "edited" }) }))).toEqual({});
    expect(conversation.news(listed({ last_message: message(5) }))).toMatchObject({ last_message: { seq: 7 } });
  });

  it("tells nothing of what was read while it is behind, and no older message than the list has", async () => {
    const socket = await open(7, [newMessage(7)], { online: [OTHER] });
    const participants = [{ user_id: OTHER, online: false }];
    expect(conversation.news(listed({ participants })).participants).toEqual([{ user_id: OTHER, online: true }]);
    socket.drop();
    expect(conversation.news(listed({ unread_count: 2, last_message: message(8) }))).toEqual({});
  });
});

describe("a gap", () => {
  it("is filled by one join, however many events show it", async () => {
    const socket = await open(1);
    await vi.advanceTimersByTimeAsync(1_000);
    socket.hear(newMessage(3));
    socket.hear(newMessage(4));
    expect([seqs(), socket.last("join_conversation").after, socket.count("join_conversation")]).toEqual([[1], 1, 2]);
    await answerJoin(socket, joined(4, [newMessage(2), newMessage(3), newMessage(4)]));
    socket.hear(newMessage(4));
    socket.hear(newMessage(5));
    expect([seqs(), phase()]).toEqual([[1, 2, 3, 4, 5], "live"]);
  });

  it("is asked about once a second at most", async () => {
    const socket = await open(1);
    for (let seq = 3; seq < 20; seq++) socket.hear(newMessage(seq));
    await vi.advanceTimersByTimeAsync(999);
    expect(socket.count("join_conversation")).toBe(1);
    await vi.advanceTimersByTimeAsync(1);
    expect(socket.count("join_conversation")).toBe(2);
  });
});

describe("typing", () => {
  const typing = (is_typing: boolean, user_id = OTHER): Typing => ({ type: "typing", conversation_id: CONVERSATION, user_id, username: "Other", is_typing });
  const names = () => snapshot().typing.map(({ username }) => username);

  it("of others shows for 5 s, or until they stop, send, or the connection is lost; mine never", async () => {
    const socket = await open(1);
    socket.hear(typing(true, ME));
    expect(names()).toEqual([]);
    socket.hear(typing(true));
    await vi.advanceTimersByTimeAsync(4_999);
    expect(names()).toEqual(["Other"]);
    await vi.advanceTimersByTimeAsync(1);
    expect(names()).toEqual([]);
    for (const end of [() => socket.hear(typing(false)), () => socket.hear(newMessage(2)), () => socket.drop()]) {
      socket.hear(typing(true));
      expect(names()).toEqual(["Other"]);
      end();
      expect(names()).toEqual([]);
    }
  });

  it("of mine is told every 3 s, its end once, and anew after a message or a reconnect", async () => {
    const socket = await open(1);
    const told = () => network.last.sent.flatMap((sent) => (sent.type === "typing" ? [sent.is_typing] : []));
    conversation.setTyping(false);
    conversation.setTyping(true);
    await vi.advanceTimersByTimeAsync(2_999);
    conversation.setTyping(true);
    expect(told()).toEqual([true]);
    await vi.advanceTimersByTimeAsync(1);
    conversation.setTyping(true);
    conversation.setTyping(false);
    conversation.setTyping(false);
    expect(told()).toEqual([true, true, false]);
    conversation.setTyping(true);
    void conversation.send("typed");
    conversation.setTyping(true);
    expect(told()).toEqual([true, true, false, true, true]);
    socket.drop();
    conversation.setTyping(true);
    await vi.advanceTimersByTimeAsync(500);
    network.last.welcome();
    conversation.setTyping(true);
    expect(told()).toEqual([true]);
  });
});

describe("reading", () => {
  const marks = () => network.last.sent.flatMap((sent) => (sent.type === "mark_read" ? [sent.seq] : []));

  it("is told at once, then for all that came within a moment, and only forwards", async () => {
    const socket = await open(3, [newMessage(2), newMessage(3, { sender_id: ME })], { read_markers: { [ME]: 1 } });
    conversation.markRead();
    expect(marks()).toEqual([2]);
    for (const seq of [4, 5]) {
      socket.hear(newMessage(seq));
      conversation.markRead();
    }
    await vi.advanceTimersByTimeAsync(249);
    expect(marks()).toEqual([2]);
    await vi.advanceTimersByTimeAsync(1);
    expect(marks()).toEqual([2, 5]);
    socket.hear({ type: "read", conversation_id: CONVERSATION, seq: 6, prev_seq: 5, user_id: ME, last_read_seq: 5, read_at: "" });
    socket.hear({ type: "read", conversation_id: CONVERSATION, seq: 7, prev_seq: 6, user_id: ME, last_read_seq: 2, read_at: "" });
    socket.hear(newMessage(8, { sender_id: ME }));
    conversation.markRead();
    await vi.advanceTimersByTimeAsync(500);
    // My message is read as far as itself, without a marker of its own.
    expect([marks(), snapshot().readMarkers.get(ME)]).toEqual([[2, 5], 8]);
  });

  it("is told as far as was seen, if that is less than what is held", async () => {
    await open(4, [newMessage(1), newMessage(2), newMessage(3, { sender_id: ME }), newMessage(4)]);
    // The third is mine: the second is what was read of the others.
    conversation.markRead(3);
    conversation.markRead(4);
    // Scrolling back takes nothing of it away.
    conversation.markRead(1);
    await vi.advanceTimersByTimeAsync(250);
    expect(marks()).toEqual([2, 4]);
  });

  it("goes back by no answer of a node that knows less, but by a log that was begun again", async () => {
    const socket = await open(3, [newMessage(2), newMessage(3)], { read_markers: { [ME]: 3, [OTHER]: 1 } });
    const again = async (more: Partial<Joined>) => {
      network.last.drop(4001);
      await vi.advanceTimersByTimeAsync(3_000);
      network.last.welcome();
      await answerJoin(network.last, joined(4, [], more));
    };
    socket.hear({ type: "read", conversation_id: CONVERSATION, seq: 4, prev_seq: 3, user_id: OTHER, last_read_seq: 3, read_at: "" });
    await again({ read_markers: { [ME]: 2, [OTHER]: 2 } });
    expect([...snapshot().readMarkers]).toEqual([[ME, 3], [OTHER, 3]]);
    await again({ read_markers: { [ME]: 4 } });
    expect([...snapshot().readMarkers]).toEqual([[ME, 4]]);
    await again({ read_markers: { [ME]: 1 }, epoch: "e2" });
    await answerJoin(network.last, joined(2, [], { read_markers: { [ME]: 1 }, epoch: "e2" }));
    expect([...snapshot().readMarkers]).toEqual([[ME, 1]]);
  });

  it("waits for all that came before, and is told again if it was lost", async () => {
    const socket = await open(3);
    conversation.markRead();
    expect(marks()).toEqual([3]);
    socket.drop();
    conversation.markRead();
    await vi.advanceTimersByTimeAsync(500);
    network.last.welcome();
    conversation.markRead();
    await vi.advanceTimersByTimeAsync(250);
    expect(marks()).toEqual([]);
    await answerJoin(network.last, joined(3, []));
    conversation.markRead();
    await vi.advanceTimersByTimeAsync(250);
    expect(marks()).toEqual([3]);
  });

  it("of a conversation that was left is not told", async () => {
    const end = watch();
    await answerJoin(network.last, joined(3, [newMessage(3)]));
    await unwatch(end);
    conversation.markRead();
    await vi.advanceTimersByTimeAsync(250);
    expect(marks()).toEqual([]);
  });
});

describe("older pages", () => {
  it("are asked for one at a time, up to the beginning", async () => {
    await open(9, [newMessage(9)], { has_older: true });
    let answer = (_: MessagePage) => {};
    messagesBefore.mockImplementation(() => new Promise((resolve) => (answer = resolve)));
    void conversation.loadOlder();
    void conversation.loadOlder();
    answer({ results: [message(7), message(8)], next_before: null, next_after: 8 });
    await settle();
    await conversation.loadOlder();
    expect([seqs(), snapshot().isLoadingOlder]).toEqual([[7, 8, 9], false]);
    expect(messagesBefore.mock.calls).toEqual([[CONVERSATION, 9]]);
  });

  it("border on what is held, however much comes meanwhile", async () => {
    const events = Array.from({ length: 100 }, (_, index) => newMessage(index + 101));
    const socket = await open(200, events, { has_older: true });
    let answer = (_: MessagePage) => {};
    messagesBefore.mockImplementation(() => new Promise((resolve) => (answer = resolve)));
    const loading = conversation.loadOlder();
    for (let seq = 201; seq <= 250; seq++) socket.hear(newMessage(seq));
    answer({ results: [message(99), message(100)], next_before: 99, next_after: null });
    await loading;
    expect(seqs()).toEqual(Array.from({ length: 152 }, (_, index) => index + 99));
  });

  it("of a log that began anew meanwhile are dropped", async () => {
    const socket = await open(9, [newMessage(9)], { has_older: true });
    let answer = (_: MessagePage) => {};
    messagesBefore.mockImplementation(() => new Promise((resolve) => (answer = resolve)));
    void conversation.loadOlder();
    socket.drop();
    await vi.advanceTimersByTimeAsync(500);
    network.last.welcome();
    await answerJoin(network.last, joined(2, [], { epoch: "e2" }));
    await answerJoin(network.last, joined(2, [newMessage(2)], { epoch: "e2" }));
    answer({ results: [message(8)], next_before: 8, next_after: null });
    await settle();
    expect([seqs(), snapshot().hasOlder]).toEqual([[2], false]);
  });
});

it("is closed to somebody who was removed", async () => {
  const socket = await open(1);
  socket.hear({ type: "participant_removed", conversation_id: CONVERSATION, seq: 2, prev_seq: 1, user_id: ME });
  expect([phase(), snapshot().participants.map(({ user_id }) => user_id)]).toEqual(["refused", [OTHER]]);
});
