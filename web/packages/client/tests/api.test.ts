import { beforeEach, describe, expect, it, vi } from "vitest";
import { Chat } from "../src/chat.ts";
import { Disconnected, Refusal } from "../src/errors.ts";
import { FakeNetwork, settle } from "./fake.ts";

const token = vi.fn<(rejected?: string) => Promise<string>>();
const fetched = vi.fn<(url: string, init: RequestInit) => Promise<Response>>();
let network: FakeNetwork;
let chat: Chat;

beforeEach(() => {
  vi.useFakeTimers();
  vi.stubGlobal("fetch", fetched);
  token.mockReset().mockImplementation(async (rejected) => (rejected === "t1" ? "t2" : "t1"));
  fetched.mockReset().mockImplementation(async () => Response.json({ results: [], next: null }));
  network = new FakeNetwork();
  chat = new Chat({ url: "http://test/", transport: () => network.dial, token });
});

/** The tokens that requests were made with. */
const used = () => fetched.mock.calls.map(([, { headers }]) => (headers as Record<string, string>).authorization);
const refusing = (status: number, problem: object) => async () => Response.json(problem, { status });

describe("a request's token", () => {
  it("is the connection's: whoever gives tokens is asked for one only", async () => {
    chat.connect();
    await settle();
    network.last.welcome();
    await settle();
    await chat.conversations.loadMore();
    expect(used()).toEqual(["Bearer t1", "Bearer t1"]);
    expect(token).toHaveBeenCalledTimes(1);
  });

  it("is another one once the server no longer takes it, for all that follow", async () => {
    fetched.mockImplementationOnce(refusing(401, { code: "token_expired" }));
    await chat.conversations.loadMore();
    await chat.conversations.loadMore();
    expect(used()).toEqual(["Bearer t1", "Bearer t2", "Bearer t2"]);
    expect(token.mock.calls).toEqual([[undefined], ["t1"]]);
  });

  it("that can't be replaced is a refusal, not a loop", async () => {
    token.mockResolvedValue("t1");
    fetched.mockImplementation(refusing(401, { code: "token_expired", detail: "the token has expired" }));
    await expect(chat.startDirect("vera")).rejects.toEqual(new Refusal("token_expired", "the token has expired"));
    expect(fetched).toHaveBeenCalledTimes(1);
  });
});

describe("an answer", () => {
  it.each([
    [429, { code: "rate_limited", detail: "slow down", retry_after_ms: 7 }, new Refusal("rate_limited", "slow down", 7)],
    [404, { code: "not_found", title: "Not found" }, new Refusal("not_found", "Not found")],
    [502, "<html>a proxy's page</html>", new Refusal("unavailable", "The server answered 502")],
  ])("%i is a refusal with what its problem tells", async (status, problem, refusal) => {
    fetched.mockImplementation(async () => new Response(typeof problem === "string" ? problem : JSON.stringify(problem), { status }));
    await expect(chat.startDirect("vera")).rejects.toEqual(refusal);
  });

  it("that never comes is a lost connection", async () => {
    fetched.mockRejectedValue(new TypeError("Failed to fetch"));
    await expect(chat.startGroup(["vera"])).rejects.toBeInstanceOf(Disconnected);
  });
});
