// The messages of one conversation on the screen: each once, by seq, with its mark.

const STATUS = ["sent", "delivered", "read"];
const MARKS = {
  pending: ["○", "sending"],
  sent: ["✓", "sent"],
  delivered: ["✓✓", "delivered"],
  read: ["✓✓ read", "read"],
};
const NEAR_END_PX = 80;
const NEAR_TOP_PX = 40;

const time = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const day = new Intl.DateTimeFormat(undefined, { weekday: "long", day: "numeric", month: "long" });

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

export class Log {
  #box;
  #list;
  #olderButton;
  #do;
  #me = "";
  #room = false;
  #entries = new Map();
  #pending = new Map();
  #reached = { delivered: 0, read: 0 };
  #hasOlder = false;
  #loading = false;
  #atEnd = true;

  /**
   * @param {{older: () => Promise<void>, retry: (text: string) => void,
   *   edit: (text: string) => void}} actions
   */
  constructor(box, actions) {
    this.#box = box;
    this.#do = actions;
    this.#list = box.querySelector(".list");
    this.#olderButton = box.querySelector(".older");
    this.#olderButton.addEventListener("click", () => this.#loadOlder());
    box.addEventListener("scroll", () => {
      this.#atEnd = box.scrollHeight - box.scrollTop - box.clientHeight < NEAR_END_PX;
      if (box.scrollTop < NEAR_TOP_PX) this.#loadOlder();
    });
    // Who reads the newest message still does when a keyboard opens or the window turns.
    new ResizeObserver(() => this.#atEnd && this.#toEnd()).observe(box);
  }

  /** The lowest seq that is shown. */
  get first() {
    return this.#entries.size ? Math.min(...this.#entries.keys()) : 0;
  }

  /** The highest seq of the entries that match. */
  lastOf(matches) {
    return Math.max(0, ...[...this.#entries.values()].filter(matches).map((entry) => entry.seq));
  }

  clear(me, target) {
    this.#me = me;
    this.#room = target.startsWith("room:");
    this.#entries.clear();
    this.#pending.clear();
    this.#reached = { delivered: 0, read: 0 };
    this.#hasOlder = false;
    this.#draw(false);
    const empty = this.#box.querySelector(".empty");
    empty.textContent = `Nothing yet. Say hello to ${target}.`;
    empty.hidden = true;
  }

  /** One's own message, on its way. */
  pending(ref, text) {
    this.#pending.set(ref, { ref, message: text, from: this.#me, timestamp: Date.now() });
    this.#draw(true);
  }

  sent({ ref, seq, timestamp }) {
    const pending = this.#pending.get(ref);
    if (!pending) return;
    this.#pending.delete(ref);
    this.add([{ ...pending, type: "message", seq, timestamp }]);
  }

  failed({ ref, code, detail }) {
    const pending = this.#pending.get(ref);
    if (!pending) return;
    [pending.problem, pending.tooLong] = [detail ?? code, code === "too_large"];
    this.#draw(false);
  }

  /** Everything of one's own up to `seq` has got this far. */
  reached(status, seq) {
    this.#reached[status] = Math.max(seq, this.#reached[status]);
    this.#draw(false);
  }

  add(entries) {
    for (const entry of entries) {
      this.#entries.set(entry.seq, { ...this.#entries.get(entry.seq), ...entry });
      const own = entry.from === this.#me;
      if (own && STATUS.indexOf(entry.status) > 0) {
        this.#reached[entry.status] = Math.max(entry.seq, this.#reached[entry.status]);
      }
    }
    this.#draw(false);
  }

  /** The newest page; what is shown and does not reach up to it goes, so that no hole is shown. */
  newest({ messages, hasMore }) {
    const begins = messages[0]?.seq ?? 0;
    let whole = begins;
    while (this.#entries.has(whole - 1)) whole -= 1;
    const beyond = [...this.#entries.keys()].filter((seq) => seq < whole);
    beyond.forEach((seq) => this.#entries.delete(seq));
    const isFirst = this.#entries.size === 0 || begins <= this.first;
    if (isFirst || beyond.length > 0) this.#hasOlder = hasMore;
    this.add(messages);
    this.#box.querySelector(".empty").hidden = this.#entries.size + this.#pending.size > 0;
  }

  /** A page before the first. */
  earlier({ messages, hasMore }) {
    const fromEnd = this.#box.scrollHeight - this.#box.scrollTop;
    this.#hasOlder = hasMore && messages.length > 0;
    this.add(messages);
    this.#box.scrollTop = this.#box.scrollHeight - fromEnd;
  }

  async #loadOlder() {
    if (this.#loading || !this.#hasOlder) return;
    this.#loading = true;
    await this.#do.older();
    this.#loading = false;
  }

  #draw(toEnd) {
    const box = this.#box;
    this.#olderButton.hidden = !this.#hasOlder;
    const entries = [...this.#entries.values()].sort((a, b) => a.seq - b.seq);
    const rows = [];
    let previous = null;
    for (const entry of [...entries, ...this.#pending.values()]) {
      const date = day.format(entry.timestamp);
      const newDay = date !== (previous && day.format(previous.timestamp));
      if (newDay) rows.push(element("li", "day", date));
      const row = this.#row(entry, newDay ? null : previous);
      if (row) rows.push(row);
      previous = entry;
    }
    if (entries.length + this.#pending.size > 0) box.querySelector(".empty").hidden = true;
    this.#place(rows);
    if (toEnd || this.#atEnd) this.#toEnd();
  }

  #toEnd() {
    this.#atEnd = true;
    this.#box.scrollTop = this.#box.scrollHeight;
  }

  /** Keeps the rows that are the same, so that screen readers hear only what is new. */
  #place(rows) {
    const old = [...this.#list.children];
    let same = 0;
    while (same < old.length && same < rows.length && old[same].isEqualNode(rows[same])) same += 1;
    let tail = 0;
    const most = Math.min(old.length, rows.length) - same;
    while (tail < most && old[old.length - 1 - tail].isEqualNode(rows[rows.length - 1 - tail])) {
      tail += 1;
    }
    old.slice(same, old.length - tail).forEach((row) => row.remove());
    const fresh = rows.slice(same, rows.length - tail);
    const before = this.#list.children[same] ?? null;
    fresh.forEach((row) => this.#list.insertBefore(row, before));
  }

  #row(entry, previous) {
    const kind = entry.kind ?? entry.type;
    if (kind === "joined" || kind === "left") return element("li", "note", `${entry.to} ${kind}`);
    if (typeof entry.message !== "string") return null;
    const mine = entry.from === this.#me;
    const follows = previous?.from === entry.from && entry.timestamp - previous.timestamp < 120_000;
    const row = element("li", `message${mine ? " mine" : ""}${follows ? " next" : ""}`);
    if (this.#room && !mine && !follows) row.append(element("p", "from", entry.from));
    const bubble = element("div", "bubble");
    bubble.append(element("p", "text", entry.message));
    const meta = element("p", "meta");
    meta.append(element("time", "", time.format(entry.timestamp)));
    if (mine) this.#mark(meta, entry);
    bubble.append(meta);
    row.append(bubble);
    return row;
  }

  #mark(meta, entry) {
    if (entry.problem) {
      meta.append(element("span", "mark failed", `not sent: ${entry.problem}`));
      const [does, words] = entry.tooLong ? ["edit", "Edit"] : ["retry", "Send again"];
      const again = element("button", "", words);
      again.type = "button";
      again.addEventListener("click", () => {
        this.#pending.delete(entry.ref);
        this.#draw(false);
        this.#do[does](entry.message);
      });
      meta.append(again);
      return;
    }
    const status = this.#status(entry);
    const [sign, words] = MARKS[status];
    const mark = element("span", `mark ${status}`, sign);
    mark.setAttribute("aria-label", words);
    mark.setAttribute("role", "img");
    mark.title = words;
    meta.append(mark);
  }

  #status(entry) {
    if (!entry.seq) return "pending";
    if (entry.seq <= this.#reached.read) return "read";
    if (entry.seq <= this.#reached.delivered) return "delivered";
    return entry.status ?? "sent";
  }
}
