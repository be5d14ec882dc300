import assert from "node:assert/strict";
import { describe, it } from "node:test";

import { Client } from "./client.js";
import { somebody } from "./stack.js";

/** More than a connection's frames a second. */
const CONVERSATIONS = 60;

/** People with many conversations, who join all of them at once. */
export function many(world, transport) {
  const transports = [transport];

  async function vendor() {
    const { stack } = world;
    const person = somebody("vendor");
    const conversations = [];
    for (let n = 0; n < CONVERSATIONS; n++) conversations.push(await stack.group(person, somebody("customer")));
    return { person, conversations };
  }

  describe(`many conversations over ${transport}`, () => {
    it("are joined at once when the client is connected, and it stays", async (t) => {
      const { stack } = world;
      const { person, conversations } = await vendor();
      const client = new Client(t, stack.gateways[0], { auth: { token: stack.token(person) }, transports });
      client.socket.on("connected", () => {
        for (const conversation_id of conversations) client.socket.emit("join_conversation", { conversation_id });
      });
      await client.hears("joined_conversation", (joined) => joined.conversation_id === conversations.at(-1));
      assert.deepEqual(client.all("joined_conversation").map((joined) => joined.conversation_id), conversations);
      assert.equal(client.all("connected").length, 1);
      assert.deepEqual(client.all("disconnect"), []);
      const ack = await client.does("send_message", { conversation_id: conversations[7], content: "still here" });
      await client.hears("new_message", (message) => message.seq === ack.seq);
    });

    it("are joined by one event", async (t) => {
      const { stack } = world;
      const { person, conversations } = await vendor();
      const client = await Client.come(t, stack, person, { transports });
      const foreign = await stack.group(somebody("one"), somebody("other"));
      const entries = [...conversations.slice(0, 30), foreign, ...conversations.slice(30)].map((conversation_id) => ({ conversation_id }));
      const answer = await client.does("join_conversations", { conversations: entries });
      assert.deepEqual(answer, { status: "ok", joined: CONVERSATIONS, refused: 1 });
      assert.deepEqual(client.all("joined_conversation").map((joined) => joined.conversation_id), conversations);
      const [refused] = client.all("error");
      assert.deepEqual([refused.event, refused.conversation_id, refused.code], ["join_conversations", foreign, "forbidden"]);
      const whole = await client.ask("join_conversations", { conversations: [] });
      assert.deepEqual([whole.status, whole.code], ["error", "bad_request"]);
    });

    it("a temp_id names a message of one page: once over a reconnection, anew after a reload", async (t) => {
      const { stack } = world;
      const person = somebody("ann");
      const conversation_id = await stack.group(person, somebody("bob"));
      const message = { conversation_id, temp_id: 1, content: "ok" };
      const page = await Client.come(t, stack, person, { transports });
      const first = await page.does("send_message", message);
      assert.equal(first.duplicate, false);
      // The connection is lost before the page knows, say, and the page sends what is not answered once it is back.
      page.socket.io.engine.close();
      await page.hears("disconnect");
      const again = await page.does("send_message", message);
      assert.deepEqual([again.duplicate, again.seq, page.socket.recovered], [true, first.seq, false]);
      const reloaded = await Client.come(t, stack, person, { transports });
      const later = await reloaded.does("send_message", message);
      assert.equal(later.duplicate, false);
      assert.ok(later.seq > first.seq);
    });
  });
}
