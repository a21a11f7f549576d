//! What is under a fleet, and takes its time from everybody there whether attacked or not: the
//! machine, which stands still at times, and the store, which has a write of its own here.

use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use crate::fleet::Fleet;
use crate::harness::real::{client, string};

/// How far looks at whether the machine stands still are apart.
const LOOK: Duration = Duration::from_millis(5);
/// How far writes are apart: as often as the bystanders have it written.
const PACE: Duration = Duration::from_millis(25);
/// No person, conversation or device is called so.
const KEY: &str = "#gauge";

/// When a write was due, and when it was done.
type Write = (Instant, Instant);

/// Ends when it is dropped.
pub struct Gauge {
    /// How long the machine stood still at most since this was last asked for, in microseconds.
    stood_still: Arc<AtomicU64>,
    /// What the store did, where it is no part of the process under attack.
    writes: Arc<Mutex<Vec<Write>>>,
}

impl Gauge {
    pub fn start(fleet: &Fleet) -> Self {
        let (stood_still, writes) = (Arc::new(AtomicU64::new(0)), Arc::default());
        let watching = Arc::downgrade(&stood_still);
        std::thread::spawn(move || watch(&watching));
        if let Some(redis) = &fleet.redis {
            let (url, table) = (redis.dynamodb().to_owned(), fleet.table.clone());
            let written = Arc::downgrade(&writes);
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.unwrap().block_on(write(&url, &table, &written));
            });
        }
        Self { stood_still, writes }
    }

    /// How long the machine stood still at most since this was last asked for.
    pub fn stood_still(&self) -> Duration {
        Duration::from_micros(self.stood_still.swap(0, Ordering::Relaxed))
    }

    /// The writes that were due from then on.
    pub fn writes_since(&self, at: Instant) -> Vec<Write> {
        let writes = self.writes.lock().unwrap();
        writes.iter().copied().filter(|(due, _)| *due >= at).collect()
    }
}

/// Notes how much later than asked for it wakes, for as long as somebody wants to know.
fn watch(stood_still: &Weak<AtomicU64>) {
    step_forward();
    while let Some(most) = stood_still.upgrade() {
        let begun = Instant::now();
        std::thread::sleep(LOOK);
        let late = begun.elapsed().saturating_sub(LOOK);
        most.fetch_max(late.as_micros() as u64, Ordering::Relaxed);
    }
}

/// Before all that is not real-time, where that is allowed: an attack that keeps all cores busy
/// must not pass for a machine that stands still.
fn step_forward() {
    let own = std::fs::read_link("/proc/thread-self").unwrap();
    let id = own.file_name().unwrap().to_owned();
    let _ = Command::new("chrt").args(["--fifo", "--pid", "1"]).arg(id).output();
}

/// Writes one item again and again, and notes how long that took.
async fn write(url: &str, table: &str, writes: &Weak<Mutex<Vec<Write>>>) {
    let mut ticks = tokio::time::interval(PACE);
    let put = client(url).await.put_item().table_name(table);
    let put = ["pk", "sk"].iter().fold(put, |put, name| put.item(*name, string(KEY)));
    while let Some(writes) = writes.upgrade() {
        let due = ticks.tick().await.into_std();
        put.clone().send().await.unwrap();
        writes.lock().unwrap().push((due, Instant::now()));
    }
}
