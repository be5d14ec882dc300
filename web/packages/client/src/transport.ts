import { batchJoins } from "./batch.ts";
import { SUBPROTOCOL } from "./wire.ts";

/** What a transport tells. After `closed` nothing more. */
export interface TransportEvents {
  message(text: string): void;
  closed(code: number, reason: string): void;
}

/** One socket, once. */
export interface Transport {
  send(text: string): void;
  /** Closes; nothing is told any more. */
  close(): void;
}

/** Opens a socket with a token. */
export type Dial = (token: string, events: TransportEvents) => Transport;

/** Dials WebSockets. The token goes as a subprotocol, as browsers can't set headers and a URL is logged. */
export function webSocketDial(url: string): Dial {
  return (token, events) => {
    const socket = new WebSocket(url, [SUBPROTOCOL, `bearer.${token}`]);
    const joins = batchJoins((text) => {
      if (socket.readyState === WebSocket.OPEN) socket.send(text);
    });
    socket.onmessage = ({ data }) => {
      if (typeof data !== "string") return;
      joins.hear(data);
      events.message(data);
    };
    socket.onclose = ({ code, reason }) => events.closed(code, reason);
    return {
      send: (text) => joins.send(text),
      close: () => {
        socket.onmessage = socket.onclose = null;
        socket.close(1000);
      },
    };
  };
}
