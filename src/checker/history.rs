//! A history: what clients saw, one JSON line for each event.
//!
//! Every process of a run writes lines of its own; all stand on one host, so that the monotonic
//! clock gives one order. Operations that may fail come as two lines: one before the request
//! leaves, one when its outcome is known. **Only an explicit refusal means "not done"**: a
//! time-out, a closed connection, a killed client or an `unavailable` leave the outcome open, and
//! have no second line at all or one that says so.

use serde::{Deserialize, Serialize};

/// A line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Nanoseconds of the host's monotonic clock (of the simulation's, in a simulation).
    pub t: u64,
    /// What happened.
    #[serde(flatten)]
    pub what: What,
}

/// How an operation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It was done.
    Done,
    /// It was refused, and not done.
    Refused,
    /// It may have been done, or may be done yet.
    Open,
}

/// Where a status was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Stored.
    Sent,
    /// A device of the recipient has received it.
    Delivered,
    /// The recipient has seen it.
    Read,
}

/// Which way a walk over the history goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// From the first entry on, by `after=`.
    Forward,
    /// From the newest back, by `before=`.
    Backward,
}

/// The part of a run that begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// No faults yet: the measure of what is normal.
    Quiet,
    /// Faults are injected.
    Faults,
    /// All faults are healed, load goes on.
    Healed,
    /// No new sends: every device reads until it has everything.
    Drain,
    /// Nothing was sent and nothing done to a connection for as long as a lost hint may take to be
    /// found: from now on devices may connect anew, and then catch up by themselves.
    Still,
    /// Every device has everything, or its time is up: histories and the store are read.
    Read,
}

/// An entry as somebody saw it, in a history or in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// Its place.
    pub seq: u64,
    /// `message`, `joined`, `left`.
    pub kind: String,
    /// Who sent it.
    pub from: String,
    /// Its text; empty for what is no message.
    pub body: String,
    /// Whom it is about: who has joined or left. Absent for a message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Its status for the sender, where it was told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "f", rename_all = "snake_case")]
pub enum What {
    /// The run: what makes it again.
    Run {
        /// The commit of the servers.
        commit: String,
        /// The seed of load and faults.
        seed: u64,
    },
    /// A part of the run begins.
    Phase {
        /// Which.
        phase: Phase,
    },
    /// A conversation of the load, before anything is sent to it.
    Conversation {
        /// Its id.
        conversation: String,
        /// Its participants at the start; those of a room change by `Member`.
        members: Vec<String>,
        /// A text that stands in every body of this conversation, and nowhere else.
        canary: String,
    },
    /// A device opens a connection, or has opened it (`outcome`).
    Connect {
        /// Unique in the run.
        connection: String,
        /// The person.
        user: String,
        /// The person's device.
        device: String,
        /// The application itself acknowledges (`acks=app`), not the WebSocket stack.
        acks_app: bool,
        /// Absent: it begins. `Done`: `welcome` has come.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        outcome: Option<Outcome>,
        /// The server that `welcome` names.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        server: Option<String>,
    },
    /// A connection has ended. Whoever kills a client that won't come back writes it in its place:
    /// a device counts as present while its newest connection is open.
    Close {
        /// Which.
        connection: String,
        /// The close code, where one came.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        code: Option<u16>,
    },
    /// The device's application lost all that it knew of what it had received (a new life).
    Forget {
        /// The person.
        user: String,
        /// The person's device.
        device: String,
    },
    /// A message leaves, for the first time or again; each try is a line.
    Send {
        /// The connection, or `api`.
        connection: String,
        /// Who sends.
        user: String,
        /// Where to.
        conversation: String,
        /// The message's ref, the same in all tries.
        reference: String,
        /// Its text, unique in the run.
        body: String,
    },
    /// The outcome of the newest try with this ref.
    Sent {
        /// The connection of that try.
        connection: String,
        /// Who sent.
        user: String,
        /// Where to.
        conversation: String,
        /// The message's ref.
        reference: String,
        /// What became of it.
        outcome: Outcome,
        /// `Done`: its place.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        seq: Option<u64>,
        /// The error code, where one came.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        code: Option<String>,
    },
    /// A text has come, as it came: the application drops repeats itself.
    Received {
        /// The connection.
        connection: String,
        /// Where.
        conversation: String,
        /// Its place.
        seq: u64,
        /// `message`, `joined`, `left`.
        kind: String,
        /// Who sent it, as the text says.
        from: String,
        /// Its text.
        body: String,
        /// Whom it is about: who has joined or left. Absent for a message.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        to: Option<String>,
        /// It came before `caughtup`.
        catchup: bool,
    },
    /// The receipt leaves: the application's ack, or the Pong for the batch that ends here. From
    /// now on the device may count as having received it.
    Acked {
        /// The connection.
        connection: String,
        /// Where.
        conversation: String,
        /// Up to here.
        seq: u64,
    },
    /// The person has seen it: a `read` frame leaves.
    Seen {
        /// The connection.
        connection: String,
        /// Where.
        conversation: String,
        /// Up to here.
        seq: u64,
    },
    /// `caughtup` has come.
    Caughtup {
        /// The connection.
        connection: String,
    },
    /// `missed` has come: these are not pushed, the device pages for them.
    Missed {
        /// The connection.
        connection: String,
        /// Where.
        conversation: String,
        /// The first.
        from: u64,
        /// The last.
        to: u64,
    },
    /// A status has come, as a frame.
    Status {
        /// The connection that saw it.
        connection: String,
        /// Where.
        conversation: String,
        /// Up to here.
        seq: u64,
        /// Of whom: who has received or seen it.
        user: String,
        /// Which.
        status: Status,
    },
    /// A walk over a whole history begins; its outcome comes in a line of its own.
    Walk {
        /// Unique in the run.
        walk: String,
        /// Who reads.
        user: String,
        /// Where.
        conversation: String,
        /// Entries a page.
        limit: u32,
        /// Which way.
        direction: Direction,
    },
    /// What the walk saw, ascending, with all pages put together.
    Walked {
        /// Which walk.
        walk: String,
        /// `Done`, or `Refused` (404 and the like), or `Open` (an error on the way).
        outcome: Outcome,
        /// What it saw.
        entries: Vec<Listed>,
    },
    /// A person is put into a room or out of it.
    Member {
        /// Where.
        conversation: String,
        /// Who.
        user: String,
        /// In, or out.
        joins: bool,
        /// Absent: the request leaves.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        outcome: Option<Outcome>,
    },
    /// A fault begins.
    Fault {
        /// Unique in the run.
        fault: String,
        /// Its kind, as the ledger names it.
        kind: String,
        /// What it hits: `ws2`, `redis`, `ws1>dynamodb` and so on.
        target: String,
    },
    /// A fault is over.
    Healed {
        /// Which.
        fault: String,
        /// How often it was seen to bite (a process died, a call failed, a byte was held up); a
        /// fault with 0 counts for nothing.
        bites: u64,
        /// Milliseconds from its end (for a death: from its begin) until its target did its work
        /// again, where that was measured.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        recovered_ms: Option<u64>,
        /// Its target did not do its work again in so many milliseconds: then nobody waited on.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        unrecovered_ms: Option<u64>,
    },
    /// A process ended that nobody had ended, or said that it panicked.
    Broken {
        /// Which.
        process: String,
        /// What is known of it.
        detail: String,
    },
    /// What a process needs.
    Resources {
        /// Which.
        process: String,
        /// Resident bytes.
        resident: u64,
        /// Open files.
        files: u64,
        /// Which life of it: another number after a restart.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pid: Option<u32>,
    },
    /// A process's log holds a canary.
    Leaked {
        /// Which process.
        process: String,
        /// The line.
        line: String,
    },
    /// A conversation as the store has it, read beside the service.
    Stored {
        /// Which.
        conversation: String,
        /// All entries, ascending.
        entries: Vec<Listed>,
    },
    /// The socket map as it stands, beside what is open: pairs of person and server.
    Map {
        /// What the map says.
        claimed: Vec<(String, String)>,
        /// What clients hold.
        open: Vec<(String, String)>,
    },
}
