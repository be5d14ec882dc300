import { beforeEach, describe, expect, it, vi } from "vitest";
import type { Api } from "../src/api.ts";
import { Connection } from "../src/connection.ts";
import { Conversation } from "../src/conversation.ts";
import type { Joined, LogEvent, MessagePage, Typing } from "../src/wire.ts";
import { CONVERSATION, FakeNetwork, type FakeSocket, joined, ME, message, newMessage, OTHER, settle } from "./fake.ts";

let network: FakeNetwork;
let conversation: Conversation;
const messagesBefore = vi.fn<Api["messagesBefore"]>();

/** One open conversation over a real connection; `socket.hear` is the server. */
beforeEach(async () => {
  vi.useFakeTimers();
  vi.spyOn(Math, "random").mockReturnValue(1);
  messagesBefore.mockReset();
  network = new FakeNetwork();
  const connection: Connection = new Connection({
    dial: network.dial,
    tokens: { get: async () => "t" },
    isAccepted: async () => true,
    onState: ({ kind }) => kind !== "online" && conversation.disconnected(),
    onWelcome: () => conversation.connected(),
    onFrame: (frame) => (frame.type === "typing" ? conversation.handleTyping(frame) : conversation.handle(frame as LogEvent)),
  });
  conversation = new Conversation(CONVERSATION, {
    me: () => ME,
    api: { messagesBefore } as unknown as Api,
    request: (command, onReply) => connection.request(command, onReply),
    notify: (command) => connection.notify(command),
    onChange: () => {},
  });
  connection.start();
  await settle();
  network.last.welcome();
});

function answerJoin(socket: FakeSocket, answer: Joined): Promise<void> {
  socket.hear({ ...answer, ref: socket.last("join_conversation").ref });
  return settle();
}

async function open(seq: number, events: LogEvent[] = [newMessage(seq)], more: Partial<Joined> = {}): Promise<FakeSocket> {
  conversation.open();
  await answerJoin(network.last, joined(seq, events, more));
  expect(conversation.phase).toBe("live");
  return network.last;
}

const seqs = () => conversation.timeline.messages.map(({ seq }) => seq);

describe("joining", () => {
  it("asks for the last page first, and after a reconnect for what came since", async () => {
    const first = await open(3);
    expect(first.last("join_conversation")).not.toHaveProperty("after");
    first.hear(newMessage(4));
    first.drop();
    expect(conversation.phase).toBe("behind");
    await vi.advanceTimersByTimeAsync(500);
    network.last.welcome();
    expect(network.last.last("join_conversation").after).toBe(4);
    await answerJoin(network.last, joined(6, [newMessage(5), newMessage(6)]));
    network.last.hear(newMessage(7));
    expect([seqs(), conversation.phase]).toEqual([[3, 4, 5, 6, 7], "live"]);
  });

  it("asks on while pages are full", async () => {
    const socket = await open(1);
    socket.drop();
    await vi.advanceTimersByTimeAsync(500);
    network.last.welcome();
    await answerJoin(network.last, joined(3, [newMessage(2), newMessage(3)], { more: true }));
    expect(conversation.phase).toBe("behind");
    expect(network.last.last("join_conversation").after).toBe(3);
    await answerJoin(network.last, joined(4, [newMessage(4)]));
    expect([seqs(), conversation.phase, network.last.count("join_conversation")]).toEqual([[1, 2, 3, 4], "live", 2]);
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
    expect([seqs(), conversation.phase]).toEqual([[2], "live"]);
    conversation.markRead();
    await vi.advanceTimersByTimeAsync(250);
    expect(network.last.last("mark_read").seq).toBe(2);
  });

  it("that crossed a leave is no join", async () => {
    conversation.open();
    conversation.close();
    conversation.open();
    await answerJoin(network.last, joined(1, [newMessage(1)]));
    expect(conversation.phase).toBe("behind");
    expect(network.last.sent.map(({ type }) => type)).toEqual(["join_conversation", "leave_conversation", "join_conversation"]);
    await answerJoin(network.last, joined(1, []));
    expect([seqs(), conversation.phase]).toEqual([[1], "live"]);
  });

  it("that is refused for now is tried again, not before the server says", async () => {
    conversation.open();
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
    conversation.open();
    network.last.hear({ type: "error", ref: network.last.last("join_conversation").ref, code: "forbidden", message: "Not yours" });
    await settle();
    conversation.connected();
    await vi.advanceTimersByTimeAsync(60_000);
    expect([conversation.phase, conversation.problem?.message, network.last.count("join_conversation")]).toEqual(["refused", "Not yours", 1]);
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
    expect([seqs(), conversation.phase]).toEqual([[1, 2, 3, 4, 5], "live"]);
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
  const names = () => [...conversation.typing.values()];

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
    conversation.tellTyping(false);
    conversation.tellTyping(true);
    await vi.advanceTimersByTimeAsync(2_999);
    conversation.tellTyping(true);
    expect(told()).toEqual([true]);
    await vi.advanceTimersByTimeAsync(1);
    conversation.tellTyping(true);
    conversation.tellTyping(false);
    conversation.tellTyping(false);
    expect(told()).toEqual([true, true, false]);
    conversation.tellTyping(true);
    conversation.sent();
    conversation.tellTyping(true);
    expect(told()).toEqual([true, true, false, true, true]);
    socket.drop();
    conversation.tellTyping(true);
    await vi.advanceTimersByTimeAsync(500);
    network.last.welcome();
    conversation.tellTyping(true);
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
    socket.hear({ type: "read", conversation_id: CONVERSATION, seq: 6, prev_seq: 5, user_id: ME, last_read_seq: 5 });
    socket.hear({ type: "read", conversation_id: CONVERSATION, seq: 7, prev_seq: 6, user_id: ME, last_read_seq: 2 });
    socket.hear(newMessage(8, { sender_id: ME }));
    conversation.markRead();
    await vi.advanceTimersByTimeAsync(500);
    expect([marks(), conversation.readMarkers.get(ME)]).toEqual([[2, 5], 5]);
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
    const socket = await open(3);
    conversation.markRead();
    socket.hear(newMessage(4));
    conversation.markRead();
    conversation.close();
    await vi.advanceTimersByTimeAsync(250);
    expect(marks()).toEqual([3]);
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
    expect([seqs(), conversation.isLoadingOlder]).toEqual([[7, 8, 9], false]);
    expect(messagesBefore.mock.calls).toEqual([[CONVERSATION, 9]]);
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
    expect([seqs(), conversation.timeline.hasOlder]).toEqual([[2], false]);
  });
});

it("is closed to somebody who was removed", async () => {
  const socket = await open(1);
  socket.hear({ type: "participant_removed", conversation_id: CONVERSATION, seq: 2, prev_seq: 1, user_id: ME });
  expect([conversation.phase, conversation.participants.map(({ user_id }) => user_id)]).toEqual(["refused", [OTHER]]);
});
