import { spawnSync } from "node:child_process";
import { randomUUID } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "vitest";
import { ClientWindow } from "./client-window.ts";
import { test } from "./fixtures.ts";
import { call, type Person, person, say, type StackInfo, tokenOf } from "./stack.ts";

const WEB = join(import.meta.dirname, "../..");

/** What a program of TypeScript is told by its compiler. */
function compile(code: string): string {
  const folder = mkdtempSync(join(tmpdir(), "partyline-protocol-"));
  try {
    const compilerOptions = { noEmit: true, allowImportingTsExtensions: true, types: [] };
    writeFileSync(join(folder, "recorded.ts"), code);
    writeFileSync(join(folder, "tsconfig.json"), JSON.stringify({ extends: join(WEB, "tsconfig.base.json"), compilerOptions: { ...compilerOptions, lib: ["es2023", "dom"] }, include: ["*.ts"] }));
    return spawnSync(join(WEB, "node_modules/.bin/tsc"), ["-p", folder], { encoding: "utf8" }).stdout;
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** Makes the gateway say everything that it can say to two people. */
async function everything(stack: StackInfo, casey: ClientWindow, vera: ClientWindow, { customer, vendor, conversation }: { customer: Person; vendor: Person; conversation: string }): Promise<unknown[]> {
  const has = (window: ClientWindow, ...types: string[]) =>
    expect.poll(() => types.filter((type) => !window.frames.some((frame) => frame.startsWith(`{"type":"${type}"`)))).toEqual([]);
  await has(casey, "token_expiring", "presence");
  await casey.page.evaluate(async () => {
    const { seq } = await window.conversation.send("a quote", { message_type: "quote", metadata: { amount: 10, items: [{ name: "chairs" }] } });
    await window.conversation.send("an answer", { reply_to: seq });
    await window.conversation.edit(seq, "edited");
    await window.conversation.delete(seq);
    await window.conversation.edit(seq, "too late").catch(() => undefined);
    window.conversation.setTyping(true);
  });
  await has(vera, "typing", "new_message", "message_edited", "message_deleted");
  await vera.page.evaluate(() => window.conversation.markRead());
  await has(casey, "ack", "error", "read");

  const third = person(stack, "Theo", "customer");
  const fourth = person(stack, "Flo", "customer");
  for (const who of [third, fourth]) await call(stack, who, "GET", "conversations/?limit=1");
  const group = await call<{ id: string }>(stack, customer, "POST", "conversations/", { participant_ids: [vendor.userId, third.userId], kind: "group", title: "Party" });
  const messages = `conversations/${group.id}/messages/`;
  await has(vera, "conversation_updated");
  await casey.page.evaluate((id) => void window.chat.conversation(id).subscribe(() => {}), group.id);
  await expect.poll(() => casey.page.evaluate((id) => window.chat.conversation(id).getSnapshot().phase, group.id)).toBe("live");
  await call(stack, customer, "POST", `conversations/${group.id}/participants/`, { user_id: fourth.userId });
  await fetch(`${stack.url}/chat/api/conversations/${group.id}/participants/${fourth.userId}/`, { method: "DELETE", headers: { authorization: `Bearer ${customer.token}` } });
  await has(casey, "participant_added", "participant_removed");
  await vera.page.evaluate(() => window.chat.conversation(new URLSearchParams(location.search).get("conversation") ?? "").send("bye"));
  await say(stack, group.id, customer, "hello");
  const answers = [
    await call(stack, customer, "GET", "conversations/?limit=50"),
    await call(stack, customer, "GET", "conversations/?limit=1"),
    { results: [group, await call(stack, customer, "GET", `conversations/${conversation}/`)], next: null },
    await call(stack, customer, "GET", `conversations/${conversation}/messages/?limit=1`),
    await call(stack, customer, "GET", `conversations/${conversation}/messages/`),
    await call(stack, customer, "GET", messages),
  ];
  return [...answers, await call(stack, customer, "POST", messages, { client_id: randomUUID(), content: "by REST", message_type: "text", metadata: {} })];
}

test("what the gateway says is what the client's types say: no field more, and none less", async ({ browser, stack, couple }) => {
  const { customer, vendor, conversation } = couple;
  const options = { conversation, url: stack.url };
  const contexts = await Promise.all([1, 2].map(() => browser.newContext({ permissions: ["local-network-access"] })));
  try {
    const [one, other] = contexts as [(typeof contexts)[0], (typeof contexts)[0]];
    const casey = await ClientWindow.open(one, { ...options, person: customer, tokens: (rejected) => (rejected ? customer.token : tokenOf(stack, customer, 50)) });
    await expect.poll(() => casey.phase()).toBe("live");
    const vera = await ClientWindow.open(other, { ...options, person: vendor });
    await expect.poll(() => vera.phase()).toBe("live");
    const rest = await everything(stack, casey, vera, couple);
    // `left` answers nobody who waits for it.
    await vera.page.evaluate((id) => {
      const socket = new WebSocket("/ws", ["partyline.v1", `bearer.${id.token}`]);
      socket.onopen = () => {
        socket.send(JSON.stringify({ type: "join_conversation", conversation_id: id.conversation, ref: "a" }));
        socket.send(JSON.stringify({ type: "leave_conversation", conversation_id: id.conversation, ref: "b" }));
      };
    }, { token: vendor.token, conversation });
    await expect.poll(() => vera.frames.some((frame) => frame.startsWith('{"type":"left"'))).toBe(true);

    const frames = [...casey.frames, ...vera.frames].map((frame) => JSON.parse(frame) as { type: string; client_id?: string });
    const acks = frames.filter(({ type, client_id }) => type === "ack" && client_id !== undefined);
    const types = Object.fromEntries(frames.map(({ type }) => [type, true]));
    const pages = rest.slice(0, 3);
    const code = (name: string, type: string, value: unknown) => `export const ${name}: ${type} = ${JSON.stringify(value)};\n`;
    const program = [
      `import type { SendAck, ServerFrame } from ${JSON.stringify(join(WEB, "packages/client/src/index.ts"))};\n`,
      `import type { ListedConversation, MessagePage, Page } from ${JSON.stringify(join(WEB, "packages/client/src/rest.ts"))};\n`,
      code("frames", "ServerFrame[]", frames),
      code("acks", "(SendAck & { type: 'ack'; ref: string })[]", acks),
      code("types", `Record<ServerFrame["type"], true>`, types),
      code("lists", "Page<ListedConversation>[]", pages),
      code("histories", "MessagePage[]", rest.slice(3, 6)),
      code("sent", "SendAck", rest[6]),
    ];
    expect(compile(program.join(""))).toBe("");
    // That the compiler sees a field too many, and one too few, is what all this rests on.
    const wrong = frames.map((frame) => (frame.type === "presence" ? { ...frame, mood: "good" } : frame));
    expect(compile(program.join("") + code("wrong", "ServerFrame[]", wrong))).toContain("does not exist in type 'Presence'");
    const { online: _, ...short } = frames.find(({ type }) => type === "presence") as unknown as { online: boolean };
    expect(compile(program.join("") + code("short", "ServerFrame[]", [short]))).toContain("'online' is missing");
  } finally {
    await Promise.all(contexts.map((context) => context.close()));
  }
});
