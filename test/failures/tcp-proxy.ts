/** @file A proxy for connections that are to break. */
import { once } from "node:events";
import { connect, createServer, type AddressInfo, type Socket } from "node:net";

/** Connections to a port of this machine that can be cut. */
export interface TcpProxy {
  port: number;
  /** Breaks all connections, whatever is on its way; while `down`, new ones break too. @returns how many there were */
  cut(down?: boolean): number;
  /** Lets nothing through any more, without a word to anybody. */
  stall(): void;
  /** Lets connections through again. */
  mend(): void;
  close(): Promise<void>;
}

/** Opens a proxy. */
export async function openProxy(target: number): Promise<TcpProxy> {
  const sockets = new Set<Socket>();
  let isDown = false;
  const track = (socket: Socket): void => {
    sockets.add(socket);
    socket.on("close", () => sockets.delete(socket));
    // What breaks is the point of it.
    socket.on("error", () => undefined);
  };
  const server = createServer((client) => {
    track(client);
    if (isDown) return void client.destroy();
    const upstream = connect(target, "127.0.0.1");
    track(upstream);
    client.pipe(upstream).pipe(client);
    client.on("close", () => upstream.destroy());
    upstream.on("close", () => client.destroy());
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const cut = (down = false): number => {
    isDown = down;
    const { size } = sockets;
    for (const socket of sockets) socket.destroy();
    return size / 2;
  };
  return {
    port: (server.address() as AddressInfo).port,
    cut,
    stall: () => {
      for (const socket of sockets) socket.unpipe().pause();
    },
    mend: () => {
      isDown = false;
    },
    close: async () => {
      server.close();
      cut(true);
      await once(server, "close");
    },
  };
}
