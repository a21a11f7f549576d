// The page: one pane a person. `?as=userA&to=userB` shows one pane, without it two that face
// each other. Everything that people wrote goes in through textContent.
//
// Where tokens are in use each pane has a field for one, and says who it is by its token. None is
// taken from the address: a link would sign its reader in as somebody else.

import { Parlor, conversationOf } from "./parlor.js";
import { Log } from "./log.js";

const ID = /^[A-Za-z0-9_.@|+=~-]{1,128}$/;
const TARGET = /^(room:)?[A-Za-z0-9_.@|+=~-]{1,128}$/;
const TOKEN = /^[\w.-]+$/;
const PAGE = 50;
const UNAUTHORIZED = 4401;
const TYPING_EVERY_MS = 2_000;
const TYPING_SHOWN_MS = 4_000;

class Pane {
  #root;
  #part;
  #parlor = null;
  #log;
  #typingSent = 0;
  #typingTimer = 0;
  #countdown = 0;
  #readUpTo = 0;
  #noted = false;
  #token;
  #onRename;

  constructor(me, target, onRename) {
    this.me = me;
    this.target = target;
    this.#onRename = onRename;
    const template = document.querySelector("#pane");
    this.#root = template.content.firstElementChild.cloneNode(true);
    this.#part = (name) => this.#root.querySelector(name);
    this.#log = new Log(this.#part(".log"), {
      older: () => this.#older(),
      retry: (text) => this.#say(text),
      edit: (text) => this.#edit(text),
    });
    this.#listen();
  }

  get element() {
    return this.#root;
  }

  get conversation() {
    return conversationOf(this.me, this.target);
  }

  /** Starts over as this person with that peer. */
  open(me = this.me, target = this.target) {
    this.#parlor?.close();
    [this.me, this.target, this.#readUpTo] = [me, target, 0];
    this.#part(".as").value = me;
    this.#part(".to").value = target;
    this.#part(".unseen").textContent = `Message from ${me} to ${target}`;
    this.#root.setAttribute("aria-label", `${me} writing to ${target}`);
    this.#log.clear(me, target);
    this.#typing("");
    this.#problem("");
    const parlor = new Parlor({ user: me, token: this.#token });
    this.#parlor = parlor;
    this.#hear(parlor);
    parlor.connect();
  }

  #listen() {
    const text = this.#part("textarea");
    this.#part("textarea").id = `say-${crypto.getRandomValues(new Uint32Array(1))[0]}`;
    this.#part(".unseen").htmlFor = text.id;
    this.#part(".say").addEventListener("submit", (event) => {
      event.preventDefault();
      if (text.value.trim() === "") return;
      this.#say(text.value);
      text.value = "";
      this.#fit(text);
      text.focus();
    });
    text.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        this.#part(".say").requestSubmit();
      }
    });
    text.addEventListener("input", () => {
      this.#fit(text);
      this.#sayTyping();
    });
    this.#part(".token").addEventListener("submit", (event) => {
      event.preventDefault();
      const field = this.#part(".token input");
      this.#signIn(field.value.trim().replace(/^bearer(\s+|$)/i, ""));
      // Nothing keeps it but this pane.
      field.value = "";
    });
    for (const [name, form] of [[".as", ID], [".to", TARGET]]) {
      const input = this.#part(name);
      input.addEventListener("input", () => {
        input.setAttribute("aria-invalid", String(!form.test(input.value.trim())));
      });
      input.addEventListener("keydown", (event) => event.key === "Enter" && input.blur());
      input.addEventListener("change", () => this.#renamed());
    }
    this.#root.addEventListener("focusin", () => this.#markRead());
    addEventListener("focus", () => this.#markRead());
  }

  #signIn(token) {
    if (token && !TOKEN.test(token)) {
      this.#problem("That is no token: one has letters, digits and _ . - alone. Paste it whole.");
      return;
    }
    // Without a token they would be said as somebody whom only the page names.
    if (!token && this.#parlor.waiting > 0) {
      this.#problem("What was written still waits. Paste a token, and it leaves.");
      return;
    }
    this.#token = token || undefined;
    if (token) {
      // What waits there leaves where the token is the same person's.
      this.#problem("");
      this.#parlor.renew(token);
    } else {
      this.open();
    }
  }

  #renamed() {
    const [me, target] = [this.#part(".as").value.trim(), this.#part(".to").value.trim()];
    if (!ID.test(me) || !TARGET.test(target)) {
      this.#problem("A name has 1 to 128 letters, digits or _ . @ | + = ~ -; a room is room:NAME.");
      return;
    }
    if (me === this.me && target === this.target) return;
    this.open(me, target);
    this.#onRename(this);
  }

  #fit(text) {
    text.style.height = "auto";
    text.style.height = `${text.scrollHeight + 2}px`;
  }

  /** Back into the box, before what has been begun there. */
  #edit(words) {
    const text = this.#part("textarea");
    text.value = [words, text.value].filter(Boolean).join("\n");
    this.#fit(text);
    text.focus();
  }

  #say(text) {
    const ref = this.#parlor.send(this.target, text);
    if (ref === null) {
      this.#problem("Too many messages wait for an answer; try again in a moment.");
      return;
    }
    this.#typingSent = 0;
    this.#problem("");
    this.#log.pending(ref, text);
    this.#markRead();
  }

  #hear(parlor) {
    const on = (name, then) =>
      parlor.addEventListener(name, ({ detail }) => parlor === this.#parlor && then(detail));
    const here = (then) => (detail) => detail.conversation === this.conversation && then(detail);
    on("state", (detail) => this.#state(detail));
    on("caughtup", () => this.#refresh());
    on("missed", here(() => this.#refresh()));
    on("sent", here((detail) => this.#log.sent(detail)));
    on("failed", (detail) => this.#log.failed(detail));
    on("problem", ({ detail }) => this.#problem(detail));
    on("entry", here((entry) => {
      this.#log.add([entry]);
      if (entry.from !== this.me) this.#typing("");
      this.#markRead();
    }));
    for (const status of ["delivered", "read"]) {
      on(status, here(({ seq, userId }) => userId !== this.me && this.#log.reached(status, seq)));
    }
    on("signal", here(({ from, data }) => {
      if (from !== this.me && data?.typing) this.#typing(`${from} is typing …`);
    }));
  }

  #state({ state, server, userId, retryMs, reason, code }) {
    clearInterval(this.#countdown);
    this.#part(".token").hidden = !(state === "stopped" && code === UNAUTHORIZED);
    if (state === "open" && userId !== this.me) {
      // The token says who this is, whatever stood in the field.
      const [before, lost] = [this.me, this.#parlor.waiting];
      this.open(userId, this.target);
      this.#onRename(this);
      if (lost > 0) this.#note(`Without an answer: ${lost} written as ${before}, who has not signed in.`);
      return;
    }
    if (state === "stopped" && code === UNAUTHORIZED && !this.#token) {
      const mint = `parlor token --sub ${this.me} --jwt-secret-file FILE`;
      this.#problem(`Paste a token above; \`${mint}\` prints one.`);
    }
    const box = this.#part(".state");
    const words = this.#part(".words");
    box.dataset.state = state;
    if (state === "open") words.textContent = `connected, ${server}`;
    if (state === "connecting") words.textContent = "connecting";
    if (state === "stopped") words.textContent = `stopped: ${reason}`;
    if (state !== "waiting") return;
    const until = Date.now() + retryMs;
    const show = () => {
      const seconds = Math.ceil((until - Date.now()) / 1_000);
      words.textContent = seconds > 1 ? `offline, back in ${seconds} s` : "offline, trying again";
    };
    show();
    this.#countdown = setInterval(show, 1_000);
  }

  /** The newest page: on the first connect all there is to see, later what changed meanwhile. */
  async #refresh() {
    await this.#page({}, (page) => this.#log.newest(page));
    this.#markRead();
  }

  #older() {
    const before = this.#log.first;
    return before > 1 ? this.#page({ before }, (page) => this.#log.earlier(page)) : undefined;
  }

  async #page(where, show) {
    const [parlor, conversation] = [this.#parlor, this.conversation];
    try {
      const page = await parlor.history(conversation, { ...where, limit: PAGE });
      if (parlor !== this.#parlor) return;
      // What is known of the end of the log goes with the next send (`after`).
      if (where.before === undefined) parlor.learn(conversation, page.messages.at(-1)?.seq ?? 0);
      show(page);
      if (!this.#noted) this.#problem("");
    } catch (error) {
      if (parlor !== this.#parlor) return;
      const room = this.target.startsWith("room:");
      const make = room ? " If it is not there yet, make it by POST /v1/rooms." : "";
      const unknown = `${this.me} is not in ${this.target}.${make}`;
      this.#problem(error.status === 404 ? unknown : `No history: ${error.message}`);
    }
  }

  #markRead() {
    const last = this.#log.lastOf((entry) => entry.from !== this.me);
    const looking = document.hasFocus() && this.#root.contains(document.activeElement);
    if (!looking || last <= this.#readUpTo) return;
    if (this.#parlor.read(this.conversation, last)) this.#readUpTo = last;
  }

  #sayTyping() {
    if (Date.now() - this.#typingSent < TYPING_EVERY_MS) return;
    this.#typingSent = Date.now();
    this.#parlor.signal(this.target, { typing: true });
  }

  #typing(words) {
    clearTimeout(this.#typingTimer);
    this.#part(".typing").textContent = words;
    if (words) this.#typingTimer = setTimeout(() => this.#typing(""), TYPING_SHOWN_MS);
  }

  /** Stays until the next message, whatever goes well meanwhile. */
  #note(words) {
    this.#problem(words);
    this.#noted = true;
  }

  #problem(words) {
    this.#noted = false;
    const box = this.#part(".problem");
    box.textContent = words;
    box.hidden = words === "";
  }
}

function start() {
  const main = document.querySelector("#panes");
  const query = new URLSearchParams(location.search);
  const name = (key, form, otherwise) => {
    const given = query.get(key) ?? "";
    return form.test(given) ? given : otherwise;
  };
  const single = query.has("as");
  const me = name("as", ID, "userA");
  const target = name("to", single ? TARGET : ID, "userB");
  if (single) {
    main.classList.add("single");
    const pane = new Pane(me, target, (renamed) => {
      const next = new URLSearchParams({ as: renamed.me, to: renamed.target });
      history.replaceState(null, "", `?${next}`);
    });
    main.append(pane.element);
    pane.open();
    return;
  }
  // Who is renamed on one side is the peer of the other.
  const face = (renamed, other) => {
    const room = renamed.target.startsWith("room:");
    other.open(room ? other.me : renamed.target, room ? renamed.target : renamed.me);
  };
  const left = new Pane(me, target, (renamed) => face(renamed, right));
  const right = new Pane(target, me, (renamed) => face(renamed, left));
  main.append(left.element, right.element);
  left.open();
  right.open();
}

start();
