/** @file Servers that tests start for themselves, where the system has them installed. */

import { execFileSync, spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { createConnection, createServer, type AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

import { Client } from "pg";

/** Where a program is: in PATH or one of `folders`; undefined if it is not installed. */
export function findProgram(name: string, folders: readonly string[] = []): string | undefined {
  const searched = [...(process.env.PATH ?? "").split(delimiter), ...folders];
  return searched.map((folder) => join(folder, name)).find((path) => existsSync(path));
}

/** A server and how to end it; its data is removed. */
export interface TestServer {
  port: number;
  /** Crashes it, and starts it again `pauseMs` later with what it had on disk. */
  restart(pauseMs: number): Promise<void>;
  stop(): Promise<void>;
}

/** How a server is started. */
interface Launch {
  start: () => ChildProcess;
  /** Waits, beyond the open port, until it can be used. */
  ready?: (port: number) => Promise<void>;
  /** How it is crashed. */
  crash: NodeJS.Signals;
  port: number;
  folder: string;
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, "close");
  return port;
}

async function answers(port: number): Promise<boolean> {
  const socket = createConnection({ port, host: "127.0.0.1" });
  const connected = await Promise.race([
    once(socket, "connect").then(() => true),
    once(socket, "error").then(() => false),
  ]).catch(() => false);
  socket.destroy();
  return connected;
}

async function launched({ start, ready, port }: Launch): Promise<ChildProcess> {
  const child = start();
  let output = "";
  child.stdout?.on("data", (data: Buffer) => (output += data.toString()));
  child.stderr?.on("data", (data: Buffer) => (output += data.toString()));
  for (let attempt = 0; attempt < 200 && child.exitCode === null; attempt++) {
    if (await answers(port)) {
      await ready?.(port);
      return child;
    }
    await sleep(50);
  }
  await end(child, "SIGKILL");
  throw new Error(`The server did not start:\n${output}`);
}

async function end(child: ChildProcess, signal: NodeJS.Signals): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  child.kill(signal);
  await once(child, "exit");
}

async function started(launch: Launch): Promise<TestServer> {
  const { port, folder, crash } = launch;
  const remove = (): void => rmSync(folder, { recursive: true, force: true });
  let child = await launched(launch).catch((error: unknown) => {
    remove();
    throw error;
  });
  return {
    port,
    restart: async (pauseMs) => {
      await end(child, crash);
      await sleep(pauseMs);
      child = await launched(launch);
    },
    stop: async () => {
      await end(child, "SIGINT");
      remove();
    },
  };
}

/** Where Redis or Valkey is installed. */
export const redisProgram: string | undefined = findProgram("redis-server") ?? findProgram("valkey-server");

/** A Redis server of its own, which writes nothing to disk, or with `durable` everything before it acknowledges it. */
export async function startRedis({ durable = false }: { durable?: boolean } = {}): Promise<TestServer> {
  const port = await freePort();
  const folder = mkdtempSync(join(tmpdir(), "precis-redis-"));
  const disk = durable ? ["--appendonly", "yes", "--appendfsync", "always"] : ["--appendonly", "no"];
  const options = ["--port", `${port}`, "--bind", "127.0.0.1", "--save", "", "--dir", folder, ...disk];
  return started({ start: () => spawn(redisProgram!, options), crash: "SIGKILL", port, folder });
}

const postgresHome = "/usr/lib/postgresql";
const postgresFolders: string[] = existsSync(postgresHome)
  ? readdirSync(postgresHome).map((version) => join(postgresHome, version, "bin"))
  : [];

/** Where PostgreSQL is installed; Debian keeps it out of PATH. */
export const postgresProgram: string | undefined = findProgram("postgres", postgresFolders);

/** A PostgreSQL server of its own, with a user and a database `postgres`, without a password. */
export async function startPostgres(): Promise<TestServer> {
  const port = await freePort();
  const folder = mkdtempSync(join(tmpdir(), "precis-postgres-"));
  // PostgreSQL refuses to run as root; its package brings a user for it.
  const isRoot = process.getuid?.() === 0;
  const user = isRoot ? userIds("postgres") : {};
  if (isRoot) execFileSync("chown", ["postgres", folder]);
  const initdb = findProgram("initdb", postgresFolders)!;
  const data = join(folder, "data");
  const setUp = ["-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"];
  execFileSync(initdb, setUp, { ...user, stdio: "pipe", cwd: folder });
  const options = ["-D", data, "-p", `${port}`, "-c", "listen_addresses=127.0.0.1", "-c", `unix_socket_directories=`];
  const start = (): ChildProcess => spawn(postgresProgram!, options, { ...user, cwd: folder });
  // SIGQUIT ends it without any tidying up, but leaves no processes of it behind.
  return started({ start, ready: untilPostgresAnswers, crash: "SIGQUIT", port, folder });
}

/** While the server starts it takes connections and sends them away again. */
async function untilPostgresAnswers(port: number): Promise<void> {
  for (let attempt = 0; ; attempt++) {
    const client = new Client({ host: "127.0.0.1", port, user: "postgres", database: "postgres" });
    try {
      await client.connect();
      return await client.end();
    } catch (error) {
      if (attempt === 100) throw error;
      await sleep(50);
    }
  }
}

function userIds(name: string): { uid: number; gid: number } {
  const id = (flag: string): number => Number(execFileSync("id", [flag, name], { encoding: "utf8" }));
  return { uid: id("-u"), gid: id("-g") };
}
