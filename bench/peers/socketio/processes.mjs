// Redis and the servers as processes, each started again on its port.
import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));

export const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

export async function freePort() {
  const server = createServer();
  await new Promise((done) => server.listen(0, "127.0.0.1", done));
  const { port } = server.address();
  await new Promise((done) => server.close(done));
  return port;
}

/** A process that is wanted; one that ends by itself is a crash, and is started again. */
export class Process {
  constructor(name, port, command, args, ready) {
    Object.assign(this, { name, port, command, args, ready });
    this.wanted = false;
    this.crashes = 0;
  }

  async start() {
    this.wanted = true;
    this.isReady = false;
    const child = spawn(this.command, this.args, { stdio: ["ignore", "pipe", "pipe"] });
    this.child = child;
    this.ended = new Promise((done) => child.on("exit", done));
    child.on("exit", () => {
      if (this.child === child && this.wanted) {
        this.crashes += 1;
        setTimeout(() => { if (this.wanted) this.start(); }, 500);
      }
    });
    child.stderr.on("data", () => {});
    await new Promise((done) => {
      child.stdout.on("data", (text) => {
        this.isReady ||= String(text).includes(this.ready);
        if (this.isReady) done();
      });
      child.on("exit", done);
      setTimeout(done, 10_000).unref();
    });
  }

  /** Ends it; says whether it was running. */
  async end(signal) {
    this.wanted = false;
    const running = this.child.exitCode === null && this.child.signalCode === null;
    this.child.kill(signal);
    await this.ended;
    return running;
  }

  signal(signal) {
    return this.child.kill(signal);
  }

  /** Whether the system shows it as stopped. */
  stopped() {
    try {
      return readFileSync(`/proc/${this.child.pid}/stat`, "utf8").split(") ")[1].startsWith("T");
    } catch {
      return false;
    }
  }

  kill() {
    this.wanted = false;
    this.child?.kill("SIGKILL");
  }
}

export function redis(port) {
  const args = ["--port", String(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
    "--dir", tmpdir()];
  return new Process("redis", port, "redis-server", args, "Ready to accept connections");
}

export function server(number, port, redisPort, adapter) {
  const args = [join(here, "server.mjs"), String(port), String(redisPort), adapter];
  return new Process(`ws${number}`, port, process.execPath, args, "ready");
}
