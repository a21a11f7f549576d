// A balancer that deals connections to healthy servers in turn, and the place where the network
// between clients and servers is broken.
import { get } from "node:http";
import { connect, createServer } from "node:net";

const HEALTH_EVERY_MS = 500;
const HEALTH_WITHIN_MS = 1_000;

export class Balancer {
  constructor(ports) {
    this.targets = ports.map((port) => ({ port, healthy: false }));
    this.pairs = new Set();
    this.next = 0;
  }

  async listen() {
    this.server = createServer((client) => this.deal(client));
    await new Promise((done) => this.server.listen(0, "127.0.0.1", done));
    this.port = this.server.address().port;
    this.checking = setInterval(() => this.targets.forEach((target) => this.check(target)),
      HEALTH_EVERY_MS);
  }

  check(target) {
    const options = { host: "127.0.0.1", port: target.port, path: "/healthz", agent: false };
    const request = get(options, (response) => {
      target.healthy = response.statusCode === 200;
      response.resume();
    });
    request.setTimeout(HEALTH_WITHIN_MS, () => request.destroy(new Error("late")));
    request.on("error", () => { target.healthy = false; });
  }

  deal(client) {
    const healthy = this.targets.filter((target) => target.healthy);
    if (healthy.length === 0) {
      client.destroy();
      return;
    }
    const target = healthy[this.next++ % healthy.length];
    const server = connect(target.port, "127.0.0.1");
    const pair = { client, server, frozen: false };
    this.pairs.add(pair);
    for (const [from, to] of [[client, server], [server, client]]) {
      from.setNoDelay(true);
      from.on("data", (bytes) => { if (!pair.frozen) to.write(bytes); });
      from.on("error", () => {});
      // While the network is cut, neither side hears of the other's end.
      from.on("close", () => {
        if (!pair.frozen) {
          to.destroy();
          this.pairs.delete(pair);
        }
      });
    }
  }

  /** Ends a connection by RST on both sides; what was under way is gone. */
  reset(pair) {
    pair.frozen = false;
    this.pairs.delete(pair);
    const open = !pair.client.destroyed && !pair.server.destroyed;
    pair.client.resetAndDestroy();
    pair.server.resetAndDestroy();
    return open;
  }

  /** From now on nothing passes, and nobody is told. */
  freeze(pair) {
    pair.frozen = true;
  }

  close() {
    clearInterval(this.checking);
    this.server.close();
    for (const { client, server } of this.pairs) {
      client.destroy();
      server.destroy();
    }
  }
}
