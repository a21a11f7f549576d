// Puts the same load on all systems in turn, and writes what came out as a table. See `bench/run`.
import { execFileSync, spawn } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { cpus, release, totalmem } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

import { systems } from "./systems.mjs";

const root = join(dirname(fileURLToPath(import.meta.url)), "..", "..");
const LOAD_CORE = "1";
/** Opening, and waiting for what is late. */
const BEYOND_MS = 300_000;
/** More cores than this at somebody else's work, and times are noise. */
const BUSY = 0.25;
/** For how long that is looked at before each run, while nothing of it runs. */
const LOOK_MS = 1_000;
const [BEGIN, END] = ["<!-- compare: begin -->", "<!-- compare: end -->"];

const { values: options } = parseArgs({
  options: {
    rounds: { type: "string", default: "5" },
    systems: { type: "string", default: Object.keys(systems).join(",") },
    scenarios: { type: "string", default: "idle,pairs,rate,fanout" },
    users: { type: "string", default: "10000" },
    hold: { type: "string", default: "75" },
    pairs: { type: "string", default: "100" },
    window: { type: "string", default: "8" },
    rate: { type: "string", default: "2000" },
    seconds: { type: "string", default: "10" },
    members: { type: "string", default: "10,100,1000" },
    out: { type: "string", default: join(root, "docs", "benchmarks.md") },
    json: { type: "string" },
    try: { type: "boolean", default: false },
  },
});
const wanted = options.systems.split(",").filter((name) => {
  if (!(name in systems)) throw new Error(`no system ${name}: ${Object.keys(systems)}`);
  const why = systems[name].missing?.();
  if (why) console.error(`${name}: left out. ${why}`);
  return !why;
});

const latency = (name, field) => (report) => report[name]?.[field];
const room = (members, field) => (report) =>
  report.rooms?.find((row) => row.members === members)?.[field];
/** At 100 the load is what is measured. */
const loadShare = (report) => 100 * report.bench_cpu_seconds / Number(options.seconds);
const sizes = options.members.split(",").map(Number);

/** The options of each scenario, and the rows that come of it: name, unit, how it is read. */
const scenarios = {
  idle: {
    args: ["--users", options.users, "--hold", options.hold],
    rows: [
      ["user space of an idle user", "bytes", (report) => report.user_space_bytes_per_user],
      [`the same after ${options.hold} s`, "bytes", (r) => r.user_space_bytes_per_user_after],
      ["kernel memory of an idle user", "bytes", (report) => report.kernel_bytes_per_user],
      ["CPU of an idle user", "µs/s", (report) => report.cpu_us_per_user_and_second],
      ["CPU of a connection", "µs", (report) => report.cpu_us_per_connect],
    ],
  },
  pairs: {
    args: ["--pairs", options.pairs, "--window", options.window, "--seconds", options.seconds],
    rows: [
      ["messages, as fast as it goes", "a second", (report) => report.messages_per_second],
      ["CPU of a message, as fast as it goes", "µs", (report) => report.cpu_us_per_message],
      ["of the load's core in use meanwhile", "%", (report) => loadShare(report)],
      ["p50, as fast as it goes", "ms", latency("send_to_received", "p50_ms")],
      ["p99, as fast as it goes", "ms", latency("send_to_received", "p99_ms")],
    ],
  },
  rate: {
    args: ["--rate", options.rate, "--pairs", options.pairs, "--seconds", options.seconds],
    rows: [
      [`CPU of a message at ${options.rate} a second`, "µs", (r) => r.cpu_us_per_message],
      [`p50 at ${options.rate} a second`, "ms", latency("send_to_received", "p50_ms")],
      [`p99 at ${options.rate} a second`, "ms", latency("send_to_received", "p99_ms")],
      [`p99.9 at ${options.rate} a second`, "ms", latency("send_to_received", "p999_ms")],
    ],
  },
  fanout: {
    args: ["--members", options.members],
    rows: sizes.flatMap((members) => [
      [`CPU of a delivery in a room of ${members}`, "µs", room(members, "CPU_us/delivery")],
      [`p99 in a room of ${members}`, "ms", room(members, "p99_ms")],
    ]),
  },
};
const chosen = options.scenarios.split(",");

let running = [];
process.on("exit", () => running.forEach((one) => one.kill()));
for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => process.exit(1));

/** The report of one run of the load, or why there is none. */
function load(args) {
  return new Promise((done) => {
    const line = ["-c", LOAD_CORE, process.env.PARLOR, "bench", ...args, "--json"];
    const child = spawn("taskset", line, { stdio: ["ignore", "pipe", "pipe"] });
    const late = setTimeout(() => child.kill("SIGTERM"), BEYOND_MS + 1_000 * Number(options.hold));
    let [out, errors] = ["", ""];
    child.stdout.on("data", (text) => { out += text; });
    child.stderr.on("data", (text) => { errors += text; });
    running.push({ kill: () => child.kill("SIGKILL") });
    child.on("exit", () => {
      clearTimeout(late);
      try {
        done(JSON.parse(out));
      } catch {
        done({ good: false, failures: [errors.trim().split("\n").pop() || "no report"] });
      }
    });
  });
}

/** How many cores are at work while none of the systems is. */
async function busy() {
  const times = () => cpus().map(({ times: { idle, ...others } }) =>
    Object.values(others).reduce((sum, ms) => sum + ms, 0)).reduce((sum, ms) => sum + ms, 0);
  const [begun, since] = [times(), performance.now()];
  await new Promise((done) => setTimeout(done, LOOK_MS));
  return (times() - begun) / (performance.now() - since);
}

async function one(name, scenario) {
  const before = await busy();
  const system = await systems[name].make();
  const all = [...system.parts, ...system.servers];
  running = [...all];
  try {
    for (const part of system.parts) await part.start();
    await Promise.all(system.servers.map((server) => server.start()));
    const late = all.find((process) => !process.isReady);
    if (late) throw new Error(`${late.name} of ${name} was not ready in time`);
    const pids = system.servers.map((server) => server.child.pid).join(",");
    const args = [scenario, ...system.load, "--pid", pids, ...scenarios[scenario].args];
    const report = await load(args);
    if (all.some((process) => process.crashes > 0)) {
      report.good = false;
      report.failures.push("a server ended by itself");
    }
    return { ...report, system: name, scenario_run: scenario, before };
  } finally {
    for (const process of all.reverse()) await process.end("SIGKILL");
    running = [];
    system.clean();
  }
}

async function everything() {
  const runs = [];
  for (let round = 0; round < Number(options.rounds); round += 1) {
    for (const scenario of chosen) {
      // Each goes first in turn, so that none has the machine colder than the others.
      for (let turn = 0; turn < wanted.length; turn += 1) {
        const name = wanted[(turn + round) % wanted.length];
        if (systems[name].leaves?.includes(scenario)) continue;
        const report = await one(name, scenario);
        runs.push({ ...report, round });
        const said = report.good ? "good" : `failed: ${report.failures.join("; ")}`;
        console.error(`round ${round + 1}, ${scenario}, ${name}: ${said}`);
      }
    }
  }
  return runs;
}

function median(numbers) {
  const sorted = [...numbers].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

function digits(number) {
  const places = Math.abs(number) >= 100 ? 0 : Math.abs(number) >= 10 ? 1 : 2;
  return number.toLocaleString("en-US", { minimumFractionDigits: 0, maximumFractionDigits: places });
}

/** The median, and from where to where the runs went. */
function cell(runs, read) {
  const numbers = runs.filter((run) => run.good).map(read)
    .filter((number) => Number.isFinite(number));
  const failed = runs.filter((run) => !run.good).length;
  const note = failed > 0 ? `, ${failed} of ${runs.length} failed` : "";
  if (numbers.length === 0) return runs.length > 0 ? `no good run of ${runs.length}` : "not run";
  if (numbers.length === 1) return `${digits(numbers[0])}${note}`;
  const [least, most] = [Math.min(...numbers), Math.max(...numbers)];
  return `${digits(median(numbers))} (${digits(least)}–${digits(most)}${note})`;
}

function table(runs) {
  const head = ["", ...wanted.map((name) => systems[name].title)];
  const lines = [head, head.map((_, index) => (index === 0 ? "---" : "---:"))];
  for (const scenario of chosen) {
    for (const [name, unit, read] of scenarios[scenario].rows) {
      const of = (system) => runs.filter((r) => r.system === system && r.scenario_run === scenario);
      lines.push([`${name}, ${unit}`, ...wanted.map((system) => cell(of(system), read))]);
    }
  }
  return lines.map((cells) => `| ${cells.join(" | ")} |`).join("\n");
}

function page(runs) {
  const [cpu] = cpus();
  const git = (...args) => execFileSync("git", args, { cwd: root, encoding: "utf8" }).trim();
  const busiest = Math.max(...runs.map((run) => run.before));
  const failures = runs.filter((run) => !run.good)
    .map((run) => `- ${systems[run.system].title}, ${run.scenario_run}: ${run.failures.join("; ")}`);
  const told = ["scenarios", "systems", "rounds", "users", "hold", "pairs", "window", "rate", "seconds", "members"];
  const command = `bench/run ${told.map((name) => `--${name} ${options[name]}`).join(" ")}`;
  const warning = options.try || busiest > BUSY
    ? ["**Only a try**: it shows that the command works. The machine had other work to do (up to "
      + `${busiest.toFixed(1)} cores of it before a run), so no figure here means anything.`, ""]
    : [];
  return [
    ...warning,
    `\`${command}\`, ${new Date().toISOString().slice(0, 10)}, commit ${git("rev-parse", "--short=12", "HEAD")}. `
      + `${cpus().length} cores of ${cpu.model}, ${Math.round(totalmem() / 2 ** 30)} GiB, Linux `
      + `${release()}. Servers and Redis on core 0, the load, one program for all, on core 1. `
      + `Median of ${options.rounds} alternated runs, in brackets from where to where they went; memory `
      + "and CPU are those of the server processes, without Redis. Kernel memory is half of what slab "
      + "and TCP buffers of the machine grew by, since both ends of a connection are on it (names "
      + "of open files in /proc, which others ask for, left out).",
    "",
    table(runs),
    "",
    ...wanted.map((name) => {
      const { title, setting, version } = systems[name];
      return `- ${title}: ${version()}. ${setting}.`;
    }),
    `- Redis: ${execFileSync("redis-server", ["--version"], { encoding: "utf8" }).split(" ").slice(0, 3).join(" ")}.`,
    ...options.systems.split(",").filter((name) => systems[name].missing?.())
      .map((name) => `- ${systems[name].title}: ${systems[name].missing()}.`),
    ...(failures.length > 0 ? ["", "Runs that failed:", "", ...new Set(failures)] : []),
  ].join("\n");
}

async function main() {
  const runs = await everything();
  if (options.json) writeFileSync(options.json, `${JSON.stringify(runs)}\n`);
  const bad = runs.filter((run) => !run.good).length;
  if (bad === runs.length) throw new Error("no run was good: the page stays as it is");
  const document = readFileSync(options.out, "utf8");
  const [from, to] = [document.indexOf(BEGIN), document.indexOf(END)];
  if (from < 0 || to < from) throw new Error(`${options.out} has no ${BEGIN} … ${END}`);
  const text = `${document.slice(0, from + BEGIN.length)}\n${page(runs)}\n${document.slice(to)}`;
  writeFileSync(options.out, text);
  console.error(`${runs.length} runs, ${bad} failed`);
  return bad > 0 ? 1 : 0;
}

main().then((code) => process.exit(code), (error) => {
  console.error(error);
  process.exit(1);
});
