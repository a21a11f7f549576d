// Counts what was acked, lost, doubled and reordered.
//
// Socket.IO stores nothing and numbers nothing, so the driver numbers messages itself. A message is
// *lost* when its ack came and a device of its recipient never got it, although every device was
// connected when the run ended. A message is *doubled* when a device got it twice, *reordered* when
// a device got it after a later one of the same sender's device in the same conversation.

export class Counter {
  constructor() {
    this.messages = new Map();
    this.devices = [];
    this.duplicated = 0;
    this.reordered = 0;
  }

  add(device) {
    device.order = new Map();
    device.highest = new Map();
    this.devices.push(device);
  }

  sent(message) {
    this.messages.set(message.id, { ...message, acked: false, online: null, got: new Set() });
  }

  acked(id) {
    const message = this.messages.get(id);
    message.acked = true;
    // Who of the recipients believed itself connected when the ack came.
    const to = this.devices.filter((device) => device.user === message.to);
    message.online = new Set(to.filter((d) => d.socket.connected).map((d) => d.name));
  }

  received(device, { id }) {
    const message = this.messages.get(id);
    if (message.got.has(device.name)) {
      this.duplicated += 1;
      return;
    }
    message.got.add(device.name);
    const stream = `${message.conversation} ${message.device}`;
    const highest = device.highest.get(stream) ?? 0;
    if (message.number < highest) this.reordered += 1;
    device.highest.set(stream, Math.max(highest, message.number));
    const order = device.order.get(message.conversation) ?? [];
    order.push(id);
    device.order.set(message.conversation, order);
  }

  /** Neighbours that two devices of a person got in opposite orders. */
  disagreements() {
    let count = 0;
    for (const one of this.devices) {
      const other = this.devices.find((d) => d.user === one.user && d.name > one.name);
      for (const [conversation, order] of other ? one.order : []) {
        const there = other.order.get(conversation) ?? [];
        const place = new Map(there.map((id, at) => [id, at]));
        const common = order.filter((id) => place.has(id));
        for (let at = 1; at < common.length; at += 1) {
          if (place.get(common[at]) < place.get(common[at - 1])) count += 1;
        }
      }
    }
    return count;
  }

  result() {
    const row = { sends: this.messages.size, acked: 0, lost: 0, lost_while_connected: 0,
      deliveries_lost: 0, unacked_but_received: 0 };
    for (const message of this.messages.values()) {
      const to = this.devices.filter((device) => device.user === message.to);
      const lacking = to.filter((device) => !message.got.has(device.name));
      if (!message.acked) {
        row.unacked_but_received += message.got.size > 0 ? 1 : 0;
        continue;
      }
      row.acked += 1;
      row.lost += lacking.length > 0 ? 1 : 0;
      row.deliveries_lost += lacking.length;
      row.lost_while_connected += lacking.some((d) => message.online.has(d.name)) ? 1 : 0;
    }
    return { ...row, duplicated: this.duplicated, reordered: this.reordered,
      order_differs: this.disagreements() };
  }
}
