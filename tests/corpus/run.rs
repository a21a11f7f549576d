//! Runs the table on a fleet, and tells what came of it.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::sync::Mutex;

use crate::bystanders::{Bystanders, Mood};
use crate::case::{Case, Part};
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
/// How many passes are measured until one of them keeps both: a leak or a delay shows in each.
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
        real && case.waits.is_none() && case.long == (lines == Lines::Long)
    };
    let ready: Vec<(usize, Case)> =
        table.iter().enumerate().filter(|(_, c)| chosen(c)).map(|(n, c)| (n, c.clone())).collect();
    let guarded = match ready.iter().any(|(_, case)| case.guarded) {
        true => Some(Arc::new(guarded_fleet(&fleet).await)),
        false => None,
    };
    let mut friend = Person::connect(&fleet.ws_at("ws3"), "friend").await;
    let listening = tokio::spawn(async move { listen(&mut friend).await });
    let pair = Bystanders::start(&fleet);
    let mut report = Report::default();
    let on = |case: &Case| match &guarded {
        Some(guarded) if case.guarded => guarded.clone(),
        _ => fleet.clone(),
    };
    let (slow, quick): (Vec<_>, Vec<_>) = ready.into_iter().partition(|(_, case)| case.slow);
    let mut figures = Vec::new();
    let mut held = quick.is_empty();
    // The first pass fills what is kept for good: it is not measured.
    for pass in 0..=PASSES_MAX {
        if quick.is_empty() || pass > 1 && held {
            break;
        }
        let (memory, first) = (fleet.memory().await, pair.count());
        turns(&quick, &pair, &mut report, &on).await;
        report.faults.extend(fleet.faults());
        let after = fleet.memory().await;
        let grown = |(name, now): (&String, &u64)| (name.clone(), now.saturating_sub(memory[name]));
        let grown: BTreeMap<String, u64> = after.iter().map(grown).collect();
        let heard = pair.since(first);
        let small = grown.values().all(|grown| *grown <= MEMORY_MAX);
        held = pass > 0 && small && heard.ratio() <= RATIO_MAX;
        let (calm, attack) = heard.p99();
        figures.push(told(format!(
            "pass {pass}: {grown:?} bytes more; {} + {} messages, p99 {calm:?} calm, {attack:?} \
             under attack, {:.2}",
            heard.calm.len(),
            heard.attack.len(),
            heard.ratio()
        )));
        if !report.failed.is_empty() {
            break;
        }
    }
    let first = pair.count();
    pair.set(Mood::Attack);
    let at_once = slow.iter().map(|(number, case)| one(on(case), case.clone(), *number));
    for (case, failure) in slow.iter().zip(join_all(at_once).await) {
        report.note(&case.1, failure);
    }
    report.faults.extend(fleet.faults());
    figures.push(format!("slow ones: p99 {:?} of {}", pair.since(first).p99().1, slow.len()));
    pair.end(&fleet).await;
    listening.abort();
    if let Err(heard) = listening.await
        && heard.is_panic()
    {
        report.faults.push("the friend heard what was refused".to_owned());
    }
    report.faults.extend(table::told_in_logs(&fleet.logs()));
    summary(&table, &report, &figures, fleet.redis.is_some(), lines);
    assert!(report.failed.is_empty() && report.faults.is_empty(), "see the summary");
    assert!(held, "no pass kept its bounds: {figures:#?}");
    drop(guarded);
    if let Ok(fleet) = Arc::try_unwrap(fleet) {
        fleet.stop().await;
    }
}

/// Said at once, past the capture of the test harness: a run takes minutes.
fn told(line: String) -> String {
    let _ = std::io::stderr().write_all(format!("corpus: {line}\n").as_bytes());
    line
}

/// One process that takes tokens only.
async fn guarded_fleet(fleet: &Fleet) -> Fleet {
    let file = fleet.folder().join("jwt-secret");
    std::fs::write(&file, token::SECRET).unwrap();
    let options = ["--jwt-secret-file", file.to_str().unwrap(), "--jwt-issuer", token::ISSUER];
    Fleet::start_with(Parts::Embedded, &options).await.unwrap()
}

/// All cases one after the other; attack and calm take turns.
async fn turns(
    cases: &[(usize, Case)],
    pair: &Bystanders,
    report: &mut Report,
    on: &impl Fn(&Case) -> Arc<Fleet>,
) {
    let mut begun = Instant::now();
    pair.set(Mood::Attack);
    for (number, case) in cases {
        let fleet = on(case);
        let failure = one(fleet.clone(), case.clone(), *number).await;
        report.note(case, failure);
        report
            .faults
            .extend(fleet.faults().iter().map(|f| format!("{} {}: {f}", case.row, case.what)));
        if begun.elapsed() >= TURN {
            pair.set(Mood::Calm);
            tokio::time::sleep(begun.elapsed().min(TURN * 3)).await;
            pair.set(Mood::Attack);
            begun = Instant::now();
        }
    }
    pair.set(Mood::Calm);
    tokio::time::sleep(TURN).await;
    pair.set(Mood::Between);
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
    let mut waiting: BTreeMap<Part, Vec<&str>> = BTreeMap::new();
    let (mut later, mut elsewhere) = (Vec::new(), Vec::new());
    for row in rows.values() {
        let cases: Vec<&Case> = table.iter().filter(|case| case.row == *row).collect();
        let wait = cases.iter().find_map(|case| case.waits);
        if let Some(failures) = report.failed.get(row) {
            failed += 1;
            text.push_str(&format!("  {row} FAILED:{failures}\n"));
        } else if let Some(part) = wait {
            waiting.entry(part).or_default().push(row);
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
    for (part, rows) in &waiting {
        let count = rows.len();
        head.push_str(&format!(", {count} waiting for {part:?} ({})", rows.join(" ")));
    }
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
