import assert from "node:assert/strict";
import { describe, it } from "node:test";

import { Client, NativeClient } from "./client.js";
import { somebody } from "./stack.js";

/** One person on Socket.IO, the other on the native protocol and another gateway. */
export function mixed(world) {
  describe("Socket.IO and native", () => {
    for (const transports of [["websocket"], ["polling"]]) {
      it(`hear each other, the former over ${transports}`, async (t) => {
        const { stack } = world;
        const people = [somebody("ann"), somebody("bob")];
        const ann = await Client.come(t, stack, people[0], { transports });
        const conversation_id = await (async () => {
          // A gateway learns names from tokens.
          await stack.call(people[1], "GET", "conversations/?limit=1");
          return stack.group(...people);
        })();
        await ann.join(conversation_id);
        const bob = await NativeClient.come(t, stack, people[1], 1);
        await ann.hears("presence", (it) => it.user_id === people[1].userId && it.online);
        await bob.does("join_conversation", { conversation_id });

        const sent = await ann.does("send_message", { conversation_id, temp_id: "t", content: "from Socket.IO" });
        const heard = await bob.hears("new_message", (it) => it.seq === sent.seq);
        assert.deepEqual([heard.content, heard.client_id, "temp_id" in heard], ["from Socket.IO", sent.client_id, false]);
        // Before the reply, which marks everything up to itself as read.
        await bob.does("mark_read", { conversation_id, seq: sent.seq });
        const read = await ann.hears("read", (it) => it.user_id === people[1].userId && it.last_read_seq === sent.seq);
        const answered = await bob.does("send_message", { conversation_id, client_id: crypto.randomUUID(), content: "from native", reply_to: sent.seq });
        const answer = await ann.hears("new_message", (it) => it.seq === answered.seq);
        assert.deepEqual([answer.content, answer.reply_to, answer.prev_seq], ["from native", sent.seq, read.seq]);

        ann.socket.emit("typing", { conversation_id, is_typing: true });
        await bob.hears("typing", (it) => it.user_id === people[0].userId && it.is_typing);
        await bob.does("typing", { conversation_id, is_typing: true });
        await ann.hears("typing", (it) => it.user_id === people[1].userId && it.is_typing);

        await ann.does("mark_read", { conversation_id, seq: answered.seq });
        await bob.hears("read", (it) => it.user_id === people[0].userId && it.last_read_seq === answered.seq);

        await ann.does("edit_message", { conversation_id, seq: sent.seq, content: "edited there" });
        await bob.hears("message_edited", (it) => it.message_seq === sent.seq && it.content === "edited there");
        await bob.does("edit_message", { conversation_id, seq: answered.seq, content: "edited here" });
        await ann.hears("message_edited", (it) => it.message_seq === answered.seq && it.content === "edited here");
        await bob.does("delete_message", { conversation_id, seq: answered.seq });
        await ann.hears("message_deleted", (it) => it.message_seq === answered.seq);

        ann.socket.disconnect();
        await bob.hears("presence", (it) => it.user_id === people[0].userId && !it.online);
      });
    }
  });
}
