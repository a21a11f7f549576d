// The run as a history in the format of src/checker/history.rs, as far as it can be mapped: `seq` is
// the driver's own number of the message in its conversation. So the checker can find what was lost
// (I1) and shown twice (I3); orders, holes and statuses are not Socket.IO's to promise, and what the
// checker says of them means nothing here.
import { closeSync, openSync, writeSync } from "node:fs";

export class History {
  constructor(path) {
    this.file = path === undefined ? null : openSync(path, "w");
  }

  note(f, fields) {
    if (this.file === null) return;
    writeSync(this.file, `${JSON.stringify({ t: Number(process.hrtime.bigint()), f, ...fields })}\n`);
  }

  close() {
    if (this.file !== null) closeSync(this.file);
    this.file = null;
  }
}
