// The systems that are compared: how each is started on core 0, and how the load gets in.
import { execFileSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

import { Process, freePort, redis } from "./socketio/processes.mjs";

const here = dirname(fileURLToPath(import.meta.url));
const { PARLOR, PEER_HOME, PEER_WS_HOME, PEER_CENTRIFUGO } = process.env;
const NODES = 3;
const SERVER_CORE = "0";

const installed = (home, name) =>
  createRequire(join(home, "package.json"))(`${name}/package.json`).version;
const said = (program, ...args) => execFileSync(program, args, { encoding: "utf8" }).trim();

/** A process on the servers' core; `env` is added to what there is. */
function pinned(name, port, command, args, ready, env = {}) {
  const set = Object.entries(env).map(([key, value]) => `${key}=${value}`);
  const line = ["-c", SERVER_CORE, "env", ...set, command, ...args];
  return new Process(name, port, "taskset", line, ready);
}

async function ownRedis() {
  const plain = redis(await freePort());
  return pinned("redis", plain.port, plain.command, plain.args, plain.ready);
}

/** So many processes, each with its port. */
async function several(count, make) {
  const made = [];
  for (let number = 1; number <= count; number += 1) made.push(await make(number, await freePort()));
  return made;
}

/** `parlor up`; `0` has servers pick free ports. */
async function parlor(args, parts, folder) {
  const [front, api] = [await freePort(), await freePort()];
  const ports = ["--balancer-port", `${front}`, "--server-port", "0", "--api-port", `${api}`];
  const line = ["up", ...ports, ...args, "--ready-json"];
  return {
    parts,
    servers: [pinned("parlor", front, PARLOR, line, '"ready":true', { PARLOR_LOG: "warn" })],
    load: ["--url", `ws://127.0.0.1:${front}/ws`, "--api", `http://127.0.0.1:${api}`],
    clean: () => folder && rmSync(folder, { recursive: true, force: true }),
  };
}

function peer(parts, servers, dialect, path, clean = () => {}) {
  const urls = servers.map((one) => `ws://127.0.0.1:${one.port}${path}`).join(",");
  return { parts, servers, load: ["--dialect", dialect, "--url", urls], clean };
}

/** Three nodes of Socket.IO that meet in a Redis by one of its adapters. */
async function socketIo(adapter) {
  const store = await ownRedis();
  const env = { PEER_HOME, NODE_ENV: "production" };
  const file = join(here, "socketio", "server.mjs");
  const servers = await several(NODES, (number, port) =>
    pinned(`node${number}`, port, process.execPath,
      [file, String(port), String(store.port), adapter, "lean"], "ready", env));
  return peer([store], servers, "socket-io", "/socket.io/?EIO=4&transport=websocket");
}

const socketIoVersion = () => `socket.io ${installed(PEER_HOME, "socket.io")}, @socket.io/redis-adapter `
  + `${installed(PEER_HOME, "@socket.io/redis-adapter")}, Node ${process.version}`;

/** Three servers in one process that meet in a Redis; `store` says where messages go. */
async function parlorOverRedis(store, folder) {
  const shared = await ownRedis();
  const url = `redis://127.0.0.1:${shared.port}`;
  return parlor(["--servers", `${NODES}`, "--redis", url, ...store], [shared], folder);
}

/**
 * Each gives `{ parts, servers, load, clean }`: what is started first, what is measured. `leaves`
 * names scenarios in which a system shows nothing.
 */
export const systems = {
  parlor: {
    title: "Parlor, one server",
    setting: "`parlor up --servers 1 --memory`: nothing outlives the process, as in the relay",
    version: () => said(PARLOR, "--version"),
    make: () => parlor(["--servers", "1", "--memory"], []),
  },
  "parlor-redis": {
    title: "Parlor, three servers, Redis, SQLite",
    setting: "`parlor up --servers 3 --redis …`: every message is durable before its ack, and "
      + "most cross servers over Redis; the three servers are one process",
    version: () => said(PARLOR, "--version"),
    make: () => {
      const folder = mkdtempSync(join(tmpdir(), "parlor-compare-"));
      return parlorOverRedis(["--data", folder], folder);
    },
  },
  "parlor-redis-memory": {
    title: "Parlor, three servers, Redis, nothing on disk",
    setting: "`parlor up --servers 3 --memory --redis …`: the same without the disk, as the others "
      + "have none",
    // An idle user costs what one of the others does.
    leaves: ["idle"],
    version: () => said(PARLOR, "--version"),
    make: () => parlorOverRedis(["--memory"]),
  },
  socketio: {
    title: "Socket.IO 4, three nodes, Redis adapter",
    setting: "WebSocket only, no compression, a room for each user, emitted to the recipient alone, "
      + "an ack once it is emitted, requests not kept as its page on memory advises; nothing is "
      + "stored",
    version: socketIoVersion,
    make: () => socketIo("redis"),
  },
  "socketio-sharded": {
    title: "Socket.IO 4, three nodes, sharded adapter",
    setting: "the same with the adapter's variant for Redis 7, which its page recommends for new "
      + "developments: a channel for each room; its client is `redis`, that of the other ioredis",
    version: () => `${socketIoVersion()}, redis ${installed(PEER_HOME, "redis")}`,
    make: () => socketIo("sharded"),
  },
  ws: {
    title: "bare `ws` relay, one process",
    setting: "`bench/peers/ws/relay.mjs`: a map of users, an ack, nothing stored, no other server",
    version: () => `ws ${installed(PEER_WS_HOME, "ws")}, Node ${process.version}`,
    make: async () => {
      const env = { PEER_HOME: PEER_WS_HOME, NODE_ENV: "production" };
      const file = join(here, "ws", "relay.mjs");
      const servers = await several(1, (_, port) =>
        pinned("relay", port, process.execPath, [file, String(port)], "ready", env));
      return peer([], servers, "relay", "/ws");
    },
  },
  bare: {
    title: "bare `send`, one process",
    setting: "`src/bench/bare.rs`: a message is encoded once and given to the system once for each "
      + "recipient, and nothing else is done; what others cost is to be read beside it",
    // It pings nobody.
    leaves: ["idle"],
    version: () => said(PARLOR, "--version"),
    make: async () => {
      const servers = await several(1, (_, port) =>
        pinned("bare", port, PARLOR, ["bench", "bare", String(port)], "ready"));
      return peer([], servers, "relay", "/ws");
    },
  },
  centrifugo: {
    title: "Centrifugo, three nodes, Redis engine",
    setting: "`bench/peers/centrifugo/config.json`, a channel for each user, clients publish; no "
      + "history, nothing is stored",
    // Built from its module, it does not know its version itself.
    version: () => `Centrifugo ${process.env.PEER_CENTRIFUGO_VERSION}`,
    missing: () => (existsSync(PEER_CENTRIFUGO) ? undefined : "Centrifugo could not be built here"),
    make: async () => {
      const store = await ownRedis();
      const folder = mkdtempSync(join(tmpdir(), "parlor-compare-"));
      const config = JSON.parse(readFileSync(join(here, "centrifugo", "config.json"), "utf8"));
      config.engine.redis.address = `redis://127.0.0.1:${store.port}`;
      const servers = await several(NODES, (number, port) => {
        const file = join(folder, `${number}.json`);
        config.http_server.port = port;
        config.node = { name: `node${number}` };
        writeFileSync(file, JSON.stringify(config));
        // It logs to stderr, and what tells that it is ready is looked for on stdout.
        const line = ["-c", 'exec "$0" --config "$1" 2>&1', PEER_CENTRIFUGO, file];
        return pinned(`node${number}`, port, "sh", line, "endpoints on");
      });
      const clean = () => rmSync(folder, { recursive: true, force: true });
      return peer([store], servers, "centrifugo", "/connection/websocket", clean);
    },
  },
};
