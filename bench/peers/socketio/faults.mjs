// The faults, as far as they exist here: each says whether it was seen to bite.
import { load } from "./libraries.mjs";
import { sleep } from "./processes.mjs";

const { Redis } = load("ioredis");

const between = (random, from, to) => from + random() * (to - from);
/** So long a fault may go on when the time is up. */
const BEYOND_MS = 2_000;

/** Asks Redis something, on a connection of its own. */
async function ask(port, ...command) {
  const redis = new Redis({ host: "127.0.0.1", port, lazyConnect: true, connectTimeout: 1_000,
    commandTimeout: 2_000, retryStrategy: () => null });
  redis.on("error", () => {});
  try {
    await redis.connect();
    return await redis.call(...command);
  } finally {
    redis.disconnect();
  }
}

export class Faults {
  constructor(world, random, history) {
    Object.assign(this, { ...world, random, history });
    this.begun = {};
    this.effective = {};
    this.busy = new Set();
    this.active = new Set();
    this.number = 0;
    // How long each lasts at least and at most, in ms, and how often it is drawn.
    this.kinds = [
      ["server-kill", 2, (target) => this.restart(target, "SIGKILL", 500, 3_000)],
      ["server-term", 1, (target) => this.restart(target, "SIGTERM", 500, 2_000)],
      ["server-pause", 2, (target) => this.pause(target, 1_000, 20_000)],
      ["redis-kill", 1, () => this.restart(this.redis, "SIGKILL", 500, 3_000)],
      ["redis-hang", 1, () => this.pause(this.redis, 1_000, 10_000)],
      ["redis-empty", 1, () => this.empty()],
      ["redis-cut", 2, () => this.cut()],
      ["client-reset", 4, (pair) => this.balancer.reset(pair) ? 1 : 0],
      ["client-half-open", 3, (pair) => this.halfOpen(pair)],
    ];
  }

  lasts(from, to) {
    const left = Math.max(this.end - Date.now(), 0) + BEYOND_MS;
    return sleep(Math.min(between(this.random, from, to), left));
  }

  async restart(target, signal, from, to) {
    const running = await target.end(signal);
    await this.lasts(from, to);
    await target.start();
    return running ? 1 : 0;
  }

  async pause(target, from, to) {
    target.signal("SIGSTOP");
    await sleep(50);
    const stopped = target.stopped();
    await this.lasts(from, to);
    target.signal("SIGCONT");
    return stopped ? 1 : 0;
  }

  /** Bites where there was something: the adapter on pub/sub keeps nothing in Redis. */
  async empty() {
    const keys = await ask(this.redis.port, "DBSIZE");
    await ask(this.redis.port, "FLUSHALL");
    return keys;
  }

  /** Cuts what servers listen on: subscriptions, or the connections that read the stream. */
  async cut() {
    const type = this.adapter === "streams" ? "normal" : "pubsub";
    return ask(this.redis.port, "CLIENT", "KILL", "TYPE", type);
  }

  /** The end is a reset: until then nobody has heard of anything. */
  async halfOpen(pair) {
    this.balancer.freeze(pair);
    await this.lasts(5_000, 40_000);
    this.balancer.reset(pair);
    return 1;
  }

  draw() {
    const total = this.kinds.reduce((sum, [, weight]) => sum + weight, 0);
    let left = this.random() * total;
    return this.kinds.find(([, weight]) => (left -= weight) < 0);
  }

  /** What a kind can hit now: one fault at a time on Redis, two of three servers at most. */
  target(kind) {
    if (kind.startsWith("redis")) return this.busy.has(this.redis) ? undefined : this.redis;
    if (kind.startsWith("client")) {
      const pairs = [...this.balancer.pairs].filter((pair) => !pair.frozen);
      return pairs[Math.floor(this.random() * pairs.length)];
    }
    const free = this.servers.filter((server) => !this.busy.has(server));
    return free.length < 2 ? undefined : free[Math.floor(this.random() * free.length)];
  }

  async inject() {
    const [kind, , run] = this.draw();
    const target = this.target(kind);
    if (target === undefined) return;
    this.busy.add(target);
    const fault = `f${this.number++}`;
    this.begun[kind] = (this.begun[kind] ?? 0) + 1;
    this.history.note("fault", { fault, kind, target: target.name ?? "client" });
    let bites = 0;
    try {
      bites = Number(await run(target));
    } catch (error) {
      console.error(`${kind}: ${error.message}`);
    }
    this.busy.delete(target);
    this.history.note("healed", { fault, bites });
    if (bites > 0) this.effective[kind] = (this.effective[kind] ?? 0) + 1;
  }

  /** A fault every second and a half or so, until the time is up and all are healed. */
  async run(seconds) {
    this.end = Date.now() + seconds * 1_000;
    while (Date.now() < this.end) {
      const fault = this.inject().finally(() => this.active.delete(fault));
      this.active.add(fault);
      await sleep(between(this.random, 500, 2_500));
    }
    await Promise.all(this.active);
  }
}
