// web/parlor.js against a WebSocket that is played by hand: what leaves, in which order, with
// which `after`. It needs nothing but Node: node tests/browser/client.mjs

import assert from "node:assert/strict";

const DM = "dm:userA:userB";

/** The newest one is `Socket.last`; what was written stands in `sends`. */
class Socket {
  static OPEN = 1;
  static last = null;
  readyState = 1;
  sends = [];
  frames = [];

  constructor(_, protocols = []) {
    // As a browser does, whose message shows it.
    const bad = protocols.find((name) => !/^[\w!#$%&'*+.^`|~-]+$/.test(name));
    if (bad) throw new DOMException(`The subprotocol '${bad}' is invalid.`, "SyntaxError");
    Socket.last = this;
  }

  send(text) {
    const frame = JSON.parse(text);
    this.frames.push(frame);
    if (frame.type === "message") this.sends.push(frame);
  }

  close() {}

  hear(frame) {
    this.onmessage({ data: JSON.stringify(frame) });
  }

  welcome(userId = "userA", limits = undefined) {
    this.hear({ type: "welcome", server: "ws1", userId, pingMs: 25_000, limits });
  }

  end(code) {
    this.readyState = 3;
    this.onclose({ code, reason: "" });
  }

  sent({ ref }, seq) {
    this.hear({ type: "sent", ref, conversation: DM, seq, timestamp: 1 });
  }

  refuse({ ref }, more) {
    this.hear({ type: "error", code: "unavailable", detail: "d", ref, ...more });
  }

  /** What was written since the last look, as [text, after]. */
  take() {
    return this.sends.splice(0).map(({ message, after }) => [message, after]);
  }
}

Object.assign(globalThis, {
  WebSocket: Socket,
  location: { origin: "http://localhost" },
  addEventListener: () => {},
  removeEventListener: () => {},
});
globalThis.CustomEvent ??= class extends Event {
  constructor(name, { detail }) {
    super(name);
    this.detail = detail;
  }
};
const { Parlor } = await import("../../web/parlor.js");

const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** The next socket that is dialled. */
async function another(before) {
  while (Socket.last === before) await wait(10);
  Socket.last.welcome();
  return Socket.last;
}

async function check(name, run) {
  const events = [];
  const parlor = new Parlor({ user: "userA" });
  for (const kind of ["sent", "failed", "entry", "state"]) {
    parlor.addEventListener(kind, ({ detail }) => events.push([kind, detail]));
  }
  parlor.connect();
  Socket.last.welcome();
  events.length = 0;
  await run({ parlor, socket: Socket.last, events });
  parlor.close();
  console.log(`ok: ${name}`);
}

await check("of an unknown conversation one send is under way", async ({ parlor, socket }) => {
  ["one", "two", "three"].forEach((text) => parlor.send("userB", text));
  parlor.send("userC", "elsewhere");
  const [first] = socket.sends;
  assert.deepEqual(socket.take(), [["one", undefined], ["elsewhere", undefined]]);
  socket.sent(first, 41);
  assert.deepEqual(socket.take(), [["two", 41], ["three", 41]]);
  parlor.send("userB", "four");
  assert.deepEqual(socket.take(), [["four", 41]]);
});

await check("a refused first send lets the next one go", async ({ parlor, socket, events }) => {
  ["one", "two", "three"].forEach((text) => parlor.send("userB", text));
  socket.refuse(socket.sends[0], { code: "too_large", retryable: false });
  assert.deepEqual(socket.take(), [["one", undefined], ["two", undefined]]);
  assert.deepEqual(events.map(([kind, { code }]) => [kind, code]), [["failed", "too_large"]]);
});

await check("what is repeated keeps its after and its order", async ({ parlor, socket }) => {
  parlor.learn(DM, 7);
  parlor.send("userB", "one");
  parlor.learn(DM, 9);
  parlor.send("userB", "two");
  const refs = socket.sends.map(({ ref }) => ref);
  assert.deepEqual(socket.take(), [["one", 7], ["two", 9]]);
  parlor.learn(DM, 20);
  socket.readyState = 3;
  socket.onclose({ code: 1006, reason: "" });
  parlor.send("userB", "three");
  const next = await another(socket);
  assert.deepEqual(next.sends.slice(0, 2).map(({ ref }) => ref), refs);
  assert.deepEqual(next.take(), [["one", 7], ["two", 9], ["three", 20]]);
});

await check("who is refused for now is not overtaken", async ({ parlor, socket }) => {
  parlor.learn(DM, 7);
  parlor.send("userB", "one");
  parlor.send("userB", "two");
  const [one, two] = socket.sends;
  socket.take();
  socket.refuse(two, { retryable: true, retryAfterMs: 20 });
  socket.refuse(one, { retryable: true, retryAfterMs: 60 });
  parlor.send("userB", "three");
  await wait(40);
  assert.deepEqual(socket.take(), []);
  await wait(60);
  assert.deepEqual(socket.take(), [["one", 7], ["two", 7], ["three", 7]]);
});

await check("over a rate the backlog goes one at a time", async ({ parlor, socket }) => {
  const over = { code: "rate_limited", retryable: true, retryAfterMs: 20 };
  parlor.learn(DM, 7);
  const texts = Array.from({ length: 400 }, (_, number) => `m${number}`);
  texts.forEach((text) => parlor.send("userB", text));
  const frames = socket.sends.splice(0);
  frames.slice(0, 3).forEach((frame, at) => socket.sent(frame, 8 + at));
  frames.slice(3).forEach((frame) => socket.refuse(frame, over));
  assert.deepEqual(socket.take(), [], "not before the pause is over");
  const order = [];
  let seq = 11;
  for (let written = 0; order.length < 397; ) {
    while (socket.sends.length === 0) await wait(5);
    assert.equal(socket.sends.length, 1);
    const [frame] = socket.sends.splice(0);
    // Each fiftieth one is too early.
    if (++written % 50 === 0) {
      socket.refuse(frame, over);
      assert.deepEqual(socket.take(), []);
      continue;
    }
    order.push(frame.message);
    socket.sent(frame, seq++);
    assert.ok(written < 420, "few are refused");
  }
  assert.deepEqual(order, texts.slice(3));
  ["x", "y"].forEach((text) => parlor.send("userB", text));
  assert.equal(socket.take().length, 2, "and then as ever");
});

await check("a lost answer comes back as an entry", async ({ parlor, socket, events }) => {
  const ref = parlor.send("userB", "one");
  const entry = { type: "message", id: `${DM}/3`, conversation: DM, seq: 3, from: "userA", ref };
  socket.hear(entry);
  socket.hear(entry);
  socket.sent({ ref }, 3);
  assert.deepEqual(events.map(([kind, { seq }]) => [kind, seq]), [["sent", 3]]);
});

await check("what no frame can hold fails at once", async ({ parlor, socket, events }) => {
  parlor.send("userB", "x".repeat(70_000));
  await wait(0);
  assert.deepEqual(socket.take(), []);
  assert.deepEqual(events.map(([kind, { code }]) => [kind, code]), [["failed", "too_large"]]);
});

await check("a server that takes less than others is told no more", async ({ parlor, socket, events }) => {
  const failed = () =>
    events.filter(([kind]) => kind === "failed").map(([, { ref, code }]) => [ref, code]);
  parlor.learn(DM, 7);
  const long = "é".repeat(6_000);
  const ref = parlor.send("userB", long);
  assert.deepEqual(socket.take(), [[long, 7]]);
  parlor.send("userB", "short");
  socket.end(1012);
  while (Socket.last === socket) await wait(10);
  Socket.last.welcome("userA", { frameBytes: 12_000 });
  assert.deepEqual(Socket.last.take(), [["short", 7]]);
  assert.deepEqual(failed(), [], "it may be stored, and come back");
  Socket.last.hear({ type: "caughtup" });
  assert.deepEqual(failed(), [[ref, "too_large"]]);
  const again = parlor.send("userB", long);
  await wait(0);
  assert.deepEqual(Socket.last.take(), []);
  assert.deepEqual(failed().slice(1), [[again, "too_large"]]);
  // Of a conversation that nothing is known of, what waits behind it goes on.
  const before = Socket.last;
  before.end(1012);
  const untold = [1, 2].map(() => parlor.send("userC", "x".repeat(8_000)));
  parlor.send("userC", "behind");
  while (Socket.last === before) await wait(10);
  Socket.last.welcome("userA", { frameBytes: 4_000 });
  assert.deepEqual(Socket.last.take(), [["short", 7], ["behind", undefined]]);
  assert.deepEqual(failed().slice(2), untold.map((ref) => [ref, "too_large"]), "in order");
});

await check("what was stored though it is too long now is told as sent", async ({ parlor, socket, events }) => {
  parlor.learn(DM, 7);
  const ref = parlor.send("userB", "x".repeat(8_000));
  socket.end(1012);
  while (Socket.last === socket) await wait(10);
  Socket.last.welcome("userA", { frameBytes: 4_000 });
  events.length = 0;
  Socket.last.hear({ type: "message", id: `${DM}/8`, conversation: DM, seq: 8, from: "userA", ref });
  Socket.last.hear({ type: "caughtup" });
  assert.deepEqual(events.map(([kind, { seq }]) => [kind, seq]), [["sent", 8]]);
  assert.equal(parlor.waiting, 0);
});

await check("a long signal ends nothing", async ({ parlor, socket, events }) => {
  const problems = [];
  parlor.addEventListener("problem", ({ detail }) => problems.push(detail.code));
  parlor.signal("userB", { text: "x".repeat(70_000) });
  parlor.signal("userB", { typing: true });
  await wait(0);
  assert.deepEqual(problems, ["too_large"]);
  assert.deepEqual(socket.frames.map(({ data }) => data), [{ typing: true }]);
  assert.deepEqual(events, []);
});

await check("what would end the next socket too is not said again", async ({ parlor, socket, events }) => {
  parlor.send("userB", "one");
  events.length = 0;
  socket.end(1009);
  assert.deepEqual(states(events), [["stopped", 1009]]);
});

function states(events) {
  const all = events.filter(([kind]) => kind === "state");
  return all.map(([, { state, code }]) => [state, code]);
}

await check("a fresh token brings what waits", async ({ parlor, socket, events }) => {
  parlor.learn(DM, 7);
  parlor.send("userB", "one");
  socket.end(4401);
  parlor.send("userB", "two");
  parlor.renew("to.ken-A");
  assert.notEqual(Socket.last, socket);
  parlor.send("userB", "three");
  assert.deepEqual(Socket.last.take(), [], "not before it is known whose it is");
  Socket.last.welcome();
  assert.deepEqual(Socket.last.take(), [["one", 7], ["two", 7], ["three", 7]]);
  assert.deepEqual(states(events).map(([state]) => state), ["stopped", "connecting", "open"]);
});

await check("a token of somebody else is not this one's", async ({ parlor, socket, events }) => {
  socket.end(4401);
  parlor.send("userB", "one");
  parlor.renew("to.ken-C");
  Socket.last.welcome("userC");
  parlor.send("userB", "two");
  parlor.signal("userB", { typing: true });
  assert.equal(parlor.read(DM, 1), false);
  assert.deepEqual(Socket.last.frames, [], "nothing is said for the other");
  assert.equal(parlor.waiting, 2);
  const theirs = { type: "message", id: "dm:userC:userD/3", conversation: "dm:userC:userD", seq: 3 };
  Socket.last.hear({ ...theirs, from: "userD" });
  assert.deepEqual(events.filter(([kind]) => kind !== "state"), [], "nor heard");
});

await check("a token that a socket refuses is dialled with", async ({ parlor, socket, events }) => {
  parlor.renew("to.ken-B");
  const renewal = socket.frames.find(({ type }) => type === "auth");
  socket.refuse(renewal, { code: "unauthorized", retryable: false });
  socket.end(4401);
  const next = await another(socket);
  assert.equal(states(events).at(-1)[0], "open");
  next.end(4401);
  assert.deepEqual(states(events).at(-1), ["stopped", 4401], "and once only");
});

await check("what no header can carry stops it", async ({ parlor, socket, events }) => {
  socket.end(4401);
  parlor.renew("Bearer to.ken");
  assert.deepEqual(states(events).slice(-1), [["stopped", 4401]]);
  assert.doesNotMatch(JSON.stringify(events), /to\.ken/);
  parlor.renew("to.ken");
  Socket.last.welcome();
  assert.deepEqual(states(events).slice(-1), [["open", undefined]]);
});

await check("who has closed it stays away", async ({ parlor, socket }) => {
  parlor.close();
  parlor.renew("to.ken");
  assert.equal(Socket.last, socket);
});

await check("who has closed it once it was ended stays away", async ({ parlor, socket }) => {
  socket.end(4401);
  parlor.close();
  parlor.renew("to.ken");
  assert.equal(Socket.last, socket);
});
