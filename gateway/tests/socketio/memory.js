/**
 * What an idle Socket.IO connection takes of the gateway's memory: connects people in pairs, each pair in a
 * conversation that both join, waits until a ping was answered, and reads the process's proportional set size before
 * and after.
 *
 *     PARTYLINE_DEVSTACK=target/release/devstack npm run memory -- websocket 5000
 *
 * The first word is `websocket` or `polling`, the second the number of connections.
 */
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";

import { io } from "socket.io-client";

import { Stack, somebody } from "./stack.js";

/** Connections that are under way at once. */
const AT_ONCE = 50;
/** Longer than the ping's interval. */
const IDLE_MS = 30_000;

const [transport = "websocket", count = "5000"] = process.argv.slice(2);
const connections = Number(count);
const stack = await Stack.start();
try {
  const pairs = Array.from({ length: connections / 2 }, (_, n) => [somebody(`a${n}`), somebody(`b${n}`)]);
  const conversations = await inTurns(pairs, (pair) => stack.group(...pair));
  const seats = pairs.flatMap((pair, n) => pair.map((person) => ({ person, conversation_id: conversations[n] })));
  const before = memory();
  let lost = 0;
  const sockets = await inTurns(seats, async ({ person, conversation_id }) => {
    const socket = io(stack.gateways[0], {
      auth: { token: stack.token(person) },
      transports: [transport],
      forceNew: true,
      reconnection: false,
    });
    await new Promise((resolve, reject) => socket.once("connected", resolve).once("connect_error", reject));
    const joined = await socket.emitWithAck("join_conversation", { conversation_id });
    if (joined.status !== "ok") throw new Error(JSON.stringify(joined));
    socket.on("disconnect", () => (lost += 1));
    return socket;
  });
  await sleep(IDLE_MS);
  const idle = memory();
  console.log(`${connections} joined connections over ${transport}, idle for ${IDLE_MS / 1_000} s, ${lost} lost meanwhile`);
  console.log(`  PSS before ${before} KiB, idle ${idle} KiB: ${((idle - before) / connections).toFixed(2)} KiB a connection`);
  for (const socket of sockets) socket.removeAllListeners("disconnect").disconnect();
} finally {
  await stack.stop();
}

/** Does something for each, so many at once; what came out, in order. */
async function inTurns(items, work) {
  const results = [];
  let next = 0;
  const worker = async () => {
    while (next < items.length) {
      const place = next++;
      results[place] = await work(items[place]);
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, worker));
  return results;
}

/** The first gateway's proportional set size, in KiB. */
function memory() {
  return Number(readFileSync(`/proc/${stack.pid(0)}/smaps_rollup`, "utf8").match(/^Pss: +(\d+) kB/m)[1]);
}
