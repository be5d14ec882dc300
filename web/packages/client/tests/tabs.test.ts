import { beforeEach, describe, expect, it, vi } from "vitest";
import { Chat } from "../src/chat.ts";
import type { Conversation } from "../src/conversation.ts";
import { Hub } from "../src/hub.ts";
import { sharedBetweenTabs } from "../src/tabs.ts";
import { FakeBrowser } from "./browser.ts";
import { CONVERSATION, FakeNetwork, joined, ME, newMessage, seeded, settle, welcome } from "./fake.ts";
import { FakeGateway } from "./gateway.ts";

let network: FakeNetwork;
let gateway: FakeGateway;
let browser: FakeBrowser;
let tabs: Tab[];

/** A page with a chat that shows the one conversation. */
class Tab {
  readonly chat: Chat;
  readonly conversation: Conversation;
  /** What it was told to be stored, in that order. */
  readonly stored: string[] = [];
  end = () => {};

  constructor(user = ME) {
    browser.stubFor(this);
    const transport = sharedBetweenTabs({ user, transport: () => network.dial });
    this.chat = new Chat({ url: "http://test/", token: async () => "t", transport: (url) => this.asThisPage(transport(url)) });
    this.conversation = this.chat.conversation(CONVERSATION);
    tabs.push(this);
  }

  open(): this {
    this.chat.connect();
    this.watch();
    return this;
  }

  watch(): void {
    this.end = this.conversation.subscribe(() => {});
  }

  close(): void {
    this.chat.close();
    tabs = tabs.filter((tab) => tab !== this);
  }

  crash(): void {
    browser.crash(this);
    this.close();
  }

  get contents(): string[] {
    return this.conversation.getSnapshot().messages.map(({ content }) => content);
  }

  get isOnline(): boolean {
    return this.chat.getSnapshot().connection.kind === "online";
  }

  /** Dials with this page's locks and channels. */
  private asThisPage(dial: ReturnType<ReturnType<typeof sharedBetweenTabs>>): typeof dial {
    return (token, events) => {
      browser.stubFor(this);
      return dial(token, events);
    };
  }
}

const open = () => network.sockets.filter(({ isClosed }) => !isClosed);

beforeEach(() => {
  vi.useFakeTimers();
  network = new FakeNetwork();
  gateway = new FakeGateway(network, seeded(1));
  browser = new FakeBrowser();
  tabs = [];
  vi.stubGlobal("fetch", (url: string) => gateway.fetch(url));
});

describe("tabs of a person", () => {
  it("share one connection: each hears everything, and gets its own answers", async () => {
    const [one, other] = [new Tab().open(), new Tab().open()];
    await settle();
    expect([one.isOnline, other.isOnline, network.sockets.length]).toEqual([true, true, 1]);
    const sent = [one.conversation.send("one"), other.conversation.send("other")];
    gateway.say("theirs");
    await settle();
    await expect(Promise.all(sent)).resolves.toMatchObject([{ duplicate: false }, { duplicate: false }]);
    const stored = gateway.messages.map(({ content }) => content);
    expect([...stored].sort()).toEqual(["one", "other", "theirs"]);
    expect([one.contents, other.contents]).toEqual([stored, stored]);
  });

  it("and of another person don't", async () => {
    new Tab().open();
    new Tab("somebody else").open();
    await settle();
    expect(open()).toHaveLength(2);
  });

  it("that come late are welcome, and those that leave take nothing away", async () => {
    const one = new Tab().open();
    await settle();
    gateway.say("before");
    const other = new Tab().open();
    await settle();
    expect(other.contents).toEqual(["before"]);
    other.end();
    await vi.advanceTimersByTimeAsync(1_000);
    other.close();
    gateway.say("after");
    await settle();
    expect([one.contents, network.last.count("leave_conversation")]).toEqual([["before", "after"], 0]);
    one.end();
    await vi.advanceTimersByTimeAsync(1_000);
    expect(network.last.count("leave_conversation")).toBe(1);
  });

  it.each(["close", "crash"] as const)("go on when the one with the connection is gone (%s), with what was under way", async (how) => {
    const [leader, one, other] = [new Tab().open(), new Tab().open(), new Tab().open()];
    await settle();
    network.onSent = () => {};
    const sent = one.conversation.send("under way");
    await settle();
    gateway = new FakeGateway(network, seeded(2));
    leader[how]();
    await vi.advanceTimersByTimeAsync(2_000);
    expect([one.isOnline, other.isOnline, open().length, network.sockets.length]).toEqual([true, true, 1, 2]);
    await expect(sent).resolves.toMatchObject({ duplicate: false });
    expect([one.contents, other.contents]).toEqual([["under way"], ["under way"]]);
  });

  it("take the connection from one that is frozen", async () => {
    const leader = new Tab().open();
    await settle();
    browser.freeze(leader);
    const other = new Tab().open();
    await vi.advanceTimersByTimeAsync(2_999);
    expect(other.isOnline).toBe(false);
    await vi.advanceTimersByTimeAsync(1);
    expect([other.isOnline, open().length]).toEqual([true, 1]);
    // Thawed, it finds that it lost it, and follows.
    await vi.advanceTimersByTimeAsync(2_000);
    expect([leader.isOnline, other.isOnline, open().length]).toEqual([true, true, 1]);
  });

  it("are all told why the server ended it", async () => {
    const [one, other] = [new Tab().open(), new Tab().open()];
    await settle();
    network.last.drop(4500, '{"code":"protocol_error"}');
    await settle();
    const ended = { kind: "ended", why: "protocol_error" };
    expect([one, other].map(({ chat }) => chat.getSnapshot().connection)).toEqual([ended, ended]);
  });

  it("have a connection each where the browser can't share it", async () => {
    vi.stubGlobal("navigator", {});
    vi.stubGlobal("BroadcastChannel", undefined);
    const dial = sharedBetweenTabs({ user: ME, transport: () => network.dial })("ws://test");
    expect(dial).toBe(network.dial);
  });

  it("lose nothing, double nothing and keep the order, whichever of them comes and goes", async () => {
    for (let seed = 0; seed < 40; seed++) {
      const random = seeded(seed);
      vi.spyOn(Math, "random").mockImplementation(random);
      network = new FakeNetwork();
      gateway = new FakeGateway(network, random);
      browser = new FakeBrowser();
      tabs = [];
      gateway.trouble = { cut: 0.02, lose: 0.05, double: 0.1, refuse: 0.05 };
      const ever: Tab[] = [];
      for (let step = 0; step < 60; step++) {
        const chance = random();
        const tab = tabs[Math.floor(random() * tabs.length)];
        if (!tab || (chance < 0.1 && tabs.length < 4)) {
          ever.push(new Tab().open());
        } else if (chance < 0.5) {
          const content = `mine ${step}`;
          void tab.conversation.send(content).then(() => tab.stored.push(content), () => undefined);
        } else if (chance < 0.7) {
          gateway.say(`theirs ${step}`);
        } else if (chance < 0.75) {
          tab.close();
        } else if (chance < 0.8) {
          tab.crash();
        } else if (chance < 0.85) {
          tab.end();
          tab.watch();
        }
        await vi.advanceTimersByTimeAsync(random() * 400);
      }
      gateway.trouble = { cut: 0, lose: 0, double: 0, refuse: 0 };
      if (tabs.length === 0) new Tab().open();
      await vi.advanceTimersByTimeAsync(60_000);
      gateway.say("last");
      await vi.advanceTimersByTimeAsync(5_000);

      const all = gateway.messages.map(({ content }) => content);
      expect(new Set(all).size, `seed ${seed}`).toBe(all.length);
      for (const { stored } of ever) expect(all.filter((content) => stored.includes(content)), `seed ${seed}`).toEqual(stored);
      expect(open(), `seed ${seed}`).toHaveLength(1);
      for (const tab of tabs) {
        for (let pages = 0; tab.conversation.getSnapshot().hasOlder && pages < 20; pages++) await tab.conversation.loadOlder();
        expect(tab.contents, `seed ${seed}`).toEqual(all);
      }
      [...tabs].forEach((tab) => tab.close());
      await vi.advanceTimersByTimeAsync(10_000);
      expect([vi.getTimerCount(), open().length], `seed ${seed}`).toEqual([0, 0]);
    }
  });
});

describe("the hub", () => {
  const told: [string | undefined, { type: string; ref?: string }][] = [];
  let socket: ReturnType<FakeNetwork["dial"]>;
  let hub: Hub;

  beforeEach(() => {
    told.length = 0;
    network = new FakeNetwork();
    socket = network.dial("t", { message: (text) => hub.hear(text), closed: () => {} });
    hub = new Hub({ self: "a", socket, tell: (tab, text) => told.push([tab, JSON.parse(text) as { type: string }]) });
  });

  const send = (tab: string, frame: object) => hub.send(tab, JSON.stringify(frame));

  it("keeps refs apart, and hands the rest to all but what only the one with the token can do", () => {
    send("a", { type: "mark_read", conversation_id: CONVERSATION, seq: 1, ref: "1" });
    send("b", { type: "mark_read", conversation_id: CONVERSATION, seq: 1, ref: "1" });
    const [first, second] = network.last.sent;
    network.last.hear({ type: "ack", ref: second?.ref });
    network.last.hear({ type: "error", ref: first?.ref, code: "forbidden", message: "" });
    network.last.hear(newMessage(1));
    network.last.hear({ type: "token_expiring", expires_at: 0, expires_in_ms: 0 });
    expect(told.map(([tab, { type, ref }]) => [tab, type, ref])).toEqual([
      ["b", "ack", "1"],
      ["a", "error", "1"],
      [undefined, "new_message", undefined],
      ["a", "token_expiring", undefined],
    ]);
    send("b", { type: "refresh_token", token: "older", ref: "2" });
    expect([told.at(-1), network.last.count("refresh_token")]).toEqual([["b", { type: "ack", ref: "2" }], 0]);
  });

  it("tells who has joined already how far the log is when another one joins", () => {
    for (const tab of ["a", "b"]) send(tab, { type: "join_conversation", conversation_id: CONVERSATION, ref: "1" });
    network.last.hear({ ...joined(7, []), ref: network.last.sent[1]?.ref });
    expect(told.at(-1)).toEqual(["a", { type: "read", conversation_id: CONVERSATION, seq: 7, prev_seq: 7, user_id: "", last_read_seq: 0, read_at: "" }]);
    expect(told.filter(([tab]) => tab === "b")).toHaveLength(1);
  });

  it("leaves what a tab that is gone had joined alone", () => {
    send("a", { type: "join_conversation", conversation_id: "shared" });
    send("b", { type: "join_conversation", conversation_id: "shared" });
    send("b", { type: "join_conversation", conversation_id: "own" });
    hub.drop("b");
    expect(network.last.sent.filter(({ type }) => type === "leave_conversation")).toEqual([{ type: "leave_conversation", conversation_id: "own" }]);
  });

  it("stays within the frames that the server allows, whatever the tabs want, and in their order", async () => {
    hub.hear(JSON.stringify(welcome({ frames_per_second: 20 })));
    const at: number[] = [];
    network.onSent = () => at.push(Date.now());
    for (let seq = 1; seq <= 100; seq++) send(seq % 2 ? "a" : "b", { type: "mark_read", conversation_id: CONVERSATION, seq });
    await vi.advanceTimersByTimeAsync(10_000);
    expect(network.last.sent.map((sent) => "seq" in sent && sent.seq)).toEqual(Array.from({ length: 100 }, (_, index) => index + 1));
    const most = Math.max(...at.map((start) => at.filter((time) => time >= start && time < start + 1_000).length));
    expect(most).toBeLessThanOrEqual(20);
    expect((at.at(-1) ?? 0) - (at[0] ?? 0)).toBeLessThan(7_000);
    send("a", { type: "mark_read", conversation_id: CONVERSATION, seq: 0 });
    hub.close();
    expect(vi.getTimerCount()).toBe(0);
  });
});
