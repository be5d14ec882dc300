import assert from "node:assert/strict";
import { describe, it } from "node:test";

import { Client } from "./client.js";
import { somebody } from "./stack.js";

/** Who comes in, and how. */
export function handshake(world) {
  describe("handshake", () => {
    for (const transports of [["websocket"], ["polling"], ["polling", "websocket"]]) {
      it(`takes a good token over ${transports.join(" and then ")}`, async (t) => {
        const ann = somebody("ann");
        const client = await Client.come(t, world.stack, ann, { transports });
        const connected = await client.hears("connected");
        assert.deepEqual([connected.status, connected.user_id], ["ok", ann.userId]);
        assert.deepEqual(connected.user, { user_id: ann.userId, username: "ann", user_type: "customer" });
        assert.equal(connected.limits.max_content_chars, 1_000);
        assert.match(client.socket.id, /^[0-9a-f]+-[0-9]+$/);
        assert.equal(client.socket.id, connected.session_id);
        const { engine } = client.socket.io;
        if (engine.transport.name !== transports.at(-1)) {
          await new Promise((resolve) => engine.once("upgrade", resolve));
        }
        assert.equal(engine.transport.name, transports.at(-1));
        // What was begun on the one goes on on the other.
        assert.equal((await client.ask("leave_conversation", { conversation_id: crypto.randomUUID() })).status, "ok");
      });

      it(`tells why it refuses a token over ${transports.join(" and then ")}`, async (t) => {
        const { stack } = world;
        const ann = somebody("ann");
        const good = stack.token(ann);
        const refused = [
          [{ token: `${good}x` }, "token_invalid"],
          [{ token: "nonsense" }, "token_invalid"],
          [{}, "token_invalid"],
          [undefined, "token_invalid"],
          [{ token: 7 }, "token_invalid"],
          [{ token: stack.token(ann, -10) }, "token_expired"],
        ];
        for (const [auth, code] of refused) {
          const client = new Client(t, stack.gateways[0], { transports, auth });
          const error = await client.hears("connect_error");
          assert.equal(error.data?.code, code, error.message);
          assert.ok(error.message.length > 5);
          assert.equal(client.socket.active, false, "a refused client doesn't try again by itself");
        }
        // A token in the URL is not looked at.
        const client = new Client(t, stack.gateways[0], { transports, query: { token: good } });
        assert.equal((await client.hears("connect_error")).data.code, "token_invalid");
      });
    }

    it("takes a token as a header, with Bearer before it, and a new one after a refusal", async (t) => {
      const { stack } = world;
      const ann = somebody("ann");
      const bearer = `Bearer ${stack.token(ann)}`;
      for (const options of [{ extraHeaders: { authorization: bearer } }, { auth: { token: bearer } }]) {
        const client = new Client(t, stack.gateways[0], options);
        assert.equal((await client.hears("connected")).user_id, ann.userId);
      }
      const client = new Client(t, stack.gateways[0], { auth: { token: "old" } });
      await client.hears("connect_error");
      client.socket.auth = { token: stack.token(ann) };
      client.socket.connect();
      assert.equal((await client.hears("connected")).user_id, ann.userId);
    });

    it("knows people by numbers, as strings", async (t) => {
      const { stack } = world;
      const token = stack.token(somebody("n"), 60, { sub: 4_711 });
      const client = new Client(t, stack.gateways[0], { auth: { token } });
      assert.equal((await client.hears("connected")).user_id, "4711");
    });

    it("tells its ping interval, its patience and the largest body", async () => {
      const { stack } = world;
      const answer = await fetch(`${stack.gateways[0]}/socket.io/?EIO=4&transport=polling`);
      const text = await answer.text();
      assert.equal(text[0], "0");
      const { sid, ...told } = JSON.parse(text.slice(1));
      assert.match(sid, /^[0-9a-f]{32}$/);
      assert.deepEqual(told, { upgrades: ["websocket"], pingInterval: 25_000, pingTimeout: 20_000, maxPayload: 20_480 });
      assert.equal(answer.headers.get("cache-control"), "no-store");
    });

    it("has one namespace", async (t) => {
      const { stack } = world;
      const client = new Client(t, `${stack.gateways[0]}/admin`, { auth: { token: stack.token(somebody("ann")) } });
      assert.equal((await client.hears("connect_error")).message, "Invalid namespace");
    });

    it("warns before a token ends, takes a new one, and lets go of who brings none", async (t) => {
      const { stack } = world;
      const ann = somebody("ann");
      const client = new Client(t, stack.gateways[0], { auth: { token: stack.token(ann, 4) } });
      const { expires_at, expires_in_ms } = await client.hears("token_expiring");
      assert.ok(expires_in_ms <= 4_000 && expires_at * 1_000 > Date.now());
      const other = await client.ask("refresh_token", { token: stack.token(somebody("bob")) });
      assert.deepEqual([other.status, other.code], ["error", "forbidden"]);
      const renewed = await client.does("refresh_token", { token: stack.token(ann, 600) });
      assert.ok(renewed.expires_at > expires_at + 500);

      // A function brings a new token each time: the client comes back by itself.
      const tokens = [stack.token(ann, 2), stack.token(ann, 600)];
      const asked = [];
      const short = new Client(t, stack.gateways[0], {
        auth: (tell) => {
          asked.push(tokens[asked.length]);
          tell({ token: asked.at(-1) });
        },
      });
      const closing = await short.hears("closing");
      assert.deepEqual([closing.code, closing.close_code], ["token_expired", 4401]);
      await short.hears("disconnect", (why) => why === "transport close");
      while (short.all("connected").length < 2) await new Promise((resolve) => short.socket.once("connected", resolve));
      assert.equal(asked.length, 2);
      assert.ok(client.socket.connected);
    });
  });
}
