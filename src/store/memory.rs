//! The store of `parlor up --memory`: maps of this process, gone with it.
//!
//! It keeps everything until exit, without a bound: for trying things and for measuring. Entries
//! are kept as they come, their texts shared with whoever else holds them; nothing is encoded, and
//! no call waits for anything. Each conversation, with its head and members, is one value of a
//! sharded map (`log` has its entries), and so is each person (`person`): a call takes one lock of
//! one shard, and what it does under that is whole for everybody else.

mod log;
mod person;
mod shards;

use std::collections::BTreeMap;

use async_trait::async_trait;

use self::log::Log;
use self::person::Person;
use self::shards::Shards;
use super::{
    Head, LogPage, LogRange, MailboxPage, MailboxPart, Member, Raise, Record, RecordPart, Store,
    StoreError,
};
use crate::protocol::{ConversationId, Entry, UserId};

/// See the module.
#[derive(Default)]
pub struct MemoryStore {
    conversations: Shards<ConversationId, Conversation>,
    people: Shards<UserId, Person>,
}

#[derive(Default)]
struct Conversation {
    log: Log,
    /// Few have one.
    head: Option<Box<Head>>,
    members: BTreeMap<UserId, Member>,
}

impl Conversation {
    /// Writes a member's item unless a later one stands.
    fn keep_member(&mut self, member: Member) -> bool {
        let stands = self.members.get(&member.user);
        let later = stands.is_none_or(|stands| stands.as_of < member.as_of);
        if later {
            self.members.insert(member.user.clone(), member);
        }
        later
    }

    /// Writes the head unless one stands.
    fn keep_head(&mut self, head: Head) -> bool {
        let first = self.head.is_none();
        if first {
            self.head = Some(Box::new(head));
        }
        first
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn append(
        &self,
        conversation: &ConversationId,
        entries: &[Entry],
    ) -> Result<usize, StoreError> {
        Ok(self.conversations.change(conversation, |known| known.log.append(entries)))
    }

    async fn log(
        &self,
        conversation: &ConversationId,
        range: LogRange,
    ) -> Result<LogPage, StoreError> {
        let page = self.conversations.look(conversation, |known| known.log.page(range));
        Ok(page.unwrap_or_default())
    }

    async fn raise(
        &self,
        user: &UserId,
        conversation: &ConversationId,
        raise: &Raise,
    ) -> Result<(), StoreError> {
        self.people.change(user, |person| person.raise(conversation, raise));
        Ok(())
    }

    async fn mailbox(&self, user: &UserId, part: MailboxPart) -> Result<MailboxPage, StoreError> {
        self.people.look(user, |person| person.mailbox(part)).unwrap_or_else(|| Ok(<_>::default()))
    }

    async fn write(&self, record: Record) -> Result<bool, StoreError> {
        let (people, conversations) = (&self.people, &self.conversations);
        Ok(match record {
            Record::Device(user, device) => people.change(&user, |person| person.seen(device)),
            Record::ForgetDevice(user, device) => {
                people.change(&user, |person| person.forget(&device));
                true
            }
            Record::Starts { user, device, chunk, starts } => {
                people.change(&user, |person| person.start(device, chunk, starts));
                true
            }
            Record::Revoked(user, until) => people.change(&user, |person| person.revoke(until)),
            Record::Member(of, member) => conversations.change(&of, |of| of.keep_member(member)),
            Record::Head(of, head) => conversations.change(&of, |of| of.keep_head(head)),
        })
    }

    async fn records(&self, part: RecordPart) -> Result<Vec<Record>, StoreError> {
        let (people, conversations) = (&self.people, &self.conversations);
        let found: Option<Vec<Record>> = match part {
            RecordPart::Head(of) => conversations.look(&of, |known| {
                let head = known.head.as_deref().cloned();
                head.map(|head| Record::Head(of.clone(), head)).into_iter().collect()
            }),
            RecordPart::Roster(of) => conversations.look(&of, |known| {
                let members = known.members.values().cloned();
                members.map(|member| Record::Member(of.clone(), member)).collect()
            }),
            RecordPart::Member(of, user) => conversations.look(&of, |known| {
                let member = known.members.get(&user).cloned();
                member.map(|member| Record::Member(of.clone(), member)).into_iter().collect()
            }),
            RecordPart::Starts(user, device) => people.look(&user, |person| {
                let record = |(chunk, starts)| {
                    let (user, device) = (user.clone(), device.clone());
                    Record::Starts { user, device, chunk, starts }
                };
                person.starts(&device).map(record).collect()
            }),
            RecordPart::Revoked(user) => people.look(&user, |person| {
                let until = person.revoked();
                until.map(|until| Record::Revoked(user.clone(), until)).into_iter().collect()
            }),
        };
        Ok(found.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::FutureExt;

    use super::*;
    use crate::protocol::{DeviceId, Kind, Seq};
    use crate::store::contract;

    fn entry(seq: Seq) -> Entry {
        Entry {
            seq,
            kind: Kind::Message,
            from: UserId::parse("a").unwrap(),
            to: UserId::parse("b").ok(),
            message: Some(Arc::from(format!("text {seq}"))),
            data: None,
            reference: None,
            device: DeviceId::plain(),
            timestamp: 1,
            n: seq,
        }
    }

    #[tokio::test]
    async fn passes_the_contract() {
        contract::all(&MemoryStore::default()).await;
    }

    #[test]
    fn a_call_is_done_when_it_is_asked_for_the_first_time() {
        let (store, log) = (MemoryStore::default(), ConversationId::parse("dm:a:b").unwrap());
        let entry = entry(1);
        let put = store.append(&log, std::slice::from_ref(&entry)).now_or_never();
        assert_eq!(put, Some(Ok(1)));
        let page = store.log(&log, LogRange::newest(1)).now_or_never().unwrap().unwrap();
        let shared = |entry: &Entry| entry.message.as_ref().map(Arc::as_ptr);
        assert_eq!(shared(&page.entries[0]), shared(&entry), "the text is not copied");
    }

    /// What the contract does on one thread: nobody's put, and no raise, is lost between threads.
    #[test]
    fn of_many_threads_each_put_is_one_threads_own() {
        let (store, log) = (&MemoryStore::default(), &ConversationId::parse("dm:a:b").unwrap());
        let user = &UserId::parse("b").unwrap();
        let put = |_| {
            let mut own = 0;
            for seq in 1..=2_000 {
                let raise = Raise { last: Some(seq), ..Raise::default() };
                store.raise(user, log, &raise).now_or_never().unwrap().unwrap();
                own += store.append(log, &[entry(seq)]).now_or_never().unwrap().unwrap();
            }
            own
        };
        let own: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|i| scope.spawn(move || put(i))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(own, 2_000);
        let row = store.mailbox(user, MailboxPart::Row(log.clone())).now_or_never().unwrap();
        assert_eq!(row.unwrap().rows[0].last, 2_000);
    }
}
