import assert from "node:assert/strict";
import { describe, it } from "node:test";

import { Client } from "./client.js";
import { somebody } from "./stack.js";

const PEOPLE = 100;
/** Connections of a person: half of them over WebSocket, half of them polling, on both gateways. */
const CONNECTIONS = 10;

/** Many at once. */
export function crowd(world) {
  describe("a crowd", () => {
    it(`of ${PEOPLE * CONNECTIONS} connects at once and hears every message`, async (t) => {
      const { stack } = world;
      const people = Array.from({ length: PEOPLE }, (_, n) => somebody(`p${n}`));
      const conversation_id = await stack.group(...people);
      const clients = await Promise.all(
        people.flatMap((person) =>
          Array.from({ length: CONNECTIONS }, (_, n) =>
            Client.come(t, stack, person, { gateway: n % 2, transports: [n % 4 < 2 ? "websocket" : "polling"], timeout: 60_000 }),
          ),
        ),
      );
      assert.equal(clients.length, PEOPLE * CONNECTIONS);
      await Promise.all(clients.map((client) => client.join(conversation_id)));
      for (const [n, sender] of [clients[0], clients.at(-1), clients[CONNECTIONS * 7 + 2]].entries()) {
        await sender.does("send_message", { conversation_id, client_id: crypto.randomUUID(), content: `to all ${n}` });
      }
      const heard = await Promise.all(clients.map((client) => client.hears("new_message", (it) => it.content === "to all 2")));
      assert.equal(new Set(heard.map((message) => message.message_id)).size, 1);
      for (const client of clients) {
        assert.deepEqual(client.all("new_message").map((it) => it.content), ["to all 0", "to all 1", "to all 2"]);
        assert.equal(client.all("disconnect").length, 0);
      }
    });
  });
}
