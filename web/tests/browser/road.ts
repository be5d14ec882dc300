import { once } from "node:events";
import { connect, createServer, type Socket } from "node:net";

/** The network between a browser and the gateway, which can be cut. */
export interface Road {
  url: string;
  /** Every connection breaks, and no new one is made. */
  cut(): void;
  mend(): void;
  close(): Promise<void>;
}

export async function openRoad(port: number): Promise<Road> {
  const sockets = new Set<Socket>();
  let isCut = false;
  const server = createServer((near) => {
    if (isCut) {
      near.destroy();
      return;
    }
    const far = connect(port, "127.0.0.1");
    for (const [socket, peer] of [[near, far], [far, near]] as const) {
      sockets.add(socket);
      socket.on("error", () => peer.destroy());
      socket.on("close", () => {
        sockets.delete(socket);
        peer.destroy();
      });
      socket.pipe(peer);
    }
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const cut = () => {
    isCut = true;
    sockets.forEach((socket) => socket.destroy());
  };
  return {
    url: `http://127.0.0.1:${(server.address() as { port: number }).port}`,
    cut,
    mend: () => (isCut = false),
    close: async () => {
      cut();
      await once(server.close(), "close");
    },
  };
}
