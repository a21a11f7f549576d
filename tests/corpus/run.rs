//! Runs the table on a fleet, and tells what came of it.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::sync::Mutex;

use crate::bystanders::{Bystanders, Mood};
use crate::case::Case;
use crate::fleet::Fleet;
use crate::harness::{Parts, Person};
use crate::{table, token};

/// Which lines of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lines {
    Ordinary,
    /// Those that take longer than a minute.
    Long,
}

/// What a pass over the table may leave behind in any process.
const MEMORY_MAX: u64 = 1 << 20;
/// How much longer the bystanders' slowest messages may take.
const RATIO_MAX: f64 = 1.5;
/// How many passes are measured until each bound was kept in one: a leak shows in all of them, and
/// so does a delay, while what else the machine does comes and goes.
const PASSES_MAX: usize = 6;
/// How long calm and attack last, in turns.
const TURN: Duration = Duration::from_millis(700);

/// Two of these at once would measure each other.
static ALONE: Mutex<()> = Mutex::const_new(());

#[derive(Default)]
struct Report {
    failed: BTreeMap<&'static str, String>,
    faults: Vec<String>,
    ran: BTreeMap<&'static str, usize>,
}

/// Everything, and a summary on stderr.
pub async fn all(fleet: Fleet, lines: Lines) {
    let _alone = ALONE.lock().await;
    let fleet = Arc::new(fleet);
    let only = std::env::var("PARLOR_CORPUS_ROW").unwrap_or_default();
    let table: Vec<Case> = table::all().into_iter().filter(|c| c.row.starts_with(&only)).collect();
    let chosen = |case: &&Case| {
        let real = !case.real || fleet.redis.is_some();
        real && case.long == (lines == Lines::Long)
    };
    let ready: Vec<(usize, Case)> =
        table.iter().enumerate().filter(|(_, c)| chosen(c)).map(|(n, c)| (n, c.clone())).collect();
    let guarded = match ready.iter().any(|(_, case)| case.guarded) {
        true => Arc::new(guarded_fleet(&fleet).await),
        false => fleet.clone(),
    };
    let mut friend = Person::connect(&fleet.ws_at("ws3"), "friend").await;
    let listening = tokio::spawn(async move { listen(&mut friend).await });
    let (slow, quick) = ready.into_iter().partition(|(_, case)| case.slow);
    let pair = Bystanders::start(&fleet);
    let mut course =
        Course { fleet, guarded, pair, report: Report::default(), figures: Vec::new() };
    let (small, mut calm, quiet) = course.passes(quick).await;
    calm &= course.at_once(slow, quiet).await;
    let Course { fleet, guarded, pair, mut report, figures } = course;
    pair.end(&fleet).await;
    listening.abort();
    if let Err(heard) = listening.await
        && heard.is_panic()
    {
        report.faults.push("the friend heard what was refused".to_owned());
    }
    report.faults.extend(table::told_in_logs(&[fleet.logs(), guarded.logs()].concat()));
    summary(&table, &report, &figures, fleet.redis.is_some(), lines);
    assert!(report.failed.is_empty() && report.faults.is_empty(), "see the summary");
    assert!(small, "each pass leaves something behind: {figures:#?}");
    assert!(calm, "in each pass the bystanders wait for others: {figures:#?}");
    for fleet in [guarded, fleet] {
        // The first of the two may be the second, too.
        if let Ok(fleet) = Arc::try_unwrap(fleet) {
            fleet.stop().await;
        }
    }
}

/// A run under way.
struct Course {
    fleet: Arc<Fleet>,
    /// The one with tokens, or the same.
    guarded: Arc<Fleet>,
    pair: Bystanders,
    report: Report,
    figures: Vec<String>,
}

impl Course {
    fn on(&self, case: &Case) -> Arc<Fleet> {
        if case.guarded { self.guarded.clone() } else { self.fleet.clone() }
    }

    /// Pass after pass over the quick lines. Whether one left no memory behind, whether in one the
    /// bystanders waited no longer than when all was calm, and how long that was at most.
    async fn passes(&mut self, cases: Vec<(usize, Case)>) -> (bool, bool, Duration) {
        let (mut small, mut calm, mut longest) =
            (cases.is_empty(), cases.is_empty(), Duration::ZERO);
        // The first pass fills what is kept for good: it is not measured.
        for pass in 0..=PASSES_MAX {
            if cases.is_empty() || pass > 1 && small && calm || !self.report.failed.is_empty() {
                break;
            }
            let (memory, first) = (self.fleet.memory().await, self.pair.count());
            self.turns(&cases).await;
            let after = self.fleet.memory().await;
            let grown =
                |(name, now): (&String, &u64)| (name.clone(), now.saturating_sub(memory[name]));
            let grown: BTreeMap<String, u64> = after.iter().map(grown).collect();
            let heard = self.pair.since(first);
            let ((quiet, attack), ratio) = (heard.p99(), heard.ratio());
            small |= pass > 0 && grown.values().all(|grown| *grown <= MEMORY_MAX);
            calm |= pass > 0 && ratio <= RATIO_MAX;
            longest = longest.max(if pass > 0 { quiet } else { Duration::ZERO });
            self.figures.push(told(format!(
                "pass {pass}: {grown:?} bytes more; {} + {} messages, p99 {quiet:?} calm, \
                 {attack:?} under attack, {ratio:.2}",
                heard.calm.len(),
                heard.attack.len(),
            )));
        }
        (small, calm, longest)
    }

    /// All cases one after the other; attack and calm take turns.
    async fn turns(&mut self, cases: &[(usize, Case)]) {
        let mut begun = Instant::now();
        self.pair.set(Mood::Attack);
        for (number, case) in cases {
            let failure = one(self.on(case), case.clone(), *number).await;
            self.report.note(case, failure);
            let faults = self.faults();
            let of = faults.iter().map(|fault| format!("{} {}: {fault}", case.row, case.what));
            self.report.faults.extend(of);
            if begun.elapsed() >= TURN {
                self.pair.set(Mood::Calm);
                tokio::time::sleep(begun.elapsed().min(TURN * 3)).await;
                self.pair.set(Mood::Attack);
                begun = Instant::now();
            }
        }
        self.pair.set(Mood::Calm);
        tokio::time::sleep(TURN).await;
        self.pair.set(Mood::Between);
    }

    /// The lines that wait, all at once, between two times of calm. Whether the bystanders waited
    /// no longer than then, or than when it was calm before.
    async fn at_once(&mut self, cases: Vec<(usize, Case)>, before: Duration) -> bool {
        if cases.is_empty() {
            return true;
        }
        let first = self.pair.count();
        self.pair.set(Mood::Calm);
        tokio::time::sleep(TURN * 5).await;
        self.pair.set(Mood::Attack);
        let at_once = cases.iter().map(|(number, case)| one(self.on(case), case.clone(), *number));
        let failures = join_all(at_once).await;
        self.pair.set(Mood::Calm);
        tokio::time::sleep(TURN * 5).await;
        self.pair.set(Mood::Between);
        for ((_, case), failure) in cases.iter().zip(failures) {
            self.report.note(case, failure);
        }
        let faults = self.faults();
        self.report.faults.extend(faults);
        let (quiet, attack) = self.pair.since(first).p99();
        let count = cases.len();
        self.figures.push(told(format!("{count} slow ones: p99 {quiet:?} calm, {attack:?}")));
        attack <= quiet.max(before).mul_f64(RATIO_MAX)
    }

    fn faults(&self) -> Vec<String> {
        let mut faults = self.fleet.faults();
        if !Arc::ptr_eq(&self.fleet, &self.guarded) {
            faults.extend(self.guarded.faults());
        }
        faults
    }
}

/// Said at once, past the capture of the test harness: a run takes minutes.
fn told(line: String) -> String {
    let _ = std::io::stderr().write_all(format!("corpus: {line}\n").as_bytes());
    line
}

/// One process that takes tokens only, and has the usual limits. Clients come through a proxy, so
/// that they have addresses: this machine has no limits for itself.
async fn guarded_fleet(fleet: &Fleet) -> Fleet {
    let file = fleet.folder().join("jwt-secret");
    std::fs::write(&file, token::SECRET).unwrap();
    let tokens = ["--jwt-secret-file", file.to_str().unwrap(), "--jwt-issuer", token::ISSUER];
    // Rows of some hundred exchanges should not need a thousand.
    let limits = ["--trusted-proxy=127.0.0.1", "--sockets-per-address=100"];
    let rate = ["--handshakes-per-address=10:150"];
    let options = [&tokens[..], &limits, &rate].concat();
    Fleet::start_with(Parts::Embedded, &options).await.unwrap()
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

impl Report {
    fn note(&mut self, case: &Case, failure: Option<String>) {
        *self.ran.entry(case.row).or_default() += 1;
        if let Some(failure) = failure {
            let said: String = failure.chars().take(600).collect();
            let all = self.failed.entry(case.row).or_default();
            all.push_str(&format!("\n    {}: {said}", case.what));
        }
    }
}

/// Nothing of what was refused arrives anywhere: refused texts say BAD.
async fn listen(friend: &mut Person) {
    loop {
        let Ok(text) = friend.text_within(Duration::from_secs(600)).await else { return };
        assert!(!text.contains("BAD"), "{text}");
    }
}

/// What became of each row.
fn summary(table: &[Case], report: &Report, figures: &[String], real: bool, lines: Lines) {
    let mut rows: BTreeMap<(char, u32), &'static str> = BTreeMap::new();
    for case in table {
        let (group, number) = case.row.split_at(1);
        rows.insert((group.chars().next().unwrap(), number.parse().unwrap()), case.row);
    }
    let (mut passed, mut failed, mut text) = (0, 0, String::new());
    let (mut later, mut elsewhere) = (Vec::new(), Vec::new());
    for row in rows.values() {
        let cases: Vec<&Case> = table.iter().filter(|case| case.row == *row).collect();
        if let Some(failures) = report.failed.get(row) {
            failed += 1;
            text.push_str(&format!("  {row} FAILED:{failures}\n"));
        } else if report.ran.contains_key(row) {
            passed += 1;
        } else if lines == Lines::Ordinary && cases.iter().all(|case| case.long) {
            later.push(*row);
        } else {
            elsewhere.push(*row);
        }
    }
    let ran: usize = report.ran.values().sum();
    let mut head = format!("corpus: {} rows, {passed} passed, {failed} failed", rows.len());
    for (what, rows) in [("in ./test full", &later), ("not on these parts", &elsewhere)] {
        if !rows.is_empty() {
            head.push_str(&format!(", {} {what} ({})", rows.len(), rows.join(" ")));
        }
    }
    let parts = if real { "a fleet on real parts" } else { "one process" };
    let differs: usize = table.iter().filter(|case| case.differs.is_some()).count();
    text.push_str(&format!("  {ran} exchanges with {parts}; {differs} lines differ by design\n"));
    for line in figures.iter().chain(&report.faults) {
        text.push_str(&format!("  {line}\n"));
    }
    // Past the capture of the test harness: it is to be seen in every run.
    let _ = std::io::stderr().write_all(format!("\n{head}\n{text}").as_bytes());
}
