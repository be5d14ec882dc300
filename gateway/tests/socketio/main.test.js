/**
 * Socket.IO's official client against two real gateways. One file for `node --test`, since one stack is for all.
 */
import { after, before } from "node:test";

import { crowd } from "./crowd.js";
import { handshake } from "./handshake.js";
import { many } from "./many.js";
import { mixed } from "./mixed.js";
import { reconnect } from "./reconnect.js";
import { Stack } from "./stack.js";
import { talk } from "./talk.js";

/** The stack, once it runs. */
const world = {};

before(async () => {
  world.stack = await Stack.start();
});
after(() => world.stack?.stop());

handshake(world);
talk(world, "websocket");
talk(world, "polling");
many(world, "websocket");
many(world, "polling");
mixed(world);
reconnect(world, "websocket");
reconnect(world, "polling");
crowd(world);
