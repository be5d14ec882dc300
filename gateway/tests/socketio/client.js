import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import { once } from "node:events";
import { connect as dial, createServer } from "node:net";

import { io } from "socket.io-client";
import WebSocket from "ws";

export const PATIENCE_MS = 20_000;

/** What was heard, and who waits to hear more. */
class Ears {
  heard = [];
  #waiting = new Set();

  hear(event, argument) {
    this.heard.push([event, argument]);
    for (const look of this.#waiting) look();
  }

  /** The first event of this name that `matches`, past or to come. */
  hears(event, matches = () => true) {
    return new Promise((resolve, reject) => {
      const look = () => {
        const found = this.heard.find(([name, argument]) => name === event && matches(argument));
        if (!found) return;
        this.#waiting.delete(look);
        clearTimeout(timer);
        resolve(found[1]);
      };
      const timer = setTimeout(() => {
        this.#waiting.delete(look);
        reject(new Error(`no ${event}; heard: ${this.heard.map(([name, it]) => `${name} ${JSON.stringify(it)}`).join("\n")}`));
      }, PATIENCE_MS);
      this.#waiting.add(look);
      look();
    });
  }

  all(event) {
    return this.heard.filter(([name]) => name === event).map(([, argument]) => argument);
  }
}

/** A person with Socket.IO's own client. */
export class Client extends Ears {
  constructor(t, url, options) {
    super();
    this.socket = io(url, { forceNew: true, reconnectionDelay: 50, reconnectionDelayMax: 500, ...options });
    this.socket.onAny((event, argument) => this.hear(event, argument));
    for (const event of ["connect", "connect_error", "disconnect"]) {
      this.socket.on(event, (argument) => this.hear(event, argument));
    }
    t.after(() => this.socket.disconnect());
  }

  /** Comes in with a good token. */
  static async come(t, stack, person, { gateway = 0, url = stack.gateways[gateway], ...options } = {}) {
    const client = new Client(t, url, { auth: { token: stack.token(person) }, ...options });
    await client.hears("connected");
    return client;
  }

  /** Emits, and waits for the answer. */
  ask(event, argument) {
    return this.socket.timeout(PATIENCE_MS).emitWithAck(event, argument);
  }

  /** The same, if all is well. */
  async does(event, argument) {
    const answer = await this.ask(event, argument);
    assert.equal(answer.status, "ok", JSON.stringify(answer));
    return answer;
  }

  /** Joins; what is unavailable is asked for again, as the protocol says. */
  async join(conversation_id, after) {
    const argument = { conversation_id, ...(after !== undefined && { after }) };
    for (let attempt = 0; ; attempt++) {
      const answer = await this.ask("join_conversation", argument);
      if (answer.code !== "unavailable" || attempt === 10) {
        assert.equal(answer.status, "ok", JSON.stringify(answer));
        return answer;
      }
      await sleep(answer.retry_after_ms);
    }
  }
}

/** A person with the native protocol. */
export class NativeClient extends Ears {
  static async come(t, stack, person, gateway) {
    const client = new NativeClient();
    const url = `${stack.gateways[gateway].replace("http", "ws")}/ws`;
    client.socket = new WebSocket(url, ["partyline.v1", `bearer.${stack.token(person)}`]);
    client.socket.on("message", (data) => {
      const frame = JSON.parse(data);
      client.hear(frame.type, frame);
    });
    t.after(() => client.socket.terminate());
    await client.hears("welcome");
    return client;
  }

  #ref = 0;

  async does(type, fields) {
    const ref = String(++this.#ref);
    this.socket.send(JSON.stringify({ type, ref, ...fields }));
    if (type === "typing") return undefined;
    return this.hears(type === "join_conversation" ? "joined" : "ack", (answer) => answer.ref === ref);
  }
}

/** A balancer that sends everybody to the first node that takes connections. */
export class Balancer {
  #server;
  #open = new Set();

  static async start(t, targets) {
    const balancer = new Balancer();
    balancer.#server = createServer((client) => balancer.#serve(client, targets));
    balancer.#server.listen(0, "127.0.0.1");
    await once(balancer.#server, "listening");
    balancer.url = `http://127.0.0.1:${balancer.#server.address().port}`;
    t.after(() => {
      balancer.#server.close();
      for (const socket of balancer.#open) socket.destroy();
    });
    return balancer;
  }

  async #serve(client, targets) {
    client.on("error", () => client.destroy());
    this.#open.add(client);
    for (const target of targets) {
      const node = dial(new URL(target).port, "127.0.0.1");
      const connected = await new Promise((resolve) => node.once("connect", () => resolve(true)).once("error", () => resolve(false)));
      if (!connected) continue;
      node.on("error", () => client.destroy());
      node.on("close", () => client.destroy());
      client.on("close", () => {
        this.#open.delete(client);
        node.destroy();
      });
      client.pipe(node).pipe(client);
      return;
    }
    client.destroy();
  }
}
