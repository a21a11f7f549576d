// Runs the peer under load and faults, and prints a row of the ledger. See `run`.
import { execFileSync } from "node:child_process";
import { appendFileSync } from "node:fs";
import { parseArgs } from "node:util";

import { Balancer } from "./balancer.mjs";
import { Counter } from "./counter.mjs";
import { Faults } from "./faults.mjs";
import { History } from "./history.mjs";
import { version } from "./libraries.mjs";
import { Load } from "./load.mjs";
import { freePort, redis, server, sleep } from "./processes.mjs";

const SERVERS = 3;
/** How long before and after the faults there is load alone. */
const CALM_MS = 5_000;
/** How long everybody has to come back: a client notices a dead connection within 45 s. */
const BACK_WITHIN_MS = 60_000;
/** How long nothing may come before nothing is expected any more. */
const SETTLED_MS = 5_000;
/** Starting, the calm parts and the way back, at most. */
const BEYOND_MS = 240_000;

const { values: options } = parseArgs({
  options: {
    seconds: { type: "string", default: "120" },
    seed: { type: "string", default: "7" },
    rate: { type: "string", default: "300" },
    adapter: { type: "string", default: "redis" },
    history: { type: "string" },
    ledger: { type: "string" },
    // The control: the same load, and nothing is broken.
    "no-faults": { type: "boolean", default: false },
  },
});
const seconds = Number(options.seconds);
const seed = Number(options.seed);
const packages = {
  redis: "@socket.io/redis-adapter",
  sharded: "@socket.io/redis-adapter",
  streams: "@socket.io/redis-streams-adapter",
};
if (!(seconds > 0) || !Number.isInteger(seed) || !(options.adapter in packages)) {
  console.error("see the head of bench/peers/socketio/run for the options");
  process.exit(2);
}

/** Mulberry32: the same seed draws the same load and faults. */
function dice(state) {
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296;
  };
}

const processes = [];
process.on("exit", () => processes.forEach((one) => one.kill()));
for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => process.exit(1));
setTimeout(() => {
  console.error("out of time");
  process.exit(1);
}, seconds * 1_000 + BEYOND_MS).unref();

async function start() {
  const store = redis(await freePort());
  processes.push(store);
  await store.start();
  const servers = [];
  for (let number = 1; number <= SERVERS; number += 1) {
    servers.push(server(number, await freePort(), store.port, options.adapter));
  }
  processes.push(...servers);
  await Promise.all(servers.map((one) => one.start()));
  const balancer = new Balancer(servers.map((one) => one.port));
  await balancer.listen();
  return { redis: store, servers, balancer, adapter: options.adapter };
}

async function until(what, within) {
  const end = Date.now() + within;
  while (!what() && Date.now() < end) await sleep(100);
  return what();
}

/** The row as a line of the ledger: the form is `Record` in src/torture/ledger.rs. */
function record(row) {
  const git = (...args) => execFileSync("git", args, { cwd: import.meta.dirname, encoding: "utf8" });
  const adapter = options.adapter === "redis" ? "" : ` --adapter ${options.adapter}`;
  return {
    system: `Socket.IO ${row.version}, ${row.adapter}`,
    run: "",
    when: new Date().toISOString().slice(0, 16).replace("T", " "),
    commit: git("rev-parse", "--short=12", "HEAD").trim(),
    dirty: git("status", "--porcelain", "--", ".").trim() !== "",
    target: "fleet",
    seed,
    seconds,
    command: `bench/peers/socketio/run --seconds ${seconds} --seed ${seed}${adapter}`,
    verdict: "",
    acked: row.acked,
    lost: row.lost,
    duplicated: row.duplicated,
    reordered: row.reordered,
    injected: row.faults,
    effective: row.effective,
  };
}

async function main() {
  const say = (text) => console.error(`${(process.uptime()).toFixed(1)} s  ${text}`);
  const history = new History(options.history);
  history.note("run", { commit: `socket.io ${version("socket.io")}`, seed });
  history.note("phase", { phase: "quiet" });
  const world = await start();
  const counter = new Counter();
  const url = `http://127.0.0.1:${world.balancer.port}`;
  const load = new Load(url, dice(seed), counter, history);
  load.start();
  const all = () => load.connected() === load.devices.length;
  if (!await until(all, 30_000)) throw new Error("not all clients could connect");
  say(`${load.devices.length} devices are connected`);
  load.talk(Number(options.rate));
  await sleep(CALM_MS);
  history.note("phase", { phase: "faults" });
  const faults = new Faults(world, dice(seed ^ 0x5eed), history);
  const telling = setInterval(() => {
    const { begun, effective } = faults;
    const sum = (counts) => Object.values(counts).reduce((all, one) => all + one, 0);
    say(`${counter.messages.size} sent, ${sum(begun)} faults, ${sum(effective)} effective, `
      + `${load.connected()} connected`);
  }, 10_000);
  await (options["no-faults"] ? sleep(seconds * 1_000) : faults.run(seconds));
  history.note("phase", { phase: "healed" });
  await sleep(CALM_MS);
  load.quiet();
  history.note("phase", { phase: "drain" });
  const back = await until(all, BACK_WITHIN_MS);
  const settled = () => load.open === 0 && Date.now() - load.lastReceipt > SETTLED_MS;
  await until(settled, BACK_WITHIN_MS);
  history.note("phase", { phase: "read" });
  clearInterval(telling);
  const row = {
    peer: "socket.io",
    version: version("socket.io"),
    adapter: `${packages[options.adapter]} ${version(packages[options.adapter])}`
      + (options.adapter === "sharded" ? " (sharded)" : ""),
    recovery: options.adapter === "streams",
    seed,
    seconds,
    devices: load.devices.length,
    conversations: load.conversations.length,
    faults: faults.begun,
    effective: faults.effective,
    ...counter.result(),
    reconnects: load.reconnects,
    recovered: load.recovered,
    crashes: world.servers.reduce((sum, one) => sum + one.crashes, 0),
    all_back: back,
  };
  console.log(JSON.stringify(row));
  if (options.ledger) appendFileSync(options.ledger, `${JSON.stringify(record(row))}\n`);
  history.close();
  load.close();
  world.balancer.close();
}

main().then(() => process.exit(0), (error) => {
  console.error(error);
  process.exit(1);
});
