import { describe, expect, it } from "vitest";
import { batchJoins } from "../src/batch.ts";
import { welcome } from "./fake.ts";

const join = (n: number) => ({ conversation_id: `c${n}`, after: n, ref: String(n) });
const one = (n: number) => JSON.stringify({ type: "join_conversation", ...join(n) });

function batch({ features }: { features?: string[] }) {
  const sent: unknown[] = [];
  const joins = batchJoins((text) => sent.push(JSON.parse(text)));
  joins.hear(JSON.stringify({ ...welcome(), features }));
  return { joins, sent };
}

describe("joins of one moment", () => {
  it("are one frame, each under its own ref", async () => {
    const { joins, sent } = batch({ features: ["join_conversations"] });
    for (const n of [1, 2, 3]) joins.send(one(n));
    expect(sent).toEqual([]);
    await Promise.resolve();
    expect(sent).toEqual([{ type: "join_conversations", conversations: [join(1), join(2), join(3)] }]);
    joins.send(one(4));
    await Promise.resolve();
    expect(sent[1]).toEqual(JSON.parse(one(4)));
  });

  it("go before what is sent after them", () => {
    const { joins, sent } = batch({ features: ["join_conversations"] });
    joins.send(one(1));
    joins.send(one(2));
    joins.send(JSON.stringify({ type: "leave_conversation", conversation_id: "c1" }));
    expect(sent.map((it) => (it as { type: string }).type)).toEqual(["join_conversations", "leave_conversation"]);
  });

  it("are several frames if they are many", async () => {
    const { joins, sent } = batch({ features: ["join_conversations"] });
    for (let n = 0; n < 100; n++) joins.send(one(n));
    await Promise.resolve();
    expect(sent.map((it) => (it as { conversations: unknown[] }).conversations.length)).toEqual([80, 20]);
  });

  it("are sent one by one to a server that takes no others", () => {
    const { joins, sent } = batch({});
    for (const n of [1, 2]) joins.send(one(n));
    expect(sent).toEqual([JSON.parse(one(1)), JSON.parse(one(2))]);
  });
});
