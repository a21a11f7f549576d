//! What is kept of one person: mailbox rows, devices and their starts, and which tokens are dead.

use std::collections::BTreeMap;
use std::ops::Bound;

use crate::protocol::{ConversationId, DeviceId, Seq, Timestamp};
use crate::store::mailbox::cursors_beyond;
use crate::store::{
    CURSORS_MAX, Device, MailboxPage, MailboxPart, PAGE_MAX, Raise, Row, StoreError,
};

type Starts = Vec<(ConversationId, Seq)>;

/// See the module.
#[derive(Default)]
pub struct Person {
    /// Boxed: most people have few, and a node of the map has room for eleven.
    rows: BTreeMap<ConversationId, Box<Row>>,
    /// In the order of their names.
    devices: Vec<Device>,
    starts: BTreeMap<DeviceId, BTreeMap<u32, Starts>>,
    revoked: Option<Timestamp>,
}

impl Person {
    /// See `Store::raise`.
    pub fn raise(&mut self, conversation: &ConversationId, raise: &Raise) {
        let Some(row) = self.rows.get_mut(conversation) else {
            let mut row = Box::new(empty(conversation));
            if lift(&mut row, raise, &self.devices) {
                self.rows.insert(conversation.clone(), row);
            }
            return;
        };
        lift(row, raise, &self.devices);
    }

    /// See `Store::mailbox`.
    pub fn mailbox(&self, part: MailboxPart) -> Result<MailboxPage, StoreError> {
        match part {
            MailboxPart::Row(conversation) => {
                let rows = self.rows.get(&conversation).map(|row| row.as_ref().clone());
                Ok(MailboxPage { rows: rows.into_iter().collect(), ..MailboxPage::default() })
            }
            MailboxPart::Devices => {
                Ok(MailboxPage { devices: self.devices.clone(), ..MailboxPage::default() })
            }
            MailboxPart::Page { after: None, .. } => Ok(self.page(&Place::Start)),
            MailboxPart::Page { after: Some(after), .. } => Ok(self.page(&Place::parse(&after)?)),
        }
    }

    /// Rows, then devices. At most [`PAGE_MAX`] of both: with all the cursors that a row may have
    /// they come to less than 1 MB.
    fn page(&self, after: &Place) -> MailboxPage {
        let rows_after = match after {
            Place::Start => Some(Bound::Unbounded),
            Place::Row(conversation) => Some(Bound::Excluded(conversation)),
            Place::Device(_) => None,
        };
        let rows = rows_after.map(|bound| self.rows.range((bound, Bound::Unbounded)));
        let mut rows = rows.into_iter().flatten().map(|(_, row)| row);
        let behind = |device: &&Device| match after {
            Place::Device(last) => device.device > *last,
            _ => true,
        };
        let mut devices = self.devices.iter().filter(behind);
        let rows_here: Vec<Row> =
            rows.by_ref().take(PAGE_MAX).map(|row| row.as_ref().clone()).collect();
        let room = PAGE_MAX - rows_here.len();
        let devices_here: Vec<Device> = devices.by_ref().take(room).cloned().collect();
        let more = rows.next().is_some() || devices.next().is_some();
        let last_row = rows_here.last().map(|row| format!("{ROW}{}", row.conversation));
        let last_device = devices_here.last().map(|device| format!("{DEVICE}{}", device.device));
        let next = last_device.or(last_row).filter(|_| more);
        let revoked = self.revoked.filter(|_| !more);
        let (rows, devices, damaged) = (rows_here, devices_here, Vec::new());
        MailboxPage { rows, devices, revoked, damaged, next }
    }

    /// Keeps a device, or when it was last seen.
    pub fn seen(&mut self, device: Device) -> bool {
        match self.devices.binary_search_by(|known| known.device.cmp(&device.device)) {
            Ok(at) => {
                let known = &mut self.devices[at];
                let later = device.last_seen > known.last_seen;
                known.last_seen = known.last_seen.max(device.last_seen);
                later
            }
            Err(at) => {
                self.devices.insert(at, device);
                true
            }
        }
    }

    /// Forgets a device and its starts.
    pub fn forget(&mut self, device: &DeviceId) {
        self.devices.retain(|known| known.device != *device);
        self.starts.remove(device);
    }

    /// Keeps a chunk of a device's starts.
    pub fn start(&mut self, device: DeviceId, chunk: u32, starts: Starts) {
        self.starts.entry(device).or_default().insert(chunk, starts);
    }

    /// The chunks of a device's starts, by number.
    pub fn starts(&self, device: &DeviceId) -> impl Iterator<Item = (u32, Starts)> {
        let chunks = self.starts.get(device).into_iter().flatten();
        chunks.map(|(chunk, starts)| (*chunk, starts.clone()))
    }

    /// From now on tokens made up to here are dead; `false` if they were already.
    pub fn revoke(&mut self, until: Timestamp) -> bool {
        let later = self.revoked.is_none_or(|stands| stands < until);
        self.revoked = self.revoked.max(Some(until));
        later
    }

    /// Up to when tokens are dead.
    pub fn revoked(&self) -> Option<Timestamp> {
        self.revoked
    }
}

const ROW: &str = "C#";
const DEVICE: &str = "D#";

/// Where a page of a mailbox begins: behind what its `after` names.
enum Place {
    Start,
    Row(ConversationId),
    Device(DeviceId),
}

impl Place {
    fn parse(after: &str) -> Result<Self, StoreError> {
        let row = after.strip_prefix(ROW).and_then(|name| name.parse().ok()).map(Self::Row);
        let device = || after.strip_prefix(DEVICE).and_then(|name| name.parse().ok());
        let unknown = || StoreError::Refused(format!("no page of a mailbox ends at {after:?}"));
        row.or_else(|| device().map(Self::Device)).ok_or_else(unknown)
    }
}

fn empty(conversation: &ConversationId) -> Row {
    let conversation = conversation.clone();
    Row { conversation, last: 0, delivered: 0, read: 0, read_n: 0, cursors: Vec::new() }
}

/// Raises what is lower; whether anything was.
fn lift(row: &mut Row, raise: &Raise, devices: &[Device]) -> bool {
    let mut rose = false;
    let mut lift = |value: &mut Seq, to: Seq| {
        let higher = to > *value;
        if higher {
            (*value, rose) = (to, true);
        }
        higher
    };
    lift(&mut row.last, raise.last.unwrap_or(0));
    lift(&mut row.delivered, raise.delivered.unwrap_or(0));
    if let Some((read, n)) = raise.read
        && lift(&mut row.read, read)
    {
        row.read_n = n;
    }
    let known = row.cursors.len();
    for (device, seq) in &raise.cursors {
        match row.cursors.iter_mut().find(|(known, _)| known == device) {
            Some((_, cursor)) => {
                lift(cursor, *seq);
            }
            None => row.cursors.push((device.clone(), *seq)),
        }
    }
    let newcomers = row.cursors.len() > known;
    if newcomers && row.cursors.len() > CURSORS_MAX {
        let registered: Vec<_> = devices.iter().map(|device| device.device.clone()).collect();
        let gone = cursors_beyond(&row.cursors, &registered, raise);
        row.cursors.retain(|cursor| !gone.contains(cursor));
    }
    rose || newcomers
}
