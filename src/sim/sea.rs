//! What lies between the processes: one queue of all that is on its way, in virtual time, and the
//! store, the board and Redis at its ends. One seed decides everything.
#![cfg(test)]

use std::collections::BTreeMap;
use std::fmt::Write;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::oneshot;

use super::redis::Redis;
use super::store::Memory;
use super::wire::Wire;
use crate::board::bulletin::Bulletin;
use crate::checker::history::{Event, What};
use crate::protocol::{ConversationId, Entry};
use crate::store::StoreError;

/// What a process asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Call {
    Append,
    Log,
    Raise,
    Mailbox,
    Write,
    Records,
    Beat,
    Board,
    PutHints,
    Hints,
    Claim,
    Release,
    Locate,
    Extend,
    Instance,
    Publish,
}

impl Call {
    pub const TRAPPED: [Self; 12] = [
        Self::Append,
        Self::Append,
        Self::Append,
        Self::Raise,
        Self::Raise,
        Self::Publish,
        Self::Locate,
        Self::Log,
        Self::Mailbox,
        Self::PutHints,
        Self::Claim,
        Self::Write,
    ];

    fn is_board(self) -> bool {
        matches!(self, Self::Beat | Self::Board | Self::PutHints | Self::Hints)
    }
}

/// Where on its way a call is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Moment {
    /// It has left the process.
    Left,
    /// It has taken effect.
    Applied,
    /// Its answer has come.
    Answered,
}

/// What a trap does to the process that springs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    Crash,
    Pause,
    CutRedis,
    CutStore,
    Empty,
}

/// Something happens to a process exactly when it makes this call.
#[derive(Debug, Clone, Copy)]
pub struct Trap {
    pub process: Option<usize>,
    pub call: Call,
    pub moment: Moment,
    pub deed: Deed,
    /// Whoever had something under way there forgets it.
    pub forget: bool,
}

/// How the way to Redis is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    No,
    /// Nothing passes, and the process notices.
    Both,
    /// Calls arrive, their answers don't.
    Answers,
    /// The subscription is dead and does not say so.
    Silent,
}

/// Why Redis takes no writes of a process; it answers reads and takes what is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Its memory is full: nothing grows.
    Full,
    /// After a failover this is a replica.
    ReadOnly,
}

/// How well a process reaches the others.
#[derive(Debug, Clone)]
pub struct Weather {
    pub store_ms: Range<u64>,
    /// How far the store is when nothing is wrong.
    pub usual_ms: Range<u64>,
    pub store_cut: bool,
    pub board_cut: bool,
    /// Of a call: not done, and told so.
    pub refuse: f64,
    /// Done, and not told so.
    pub mute: f64,
    /// Not told, and done later.
    pub late: f64,
    /// So of every put.
    pub late_puts: bool,
    /// Not told, and not done.
    pub lose: f64,
    pub redis_ms: Range<u64>,
    pub redis_cut: Cut,
    pub redis_refuses: Option<Refusal>,
    pub bus_drop: f64,
    pub bus_twice: f64,
    pub bus_ms: Range<u64>,
    /// Calls on the connection to Redis keep their order: the newest arrives then.
    redis_at: u64,
}

impl Default for Weather {
    fn default() -> Self {
        Self {
            store_ms: 1..6,
            usual_ms: 1..6,
            store_cut: false,
            board_cut: false,
            refuse: 0.0,
            mute: 0.0,
            late: 0.0,
            late_puts: false,
            lose: 0.0,
            redis_ms: 0..3,
            redis_cut: Cut::No,
            redis_refuses: None,
            bus_drop: 0.0,
            bus_twice: 0.0,
            bus_ms: 0..3,
            redis_at: 0,
        }
    }
}

impl Weather {
    /// Nothing is wrong with the way to the store.
    pub fn is_fair(&self) -> bool {
        let trouble = self.refuse + self.mute + self.late + self.lose;
        !self.store_cut && trouble == 0.0 && self.store_ms.end <= 130
    }

    /// Nothing is in the way any more, but for what a last act may leave; the order of calls stays.
    pub fn clear(&mut self) {
        let store_ms = self.usual_ms.clone();
        let usual_ms = store_ms.clone();
        let (redis_at, redis_refuses) = (self.redis_at, self.redis_refuses);
        *self = Self { redis_at, redis_refuses, store_ms, usual_ms, ..Self::default() };
    }
}

/// The longest that a call may take effect after it was made: a retry within the call's limit may
/// be the one that is late.
const LATE_MS_MAX: u64 = 7_000;

type Effect = Box<dyn FnOnce(&mut Core) + Send>;

struct Job {
    /// A request of this process that has not arrived yet.
    request_of: Option<usize>,
    effect: Effect,
}

/// Everything outside the processes.
pub struct Core {
    pub now: u64,
    stamp: u64,
    jobs: BTreeMap<(u64, u64), Job>,
    jobs_made: u64,
    pub random: StdRng,
    pub store: Memory,
    pub board: Bulletin,
    pub redis: Redis,
    pub weather: Vec<Weather>,
    /// How many entries one put of the store takes.
    pub takes: usize,
    /// The odds that a page ends early.
    pub short_pages: f64,
    pub history: Vec<Event>,
    trace: Option<String>,
    pub windows: BTreeMap<String, u64>,
    pub traps: Vec<Trap>,
    pub sprung: Vec<(usize, Trap)>,
    /// The next entry that is lost on its way to this process springs a trap for its publisher.
    pub lost_entry: Option<usize>,
    /// Connections whose clients have left: what they had said still arrives.
    pub orphans: Vec<Arc<Wire>>,
    /// When a process died.
    pub deaths: Vec<(u64, usize)>,
    /// Until when Redis refuses writes to some.
    pub refuses_until: u64,
    /// When the last of what is late will have been done.
    pub late_until: u64,
    /// When a process was told of a gap of the bus while nothing else was wrong with it.
    pub gaps: Vec<(u64, usize)>,
    /// Rules broken that only the store sees.
    pub broken: Vec<String>,
}

/// The shared handle.
#[derive(Clone)]
pub struct Sea(Arc<Mutex<Core>>);

impl Sea {
    pub fn new(seed: u64, processes: usize, traced: bool) -> Self {
        Self(Arc::new(Mutex::new(Core {
            now: 0,
            stamp: 0,
            jobs: BTreeMap::new(),
            jobs_made: 0,
            random: StdRng::seed_from_u64(seed),
            store: Memory::default(),
            board: Bulletin::default(),
            redis: Redis::default(),
            weather: vec![Weather::default(); processes],
            takes: 1,
            short_pages: 0.0,
            history: Vec::new(),
            trace: traced.then(String::new),
            windows: BTreeMap::new(),
            traps: Vec::new(),
            sprung: Vec::new(),
            lost_entry: None,
            orphans: Vec::new(),
            deaths: Vec::new(),
            refuses_until: 0,
            late_until: 0,
            gaps: Vec::new(),
            broken: Vec::new(),
        })))
    }

    pub fn lock(&self) -> MutexGuard<'_, Core> {
        // A task of a server that panicked may have held it; the run is over then.
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Draws a number of the range.
    pub fn any(&self, range: Range<u64>) -> u64 {
        self.lock().any(range)
    }

    pub fn chance(&self, odds: f64) -> bool {
        self.lock().chance(odds)
    }

    pub fn log(&self, what: What) {
        self.lock().log(what);
    }

    pub fn count(&self, window: &str) {
        self.lock().count(window);
    }
}

impl Core {
    pub fn any(&mut self, range: Range<u64>) -> u64 {
        if range.is_empty() { range.start } else { self.random.random_range(range) }
    }

    pub fn chance(&mut self, odds: f64) -> bool {
        odds > 0.0 && self.random.random_bool(odds)
    }

    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.random.random_range(0..of.len())]
    }

    /// A line of the history; lines are in the order in which things happened.
    pub fn log(&mut self, what: What) {
        self.stamp = (self.stamp + 1).max(self.now * 1_000_000);
        if self.trace.is_some() {
            let line = serde_json::to_string(&what).unwrap();
            self.note(|| line);
        }
        self.history.push(Event { t: self.stamp, what });
    }

    pub fn count(&mut self, window: &str) {
        self.count_many(window, 1);
    }

    pub fn count_many(&mut self, window: &str, times: u64) {
        match self.windows.get_mut(window) {
            _ if times == 0 => {}
            Some(count) => *count += times,
            None => drop(self.windows.insert(window.to_owned(), times)),
        }
    }

    /// A line of the trace, written only where somebody wants it.
    pub fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            let _ = writeln!(trace, "{:>7} {}", self.now, line());
        }
    }

    /// A process died now.
    pub fn note_death(&mut self, process: usize) {
        self.deaths.push((self.now, process));
    }

    /// A fault is undone, which bit once; when all works again is not measured here.
    pub fn log_healed(&mut self, fault: String) {
        self.log(What::Healed { fault, bites: 1, recovered_ms: None, unrecovered_ms: None });
    }

    pub fn trace(&mut self) -> String {
        self.trace.take().unwrap_or_default()
    }

    pub fn at(&mut self, time: u64, effect: impl FnOnce(&mut Self) + Send + 'static) {
        self.push(time, None, Box::new(effect));
    }

    fn push(&mut self, time: u64, request_of: Option<usize>, effect: Effect) {
        self.jobs_made += 1;
        self.jobs.insert((time, self.jobs_made), Job { request_of, effect });
    }

    /// Lets everything happen that is due.
    pub fn run_due(&mut self) {
        self.store.now = self.now;
        while let Some(entry) = self.jobs.first_entry()
            && entry.key().0 <= self.now
        {
            let job = entry.remove();
            (job.effect)(self);
        }
    }

    pub fn pump_orphans(&mut self) {
        let now = self.now;
        self.orphans.retain(|wire| wire.pump(now));
    }

    /// The process died: some of what it had just sent never left its machine.
    pub fn forget_requests(&mut self, process: usize) {
        let keys: Vec<_> = self
            .jobs
            .iter()
            .filter(|(_, job)| job.request_of == Some(process))
            .map(|(key, _)| *key)
            .collect();
        for key in keys {
            if self.chance(0.4) {
                self.jobs.remove(&key);
            }
        }
    }

    fn spring(&mut self, process: usize, call: Call, moment: Moment) {
        let fits = |trap: &Trap| {
            trap.call == call
                && trap.moment == moment
                && trap.process.is_none_or(|one| one == process)
        };
        if let Some(at) = self.traps.iter().position(fits) {
            let trap = self.traps.remove(at);
            self.sprung.push((process, trap));
        }
    }

    /// What becomes of a call to the store or the board; nothing special: it is empty.
    fn fate(&mut self, weather: &Weather, call: Call) -> &'static str {
        let cut = weather.store_cut || call.is_board() && weather.board_cut;
        let (refuse, mute, late) = (weather.refuse, weather.mute, weather.late);
        let drawn = self.random.random_range(0.0..1.0);
        let fate = match drawn {
            _ if cut && drawn < 0.2 => "late",
            _ if cut => "lost",
            _ if weather.late_puts && call == Call::Append => "late",
            _ if drawn < refuse => "refused",
            _ if drawn < refuse + mute => "mute",
            _ if drawn < refuse + mute + late => "late",
            _ if drawn < refuse + mute + late + weather.lose => "lost",
            _ => "",
        };
        if !fate.is_empty() {
            self.count(&format!("{fate} {call:?}"));
        }
        fate
    }

    /// A call to the store or the board.
    pub fn ask<T: Send + 'static>(
        &mut self,
        process: usize,
        call: Call,
        about: String,
        apply: impl FnOnce(&mut Self) -> T + Send + 'static,
    ) -> oneshot::Receiver<Result<T, StoreError>> {
        let (sender, answer) = oneshot::channel();
        let weather = self.weather[process].clone();
        self.spring(process, call, Moment::Left);
        let there = self.now + self.any(weather.store_ms.clone());
        let back = self.any(weather.store_ms.clone());
        let fate = self.fate(&weather, call);
        self.note(|| format!("p{process} {call:?} {about} {fate}"));
        let given_up = self.now + self.any(300..2_900);
        let about = move |what: &str| format!("p{process} {call:?} {what} {about}");
        match fate {
            "refused" => self.at(there + back, move |_| {
                let _ = sender.send(Err(StoreError::Unavailable("throttled".to_owned())));
            }),
            "lost" => self.at(given_up, move |_| drop(sender)),
            "late" => {
                let latest = self.now + LATE_MS_MAX;
                let mut arrives = self.any(given_up..latest);
                if weather.late_puts {
                    // Stuck on the way for longer than others wait before they hold its sender
                    // for dead.
                    arrives = self.now + self.any(9_000..12_000);
                }
                self.at(given_up, move |_| drop(sender));
                self.late_until = self.late_until.max(arrives);
                self.push(
                    arrives,
                    None,
                    Box::new(move |core: &mut Self| {
                        core.note(|| about("late"));
                        apply(core);
                        core.spring(process, call, Moment::Applied);
                    }),
                );
            }
            _ => self.push(
                there,
                Some(process),
                Box::new(move |core: &mut Self| {
                    core.note(|| about("applied"));
                    let done = apply(core);
                    core.spring(process, call, Moment::Applied);
                    let back = core.now + back;
                    if fate == "mute" {
                        return core.at(given_up.max(back), move |_| drop(sender));
                    }
                    core.at(back, move |core| {
                        if core.weather[process].store_cut {
                            core.count("answer cut off");
                            return core.at(given_up.max(core.now), move |_| drop(sender));
                        }
                        core.spring(process, call, Moment::Answered);
                        let _ = sender.send(Ok(done));
                    });
                }),
            ),
        }
        answer
    }

    /// A call to Redis.
    pub fn ask_redis<T: Send + 'static>(
        &mut self,
        process: usize,
        call: Call,
        about: String,
        apply: impl FnOnce(&mut Self) -> T + Send + 'static,
    ) -> oneshot::Receiver<T> {
        let (sender, answer) = oneshot::channel();
        let weather = self.weather[process].clone();
        self.spring(process, call, Moment::Left);
        let there = (self.now + self.any(weather.redis_ms.clone())).max(weather.redis_at);
        let back = self.any(weather.redis_ms);
        let cut = weather.redis_cut;
        self.note(|| format!("p{process} {call:?} {about} {cut:?}"));
        if cut == Cut::Both {
            // Longer than anybody waits.
            self.at(self.now + 1_000, move |_| drop(sender));
            return answer;
        }
        self.weather[process].redis_at = there;
        self.push(
            there,
            Some(process),
            Box::new(move |core: &mut Self| {
                let done = apply(core);
                core.spring(process, call, Moment::Applied);
                let cut = core.weather[process].redis_cut;
                if matches!(cut, Cut::Both | Cut::Answers) {
                    return core.at(core.now + 1_000, move |_| drop(sender));
                }
                core.at(core.now + back, move |core| {
                    core.spring(process, call, Moment::Answered);
                    let _ = sender.send(done);
                });
            }),
        );
        answer
    }

    /// What every put must keep, whoever makes it.
    pub fn check_put(&mut self, log: &ConversationId, entries: &[Entry]) {
        let tail = self.store.logs.get(log).map_or(0, |log| log.len() as u64);
        let Some(first) = entries.first() else { return };
        if first.seq > tail + 1 {
            self.broken.push(format!("I3: a put at {} of {log}, whose tail is {tail}", first.seq));
        }
        for entry in entries.iter().filter(|entry| entry.seq > tail) {
            if let Some(to) = log.other(&entry.from)
                && !self.store.is_raised(&to, log, entry.seq)
            {
                self.broken.push(format!("I2: a put at {} of {log}, {to} not raised", entry.seq));
            }
        }
    }
}
