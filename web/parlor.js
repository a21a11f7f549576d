// A small client for browsers, without dependencies: the seed of the SDK.
//
// It keeps a conversation going over many sockets. A send keeps its `ref` and its `after` from the
// first try until the store has it, so that trying again never makes a second message; an entry is
// passed on once, however often it is offered.
//
// Who is over a rate gets it back one by one: there the sends that wait go one at a time, in order,
// until none is left. All at once they would be refused but for the first, and overtake each other.
//
// Of a conversation that nothing is known of, one send is under way, without `after`; its answer
// says what the `after` of the next ones is. It is not 0: past 1,000 entries that is refused.

const FIRST_WAIT_MS = 250;
const LONGEST_WAIT_MS = 10_000;
const PONG_WAIT_MS = 10_000;
const RETRY_MS = 500;
const UNACKED_MAX = 1_000;
// The longest frame, unless `welcome` tells of a lower bound: a server closes the socket for a longer
// one. There must be room for the `after` to come.
const FRAME_BYTES_MAX = 65_536;
const AFTER_BYTES = 64;
// What was said is no WebSocket frame, no text, or too long: it would end the next socket as well.
const SAID_WRONG = new Set([1002, 1003, 1007, 1009]);
const UTF8 = new TextEncoder();
const SEEN_MAX = 2_000;
const UNAUTHORIZED = 4401;
const TOO_LARGE = { code: "too_large", detail: "it is too long" };
/** Frames that tell of the socket, whoever it is for. */
const OF_THE_SOCKET = new Set(["welcome", "error", "reconnect", "authed"]);

/** `dm:{a}:{b}`, sorted as the server sorts: ids are ASCII, so by code unit. */
export function direct(a, b) {
  return a <= b ? `dm:${a}:${b}` : `dm:${b}:${a}`;
}

/** The conversation of a target: a user, or `room:{id}`. */
export function conversationOf(me, target) {
  return target.startsWith("room:") ? target : direct(me, target);
}

function randomRef() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Which seqs of a conversation have been passed on. */
class Seen {
  #seqs = new Set();
  #floor = 0;

  /** Whether it is new. */
  add(seq) {
    if (seq <= this.#floor || this.#seqs.has(seq)) return false;
    this.#seqs.add(seq);
    if (this.#seqs.size > SEEN_MAX) {
      const sorted = [...this.#seqs].sort((a, b) => a - b);
      const dropped = sorted.slice(0, SEEN_MAX / 2);
      this.#floor = dropped[dropped.length - 1];
      dropped.forEach((old) => this.#seqs.delete(old));
    }
    return true;
  }
}

/** The sends without an answer, oldest first. */
class Unanswered {
  #sends = new Map();
  #known = new Map();
  #slow = new Set();

  get size() {
    return this.#sends.size;
  }

  get conversations() {
    return new Set([...this.#sends.values()].map((send) => send.conversation));
  }

  /** Undefined where no such send waits. */
  conversationOf(ref) {
    return this.#sends.get(ref)?.conversation;
  }

  add(conversation, frame) {
    const send = { conversation, frame, tried: false, underWay: false, withheld: false };
    this.#sends.set(frame.ref, send);
  }

  /** Whether it was there. */
  delete(ref) {
    const conversation = this.conversationOf(ref);
    this.#sends.delete(ref);
    if (!this.conversations.has(conversation)) this.#slow.delete(conversation);
    return conversation !== undefined;
  }

  /** From now on one at a time, until none is left. */
  slow(conversation) {
    this.#slow.add(conversation);
  }

  learn(conversation, seq) {
    this.#known.set(conversation, Math.max(seq, this.#known.get(conversation) ?? 0));
  }

  /** It is to be written once more. */
  again(ref) {
    this.#sends.get(ref).underWay = false;
  }

  /** The socket is gone, or has caught up: all are that are not written to it. */
  allAgain(onlyWithheld = false) {
    this.#sends.forEach((send) => {
      if (send.withheld || !onlyWithheld) send.underWay = send.withheld = false;
    });
  }

  /**
   * The frames of a conversation to be written now, in order, and those that `fits` does not take;
   * `after` is set at the first try. What was tried elsewhere may be stored: where it does not fit
   * it is withheld until all that there is was heard.
   */
  take(conversation, fits, caughtUp) {
    let all = [...this.#sends.values()].filter((send) => send.conversation === conversation);
    if (this.#slow.has(conversation)) {
      all = all.some((send) => send.underWay) ? [] : all.slice(0, 1);
    }
    const known = this.#known.get(conversation);
    const free = all.filter((send, at) => send.tried || known !== undefined || at === 0);
    const [fit, long] = [[], []];
    for (const send of free.filter(({ underWay }) => !underWay)) {
      if (!send.tried && known !== undefined) send.frame.after = known;
      if (fits(send.frame)) {
        send.tried = send.underWay = true;
        fit.push(send.frame);
      } else if (send.tried && !caughtUp) {
        send.withheld = send.underWay = true;
      } else {
        long.push(send);
      }
    }
    return { fit, long };
  }
}

/**
 * Events (all `CustomEvent`, what there is to know in `detail`):
 * `state` {state: "connecting" | "open" | "waiting" | "stopped", server, userId, retryMs, reason,
 * code},
 * `sent` {ref, conversation, seq, timestamp}, `failed` {ref, code, detail},
 * `entry` (a message, or another change of the conversation), `delivered`, `read`, `signal`,
 * `missed`, `caughtup`, `authed` {expiresAt}, `problem` {code, detail}.
 */
export class Parlor extends EventTarget {
  #options;
  #socket = null;
  #timer = 0;
  #pulse = 0;
  #heard = 0;
  #attempt = 0;
  #comeBackAt = 0;
  #closed = false;
  #stopped = false;
  /** The token that this socket has, or was given, and by which frame. */
  #carried;
  #renewal;
  /** The socket is open and this user's: what waits may leave. */
  #ours = false;
  #unacked = new Unanswered();
  #paused = new Map();
  #frameBytes = FRAME_BYTES_MAX;
  #caughtUp = false;
  #seen = new Map();
  #wake = () => this.#now();

  /** @param {{user: string, device?: string, token?: string, catchup?: number, origin?: string}} options */
  constructor(options) {
    super();
    this.#options = { device: "web", catchup: 200, origin: location.origin, ...options };
  }

  get user() {
    return this.#options.user;
  }

  /** Dials, and comes back by itself until `close()`. */
  connect() {
    addEventListener("online", this.#wake);
    this.#dial();
    return this;
  }

  /** Ends it for good. */
  close() {
    this.#closed = true;
    removeEventListener("online", this.#wake);
    clearTimeout(this.#timer);
    clearInterval(this.#pulse);
    this.#socket?.close(1000);
    this.#socket = null;
    this.#ours = false;
  }

  /** How many sends have no answer yet. */
  get waiting() {
    return this.#unacked.size;
  }

  /** Sends a message, online or not, in order; returns its ref, or null if too many wait. */
  send(target, message, data) {
    if (this.#unacked.size >= UNACKED_MAX) return null;
    const ref = randomRef();
    const frame = { type: "message", ...this.#address(target), message, ref };
    if (data !== undefined) frame.data = data;
    if (!this.#fits(frame)) {
      queueMicrotask(() => this.#emit("failed", { ref, ...TOO_LARGE }));
      return ref;
    }
    const conversation = conversationOf(this.user, target);
    this.#unacked.add(conversation, frame);
    this.#flush(conversation);
    return ref;
  }

  /**
   * Goes on with a fresh token, here and on every socket to come: before the old one ends. Where it
   * has stopped it dials again; its sends without an answer leave if the token is the same user's.
   */
  renew(token) {
    this.#options.token = token;
    if (!this.#stopped) return void this.#carry();
    [this.#stopped, this.#attempt, this.#comeBackAt] = [false, 0, 0];
    this.#now();
  }

  /** Says that everything up to `seq` has been seen by the person; false where offline. */
  read(conversation, seq) {
    return this.#ours && this.#write({ type: "read", conversation, seq });
  }

  /** Sends something that is never stored, like `{typing: true}`. */
  signal(target, data) {
    const frame = { type: "signal", ...this.#address(target), data };
    if (!this.#fits(frame)) return void queueMicrotask(() => this.#emit("problem", TOO_LARGE));
    if (this.#ours) this.#write(frame);
  }

  /** Says how far a conversation goes: the `after` of later sends. */
  learn(conversation, seq) {
    this.#unacked.learn(conversation, seq);
    this.#flush(conversation);
  }

  /** A page of history, ascending: `{messages, hasMore, floor}`. */
  async history(conversation, { before, after, limit = 50 } = {}) {
    const query = new URLSearchParams({ limit: String(limit) });
    if (!this.#options.token) query.set("userId", this.user);
    if (before !== undefined) query.set("before", String(before));
    if (after !== undefined) query.set("after", String(after));
    const path = `/v1/conversations/${encodeURIComponent(conversation)}/messages?${query}`;
    const headers = this.#options.token ? { authorization: `Bearer ${this.#options.token}` } : {};
    const response = await fetch(new URL(path, this.#options.origin), { headers });
    if (!response.ok) {
      const problem = await response.json().catch(() => ({}));
      throw Object.assign(new Error(problem.detail ?? `HTTP ${response.status}`), {
        status: response.status,
      });
    }
    return response.json();
  }

  #address(target) {
    return target.startsWith("room:") ? { conversation: target } : { to: target };
  }

  #emit(name, detail = {}) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }

  #dial() {
    const { user, device, token, catchup, origin } = this.#options;
    const url = new URL("/ws", origin);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    if (!token) url.searchParams.set("userId", user);
    url.searchParams.set("device", device);
    url.searchParams.set("catchup", String(catchup));
    this.#emit("state", { state: "connecting" });
    this.#carried = token;
    let socket;
    try {
      socket = new WebSocket(url, token ? ["parlor", `bearer.${token}`] : []);
    } catch ({ name }) {
      // Not with its message, which shows the token.
      const bad = token && name === "SyntaxError";
      const reason = bad ? "the token has characters that none has" : `no socket here (${name})`;
      return this.#stop(bad ? UNAUTHORIZED : 0, reason);
    }
    this.#socket = socket;
    socket.onmessage = (event) => socket === this.#socket && this.#take(JSON.parse(event.data));
    socket.onclose = (event) => socket === this.#socket && this.#lost(event.code, event.reason);
    return undefined;
  }

  #now() {
    if (this.#closed || this.#stopped || this.#socket) return;
    clearTimeout(this.#timer);
    this.#dial();
  }

  /** Gives the server the newest token, unless this socket has it. */
  #carry() {
    const { token } = this.#options;
    if (!token || token === this.#carried) return;
    const ref = randomRef();
    if (this.#write({ type: "auth", token, ref })) [this.#carried, this.#renewal] = [token, ref];
  }

  /** Until `renew()`. */
  #stop(code, reason) {
    this.#stopped = true;
    this.#emit("state", { state: "stopped", code, reason });
  }

  #lost(code, reason) {
    this.#socket = null;
    this.#ours = false;
    this.#unacked.allAgain();
    this.#paused.forEach((timer) => clearTimeout(timer));
    this.#paused.clear();
    clearInterval(this.#pulse);
    clearTimeout(this.#timer);
    if (this.#closed) return;
    // A token that came while this socket was on its way, or about to end, is tried once.
    const fresher = code === UNAUTHORIZED && this.#options.token !== this.#carried;
    if (SAID_WRONG.has(code) || (code >= 4000 && code < 4500 && !fresher)) {
      return this.#stop(code, reason || `code ${code}`);
    }
    const most = Math.min(LONGEST_WAIT_MS, FIRST_WAIT_MS * 2 ** this.#attempt++);
    const told = this.#comeBackAt - Date.now();
    const retryMs = this.#comeBackAt ? Math.max(0, told) : Math.random() * most;
    this.#comeBackAt = 0;
    this.#emit("state", { state: "waiting", retryMs, reason });
    this.#timer = setTimeout(() => this.#now(), retryMs);
    return undefined;
  }

  get #online() {
    return this.#socket?.readyState === WebSocket.OPEN;
  }

  #write(frame) {
    if (!this.#online) return false;
    this.#socket.send(JSON.stringify(frame));
    return true;
  }

  #flush(conversation) {
    if (!this.#online || !this.#ours || this.#paused.has(conversation)) return;
    const refused = [];
    // What is too long for a server that takes less than the one before would end every socket.
    for (let more = true; more; ) {
      const fits = (frame) => this.#fits(frame);
      const { fit, long } = this.#unacked.take(conversation, fits, this.#caughtUp);
      fit.forEach((frame) => this.#write(frame));
      long.forEach(({ frame }) => this.#unacked.delete(frame.ref));
      refused.push(...long);
      more = long.length > 0;
    }
    for (const { frame, tried } of refused) {
      const detail = tried ? `${TOO_LARGE.detail} for this server, and may be stored` : undefined;
      this.#emit("failed", { ref: frame.ref, ...TOO_LARGE, ...(detail && { detail }) });
    }
  }

  #fits(frame) {
    const more = frame.after === undefined ? AFTER_BYTES : 0;
    return UTF8.encode(JSON.stringify(frame)).length + more <= this.#frameBytes;
  }

  #opened(welcome) {
    // A script can't see WebSocket pings, so silence is broken by a ping of its own.
    clearInterval(this.#pulse);
    const pingMs = welcome.pingMs ?? 25_000;
    this.#pulse = setInterval(() => {
      const silent = Date.now() - this.#heard;
      if (silent > pingMs + PONG_WAIT_MS) {
        const socket = this.#socket;
        this.#lost(1006, "the server is silent");
        socket?.close();
      } else if (silent > pingMs) {
        this.#write({ type: "ping" });
      }
    }, 5_000);
    this.#caughtUp = false;
    this.#frameBytes = welcome.limits?.frameBytes ?? FRAME_BYTES_MAX;
    // What was written as one person is not said as another.
    this.#ours = (welcome.userId ?? this.user) === this.user;
    this.#carry();
    this.#unacked.conversations.forEach((conversation) => this.#flush(conversation));
    this.#emit("state", { state: "open", server: welcome.server, userId: welcome.userId });
  }

  #take(frame) {
    this.#heard = Date.now();
    // With another person's token: what that one is told is not for who listens here.
    if (!this.#ours && !OF_THE_SOCKET.has(frame.type)) return undefined;
    switch (frame.type) {
      case "welcome":
        return this.#opened(frame);
      case "caughtup":
        this.#attempt = 0;
        this.#caughtUp = true;
        this.#unacked.allAgain(true);
        this.#unacked.conversations.forEach((conversation) => this.#flush(conversation));
        return this.#emit("caughtup");
      case "sent":
        return this.#acked(frame);
      case "error":
        return this.#refused(frame);
      case "reconnect":
        this.#comeBackAt = Date.now() + frame.afterMs;
        this.#timer = setTimeout(() => this.#socket?.close(1000), frame.afterMs);
        return undefined;
      case "missed":
        this.learn(frame.conversation, frame.to);
        return this.#emit("missed", frame);
      case "authed":
      case "delivered":
      case "read":
      case "signal":
        return this.#emit(frame.type, frame);
      default:
        return frame.id && frame.seq ? this.#entry(frame) : undefined;
    }
  }

  #isNew(conversation, seq) {
    if (!this.#seen.has(conversation)) this.#seen.set(conversation, new Seen());
    return this.#seen.get(conversation).add(seq);
  }

  #acked({ ref, conversation, seq, timestamp }) {
    const waited = this.#unacked.delete(ref);
    this.learn(conversation, seq);
    this.#isNew(conversation, seq);
    if (waited) this.#emit("sent", { ref, conversation, seq, timestamp });
  }

  #refused({ ref, code, detail, retryable, retryAfterMs }) {
    const conversation = this.#unacked.conversationOf(ref);
    if (ref && ref === this.#renewal) {
      // This socket does not have it: where it ends for that, the next one is dialled with it.
      this.#carried = undefined;
      if (retryable) {
        setTimeout(() => this.#carry(), retryAfterMs ?? RETRY_MS);
        return undefined;
      }
    }
    if (!conversation) return this.#emit("problem", { code, detail });
    if (retryable) {
      this.#unacked.again(ref);
      if (code === "rate_limited") this.#unacked.slow(conversation);
      return this.#pause(conversation, retryAfterMs ?? RETRY_MS);
    }
    this.#unacked.delete(ref);
    this.#flush(conversation);
    return this.#emit("failed", { ref, code, detail });
  }

  /** What comes behind a refused send waits with it, so that they stay in order. */
  #pause(conversation, ms) {
    clearTimeout(this.#paused.get(conversation));
    const over = () => {
      this.#paused.delete(conversation);
      this.#flush(conversation);
    };
    this.#paused.set(conversation, setTimeout(over, ms));
  }

  #entry(frame) {
    this.learn(frame.conversation, frame.seq);
    // One's own message that comes back in catch-up is the answer that was lost.
    const mine = frame.from === this.user && this.#unacked.conversationOf(frame.ref);
    if (mine) return this.#acked(frame);
    if (this.#isNew(frame.conversation, frame.seq)) this.#emit("entry", frame);
    return undefined;
  }
}
