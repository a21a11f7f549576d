//! A mailbox: one row per conversation of a person, which only rises, and the person's devices.

use crate::protocol::{ConversationId, DEVICES_PER_USER_MAX, DeviceId, Seq, Timestamp};

/// The most cursors that a row keeps: twice the devices that a person may have, so that only those
/// of forgotten ones are ever beyond it.
pub const CURSORS_MAX: usize = 2 * DEVICES_PER_USER_MAX;

/// A person's row for one conversation. 0 means "nothing yet" in every field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Which conversation.
    pub conversation: ConversationId,
    /// Upper bound of the log for recipients: no put at seq k before this durably says ≥ k.
    pub last: Seq,
    /// The highest seq that some device of the person has received.
    pub delivered: Seq,
    /// The highest seq that the person has seen.
    pub read: Seq,
    /// `n` of the entry at `read`.
    pub read_n: u64,
    /// How far each device has received, in any order; a device without one stands at its start.
    ///
    /// A row outlives the devices in it. When a raise brings a device that is new to a row and it
    /// then holds more than [`CURSORS_MAX`], the lowest cursors of devices that are not registered
    /// are dropped, but for those that were raised just now.
    pub cursors: Vec<(DeviceId, Seq)>,
}

/// What a row is to be raised to; `None` leaves a value as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Raise {
    /// See [`Row::last`].
    pub last: Option<Seq>,
    /// See [`Row::delivered`].
    pub delivered: Option<Seq>,
    /// See [`Row::read`] and [`Row::read_n`]: the two rise together.
    pub read: Option<(Seq, u64)>,
    /// See [`Row::cursors`].
    pub cursors: Vec<(DeviceId, Seq)>,
}

/// A device that the person has used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Its name.
    pub device: DeviceId,
    /// When it was first seen.
    pub first_seen: Timestamp,
    /// When it was last seen.
    pub last_seen: Timestamp,
}

/// Which part of a mailbox to read.
#[derive(Debug, Clone)]
pub enum MailboxPart {
    /// Rows by conversation, then the devices. One Query where the mailbox fits a page of 1 MB.
    Page {
        /// The `next` of the page before.
        after: Option<String>,
        /// Strongly consistent; `false` only where an hour-old belt reads.
        consistent: bool,
    },
    /// One row.
    Row(ConversationId),
    /// The devices alone.
    Devices,
}

/// A page of a mailbox.
#[derive(Debug, Clone, Default)]
pub struct MailboxPage {
    /// Rows, in the order of the conversations' names.
    pub rows: Vec<Row>,
    /// Devices, in the order of their names.
    pub devices: Vec<Device>,
    /// The person's tokens made up to this moment are dead; on the page where that stands. A read
    /// that has to be made anyway so tells what a handshake must know.
    pub revoked: Option<Timestamp>,
    /// Keys of rows and devices that can't be read; they hide none of the others.
    pub damaged: Vec<String>,
    /// Pass this as `after` for what follows; `None` at the end.
    pub next: Option<String>,
}

/// Which cursors a row has to give up after this raise; see [`Row::cursors`].
pub fn cursors_beyond(
    cursors: &[(DeviceId, Seq)],
    registered: &[DeviceId],
    raise: &Raise,
) -> Vec<(DeviceId, Seq)> {
    let beyond = cursors.len().saturating_sub(CURSORS_MAX);
    let raised = |device| raise.cursors.iter().any(|(raised, _)| raised == device);
    let mut forgotten: Vec<_> = cursors
        .iter()
        .filter(|(device, _)| !registered.contains(device) && !raised(device))
        .cloned()
        .collect();
    forgotten.sort_by_key(|(_, seq)| *seq);
    forgotten.truncate(beyond);
    forgotten
}
