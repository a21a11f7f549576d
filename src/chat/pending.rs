//! Hints that wait for their receipts: what was handed on, to which servers, since when.
//!
//! Positions are cumulative, so one record per (conversation, person) stands for any number of
//! messages. A room has one record, confirmed by servers as a whole: a server that answers `have`
//! has put the entry into the outboxes of its members, and an outbox either delivers or dies with
//! its socket, which then catches up. Bounded: what does not fit goes the slow way.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::board::SlowHint;
use crate::chance::Hashing;
use crate::protocol::{ConversationId, ProcessId, Seq, UserId};

/// The most records; a hint beyond goes to the board at once.
pub const RECORDS_MAX: usize = 65_536;
/// How long a hint waits for its receipts before it is tried again.
pub const PATIENCE: Duration = Duration::from_secs(2);
/// How often it is tried again before it goes to the board.
pub const TRIES_MAX: u8 = 2;

/// Whose record it is: a person in a conversation, or a room as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    /// The log.
    pub conversation: ConversationId,
    /// The person; `None` for a room as a whole.
    pub user: Option<UserId>,
}

impl Key {
    /// What stands on the board for it.
    pub fn slow_hint(self, seq: Seq) -> SlowHint {
        SlowHint { user: self.user, conversation: self.conversation, seq }
    }
}

#[derive(Debug)]
struct Record {
    last: Seq,
    last_at: Instant,
    servers: Vec<(ProcessId, Seq)>,
    /// Servers that hold further sockets of the sender, for the status frame.
    sender_at: Vec<ProcessId>,
    /// Servers that hold no socket of the person since `last` was stored. Whoever enters there
    /// later claims first and then reads, so that they need not be asked again for it.
    gone: Vec<ProcessId>,
    /// These are copies for the sender's own other sockets: nobody is told.
    own: bool,
    told: Seq,
    since: Instant,
    tries: u8,
}

/// What a receipt means for the sender.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Confirmed {
    /// Tell the sender's sockets, on this server and on these.
    pub tell: Option<Vec<ProcessId>>,
    /// How long the newest entry took from the hand-over to this receipt.
    pub took: Option<Duration>,
    /// The hint was forgotten before (a `have` came first, or it went to the board): whoever sent
    /// it is still to be told.
    pub forgotten: bool,
}

/// A hint that waited too long.
#[derive(Debug, PartialEq, Eq)]
pub struct Overdue {
    /// Whose.
    pub key: Key,
    /// At least up to here.
    pub seq: Seq,
    /// All tries are used up: it goes to the board.
    pub last_try: bool,
    /// When the newest entry was handed on: only a later view of the board may judge.
    pub handed_at: Instant,
}

/// All records of one process part.
#[derive(Debug, Default)]
pub struct Pending {
    records: Mutex<HashMap<Key, Record, Hashing>>,
}

impl Pending {
    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Record, Hashing>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that `seq` is being handed on. `false`: there is no room, take the slow way.
    pub fn open(&self, key: &Key, seq: Seq, own: bool, now: Instant) -> bool {
        let mut records = self.lock();
        if let Some(record) = records.get_mut(key) {
            if seq > record.last {
                record.last = seq;
                record.gone.clear();
            }
            record.last_at = now;
            // The same person is sender of one message and recipient of the next.
            record.own &= own;
            return true;
        }
        if records.len() >= RECORDS_MAX {
            return false;
        }
        let record = Record {
            last: seq,
            last_at: now,
            servers: Vec::new(),
            sender_at: Vec::new(),
            gone: Vec::new(),
            own,
            told: 0,
            since: now,
            tries: 0,
        };
        records.insert(key.clone(), record);
        true
    }

    /// Notes where it went. A server that was located before and is not now stays: it may still
    /// answer, and the next try judges it.
    pub fn located(&self, key: &Key, servers: &[ProcessId], sender_at: &[ProcessId]) {
        if servers.is_empty() && sender_at.is_empty() {
            return;
        }
        let mut records = self.lock();
        let Some(record) = records.get_mut(key) else { return };
        for server in servers {
            if !record.servers.iter().any(|(known, _)| known == server) {
                record.servers.push((server.clone(), 0));
            }
        }
        if !sender_at.is_empty() {
            record.sender_at = sender_at.to_vec();
        }
    }

    /// Forgets a record to which no server was ever located, up to `seq`: the person is offline,
    /// and the entry waits in the store. What is newer is being located beside it.
    pub fn close_if_nowhere(&self, key: &Key, seq: Seq) -> bool {
        let mut records = self.lock();
        let nowhere = |record: &Record| record.servers.is_empty() && record.last <= seq;
        let nowhere = records.get(key).is_some_and(nowhere);
        if nowhere {
            records.remove(key);
        }
        nowhere
    }

    /// Forgets a record: it goes the slow way. Gives up to where it stood.
    pub fn close(&self, key: &Key) -> Option<Seq> {
        self.lock().remove(key).map(|record| record.last)
    }

    /// A server has it up to `seq`; `delivered` when a device has answered.
    pub fn confirm(
        &self,
        key: &Key,
        server: &ProcessId,
        seq: Seq,
        delivered: bool,
        now: Instant,
    ) -> Confirmed {
        let mut records = self.lock();
        let Some(record) = records.get_mut(key) else {
            return Confirmed { forgotten: true, ..Confirmed::default() };
        };
        let mut confirmed = Confirmed::default();
        if delivered && !record.own && seq > record.told {
            record.told = seq;
            confirmed.tell = Some(record.sender_at.clone());
            confirmed.took = (seq == record.last).then(|| now - record.last_at);
        }
        if let Some((_, has)) = record.servers.iter_mut().find(|(id, _)| id == server)
            && seq > *has
        {
            *has = seq;
            record.since = now;
            record.tries = 0;
        }
        // Without servers it is being located: a receipt of something older ends nothing.
        let all_have = record.servers.iter().all(|(_, has)| *has >= record.last);
        if all_have && !record.servers.is_empty() {
            records.remove(key);
        }
        confirmed
    }

    /// A server held no socket of the person when it heard of `seq`. Where nobody is left it is to
    /// be located again: gives what. What was handed on since has an answer of its own, so that of
    /// an older one ends nothing.
    pub fn gone(&self, key: &Key, server: &ProcessId, seq: Seq) -> Option<Overdue> {
        let mut records = self.lock();
        let record = records.get_mut(key).filter(|record| seq >= record.last)?;
        record.servers.retain(|(id, _)| id != server);
        if !record.gone.contains(server) {
            record.gone.push(server.clone());
        }
        record.servers.is_empty().then(|| Overdue {
            key: key.clone(),
            seq: record.last,
            last_try: false,
            handed_at: record.last_at,
        })
    }

    /// Starts the servers of a record anew from what was just located, keeping what they have
    /// confirmed and leaving out who said `gone`: a stale entry of the map so costs one question.
    /// Gives whom to ask again: nobody where all have it, or nobody was located.
    pub fn relocated(&self, key: &Key, mut servers: Vec<ProcessId>) -> Vec<ProcessId> {
        let mut records = self.lock();
        let Some(record) = records.get_mut(key) else { return Vec::new() };
        servers.retain(|id| !record.gone.contains(id));
        let has = |id: &ProcessId| {
            record.servers.iter().find(|(known, _)| known == id).map_or(0, |(_, has)| *has)
        };
        record.servers = servers.iter().map(|id| (id.clone(), has(id))).collect();
        let open = record.servers.iter().any(|(_, has)| *has < record.last);
        if !open {
            records.remove(key);
            servers.clear();
        }
        servers
    }

    /// Takes out what waits for one of these servers.
    pub fn at_servers(&self, servers: &[ProcessId]) -> Vec<Overdue> {
        if servers.is_empty() {
            return Vec::new();
        }
        let mut records = self.lock();
        let waits = |record: &Record| {
            record.servers.iter().any(|(id, has)| *has < record.last && servers.contains(id))
        };
        let taken = records.extract_if(|_, record| waits(record));
        let overdue = |(key, record): (Key, Record)| Overdue {
            key,
            seq: record.last,
            last_try: true,
            handed_at: record.last_at,
        };
        taken.map(overdue).collect()
    }

    /// What has waited longer than [`PATIENCE`]. Each is counted as tried; those whose tries are
    /// used up are forgotten here.
    pub fn overdue(&self, now: Instant) -> Vec<Overdue> {
        let mut records = self.lock();
        let mut overdue = Vec::new();
        records.retain(|key, record| {
            if now.duration_since(record.since) < PATIENCE {
                return true;
            }
            record.since = now;
            record.tries += 1;
            let last_try = record.tries > TRIES_MAX;
            let (seq, handed_at) = (record.last, record.last_at);
            overdue.push(Overdue { key: key.clone(), seq, last_try, handed_at });
            !last_try
        });
        overdue
    }

    /// How many hints wait.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Key {
        Key {
            conversation: ConversationId::parse("dm:a:b").unwrap(),
            user: UserId::parse("b").ok(),
        }
    }

    fn server(name: &str) -> ProcessId {
        ProcessId::parse(name).unwrap()
    }

    #[test]
    fn a_hint_is_forgotten_when_every_server_has_it() {
        let (pending, now) = (Pending::default(), Instant::now());
        let (ws2, ws3) = (server("ws2"), server("ws3"));
        assert!(pending.open(&key(), 7, false, now));
        pending.located(&key(), &[ws2.clone(), ws3.clone()], &[server("ws1")]);
        let first = pending.confirm(&key(), &ws2, 7, true, now);
        assert_eq!(first.tell, Some(vec![server("ws1")]));
        assert_eq!(pending.len(), 1, "ws3 has not answered");
        let second = pending.confirm(&key(), &ws3, 7, true, now);
        assert_eq!(second.tell, None, "the sender was told already");
        assert!(pending.is_empty());
    }

    #[test]
    fn a_newer_entry_keeps_the_record_open() {
        let (pending, now) = (Pending::default(), Instant::now());
        pending.open(&key(), 7, false, now);
        pending.located(&key(), &[server("ws2")], &[]);
        pending.open(&key(), 8, false, now);
        assert!(pending.confirm(&key(), &server("ws2"), 7, true, now).tell.is_some());
        assert_eq!(pending.len(), 1);
        assert!(pending.confirm(&key(), &server("ws2"), 8, true, now).tell.is_some());
        assert!(pending.is_empty());
    }

    #[test]
    fn tries_end_and_progress_starts_them_anew() {
        let (pending, start) = (Pending::default(), Instant::now());
        pending.open(&key(), 7, false, start);
        pending.located(&key(), &[server("ws2")], &[]);
        assert!(pending.overdue(start + Duration::from_secs(1)).is_empty());
        for step in 1..=2 {
            let due = pending.overdue(start + PATIENCE * step);
            assert_eq!((due.len(), due[0].last_try), (1, false), "try {step}");
        }
        pending.open(&key(), 9, false, start + PATIENCE * 2);
        pending.confirm(&key(), &server("ws2"), 8, true, start + PATIENCE * 2);
        for (step, last) in [(3, false), (4, false), (5, true)] {
            let due = pending.overdue(start + PATIENCE * step);
            assert_eq!((due[0].seq, due[0].last_try), (9, last), "try {step}");
        }
        assert!(pending.is_empty(), "what goes to the board is forgotten here");
    }

    #[test]
    fn a_receipt_after_have_is_known_to_be_late() {
        let (pending, now) = (Pending::default(), Instant::now());
        pending.open(&key(), 7, false, now);
        pending.located(&key(), &[server("ws2")], &[]);
        assert_eq!(pending.confirm(&key(), &server("ws2"), 7, false, now), Confirmed::default());
        assert!(pending.is_empty(), "it need not be tried again");
        let late = pending.confirm(&key(), &server("ws2"), 7, true, now);
        assert!(late.forgotten && late.tell.is_none());
    }

    #[test]
    fn who_is_nowhere_is_offline() {
        let (pending, now) = (Pending::default(), Instant::now());
        pending.open(&key(), 1, false, now);
        assert!(pending.close_if_nowhere(&key(), 1));
        pending.open(&key(), 2, false, now);
        assert!(!pending.close_if_nowhere(&key(), 1), "2 is being located");
        pending.located(&key(), &[server("ws2")], &[]);
        assert!(!pending.close_if_nowhere(&key(), 2));
        let gone = Overdue { key: key(), seq: 2, last_try: false, handed_at: now };
        assert_eq!(pending.gone(&key(), &server("ws2"), 2), Some(gone));
        assert_eq!(pending.relocated(&key(), vec![server("ws3")]), [server("ws3")]);
        assert!(pending.relocated(&key(), vec![]).is_empty(), "nobody was located");
        assert!(pending.is_empty());
    }

    #[test]
    fn who_is_gone_is_asked_again_only_for_what_is_newer() {
        let (pending, now) = (Pending::default(), Instant::now());
        let both = [server("ws2"), server("ws3")];
        pending.open(&key(), 7, false, now);
        pending.located(&key(), &both, &[]);
        assert_eq!(pending.gone(&key(), &both[0], 7), None, "ws3 is yet to answer");
        assert!(pending.gone(&key(), &both[1], 7).is_some_and(|over| over.handed_at == now));
        assert!(pending.relocated(&key(), both.to_vec()).is_empty(), "the map is behind");
        assert!(pending.is_empty());

        pending.open(&key(), 8, false, now);
        pending.located(&key(), &both[..1], &[]);
        pending.open(&key(), 9, false, now);
        assert_eq!(pending.gone(&key(), &both[0], 8), None, "9 is answered by itself");
        assert_eq!(pending.relocated(&key(), both.to_vec()), both);
    }

    #[test]
    fn what_waits_for_a_server_is_taken_out() {
        let (pending, now) = (Pending::default(), Instant::now());
        pending.open(&key(), 7, false, now);
        pending.located(&key(), &[server("ws2"), server("ws3")], &[]);
        pending.confirm(&key(), &server("ws2"), 7, true, now);
        assert!(pending.at_servers(&[]).is_empty());
        assert!(pending.at_servers(&[server("ws2")]).is_empty(), "it has it");
        let taken = pending.at_servers(&[server("ws2"), server("ws3")]);
        assert_eq!((taken.len(), taken[0].seq), (1, 7));
        assert!(pending.is_empty());
    }

    #[test]
    fn own_copies_tell_nobody() {
        let (pending, now) = (Pending::default(), Instant::now());
        pending.open(&key(), 1, true, now);
        pending.located(&key(), &[server("ws2")], &[]);
        assert_eq!(pending.confirm(&key(), &server("ws2"), 1, true, now), Confirmed::default());
        assert!(pending.is_empty());
    }

    #[test]
    fn a_late_receipt_does_not_end_what_is_not_located_yet() {
        let (pending, now) = (Pending::default(), Instant::now());
        pending.open(&key(), 8, false, now);
        // A second device's receipt of an earlier entry, while this one is being located.
        assert!(pending.confirm(&key(), &server("ws2"), 7, true, now).tell.is_some());
        assert_eq!(pending.len(), 1);
        pending.located(&key(), &[server("ws2")], &[]);
        assert_eq!(pending.overdue(now + PATIENCE).len(), 1, "it is still waited for");
        pending.confirm(&key(), &server("ws2"), 8, true, now);
        assert!(pending.is_empty());
    }

    #[test]
    fn records_are_bounded() {
        let (pending, now) = (Pending::default(), Instant::now());
        let key = |i: usize| Key {
            conversation: ConversationId::parse(&format!("room:{i}")).unwrap(),
            user: None,
        };
        assert!((0..RECORDS_MAX).all(|i| pending.open(&key(i), 1, false, now)));
        assert!(!pending.open(&key(RECORDS_MAX), 1, false, now), "it takes the slow way");
        assert!(pending.open(&key(7), 2, false, now), "one that is open stays in use");
        assert_eq!(pending.len(), RECORDS_MAX);
    }
}
