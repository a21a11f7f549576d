//! A store that goes wrong as it is told, with a real one behind it.
//!
//! It also watches over a lane's invariants: no put before its raise, one call at a time.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::time::sleep;

use crate::protocol::{ConversationId, ConversationKind, Entry, Seq, UserId};
use crate::store::memory::MemoryStore;
use crate::store::*;

/// Which call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum What {
    Append,
    Log,
    Raise,
    Mailbox,
    Write,
    Records,
}

/// What becomes of a call.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// Nothing bad.
    Pass,
    /// It takes so long.
    Slow(Duration),
    /// Not done, and that is known.
    Fail,
    /// Not done, and that is not known.
    Lose,
    /// Done, and that is not known.
    Mute,
    /// Not known, and done so much later.
    Late(Duration),
}

/// What all views of one store see, in the order in which it happened.
pub type Trace = Arc<Mutex<Vec<String>>>;

/// One process's way to the store.
pub struct Faulty {
    inner: Arc<MemoryStore>,
    /// What rows durably say, shared by all views.
    raised: Arc<Mutex<HashMap<(UserId, ConversationId), Seq>>>,
    broken: Arc<Mutex<Vec<String>>>,
    trace: Trace,
    plans: Mutex<HashMap<What, VecDeque<Fault>>>,
    always: Mutex<HashMap<What, Fault>>,
    random: Mutex<Option<StdRng>>,
    under_way: Mutex<HashMap<ConversationId, What>>,
    /// At most so many entries are taken of an append.
    takes: Mutex<usize>,
}

impl Faulty {
    pub fn new() -> Self {
        Self::over(Arc::default(), Arc::default(), Arc::default(), Trace::default())
    }

    /// Another process's way to the same store.
    pub fn another(&self) -> Self {
        let (raised, broken) = (self.raised.clone(), self.broken.clone());
        Self::over(self.inner.clone(), raised, broken, self.trace.clone())
    }

    fn over(
        inner: Arc<MemoryStore>,
        raised: Arc<Mutex<HashMap<(UserId, ConversationId), Seq>>>,
        broken: Arc<Mutex<Vec<String>>>,
        trace: Trace,
    ) -> Self {
        Self {
            inner,
            raised,
            broken,
            trace,
            plans: Mutex::default(),
            always: Mutex::default(),
            random: Mutex::default(),
            under_way: Mutex::default(),
            takes: Mutex::new(usize::MAX),
        }
    }

    /// A way to the same store past every fault, trace and check.
    pub fn calm(&self) -> Self {
        Self::over(self.inner.clone(), Arc::default(), Arc::default(), Trace::default())
    }

    pub fn trace(&self) -> Trace {
        self.trace.clone()
    }

    /// What becomes of the next calls of this kind.
    pub fn plan(&self, what: What, faults: impl IntoIterator<Item = Fault>) {
        self.plans.lock().unwrap().insert(what, faults.into_iter().collect());
    }

    /// What becomes of every call of this kind that no plan is for.
    pub fn always(&self, what: What, fault: Fault) {
        self.always.lock().unwrap().insert(what, fault);
    }

    /// Every call fails, or none.
    pub fn away(&self, away: bool) {
        use What::*;
        let fault = if away { Fault::Fail } else { Fault::Pass };
        for what in [Append, Log, Raise, Mailbox, Write, Records] {
            self.always(what, fault);
        }
    }

    /// Anything may happen to any call.
    pub fn at_random(&self, random: Option<StdRng>) {
        *self.random.lock().unwrap() = random;
    }

    /// As DynamoDB does: an append takes one entry.
    pub fn takes(&self, entries: usize) {
        *self.takes.lock().unwrap() = entries;
    }

    /// Which invariants were broken.
    pub fn broken(&self) -> Vec<String> {
        self.broken.lock().unwrap().clone()
    }

    fn note(&self, line: String) {
        self.trace.lock().unwrap().push(line);
    }

    fn fault(&self, what: What) -> Fault {
        if let Some(fault) = self.plans.lock().unwrap().get_mut(&what).and_then(VecDeque::pop_front)
        {
            return fault;
        }
        if let Some(random) = &mut *self.random.lock().unwrap() {
            let time = Duration::from_millis(random.random_range(1..4_000));
            return match random.random_range(0..12) {
                0 => Fault::Fail,
                1 => Fault::Lose,
                2 => Fault::Mute,
                3 => Fault::Late(time),
                4 | 5 => Fault::Slow(time / 20),
                _ => Fault::Pass,
            };
        }
        self.always.lock().unwrap().get(&what).copied().unwrap_or(Fault::Pass)
    }

    /// Runs a call as its fault says. The real call runs beside the paused clock, which stands
    /// still meanwhile.
    async fn meet<T: Send + 'static>(
        &self,
        what: What,
        call: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> Result<T, StoreError> {
        let unknown = || Err(StoreError::Unknown("no answer".to_owned()));
        match self.fault(what) {
            Fault::Pass => beside_the_clock(call).await,
            Fault::Slow(time) => {
                sleep(time).await;
                beside_the_clock(call).await
            }
            Fault::Fail => Err(StoreError::Unavailable("away".to_owned())),
            Fault::Lose => unknown(),
            Fault::Mute => {
                let _ = beside_the_clock(call).await;
                unknown()
            }
            Fault::Late(time) => {
                tokio::spawn(async move {
                    sleep(time).await;
                    let _ = beside_the_clock(call).await;
                });
                unknown()
            }
        }
    }

    fn begin(&self, log: &ConversationId, what: What) {
        if let Some(other) = self.under_way.lock().unwrap().insert(log.clone(), what) {
            let text = format!("{what:?} of {log} began while {other:?} was under way");
            self.broken.lock().unwrap().push(text);
        }
    }

    fn end(&self, log: &ConversationId) {
        self.under_way.lock().unwrap().remove(log);
    }

    /// I2: no put at seq k before the recipient's row durably says `last` ≥ k; and the sender has a
    /// row.
    fn check_raised(&self, log: &ConversationId, entries: &[Entry]) {
        let ConversationKind::Direct(..) = log.kind() else { return };
        let raised = self.raised.lock().unwrap();
        let says = |user: &UserId| raised.get(&(user.clone(), log.clone())).copied().unwrap_or(0);
        for entry in entries {
            let to = log.other(&entry.from).unwrap();
            if says(&to) < entry.seq || says(&entry.from) == 0 {
                let text = format!("put {} of {log}, {to}'s row says {}", entry.seq, says(&to));
                self.broken.lock().unwrap().push(text);
            }
        }
    }
}

async fn beside_the_clock<T: Send + 'static>(call: impl Future<Output = T> + Send + 'static) -> T {
    let handle = tokio::runtime::Handle::current();
    tokio::task::spawn_blocking(move || handle.block_on(call)).await.unwrap()
}

fn shown(raise: &Raise) -> String {
    let mut text = raise.last.map_or("-".to_owned(), |last| last.to_string());
    for (device, seq) in &raise.cursors {
        text.push_str(&format!(" {device}={seq}"));
    }
    text
}

#[async_trait]
impl Store for Faulty {
    async fn append(&self, log: &ConversationId, entries: &[Entry]) -> Result<usize, StoreError> {
        let takes = entries.len().min(*self.takes.lock().unwrap());
        let entries = entries[..takes].to_vec();
        let (first, last) = (entries[0].seq, entries[takes - 1].seq);
        match first == last {
            true => self.note(format!("put {first}")),
            false => self.note(format!("put {first}-{last}")),
        }
        self.check_raised(log, &entries);
        self.begin(log, What::Append);
        let (inner, conversation) = (self.inner.clone(), log.clone());
        let call = async move { inner.append(&conversation, &entries).await };
        let done = self.meet(What::Append, call).await;
        self.end(log);
        done
    }

    async fn log(&self, log: &ConversationId, range: LogRange) -> Result<LogPage, StoreError> {
        self.note(match (range.order, range.before) {
            (Order::Descending, _) => "log newest".to_owned(),
            (_, None) => format!("log after {}", range.after),
            (_, Some(before)) => format!("log {}..{before}", range.after),
        });
        self.begin(log, What::Log);
        let (inner, conversation) = (self.inner.clone(), log.clone());
        let call = async move { inner.log(&conversation, range).await };
        let done = self.meet(What::Log, call).await;
        self.end(log);
        done
    }

    async fn raise(
        &self,
        user: &UserId,
        log: &ConversationId,
        raise: &Raise,
    ) -> Result<(), StoreError> {
        self.note(format!("raise {user} {}", shown(raise)));
        self.begin(log, What::Raise);
        let (inner, raised) = (self.inner.clone(), self.raised.clone());
        let (user, conversation, raise) = (user.clone(), log.clone(), raise.clone());
        let call = async move {
            inner.raise(&user, &conversation, &raise).await?;
            let mut raised = raised.lock().unwrap();
            let says = raised.entry((user, conversation)).or_default();
            *says = raise.last.unwrap_or(0).max(*says);
            Ok(())
        };
        let done = self.meet(What::Raise, call).await;
        self.end(log);
        done
    }

    async fn mailbox(&self, user: &UserId, part: MailboxPart) -> Result<MailboxPage, StoreError> {
        if let MailboxPart::Devices = part {
            self.note(format!("devices {user}"));
        }
        let (inner, user) = (self.inner.clone(), user.clone());
        self.meet(What::Mailbox, async move { inner.mailbox(&user, part).await }).await
    }

    async fn write(&self, record: Record) -> Result<bool, StoreError> {
        if let Record::Member(_, member) = &record {
            self.note(format!("member {} as of {}", member.user, member.as_of));
        }
        let inner = self.inner.clone();
        self.meet(What::Write, async move { inner.write(record).await }).await
    }

    async fn records(&self, part: RecordPart) -> Result<Vec<Record>, StoreError> {
        let name = if let RecordPart::Head(_) = part { "head" } else { "roster" };
        self.note(name.to_owned());
        let inner = self.inner.clone();
        self.meet(What::Records, async move { inner.records(part).await }).await
    }
}
