//! The store of the simulation: in memory, and the same by the contract as the real ones.
#![cfg(test)]

use std::collections::BTreeMap;
use std::sync::Mutex;

use async_trait::async_trait;

use crate::protocol::{ConversationId, DeviceId, Entry, Seq, UserId};
use crate::store::{
    Device, Head, LogPage, LogRange, MailboxPage, MailboxPart, Member, Order, PAGE_MAX, Raise,
    Record, RecordPart, Row, Store, StoreError, cursors_beyond,
};

const PAGE_BYTES_MAX: usize = 1_000_000;

type Starts = Vec<(ConversationId, Seq)>;

/// See the module.
#[derive(Default)]
pub struct Memory {
    pub logs: BTreeMap<ConversationId, Vec<Entry>>,
    rows: BTreeMap<UserId, BTreeMap<ConversationId, Row>>,
    devices: BTreeMap<UserId, BTreeMap<DeviceId, Device>>,
    starts: BTreeMap<(UserId, DeviceId), BTreeMap<u32, Starts>>,
    heads: BTreeMap<ConversationId, Head>,
    revoked: BTreeMap<UserId, u64>,
    members: BTreeMap<ConversationId, BTreeMap<UserId, Member>>,
    /// When entries were put, and devices registered.
    pub put_at: BTreeMap<(ConversationId, Seq), u64>,
    pub registered: BTreeMap<(UserId, DeviceId), u64>,
    /// Which process put an entry, and when it had asked for that.
    pub put_by: BTreeMap<(ConversationId, Seq), (usize, u64)>,
    /// When a person's row rose, and how far.
    raised: BTreeMap<(UserId, ConversationId), Vec<(Seq, u64)>>,
    /// How far any device of a person has received, as the devices themselves say.
    received: BTreeMap<UserId, BTreeMap<ConversationId, Seq>>,
    /// The same when a device registered.
    received_before: BTreeMap<(UserId, DeviceId), BTreeMap<ConversationId, Seq>>,
    pub now: u64,
}

impl Memory {
    pub fn append(&mut self, log: &ConversationId, entries: &[Entry]) -> usize {
        let stands = self.logs.entry(log.clone()).or_default();
        for (count, entry) in entries.iter().enumerate() {
            match stands.binary_search_by_key(&entry.seq, |entry| entry.seq) {
                Ok(_) => return count,
                Err(at) => stands.insert(at, entry.clone()),
            }
        }
        entries.len()
    }

    pub fn log(&self, log: &ConversationId, range: LogRange) -> LogPage {
        let entries = self.logs.get(log).map(Vec::as_slice).unwrap_or_default();
        let from = entries.partition_point(|entry| entry.seq <= range.after);
        let until = range
            .before
            .map_or(entries.len(), |before| entries.partition_point(|entry| entry.seq < before));
        let within = entries.get(from..until.max(from)).unwrap_or_default();
        let mut page = LogPage::default();
        let mut bytes = 0;
        let mut take = |entry: &Entry| {
            if page.entries.len() == range.limit.clamp(1, PAGE_MAX) || bytes > PAGE_BYTES_MAX {
                page.more = true;
                return false;
            }
            bytes += entry.message.as_ref().map_or(0, |message| message.len()) + 100;
            page.entries.push(entry.clone());
            true
        };
        match range.order {
            Order::Ascending => within.iter().all(&mut take),
            Order::Descending => within.iter().rev().all(&mut take),
        };
        page
    }

    pub fn raise(&mut self, user: &UserId, log: &ConversationId, raise: &Raise) {
        let registered: Vec<_> = self
            .devices
            .get(user)
            .into_iter()
            .flat_map(|devices| devices.keys())
            .cloned()
            .collect();
        let fresh = || Row {
            conversation: log.clone(),
            last: 0,
            delivered: 0,
            read: 0,
            read_n: 0,
            cursors: Vec::new(),
        };
        let rows = self.rows.entry(user.clone()).or_default();
        let row = rows.entry(log.clone()).or_insert_with(fresh);
        if let Some(last) = raise.last.filter(|last| *last > row.last) {
            row.last = last;
            self.raised.entry((user.clone(), log.clone())).or_default().push((last, self.now));
        }
        row.delivered = row.delivered.max(raise.delivered.unwrap_or(0));
        if let Some((read, n)) = raise.read.filter(|(read, _)| *read > row.read) {
            (row.read, row.read_n) = (read, n);
        }
        let known = row.cursors.len();
        for (device, seq) in &raise.cursors {
            match row.cursors.iter_mut().find(|(known, _)| known == device) {
                Some((_, cursor)) => *cursor = (*cursor).max(*seq),
                None => row.cursors.push((device.clone(), *seq)),
            }
        }
        if row.cursors.len() > known.max(crate::store::CURSORS_MAX) {
            let gone = cursors_beyond(&row.cursors, &registered, raise);
            row.cursors.retain(|cursor| !gone.contains(cursor));
        }
    }

    /// A page of at most `most` rows and devices.
    pub fn mailbox(&self, user: &UserId, part: MailboxPart, most: usize) -> MailboxPage {
        let rows = self.rows.get(user);
        let devices = || self.devices.get(user).into_iter().flat_map(|devices| devices.values());
        let after = match part {
            MailboxPart::Row(log) => {
                let row = rows.and_then(|rows| rows.get(&log)).cloned();
                return MailboxPage { rows: row.into_iter().collect(), ..Default::default() };
            }
            MailboxPart::Devices => {
                return MailboxPage { devices: devices().cloned().collect(), ..Default::default() };
            }
            MailboxPart::Page { after, .. } => after.unwrap_or_default(),
        };
        let mut page = MailboxPage::default();
        let mut left = most;
        for row in rows.into_iter().flat_map(|rows| rows.values()) {
            let key = format!("C#{}", row.conversation);
            if key > after && left > 0 {
                page.rows.push(row.clone());
                left -= 1;
                page.next = Some(key);
            }
        }
        for device in devices() {
            let key = format!("D#{}", device.device);
            if key > after && left > 0 {
                page.devices.push(device.clone());
                left -= 1;
                page.next = Some(key);
            }
        }
        page.next = page.next.filter(|_| left == 0);
        page.revoked = self.revoked.get(user).copied().filter(|_| page.next.is_none());
        page
    }

    pub fn write(&mut self, record: Record) -> bool {
        match record {
            Record::Device(user, device) => {
                let key = (user.clone(), device.device.clone());
                if !self.registered.contains_key(&key) {
                    self.registered.insert(key.clone(), self.now);
                    let received = self.received.get(&user).cloned().unwrap_or_default();
                    self.received_before.insert(key, received);
                }
                let devices = self.devices.entry(user).or_default();
                match devices.get_mut(&device.device) {
                    Some(known) if known.last_seen >= device.last_seen => return false,
                    Some(known) => known.last_seen = device.last_seen,
                    None => drop(devices.insert(device.device.clone(), device)),
                }
            }
            Record::ForgetDevice(user, device) => {
                if let Some(devices) = self.devices.get_mut(&user) {
                    devices.remove(&device);
                }
                self.starts.remove(&(user, device));
            }
            Record::Starts { user, device, chunk, starts } => {
                self.starts.entry((user, device)).or_default().insert(chunk, starts);
            }
            Record::Member(log, member) => {
                let members = self.members.entry(log).or_default();
                if members.get(&member.user).is_some_and(|known| known.as_of >= member.as_of) {
                    return false;
                }
                members.insert(member.user.clone(), member);
            }
            Record::Head(log, head) => {
                if self.heads.contains_key(&log) {
                    return false;
                }
                self.heads.insert(log, head);
            }
            Record::Revoked(user, until) => {
                let known = self.revoked.entry(user).or_default();
                if *known >= until {
                    return false;
                }
                *known = until;
            }
        }
        true
    }

    pub fn records(&self, part: RecordPart) -> Vec<Record> {
        let (log, only) = match part {
            RecordPart::Starts(user, device) => {
                let chunks = self.starts.get(&(user.clone(), device.clone()));
                let record = |(chunk, starts): (&u32, &Starts)| Record::Starts {
                    user: user.clone(),
                    device: device.clone(),
                    chunk: *chunk,
                    starts: starts.clone(),
                };
                return chunks.into_iter().flatten().map(record).collect();
            }
            RecordPart::Revoked(user) => {
                let until = self.revoked.get(&user).copied();
                return until.map(|until| Record::Revoked(user, until)).into_iter().collect();
            }
            RecordPart::Head(log) => {
                let head = self.heads.get(&log);
                return head.map(|head| Record::Head(log, head.clone())).into_iter().collect();
            }
            RecordPart::Roster(log) => (log, None),
            RecordPart::Member(log, user) => (log, Some(user)),
        };
        let members = self.members.get(&log).into_iter().flat_map(|members| members.values());
        let members = members.filter(|member| only.as_ref().is_none_or(|u| member.user == *u));
        members.map(|member| Record::Member(log.clone(), member.clone())).collect()
    }

    /// As [`Memory::append`], remembering when, and for which process since when.
    pub fn append_by(
        &mut self,
        by: (usize, u64),
        log: &ConversationId,
        entries: &[Entry],
    ) -> usize {
        let count = self.append(log, entries);
        for entry in &entries[..count] {
            self.put_at.insert((log.clone(), entry.seq), self.now);
            self.put_by.insert((log.clone(), entry.seq), by);
        }
        count
    }

    /// What an eventually consistent read does not see yet.
    pub fn leave_out_new(&self, log: &ConversationId, page: &mut LogPage, since: u64) {
        page.entries
            .retain(|e| self.put_at.get(&(log.clone(), e.seq)).is_none_or(|at| *at < since));
    }

    /// Whether the row of a person says `last` at least so.
    pub fn is_raised(&self, user: &UserId, log: &ConversationId, seq: Seq) -> bool {
        let row = self.rows.get(user).and_then(|rows| rows.get(log));
        row.is_some_and(|row| row.last >= seq)
    }

    /// When the row of a person first said `last` at least so.
    pub fn raised_at(&self, user: &UserId, log: &ConversationId, seq: Seq) -> Option<u64> {
        let raised = self.raised.get(&(user.clone(), log.clone()))?;
        raised.iter().find(|(last, _)| *last >= seq).map(|(_, at)| *at)
    }

    /// A device of the person says that it has received up to here.
    pub fn note_received(&mut self, user: &UserId, log: &ConversationId, seq: Seq) {
        let known = self.received.entry(user.clone()).or_default().entry(log.clone()).or_default();
        *known = seq.max(*known);
    }

    /// The highest that a device may start behind: whatever the servers wrote down, the person had
    /// not received more when it registered.
    pub fn start_max(&self, user: &UserId, device: &DeviceId, log: &ConversationId) -> Seq {
        let received = self.received_before.get(&(user.clone(), device.clone()));
        received.and_then(|received| received.get(log)).copied().unwrap_or(0)
    }

    /// The member items of a room.
    pub fn members(&self, log: &ConversationId) -> impl Iterator<Item = &Member> {
        self.members.get(log).into_iter().flat_map(|members| members.values())
    }
}

/// The same behind the port, answering at once.
#[derive(Default)]
struct AtOnce(Mutex<Memory>);

#[async_trait]
impl Store for AtOnce {
    async fn append(&self, log: &ConversationId, entries: &[Entry]) -> Result<usize, StoreError> {
        Ok(self.0.lock().unwrap().append(log, entries))
    }

    async fn log(&self, log: &ConversationId, range: LogRange) -> Result<LogPage, StoreError> {
        Ok(self.0.lock().unwrap().log(log, range))
    }

    async fn raise(
        &self,
        user: &UserId,
        log: &ConversationId,
        raise: &Raise,
    ) -> Result<(), StoreError> {
        self.0.lock().unwrap().raise(user, log, raise);
        Ok(())
    }

    async fn mailbox(&self, user: &UserId, part: MailboxPart) -> Result<MailboxPage, StoreError> {
        Ok(self.0.lock().unwrap().mailbox(user, part, PAGE_MAX))
    }

    async fn write(&self, record: Record) -> Result<bool, StoreError> {
        Ok(self.0.lock().unwrap().write(record))
    }

    async fn records(&self, part: RecordPart) -> Result<Vec<Record>, StoreError> {
        Ok(self.0.lock().unwrap().records(part))
    }
}

#[tokio::test]
async fn the_simulated_store_passes_the_contract() {
    crate::store::contract::all(&AtOnce::default()).await;
}
