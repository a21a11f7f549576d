//! A store in memory that can be told to fail.

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, Ordering};

use async_trait::async_trait;

use crate::protocol::*;
use crate::store::*;

/// How a part fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    None,
    /// Every call is refused.
    Down,
    /// Every call panics.
    Panic,
    /// No call ends.
    Hang,
}

#[derive(Default)]
pub struct Switch(AtomicU8);

impl Switch {
    pub fn set(&self, trouble: Trouble) {
        self.0.store(trouble as u8, Ordering::SeqCst);
    }

    /// Whether the call is to be refused; a hanging one hangs here.
    pub async fn refuses(&self) -> bool {
        match self.0.load(Ordering::SeqCst) {
            0 => false,
            1 => true,
            2 => panic!("a part of the test panics"),
            _ => std::future::pending().await,
        }
    }
}

type Log = BTreeMap<Seq, Entry>;

#[derive(Default)]
struct Items {
    logs: HashMap<ConversationId, Log>,
    rows: BTreeMap<(UserId, ConversationId), Row>,
    devices: BTreeMap<(UserId, DeviceId), Device>,
    members: BTreeMap<(ConversationId, UserId), Member>,
    heads: HashMap<ConversationId, Head>,
}

#[derive(Default)]
pub struct MemoryStore {
    pub switch: Switch,
    items: Mutex<Items>,
}

impl MemoryStore {
    async fn open(&self) -> Result<std::sync::MutexGuard<'_, Items>, StoreError> {
        if self.switch.refuses().await {
            return Err(StoreError::Unavailable("switched off".into()));
        }
        Ok(self.items.lock().unwrap())
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn append(&self, to: &ConversationId, entries: &[Entry]) -> Result<usize, StoreError> {
        let mut items = self.open().await?;
        let log = items.logs.entry(to.clone()).or_default();
        let free = entries.iter().take_while(|entry| !log.contains_key(&entry.seq)).count();
        log.extend(entries[..free].iter().map(|entry| (entry.seq, entry.clone())));
        Ok(free)
    }

    async fn log(&self, of: &ConversationId, range: LogRange) -> Result<LogPage, StoreError> {
        let items = self.open().await?;
        let log = items.logs.get(of).cloned().unwrap_or_default();
        let before = range.before.unwrap_or(Seq::MAX);
        let within = |seq: Seq| seq > range.after && seq < before;
        let mut entries: Vec<Entry> = log.into_values().filter(|e| within(e.seq)).collect();
        if range.order == Order::Descending {
            entries.reverse();
        }
        let more = entries.len() > range.limit;
        entries.truncate(range.limit);
        Ok(LogPage { entries, more })
    }

    async fn raise(
        &self,
        user: &UserId,
        of: &ConversationId,
        raise: &Raise,
    ) -> Result<(), StoreError> {
        let mut items = self.open().await?;
        let key = (user.clone(), of.clone());
        let empty = || Row {
            conversation: of.clone(),
            last: 0,
            delivered: 0,
            read: 0,
            read_n: 0,
            cursors: vec![],
        };
        let row = items.rows.entry(key).or_insert_with(empty);
        row.last = row.last.max(raise.last.unwrap_or(0));
        row.delivered = row.delivered.max(raise.delivered.unwrap_or(0));
        if let Some((read, n)) = raise.read.filter(|(read, _)| *read > row.read) {
            (row.read, row.read_n) = (read, n);
        }
        for (device, seq) in &raise.cursors {
            match row.cursors.iter_mut().find(|(known, _)| known == device) {
                Some((_, at)) => *at = (*at).max(*seq),
                None => row.cursors.push((device.clone(), *seq)),
            }
        }
        Ok(())
    }

    async fn mailbox(&self, user: &UserId, part: MailboxPart) -> Result<MailboxPage, StoreError> {
        let items = self.open().await?;
        let rows = items.rows.iter().filter(|((owner, _), _)| owner == user);
        let mut rows: Vec<Row> = rows.map(|(_, row)| row.clone()).collect();
        let devices = items.devices.iter().filter(|((owner, _), _)| owner == user);
        let mut devices: Vec<Device> = devices.map(|(_, device)| device.clone()).collect();
        let mut next = None;
        match part {
            MailboxPart::Row(of) => {
                rows.retain(|row| row.conversation == of);
                devices.clear();
            }
            MailboxPart::Devices => rows.clear(),
            MailboxPart::Page { after, .. } => {
                let after = after.unwrap_or_default();
                rows.retain(|row| *row.conversation.as_str() > *after);
                // Small pages, so that paging is always exercised.
                if rows.len() > 3 {
                    rows.truncate(3);
                    next = rows.last().map(|row| row.conversation.to_string());
                }
            }
        }
        Ok(MailboxPage { rows, devices, next })
    }

    async fn write(&self, record: Record) -> Result<bool, StoreError> {
        let mut items = self.open().await?;
        match record {
            Record::Device(user, device) => {
                items.devices.insert((user, device.device.clone()), device);
            }
            Record::Member(of, member) => {
                let key = (of, member.user.clone());
                if items.members.get(&key).is_some_and(|known| known.as_of >= member.as_of) {
                    return Ok(false);
                }
                items.members.insert(key, member);
            }
            Record::Head(of, head) => {
                if items.heads.contains_key(&of) {
                    return Ok(false);
                }
                items.heads.insert(of, head);
            }
            Record::ForgetDevice(..) | Record::Starts { .. } => {}
        }
        Ok(true)
    }

    async fn records(&self, part: RecordPart) -> Result<Vec<Record>, StoreError> {
        let items = self.open().await?;
        let (of, only) = match part {
            RecordPart::Roster(of) => (of, None),
            RecordPart::Member(of, user) => (of, Some(user)),
            RecordPart::Starts(..) => return Ok(vec![]),
        };
        let head = items.heads.get(&of).map(|head| Record::Head(of.clone(), head.clone()));
        let asked = |(room, user): &(ConversationId, UserId)| {
            *room == of && only.as_ref().is_none_or(|only| only == user)
        };
        let members = items.members.iter().filter(|(key, _)| asked(key));
        let members = members.map(|(_, member)| Record::Member(of.clone(), member.clone()));
        Ok(head.into_iter().chain(members).collect())
    }
}
