//! The four ports as one process sees them: each call is a message that may be late, lost or
//! answered in vain.
#![cfg(test)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::sea::{Call, Sea};
use super::server::API;
use crate::board::{Beat, Board, BoardRow, SlowHint};
use crate::bus::{Bus, BusError, Subscription};
use crate::directory::{Directory, DirectoryError, SocketEntry};
use crate::planted::{Bug, planted};
use crate::protocol::*;
use crate::store::*;

/// How far behind an eventually consistent read may be (planted).
const STALE_MS: u64 = 1_500;

/// See the module.
pub struct Link {
    pub sea: Sea,
    pub process: usize,
    /// Somebody wants the trace.
    pub traced: bool,
    /// Where people were once in this life (planted).
    pub believed: Mutex<BTreeMap<UserId, Vec<SocketEntry>>>,
}

impl Link {
    fn about(&self, about: impl FnOnce() -> String) -> String {
        if self.traced { about() } else { String::new() }
    }

    async fn store<T: Send + 'static>(
        &self,
        answer: oneshot::Receiver<Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let unknown = || StoreError::Unknown("no answer".to_owned());
        match timeout(Duration::from_millis(CALL_MS_MAX), answer).await {
            Ok(Ok(done)) => done,
            _ => Err(unknown()),
        }
    }

    async fn redis<T>(&self, answer: oneshot::Receiver<T>) -> Option<T> {
        let limit = Duration::from_millis(crate::directory::CALL_MS_MAX);
        timeout(limit, answer).await.ok()?.ok()
    }

    fn late() -> DirectoryError {
        DirectoryError("no answer".to_owned())
    }
}

#[async_trait]
impl Store for Link {
    async fn append(&self, log: &ConversationId, entries: &[Entry]) -> Result<usize, StoreError> {
        let about = self.about(|| format!("{log} {}", entries[0].seq));
        let (log, mut entries) = (log.clone(), entries.to_vec());
        let answer = {
            let mut core = self.sea.lock();
            entries.truncate(core.takes);
            let by = (self.process, core.now);
            core.ask(self.process, Call::Append, about, move |core| {
                core.check_put(&log, &entries);
                core.store.append_by(by, &log, &entries)
            })
        };
        self.store(answer).await
    }

    async fn log(&self, log: &ConversationId, mut range: LogRange) -> Result<LogPage, StoreError> {
        let about = self.about(|| format!("{log} {range:?}"));
        let (log, process) = (log.clone(), self.process);
        let answer = {
            let mut core = self.sea.lock();
            let odds = core.short_pages;
            let short = core.chance(odds) && range.limit > 1;
            let asked = range.limit;
            if short {
                range.limit = core.any(1..asked as u64) as usize;
            }
            core.ask(self.process, Call::Log, about, move |core| {
                let mut page = core.store.log(&log, range);
                if planted(Bug::PageIsAll) {
                    page.more &= range.limit == asked;
                }
                if planted(Bug::StaleHistory) && process == API {
                    core.store.leave_out_new(&log, &mut page, core.now.saturating_sub(STALE_MS));
                }
                page
            })
        };
        self.store(answer).await
    }

    async fn raise(
        &self,
        user: &UserId,
        log: &ConversationId,
        raise: &Raise,
    ) -> Result<(), StoreError> {
        let about = self.about(|| format!("{user} {log} {raise:?}"));
        let (user, log, raise) = (user.clone(), log.clone(), raise.clone());
        let ask = move |core: &mut super::sea::Core| core.store.raise(&user, &log, &raise);
        let answer = self.sea.lock().ask(self.process, Call::Raise, about, ask);
        self.store(answer).await
    }

    async fn mailbox(&self, user: &UserId, part: MailboxPart) -> Result<MailboxPage, StoreError> {
        let about = self.about(|| format!("{user} {part:?}"));
        let user = user.clone();
        let answer = {
            let mut core = self.sea.lock();
            let odds = core.short_pages;
            let short = core.chance(odds);
            let most = if short { core.any(1..4) as usize } else { PAGE_MAX };
            core.ask(self.process, Call::Mailbox, about, move |core| {
                let mut page = core.store.mailbox(&user, part, most);
                if planted(Bug::PageIsAll) {
                    page.next = None;
                }
                page
            })
        };
        self.store(answer).await
    }

    async fn write(&self, record: Record) -> Result<bool, StoreError> {
        let about = self.about(|| format!("{record:?}"));
        let ask = move |core: &mut super::sea::Core| core.store.write(record);
        let answer = self.sea.lock().ask(self.process, Call::Write, about, ask);
        self.store(answer).await
    }

    async fn records(&self, part: RecordPart) -> Result<Vec<Record>, StoreError> {
        let about = self.about(|| format!("{part:?}"));
        let ask = move |core: &mut super::sea::Core| core.store.records(part);
        let answer = self.sea.lock().ask(self.process, Call::Records, about, ask);
        self.store(answer).await
    }
}

#[async_trait]
impl Board for Link {
    async fn beat(
        &self,
        row: &BoardRow,
        replacing: Option<(Epoch, u64)>,
    ) -> Result<Beat, StoreError> {
        let about = self.about(|| {
            format!("{} of {:?} hints {} deaf {}", row.beat, row.epoch, row.hints, row.deaf)
        });
        let row = row.clone();
        if row.deaf {
            self.sea.count("deaf");
        }
        let ask = move |core: &mut super::sea::Core| core.board.beat(&row, replacing);
        let answer = self.sea.lock().ask(self.process, Call::Beat, about, ask);
        self.store(answer).await
    }

    async fn read(&self) -> Result<Vec<BoardRow>, StoreError> {
        let ask = |core: &mut super::sea::Core| core.board.read();
        let answer = self.sea.lock().ask(self.process, Call::Board, String::new(), ask);
        self.store(answer).await
    }

    async fn remove(&self, id: &ProcessId, epoch: Epoch) -> Result<(), StoreError> {
        let id = id.clone();
        let ask = move |core: &mut super::sea::Core| core.board.remove(&id, epoch);
        let answer = self.sea.lock().ask(self.process, Call::Beat, "remove".to_owned(), ask);
        self.store(answer).await
    }

    async fn put_hints(
        &self,
        id: &ProcessId,
        number: u64,
        hints: &[SlowHint],
    ) -> Result<(), StoreError> {
        let about = self.about(|| format!("{number} {hints:?}"));
        let (id, hints) = (id.clone(), hints.to_vec());
        let ask = move |core: &mut super::sea::Core| {
            let now = core.now;
            core.board.put_hints(&id, number, hints, now);
        };
        let answer = self.sea.lock().ask(self.process, Call::PutHints, about, ask);
        self.store(answer).await
    }

    async fn hints(&self, id: &ProcessId, after: u64) -> Result<(u64, Vec<SlowHint>), StoreError> {
        let about = self.about(|| format!("{id} {after}"));
        let id = id.clone();
        let ask = move |core: &mut super::sea::Core| core.board.hints(&id, after);
        let answer = self.sea.lock().ask(self.process, Call::Hints, about, ask);
        self.store(answer).await
    }
}

#[async_trait]
impl Bus for Link {
    async fn publish(&self, to: &ProcessId, batch: &[Arc<Envelope>]) -> Result<(), BusError> {
        let about = self.about(|| match &*batch[0] {
            Envelope::Entry { conversation, entry, .. } => {
                format!("{to} entry {conversation} {} of {}", entry.seq, batch.len())
            }
            other => format!("{to} {other:?} of {}", batch.len()),
        });
        let (from, to, batch) = (self.process, to.clone(), batch.to_vec());
        let ask = move |core: &mut super::sea::Core| core.deliver(from, &to, batch);
        let answer = self.sea.lock().ask_redis(self.process, Call::Publish, about, ask);
        let late = || BusError("no answer".to_owned());
        self.redis(answer).await.ok_or_else(late)
    }

    async fn subscribe(&self, me: &ProcessId) -> Result<Subscription, BusError> {
        Ok(self.sea.lock().redis.subscribe(me, self.process))
    }
}

#[async_trait]
impl Directory for Link {
    async fn claim(
        &self,
        user: &UserId,
        entry: &SocketEntry,
        dead: &[(SocketId, u64)],
    ) -> Result<usize, DirectoryError> {
        let about = self
            .about(|| format!("{user} {} {} dead {}", entry.socket_id, entry.claim, dead.len()));
        let (user, entry, dead) = (user.clone(), entry.clone(), dead.to_vec());
        let process = self.process;
        let ask = move |core: &mut super::sea::Core| core.claim(process, &user, entry, &dead);
        let answer = self.sea.lock().ask_redis(process, Call::Claim, about, ask);
        self.redis(answer).await.ok_or_else(Self::late)?
    }

    async fn release(
        &self,
        user: &UserId,
        socket: SocketId,
        claim: u64,
    ) -> Result<(), DirectoryError> {
        let about = self.about(|| format!("{user} {socket} {claim}"));
        let (user, process) = (user.clone(), self.process);
        let ask = move |core: &mut super::sea::Core| core.release(process, &user, socket, claim);
        let answer = self.sea.lock().ask_redis(process, Call::Release, about, ask);
        self.redis(answer).await.ok_or_else(Self::late)?
    }

    async fn locate(&self, users: &[UserId]) -> Result<Vec<Vec<SocketEntry>>, DirectoryError> {
        let asked = users.to_vec();
        let about = self.about(|| format!("{asked:?}"));
        let ask = move |core: &mut super::sea::Core| core.redis.locate(&asked);
        let answer = self.sea.lock().ask_redis(self.process, Call::Locate, about, ask);
        let located = self.redis(answer).await.ok_or_else(Self::late)?;
        if !planted(Bug::LocateCached) {
            return Ok(located);
        }
        let mut believed = self.believed.lock().unwrap();
        let once = |(user, found): (&UserId, Vec<SocketEntry>)| {
            believed.entry(user.clone()).or_insert(found).clone()
        };
        Ok(users.iter().zip(located).map(once).collect())
    }

    async fn extend(
        &self,
        user: &UserId,
        socket: SocketId,
        claim: u64,
    ) -> Result<bool, DirectoryError> {
        let (user, process) = (user.clone(), self.process);
        let ask = move |core: &mut super::sea::Core| core.extend(process, &user, socket, claim);
        let answer = self.sea.lock().ask_redis(process, Call::Extend, String::new(), ask);
        self.redis(answer).await.ok_or_else(Self::late)?
    }

    async fn instance(&self) -> Result<String, DirectoryError> {
        let ask = |core: &mut super::sea::Core| core.redis.instance.to_string();
        let answer = self.sea.lock().ask_redis(self.process, Call::Instance, String::new(), ask);
        self.redis(answer).await.ok_or_else(Self::late)
    }
}
