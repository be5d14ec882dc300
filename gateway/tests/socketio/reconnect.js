import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

import { Balancer, Client } from "./client.js";
import { somebody } from "./stack.js";

/** Messages of each sender; fewer than the budget allows at once. */
const MESSAGES = 24;
/** Which of them is sent when the gateway is hurt. */
const HURT_AT = 8;

/** A gateway goes; its people come back to the other one, and have missed nothing. */
export function reconnect(world, transport) {
  const transports = [transport];

  async function survives(t, signal) {
    const { stack } = world;
    const people = [somebody("ann"), somebody("bob"), somebody("eve")];
    const balancer = await Balancer.start(t, stack.gateways);
    // Ann and Bob are behind the balancer, on the gateway that goes; Eve is on the other one.
    const [ann, bob] = await Promise.all(people.slice(0, 2).map((person) => Client.come(t, stack, person, { url: balancer.url, transports })));
    const eve = await Client.come(t, stack, people[2], { gateway: 1, transports });
    const conversation_id = await stack.group(...people);

    const seen = { events: [], last: 0 };
    const take = (event) => {
      if (event.seq > seen.last) {
        assert.ok(event.prev_seq <= seen.last, `a gap before ${event.seq}: ${event.prev_seq} was not seen, ${seen.last} was`);
        seen.events.push(event);
        seen.last = event.seq;
      }
    };
    const rejoin = () => bob.socket.emit("join_conversation", { conversation_id, after: seen.last });
    bob.socket.on("new_message", take);
    bob.socket.on("joined_conversation", (joined) => {
      joined.events.forEach(take);
      seen.last = Math.max(seen.last, joined.seq);
      if (joined.more) rejoin();
    });
    bob.socket.on("connected", rejoin);
    rejoin();
    await bob.hears("joined_conversation");

    const acks = [];
    const send = async (client, name) => {
      for (let n = 0; n < MESSAGES; n++) {
        const message = { conversation_id, client_id: crypto.randomUUID(), content: `${name} ${n}` };
        // As an application does: again, under the same name, until there is an answer.
        for (;;) {
          const answer = await client.socket.timeout(2_000).emitWithAck("send_message", message).catch(() => undefined);
          if (answer?.status === "ok") {
            acks.push(answer.seq);
            break;
          }
          assert.ok(!answer || ["unavailable", "rate_limited"].includes(answer.code), JSON.stringify(answer));
          await sleep(100);
        }
        if (client === eve && n === HURT_AT) stack.signal(0, signal);
        await sleep(40);
      }
    };
    await Promise.all([send(ann, "ann"), send(eve, "eve")]);
    await bob.hears("disconnect", (why) => why !== "io server disconnect");
    await bob.hears("new_message", (it) => it.seq === Math.max(...acks)).catch(() => undefined);
    assert.deepEqual(seen.events.map((event) => event.seq), acks.toSorted((one, other) => one - other));
    assert.equal(new Set(seen.events.map((event) => event.content)).size, 2 * MESSAGES);
    await stack.isBack(0);
    return { ann, bob };
  }

  describe(`coming back over ${transport}`, () => {
    it("loses nothing when a gateway is killed", (t) => survives(t, "SIGKILL"));

    it("is told when a gateway leaves, and loses nothing", async (t) => {
      const { bob } = await survives(t, "SIGTERM");
      const closing = await bob.hears("closing");
      assert.deepEqual([closing.code, closing.close_code], ["draining", 4001]);
      assert.ok(closing.retry_after_ms > 0);
    });
  });
}
