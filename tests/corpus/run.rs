//! Runs the table on a fleet, and on one with tokens, and judges what they did meanwhile.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::sync::Mutex;

use crate::bystanders::{Heard, Mood, UNNOTICED, UNNOTICED_UNOPTIMISED};
use crate::case::Case;
use crate::fleet::Fleet;
use crate::ground::Ground;
use crate::harness::Parts;
use crate::report::Report;
use crate::table;

/// Which lines of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lines {
    Ordinary,
    /// Those that take longer than a minute.
    Long,
    /// The ordinary ones that only a fleet can meet.
    OfFleets,
}

/// The optimised build, as `./test` names it. People run no other, and its processes share the
/// cores with what attacks them.
pub fn optimised() -> Option<PathBuf> {
    let named = std::env::var_os("PARLOR_TEST_OPTIMISED");
    let found = |path| std::fs::canonicalize(&path).map_err(|error| (path, error));
    named.map(|path| found(path).expect("PARLOR_TEST_OPTIMISED names a build that is there"))
}

/// What a pass over the table may leave behind in any process.
const MEMORY_MAX: u64 = 1 << 20;
/// How many passes are measured at most: a leak shows in all of them, so one without is enough; a
/// delay shows in most, while what else the machine does comes and goes.
const PASSES_MAX: usize = 5;
/// How long calm and attack last, in turns.
const TURN: Duration = Duration::from_millis(700);
/// How long a fleet is attacked in a pass, at least: with less there is nothing to compare.
const ATTACK_MIN: Duration = Duration::from_secs(4);

/// Two of these at once would measure each other.
static ALONE: Mutex<()> = Mutex::const_new(());

/// A line and its place in the table.
type Numbered = (usize, Case);

/// Everything, and a summary on stderr. `None` where there are no such parts.
pub async fn all(parts: fn() -> Parts, build: Option<PathBuf>, lines: Lines) -> Option<()> {
    let _alone = ALONE.lock().await;
    let build = build.as_deref();
    let fleet = Fleet::start(parts(), build).await?;
    let real = fleet.redis.is_some();
    let only = std::env::var("PARLOR_CORPUS_ROW").unwrap_or_default();
    let table: Vec<Case> = table::all().into_iter().filter(|c| c.row.starts_with(&only)).collect();
    let chosen = |case: &Case| match lines {
        Lines::Ordinary => (real || !case.real) && !case.long,
        Lines::OfFleets => case.real && !case.long,
        Lines::Long => case.long,
    };
    let table: Vec<Case> =
        table.into_iter().filter(|case| lines != Lines::OfFleets || chosen(case)).collect();
    let ready: Vec<Numbered> =
        table.iter().cloned().enumerate().filter(|(_, c)| chosen(c)).collect();
    let guarded = match ready.iter().any(|(_, case)| case.guarded) {
        true => Some(Ground::new(Fleet::start_guarded(parts(), build).await?).await),
        false => None,
    };
    let open = Ground::new(fleet).await;
    let unoptimised = real && build.is_none();
    let unnoticed = if unoptimised { UNNOTICED_UNOPTIMISED } else { UNNOTICED };
    let (report, began) = (Report::default(), Vec::new());
    let mut course = Course { open, guarded, unnoticed, report, began };
    step_back();
    let (slow, quick) = ready.into_iter().partition(|(_, case)| case.slow);
    let turns = course.passes("in turns", quick).await;
    let at_once = course.passes("at once", slow).await;
    let Course { open, guarded, mut report, .. } = course;
    let mut fleets = Vec::new();
    for ground in [Some(open), guarded].into_iter().flatten() {
        let (fleet, fault) = ground.end().await;
        report.faults.extend(fault);
        report.faults.extend(table::told_in_logs(&fleet.logs()));
        fleets.push(fleet);
    }
    let parts = match (real, build) {
        (false, _) => "one process",
        (true, Some(_)) => "a fleet of the optimised build on real parts",
        (true, None) => "a fleet on real parts, not optimised",
    };
    report.tell(&table, parts, lines);
    assert!(report.failed.is_empty() && report.faults.is_empty(), "see the summary");
    for tally in [turns, at_once] {
        assert!(tally.small > 0 || tally.passes == 0, "each pass leaves something behind");
        // A few lines of the table are over too soon to tell.
        assert!(tally.is_calm() || !only.is_empty(), "the bystanders wait for others");
    }
    for fleet in fleets {
        Arc::into_inner(fleet).expect("no line is left").stop().await;
    }
    Some(())
}

/// Gives the attackers' threads what the servers and the bystanders leave: they stand for other
/// machines, whose work would otherwise be counted as what an attack costs.
fn step_back() {
    let named = |task: &std::path::Path| std::fs::read_to_string(task.join("comm"));
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path());
    let attacks = tasks.filter(|task| named(task).is_ok_and(|name| name.starts_with("tokio")));
    let ids = attacks.filter_map(|task| task.file_name().map(std::ffi::OsStr::to_owned));
    let stepped = std::process::Command::new("renice").args(["-n", "19", "-p"]).args(ids).output();
    let stepped = stepped.expect("renice (Debian: apt-get install util-linux)");
    assert!(stepped.status.success(), "{stepped:?}");
}

/// What the measured passes were like.
#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    passes: usize,
    /// Those that left no memory behind.
    small: usize,
    /// Those that the bystanders did not notice.
    calm: usize,
}

impl Tally {
    /// In most of them.
    fn is_calm(self) -> bool {
        self.passes == 0 || 2 * self.calm > self.passes
    }
}

/// A run under way.
struct Course {
    open: Ground,
    /// The one with tokens.
    guarded: Option<Ground>,
    /// What is no delay.
    unnoticed: Duration,
    report: Report,
    /// When which line began, of those that go one after the other.
    began: Vec<(Instant, String)>,
}

impl Course {
    fn on(&self, case: &Case) -> &Ground {
        self.guarded.as_ref().filter(|_| case.guarded).unwrap_or(&self.open)
    }

    fn grounds(&self) -> impl Iterator<Item = (&'static str, &Ground)> {
        let guarded = self.guarded.iter().map(|ground| ("guarded ", ground));
        [("", &self.open)].into_iter().chain(guarded)
    }

    /// Pass after pass, until one left nothing behind and most were not noticed.
    async fn passes(&mut self, how: &str, cases: Vec<Numbered>) -> Tally {
        let mut tally = Tally::default();
        // The first pass fills what is kept for good: it is not measured.
        for pass in 0..=PASSES_MAX {
            let told = tally.passes > 0 && tally.small > 0 && tally.is_calm();
            if cases.is_empty() || told || !self.report.failed.is_empty() {
                break;
            }
            let (memory, counts) = (self.memory().await, self.counts());
            match how {
                "in turns" => self.turns(&cases).await,
                _ => self.at_once(&cases).await,
            }
            let grown = self.memory().await;
            let more = |(name, now): (String, u64)| (now.saturating_sub(memory[&name]), name);
            let grown: BTreeMap<u64, String> = grown.into_iter().map(more).collect();
            let (most, whose) = grown.last_key_value().unwrap();
            self.report.figure(format!("{how}, pass {pass}: {most} bytes more in {whose}"));
            let mut unmoved = true;
            for (name, heard) in self.heard(counts).await {
                unmoved &= heard.is_unmoved(self.unnoticed);
                let during = self.began.iter().rfind(|(at, _)| Some(*at) <= heard.slowest_due);
                let during = during.map_or("", |(_, line)| line);
                self.report.figure(format!("  {name}{heard} {during}"));
            }
            if pass > 0 {
                tally.passes += 1;
                tally.small += usize::from(*most <= MEMORY_MAX);
                tally.calm += usize::from(unmoved);
            }
        }
        tally
    }

    async fn memory(&self) -> BTreeMap<String, u64> {
        let all = self.grounds().map(async |(name, ground)| {
            let memory = ground.fleet.memory().await;
            memory.into_iter().map(move |(of, bytes)| (format!("{name}{of}"), bytes))
        });
        join_all(all).await.into_iter().flatten().collect()
    }

    fn counts(&self) -> Vec<usize> {
        self.grounds().map(|(_, ground)| ground.pair.count()).collect()
    }

    /// What the pairs that talked meanwhile have heard.
    async fn heard(&self, counts: Vec<usize>) -> Vec<(&'static str, Heard)> {
        let mut all = Vec::new();
        for ((name, ground), first) in self.grounds().zip(counts) {
            if ground.pair.count() > first {
                all.push((name, ground.pair.since(first).await));
            }
        }
        all
    }

    /// All cases one after the other, fleet by fleet; attack and calm take turns.
    async fn turns(&mut self, cases: &[Numbered]) {
        for guarded in [false, true] {
            let of: Vec<&Numbered> = cases.iter().filter(|(_, c)| c.guarded == guarded).collect();
            let Some((_, first)) = of.first() else { continue };
            let (mut attacked, mut begun) = (Duration::ZERO, Instant::now());
            self.on(first).pair.set(Mood::Calm);
            tokio::time::sleep(TURN).await;
            self.on(first).pair.set(Mood::Attack);
            while attacked < ATTACK_MIN {
                for (number, case) in &of {
                    let begun_one = Instant::now();
                    self.began.push((begun_one, format!("after {} {}", case.row, case.what)));
                    let failure = one(self.on(case).fleet.clone(), case.clone(), *number).await;
                    self.report.note(case, failure);
                    let faults = self.faults();
                    let of = faults.map(|fault| format!("{} {}: {fault}", case.row, case.what));
                    let of: Vec<String> = of.collect();
                    self.report.faults.extend(of);
                    attacked += begun_one.elapsed();
                    if begun.elapsed() >= TURN {
                        self.on(case).pair.rest().await;
                        tokio::time::sleep(begun.elapsed().min(TURN * 3)).await;
                        self.on(case).pair.set(Mood::Attack);
                        begun = Instant::now();
                    }
                }
            }
            self.on(first).pair.rest().await;
            tokio::time::sleep(TURN).await;
            self.on(first).pair.set(Mood::Silent);
        }
    }

    /// The lines that wait, all at once, between two times of calm.
    async fn at_once(&mut self, cases: &[Numbered]) {
        self.grounds().for_each(|(_, ground)| ground.pair.set(Mood::Calm));
        tokio::time::sleep(TURN * 7).await;
        self.grounds().for_each(|(_, ground)| ground.pair.set(Mood::Attack));
        let at_once = cases
            .iter()
            .map(|(number, case)| one(self.on(case).fleet.clone(), case.clone(), *number));
        let failures = join_all(at_once).await;
        join_all(self.grounds().map(|(_, ground)| ground.pair.rest())).await;
        tokio::time::sleep(TURN * 7).await;
        self.grounds().for_each(|(_, ground)| ground.pair.set(Mood::Silent));
        for ((_, case), failure) in cases.iter().zip(failures) {
            self.report.note(case, failure);
        }
        let faults: Vec<String> = self.faults().collect();
        self.report.faults.extend(faults);
    }

    fn faults(&self) -> impl Iterator<Item = String> {
        self.grounds().flat_map(|(name, ground)| {
            ground.fleet.faults().into_iter().map(move |fault| format!("{name}{fault}"))
        })
    }
}

/// What is wrong with a case, if anything.
async fn one(fleet: Arc<Fleet>, case: Case, number: usize) -> Option<String> {
    let limit = Duration::from_secs(if case.slow { 240 } else { 90 });
    let running = tokio::spawn(async move { case.run(&fleet, number).await });
    match tokio::time::timeout(limit, running).await {
        Ok(Ok(())) => None,
        Ok(Err(failed)) => {
            let panic = failed.into_panic();
            let said = panic.downcast_ref::<String>().cloned();
            let text = said.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
            Some(text.unwrap_or_default())
        }
        Err(_) => Some(format!("not within {limit:?}")),
    }
}
