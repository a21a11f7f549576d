//! Two people on two servers who talk all the while, and how long each message takes.
//!
//! They have a thread of their own, so that the attackers' side does not slow them down. Calm and
//! attack alternate: what else the machine does falls on both alike.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parlor::client::{Send, To};

use crate::fleet::Fleet;
use crate::harness::Person;

/// What is going on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Mood {
    Calm = 0,
    Attack = 1,
    /// Neither is measured.
    Between = 2,
    Over = 3,
}

/// A pause between two messages.
const PACE: Duration = Duration::from_millis(4);

/// A message that took longer is lost.
const LOST: Duration = Duration::from_secs(60);

pub struct Bystanders {
    mood: Arc<AtomicU8>,
    took: Arc<Mutex<Vec<(u8, Duration)>>>,
    talking: JoinHandle<()>,
    conversation: String,
    user: String,
}

/// How long the messages took, of each mood, shortest first.
pub struct Heard {
    pub calm: Vec<Duration>,
    pub attack: Vec<Duration>,
}

impl Heard {
    /// The 99th percentiles of both.
    pub fn p99(&self) -> (Duration, Duration) {
        let of = |sorted: &[Duration]| {
            let at = sorted.len().saturating_sub(1 + sorted.len() / 100);
            sorted.get(at).copied().unwrap_or_default()
        };
        (of(&self.calm), of(&self.attack))
    }

    pub fn ratio(&self) -> f64 {
        let (calm, attack) = self.p99();
        attack.as_secs_f64() / calm.as_secs_f64()
    }
}

impl Bystanders {
    pub fn start(fleet: &Fleet) -> Self {
        let (a, b) = ("calm-a".to_owned(), "calm-b".to_owned());
        let (urls, mood) = ((fleet.ws_at("ws1"), fleet.ws_at("ws3")), Arc::new(AtomicU8::new(2)));
        let (conversation, user) = (format!("dm:{a}:{b}"), a.clone());
        let took = Arc::new(Mutex::new(Vec::new()));
        let (moods, taken) = (mood.clone(), took.clone());
        let talking = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async move {
                let mut one = Person::connect(&urls.0, &a).await;
                let mut two = Person::connect(&urls.1, &b).await;
                two.catch_up().await;
                talk(&mut one, &mut two, &moods, &taken).await;
            });
        });
        Self { mood, took, talking, conversation, user }
    }

    pub fn set(&self, mood: Mood) {
        self.mood.store(mood as u8, Ordering::Relaxed);
    }

    /// How many messages there were so far.
    pub fn count(&self) -> usize {
        self.took.lock().unwrap().len()
    }

    /// What was heard from a message on.
    pub fn since(&self, first: usize) -> Heard {
        let took = self.took.lock().unwrap()[first..].to_vec();
        let of = |mood: Mood| {
            let of_mood = took.iter().filter(|(of, _)| *of == mood as u8);
            let mut took: Vec<Duration> = of_mood.map(|(_, took)| *took).collect();
            took.sort();
            took
        };
        Heard { calm: of(Mood::Calm), attack: of(Mood::Attack) }
    }

    /// Each message came once, in order, and is stored.
    pub async fn end(self, fleet: &Fleet) {
        self.set(Mood::Over);
        let Self { took, talking, conversation, user, .. } = self;
        let talked = tokio::task::spawn_blocking(move || talking.join()).await.unwrap();
        talked.expect("every message arrives, once, in order");
        let newest = fleet.history(&user, &conversation).await;
        let count = took.lock().unwrap().len() as u64;
        assert_eq!(newest.last().unwrap()["seq"], count, "all are stored");
    }
}

async fn talk(
    one: &mut Person,
    two: &mut Person,
    moods: &AtomicU8,
    taken: &Mutex<Vec<(u8, Duration)>>,
) {
    let to = To::User(two.user.clone());
    for number in 1.. {
        let mood = moods.load(Ordering::Relaxed);
        if mood == Mood::Over as u8 {
            return;
        }
        let (begun, said) = (Instant::now(), format!("all is well {number}"));
        assert_eq!(one.send(&Send::new(to.clone(), &said)).await, number);
        let heard = two.entry_within(LOST).await;
        assert_eq!((heard.seq, heard.message), (number, said), "in order, once");
        let took = begun.elapsed();
        // A message that saw a change of mood counts for neither.
        let same = mood == moods.load(Ordering::Relaxed);
        taken.lock().unwrap().push((if same { mood } else { Mood::Between as u8 }, took));
        tokio::time::sleep(PACE).await;
    }
}
