//! Two people on two servers who talk all the while, and how long each message takes.
//!
//! Messages are due at a steady pace, whatever became of those before, and each is measured from
//! when it was due: a stall is counted for everything that would have been said meanwhile. They
//! have a thread of their own, so that the attackers' side does not slow them down. Calm and
//! attack alternate: what else the machine does falls on both alike. What machine and store took
//! from everybody (`gauge`) is nobody's delay.
//!
//! They are where attackers are: one behind the balancer, one on the server that most dial.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parlor::client::{Send, ServerFrame, To};

use crate::fleet::Fleet;
use crate::gauge::Gauge;
use crate::harness::Person;

/// What is going on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// Nothing is said.
    Silent,
    Calm,
    Attack,
    /// What an attack has left behind: nothing may be stuck, but it is not compared.
    Between,
    Over,
}

/// How far messages are apart: as many as a person may say for good.
const PACE: Duration = Duration::from_millis(25);
/// A message that took longer is lost.
const LOST: Duration = Duration::from_secs(60);
/// How long the attacker's last bytes may still be at work.
const REST: Duration = Duration::from_millis(200);
/// Fewer messages than this tell no percentile.
const SAMPLES_MIN: usize = 100;
/// How many messages are judged together, so that a short time of trouble does not drown in a long
/// one of none.
const WINDOW: usize = 200;
/// How much longer the slowest messages may take than when it is calm.
const RATIO_MAX: f64 = 1.5;
/// What is no delay: on a machine that the attackers work on as well, a turn of the scheduler.
pub const UNNOTICED: Duration = Duration::from_millis(40);
/// The same of a fleet whose processes are not optimised: a message goes through four of them,
/// which wait for those cores one for another.
pub const UNNOTICED_UNOPTIMISED: Duration = Duration::from_millis(120);
/// How often a message of people of two servers waits for the store: for the raised number, then
/// for what was put.
const WRITES: u32 = 2;
/// How long any message may take while others attack.
const SLOWEST_MAX: Duration = Duration::from_secs(1);

pub struct Bystanders {
    course: Arc<Mutex<Course>>,
    gauge: Gauge,
    talking: JoinHandle<()>,
    conversation: String,
    user: String,
}

/// What went on, and what became of each message.
#[derive(Default)]
struct Course {
    /// Each mood and when it began.
    moods: Vec<(Instant, Mood)>,
    due: Vec<Instant>,
    sent: Vec<Instant>,
    heard: Vec<Instant>,
}

impl Course {
    fn mood(&self) -> Mood {
        self.moods.last().map_or(Mood::Silent, |(_, mood)| *mood)
    }

    fn done(&self) -> usize {
        self.sent.len().min(self.heard.len())
    }

    /// What a message is charged to: to an attack, if there was one anywhere on its way.
    fn charged(&self, due: Instant, done: Instant) -> Mood {
        let ends = self.moods.iter().skip(1).map(|(since, _)| Some(*since)).chain([None]);
        let met = self
            .moods
            .iter()
            .zip(ends)
            .filter(|((since, _), end)| *since <= done && end.is_none_or(|end| end > due));
        let met: Vec<Mood> = met.map(|((_, mood), _)| *mood).collect();
        match met[..] {
            _ if met.contains(&Mood::Attack) => Mood::Attack,
            [Mood::Calm] => Mood::Calm,
            _ => Mood::Between,
        }
    }
}

/// How long messages took.
#[derive(Debug, Default)]
pub struct Heard {
    calm: Vec<Duration>,
    attack: Vec<Duration>,
    /// The slowest one that was not said in calm.
    slowest: Duration,
    /// When that was due.
    pub slowest_due: Option<Instant>,
    /// How long the machine stood still at most.
    stood_still: Duration,
    /// How long writes of the store's own took when it was calm, and under attack.
    store: [Vec<Duration>; 2],
}

/// The 99th percentile of the window where it is worst.
fn p99(took: &[Duration]) -> Duration {
    let windows = (took.len() / WINDOW).max(1);
    let of = |window: &[Duration]| {
        let mut sorted = window.to_vec();
        sorted.sort();
        let at = sorted.len().saturating_sub(1 + sorted.len() / 100);
        sorted.get(at).copied().unwrap_or_default()
    };
    took.chunks(took.len().div_ceil(windows).max(1)).map(of).max().unwrap_or_default()
}

impl Heard {
    /// How much longer the store took for what it is asked on a message's way.
    fn store_slower(&self) -> Duration {
        let [calm, attack] = self.store.each_ref().map(|took| p99(took));
        attack.saturating_sub(calm) * WRITES
    }

    /// Whether there was enough to tell, no message was stuck, and the slowest ones took no longer
    /// than when all was calm, or than what goes `unnoticed`, but for what the machine stood still
    /// and what the store took.
    pub fn is_unmoved(&self, unnoticed: Duration) -> bool {
        let (calm, attack) = (p99(&self.calm), p99(&self.attack));
        self.calm.len().min(self.attack.len()) >= SAMPLES_MIN
            && self.slowest <= SLOWEST_MAX + self.stood_still
            && attack.saturating_sub(self.store_slower())
                <= calm.mul_f64(RATIO_MAX).max(unnoticed + self.stood_still)
    }
}

impl std::fmt::Display for Heard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (calm, attack) = (p99(&self.calm), p99(&self.attack));
        let [calms, attacks] = [&self.calm, &self.attack].map(|took| took.len());
        let slowest = self.slowest;
        write!(
            f,
            "{calms} + {attacks} messages, p99 {calm:.1?} calm, {attack:.1?} under attack, "
        )?;
        write!(f, "slowest {slowest:.1?}, machine at most {:.1?}", self.stood_still)?;
        let [calm, attack] = self.store.each_ref().map(|took| p99(took));
        match self.store[0].is_empty() {
            true => Ok(()),
            false => write!(f, ", a write of the store's own {calm:.1?}, {attack:.1?}"),
        }
    }
}

impl Bystanders {
    pub fn start(fleet: &Fleet) -> Self {
        let [user, other] = ["calm-a", "calm-b"].map(str::to_owned);
        let one = fleet.comes_in(&user);
        let servers = ["ws2", "ws1"].map(|server| (server, fleet.comes(server, &other)));
        let course = Arc::new(Mutex::new(Course::default()));
        let told = course.clone();
        let talking = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async move {
                let mut one = Person::with(&one).await;
                // On another server than he is.
                let at = servers.iter().find(|(server, _)| one.server != *server);
                let mut two = Person::with(&at.unwrap().1).await;
                two.catch_up().await;
                talk(&mut one, &mut two, &told).await;
            });
        });
        let gauge = Gauge::start(fleet);
        Self { course, gauge, talking, conversation: format!("dm:{user}:{other}"), user }
    }

    fn course(&self) -> MutexGuard<'_, Course> {
        locked(&self.course)
    }

    pub fn set(&self, mood: Mood) {
        self.course().moods.push((Instant::now(), mood));
    }

    /// Lets the attack end, and then a calm begin.
    pub async fn rest(&self) {
        self.set(Mood::Between);
        tokio::time::sleep(REST).await;
        self.set(Mood::Calm);
    }

    /// How many messages there were so far.
    pub fn count(&self) -> usize {
        self.course().due.len()
    }

    /// What was heard from a message on, once all of it was.
    pub async fn since(&self, first: usize) -> Heard {
        let count = self.count();
        while self.course().done() < count && !self.talking.is_finished() {
            tokio::time::sleep(PACE).await;
        }
        let course = self.course();
        let mut all = Heard { stood_still: self.gauge.stood_still(), ..Heard::default() };
        let begun = course.due.get(first).copied();
        for (due, done) in begun.map_or(Vec::new(), |begun| self.gauge.writes_since(begun)) {
            match course.charged(due, done) {
                Mood::Calm => all.store[0].push(done - due),
                Mood::Attack => all.store[1].push(done - due),
                _ => {}
            }
        }
        for number in first..count.min(course.done()) {
            let (due, done) = (course.due[number], course.sent[number].max(course.heard[number]));
            let (mood, took) = (course.charged(due, done), done - due);
            match mood {
                Mood::Calm => all.calm.push(took),
                Mood::Attack => all.attack.push(took),
                _ => {}
            }
            if mood != Mood::Calm && took > all.slowest {
                (all.slowest, all.slowest_due) = (took, Some(due));
            }
        }
        all
    }

    /// Each message came once, in order, and is stored.
    pub async fn end(self, fleet: &Fleet) {
        self.set(Mood::Over);
        let Self { course, talking, conversation, user, .. } = self;
        let talked = tokio::task::spawn_blocking(move || talking.join()).await.unwrap();
        talked.expect("every message arrives, once, in order");
        let count = locked(&course).due.len() as u64;
        let newest = fleet.history(&user, &conversation).await;
        assert_eq!(newest.last().map_or(0, |last| last["seq"].as_u64().unwrap()), count, "stored");
    }
}

/// Also after those who talk have panicked: it is told at their end.
fn locked(course: &Mutex<Course>) -> MutexGuard<'_, Course> {
    course.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn talk(one: &mut Person, two: &mut Person, course: &Mutex<Course>) {
    let to = To::User(two.user.clone());
    let mut ticks = tokio::time::interval(PACE);
    let mut said = 0;
    loop {
        // Each branch is dropped unharmed: what was read waits in a channel.
        tokio::select! {
            due = ticks.tick() => {
                let mood = {
                    let mut course = locked(course);
                    let (mood, done) = (course.mood(), course.done());
                    if let Some(due) = course.due.get(done) {
                        assert!(due.elapsed() < LOST, "message {} is lost", done + 1);
                    } else if mood == Mood::Over {
                        return;
                    }
                    if ![Mood::Silent, Mood::Over].contains(&mood) {
                        course.due.push(due.into_std());
                    }
                    mood
                };
                if ![Mood::Silent, Mood::Over].contains(&mood) {
                    said += 1;
                    one.write(Send::new(to.clone(), line(said)).frame()).await;
                }
            }
            text = one.text_within(LOST * 2) => {
                match ServerFrame::parse(&text.expect("the socket stays open")).unwrap() {
                    ServerFrame::Sent { seq, .. } => {
                        let sent = &mut locked(course).sent;
                        sent.push(Instant::now());
                        assert_eq!(seq, sent.len() as u64, "stored in order, once");
                    }
                    error @ ServerFrame::Error { .. } => panic!("{error:?}"),
                    _ => {}
                }
            }
            text = two.text_within(LOST * 2) => {
                let text = text.expect("the socket stays open");
                if let ServerFrame::Entry(entry) = ServerFrame::parse(&text).unwrap() {
                    let heard = &mut locked(course).heard;
                    heard.push(Instant::now());
                    let number = heard.len() as u64;
                    assert_eq!((entry.seq, entry.message), (number, line(number)), "in order");
                }
            }
        }
    }
}

fn line(number: u64) -> String {
    format!("all is well {number}")
}

/// A stall is seen by everything that was due in it, and is the attack's if it began or ended in
/// one; what it leaves behind is no calm.
#[test]
fn a_stall_is_seen() {
    let begun = Instant::now();
    let at = |ms: u64| begun + Duration::from_millis(ms);
    let moods =
        [(0, Mood::Calm), (1_000, Mood::Attack), (2_000, Mood::Between), (2_200, Mood::Calm)];
    let moods = moods.map(|(ms, mood)| (at(ms), mood)).to_vec();
    let course = Course { moods, ..Course::default() };
    let charged = |due, done| course.charged(at(due), at(done));
    assert_eq!([charged(0, 999), charged(2_200, 9_000)], [Mood::Calm; 2]);
    assert_eq!(
        [charged(999, 1_001), charged(1_999, 2_500), charged(500, 2_300)],
        [Mood::Attack; 3]
    );
    assert_eq!([charged(2_000, 2_100), charged(2_199, 2_300)], [Mood::Between; 2]);
    let usual = vec![Duration::from_millis(10); 5 * WINDOW];
    let mut stalled = usual.clone();
    let unmoved = |attack: &[Duration], slowest, stood_still| {
        let stood_still = Duration::from_millis(stood_still);
        let slowest = Duration::from_millis(slowest);
        let (calm, attack) = (usual.clone(), attack.to_vec());
        Heard { calm, attack, slowest, stood_still, ..Heard::default() }.is_unmoved(UNNOTICED)
    };
    assert!(unmoved(&stalled, 10, 0) && !unmoved(&stalled, 1_001, 0) && !unmoved(&[], 0, 0));
    for (number, took) in stalled[WINDOW..][..WINDOW / 50].iter_mut().enumerate() {
        *took = Duration::from_millis(100 - 25 * number as u64);
    }
    assert!(!unmoved(&stalled, 100, 5), "100 ms without a word");
    assert!(unmoved(&stalled, 100, 20), "the machine stood still as well");
    let slow = |ms| {
        let store = [10, ms].map(|ms| vec![Duration::from_millis(ms); WINDOW]);
        let (calm, attack) = (usual.clone(), stalled.clone());
        Heard { calm, attack, store, ..Heard::default() }.is_unmoved(UNNOTICED)
    };
    assert!(!slow(10) && slow(40), "the store was slow as well");
}
