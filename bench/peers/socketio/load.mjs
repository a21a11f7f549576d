// 40 people with two devices each, who talk in 30 conversations of two.
import { load } from "./libraries.mjs";

const { io } = load("socket.io-client");

const USERS = 40;
const DEVICES = ["phone", "laptop"];
const CONVERSATIONS = 30;
const ACK_WITHIN_MS = 10_000;

const user = (number) => `user${String(number).padStart(2, "0")}`;

export class Load {
  constructor(url, random, counter, history) {
    Object.assign(this, { url, random, counter, history });
    this.devices = [];
    this.connections = 0;
    this.sending = [];
    this.open = 0;
    this.lastReceipt = Date.now();
    this.recovered = 0;
    this.reconnects = 0;
    this.conversations = Array.from({ length: CONVERSATIONS }, (_, number) => {
      const pair = [user(number), user((number + 13) % USERS)].sort();
      return { id: `dm:${pair[0]}:${pair[1]}`, pair, last: 0, canary: `canary-${number} ` };
    });
  }

  start() {
    for (const { id, pair, canary } of this.conversations) {
      this.history.note("conversation", { conversation: id, members: pair, canary });
    }
    for (let number = 0; number < USERS; number += 1) {
      for (const name of DEVICES) this.device(user(number), name);
    }
  }

  device(owner, name) {
    // Quicker than the defaults of 1 to 5 s, so that less is missed.
    const socket = io(this.url, {
      transports: ["websocket"],
      auth: { user: owner, device: name },
      forceNew: true,
      reconnectionDelay: 100,
      reconnectionDelayMax: 1_000,
    });
    const device = { user: owner, name: `${owner}/${name}`, socket, connection: null };
    this.counter.add(device);
    this.devices.push(device);
    socket.on("connect", () => {
      this.reconnects += device.connection === null ? 0 : 1;
      this.recovered += socket.recovered ? 1 : 0;
      device.connection = `${device.name}/${this.connections++}`;
      const fields = { connection: device.connection, user: owner, device: name, acks_app: false };
      this.history.note("connect", fields);
      this.history.note("connect", { ...fields, outcome: "done" });
      this.history.note("caughtup", { connection: device.connection });
    });
    socket.on("disconnect", () => {
      this.history.note("close", { connection: device.connection });
    });
    socket.on("message", (message) => {
      this.lastReceipt = Date.now();
      const { conversation, number: seq, from, body } = message;
      const { connection } = device;
      const kind = "message";
      this.history.note("received",
        { connection, conversation, seq, kind, from, body, catchup: false });
      this.counter.received(device, message);
    });
  }

  connected() {
    return this.devices.filter((device) => device.socket.connected).length;
  }

  /** So many messages a second, over all conversations. */
  talk(rate) {
    const every = (1_000 * CONVERSATIONS) / rate;
    for (const conversation of this.conversations) {
      const begin = setTimeout(() => {
        this.sending.push(setInterval(() => this.send(conversation), every));
      }, this.random() * every);
      this.sending.push(begin);
    }
  }

  send(conversation) {
    const side = this.random() < 0.5 ? 0 : 1;
    const from = conversation.pair[side];
    const own = this.devices.filter((device) => device.user === from);
    const device = own[Math.floor(this.random() * own.length)];
    const number = ++conversation.last;
    const id = `${conversation.id}#${number}`;
    const message = { id, conversation: conversation.id, number, device: device.name,
      to: conversation.pair[1 - side], body: `${conversation.canary}${number}` };
    const connection = device.connection ?? "none";
    const line = { connection, user: from, conversation: conversation.id, reference: id };
    this.history.note("send", { ...line, body: message.body });
    this.counter.sent(message);
    this.open += 1;
    // What is sent while disconnected is kept by the client and sent when it is back.
    device.socket.timeout(ACK_WITHIN_MS).emit("message", message, (error) => {
      this.open -= 1;
      if (error) {
        this.history.note("sent", { ...line, outcome: "open" });
      } else {
        this.history.note("sent", { ...line, outcome: "done", seq: number });
        this.counter.acked(id);
      }
    });
  }

  quiet() {
    this.sending.forEach((timer) => { clearTimeout(timer); clearInterval(timer); });
  }

  close() {
    this.devices.forEach((device) => device.socket.disconnect());
  }
}
