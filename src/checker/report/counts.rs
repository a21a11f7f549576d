//! What was counted of a history.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What was counted.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    /// Lines that were judged.
    pub events: u64,
    /// Half lines at the end of a file, as a killed client leaves them.
    pub torn_lines: u64,
    /// Other lines that could not be read.
    pub damaged_lines: u64,
    /// Lines that name a connection, ref or walk that was never begun.
    pub strays: u64,
    /// Messages that were sent.
    pub sends: u64,
    /// Messages with a `sent`.
    pub acked: u64,
    /// Messages that were refused, and so not sent.
    pub refused: u64,
    /// Messages without any answer in the end.
    pub unanswered: u64,
    /// Messages with a try of unknown outcome.
    pub open: u64,
    /// Messages of unknown outcome that did happen.
    pub open_happened: u64,
    /// Acked messages that some device or the store does not have.
    pub lost: u64,
    /// Of these: before all that the device has.
    pub lost_prefix: u64,
    /// Of these: between what the device has.
    pub lost_middle: u64,
    /// Of these: behind all that the device has.
    pub lost_postfix: u64,
    /// Entries that a connected device was not handed while all was still.
    pub unhanded: u64,
    /// Repeats that a client can't drop.
    pub shown_twice: u64,
    /// Texts, sends and entries out of order.
    pub reordered: u64,
    /// Received messages whose `delivered` never came.
    pub missing_statuses: u64,
    /// Statuses that a history showed when what it shows had to be stored.
    pub stored_statuses: u64,
    /// Texts that came.
    pub received: u64,
    /// Texts that came to an application that had them, and were dropped.
    pub raw_duplicates: u64,
    /// Texts that came to a device that had them.
    pub redeliveries: u64,
    /// Devices.
    pub devices: u64,
    /// Devices that were connected and caught up when the drain ended, or have everything.
    pub drained: u64,
    /// Devices that stayed connected until all was still.
    pub stayed: u64,
    /// Of these, those that were connected before the faults were over.
    pub stayed_through: u64,
    /// Connections that were welcomed.
    pub connections: u64,
    /// Of these, by a device that had been connected before.
    pub reconnects: u64,
    /// Of these, with something that had waited.
    pub offline_drains: u64,
    /// Conversations.
    pub conversations: u64,
    /// Changes of membership that were done.
    pub membership_changes: u64,
    /// Walks over histories.
    pub walks: u64,
    /// Faults that were begun, by kind.
    pub faults: BTreeMap<String, u64>,
    /// Faults that were seen to bite, by kind.
    pub effective: BTreeMap<String, u64>,
    /// How long recovery took, by kind of fault.
    pub recovery: BTreeMap<String, Recovery>,
    /// From send to receipt on another device, in microseconds: p50 and p99 before the faults.
    pub quiet_us: (u64, u64),
    /// The same after the faults.
    pub healed_us: (u64, u64),
}

/// How long recovery from a kind of fault took, in milliseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovery {
    /// How often it was measured.
    pub times: u64,
    /// How often it did not come while it was waited for.
    #[serde(default)]
    pub never: u64,
    /// In the middle.
    pub median_ms: u64,
    /// At most.
    pub max_ms: u64,
}
