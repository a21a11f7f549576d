//! The ledger as a page for people: totals, a row for each run, faults by kind, other systems.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::ledger::{PARLOR, Record};

const HEAD: &str = "\
# Ledger

Made by `parlor torture` from `ledger.jsonl`; not written by hand. Every round that came to its \
end stands here, the bad ones too: what was wrong, and what was done, is told in \
[guarantees.md](guarantees.md#what-the-ledger-has-found). *Effective* faults were seen to bite \
by a probe (a process died, calls failed, bytes were held back); others count for nothing. \
*Lost*: an acknowledged message that a device of a participant, a history or the store does not \
have after the drain. *Duplicated*: shown twice to an application that drops repeats by \
`(conversation, seq)`. *Reordered*: shown out of the order of the log, or stored out of the \
order of its sends.

";

/// What several rounds add up to.
#[derive(Default)]
struct Sum {
    rounds: u64,
    acked: u64,
    received: u64,
    lost: u64,
    duplicated: u64,
    reordered: u64,
    missing: u64,
    injected: u64,
    effective: u64,
    pairs: u64,
    seconds: u64,
    verdicts: BTreeMap<String, u64>,
}

impl Sum {
    fn of<'a>(records: impl IntoIterator<Item = &'a Record>) -> Self {
        let mut sum = Self::default();
        for record in records {
            sum.rounds += 1;
            sum.acked += record.acked;
            sum.received += record.received;
            sum.lost += record.lost;
            sum.duplicated += record.duplicated;
            sum.reordered += record.reordered;
            sum.missing += record.missing_statuses;
            sum.injected += record.injected_faults();
            sum.effective += record.effective_faults();
            sum.pairs = sum.pairs.max(record.pairs);
            sum.seconds += record.seconds;
            *sum.verdicts.entry(record.verdict.clone()).or_default() += 1;
        }
        sum
    }

    /// `pass`, or how many of each.
    fn verdict(&self) -> String {
        let one = |(verdict, count): (&String, &u64)| match self.verdicts.len() {
            1 => verdict.clone(),
            _ => format!("{count} {verdict}"),
        };
        self.verdicts.iter().map(one).collect::<Vec<_>>().join(", ")
    }
}

/// The whole page.
pub(super) fn render(records: &[Record]) -> String {
    let mut page = HEAD.to_owned();
    let ours: Vec<&Record> = records.iter().filter(|r| r.system == PARLOR).collect();
    totals(&mut page, &ours);
    runs(&mut page, &ours);
    kinds(&mut page, &ours);
    others(&mut page, records);
    page
}

/// The totals of a call, for the screen.
pub(super) fn summary(records: &[Record]) -> String {
    let sum = Sum::of(records);
    format!(
        "{} rounds: {} effective faults of {}, {} messages acked, {} lost, {} duplicated, \
         {} reordered, {} statuses missing: {}\n",
        sum.rounds,
        thousands(sum.effective),
        thousands(sum.injected),
        thousands(sum.acked),
        sum.lost,
        sum.duplicated,
        sum.reordered,
        sum.missing,
        sum.verdict()
    )
}

fn totals(page: &mut String, ours: &[&Record]) {
    let sum = Sum::of(ours.iter().copied());
    page.push_str("## In all\n\n| | |\n|---|---|\n");
    let rows = [
        ("rounds", thousands(sum.rounds)),
        ("acked messages", thousands(sum.acked)),
        ("texts received by devices", thousands(sum.received)),
        (
            "effective faults",
            format!("{} of {}", thousands(sum.effective), thousands(sum.injected)),
        ),
        ("**lost**", format!("**{}**", thousands(sum.lost))),
        ("**duplicated**", format!("**{}**", thousands(sum.duplicated))),
        ("**reordered**", format!("**{}**", thousands(sum.reordered))),
        ("missing statuses", thousands(sum.missing)),
        ("verdicts", sum.verdict()),
    ];
    for (name, value) in rows {
        let _ = writeln!(page, "| {name} | {value} |");
    }
    page.push('\n');
}

fn runs(page: &mut String, ours: &[&Record]) {
    page.push_str(
        "## Runs\n\nNewest last. `+` after a commit: with changes that are not in it. Behind a \
         verdict that is no pass: the judge's invariants that were broken, and how often. I15: \
         after the faults all is as before within 30 s. I16: nothing breaks, nothing leaks. The \
         others: [guarantees.md](guarantees.md).\n\n\
         | when | commit | target | seeds | seconds | effective / injected | acked | lost | \
         duplicated | reordered | missing statuses | verdict | again by |\n\
         |---|---|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    let mut runs: Vec<Vec<&Record>> = Vec::new();
    for record in ours {
        match runs.last_mut().filter(|run| run[0].run == record.run) {
            Some(run) => run.push(record),
            None => runs.push(vec![record]),
        }
    }
    for run in runs {
        let (first, last) = (run[0], run[run.len() - 1]);
        let sum = Sum::of(run.iter().copied());
        let seeds = match first.seed == last.seed {
            true => first.seed.to_string(),
            false => format!("{}–{}", first.seed, last.seed),
        };
        let dirty = if first.dirty { "+" } else { "" };
        let broken: Vec<String> =
            broken(&run).into_iter().map(|(i, n)| format!("{i}: {n}")).collect();
        let broken =
            if broken.is_empty() { String::new() } else { format!(" ({})", broken.join(", ")) };
        let _ = writeln!(
            page,
            "| {} | {}{dirty} | {} | {seeds} | {} | {} / {} | {} | {} | {} | {} | {} | \
             {}{broken} | `{}` |",
            last.when,
            first.commit,
            first.target,
            sum.seconds,
            sum.effective,
            sum.injected,
            thousands(sum.acked),
            sum.lost,
            sum.duplicated,
            sum.reordered,
            sum.missing,
            sum.verdict(),
            first.command
        );
    }
    page.push('\n');
}

fn broken(run: &[&Record]) -> BTreeMap<String, u64> {
    let mut broken = BTreeMap::new();
    for (invariant, count) in run.iter().flat_map(|record| &record.broken) {
        *broken.entry(invariant.clone()).or_default() += count;
    }
    broken
}

fn kinds(page: &mut String, ours: &[&Record]) {
    let mut kinds: BTreeMap<&str, (u64, u64, Vec<u64>)> = BTreeMap::new();
    for record in ours {
        for (kind, count) in &record.injected {
            kinds.entry(kind).or_default().1 += count;
        }
        for (kind, count) in &record.effective {
            kinds.entry(kind).or_default().0 += count;
        }
        for (kind, times) in &record.recovery_ms {
            kinds.entry(kind).or_default().2.extend(times);
        }
    }
    page.push_str(
        "## Faults\n\nRecovery: of a death, from the death until everybody who lost a connection \
         is back and has caught up; of other faults, from their end until the target does its work \
         again. Measured of those that were injected while nothing else was wrong.\n\n\
         | kind | effective / injected | recovery p50 | max |\n|---|---|---|---|\n",
    );
    for (kind, (effective, injected, mut times)) in kinds {
        times.sort_unstable();
        let (middle, most) = match (times.get(times.len() / 2), times.last()) {
            (Some(middle), Some(most)) => (seconds(*middle), seconds(*most)),
            _ => ("–".to_owned(), "–".to_owned()),
        };
        let _ = writeln!(page, "| {kind} | {effective} / {injected} | {middle} | {most} |");
    }
    page.push('\n');
}

fn others(page: &mut String, records: &[Record]) {
    let mut systems: BTreeMap<&str, Vec<&Record>> = BTreeMap::new();
    for record in records {
        systems.entry(&record.system).or_default().push(record);
    }
    page.push_str("## Beside others\n\n");
    if systems.keys().all(|system| *system == PARLOR) {
        page.push_str("No other system has been put under these faults yet.\n");
        return;
    }
    page.push_str(
        "Others promise less, and say so: Socket.IO promises delivery at most once and stores \
         nothing, so what it loses is no fault of its own. Its faults are kinds of those above, \
         its clients do not send again what was not acknowledged, and there is no number by which \
         they could drop repeats; Parlor's do both. What is counted: [its driver]\
         (../bench/peers/socketio/README.md).\n\n\
         | system | effective faults | acked | lost | duplicated | reordered | again by |\n\
         |---|---|---|---|---|---|---|\n",
    );
    for (system, records) in systems {
        let sum = Sum::of(records.iter().copied());
        let command = match (system, &records[..]) {
            (PARLOR, _) | (_, []) => "see Runs".to_owned(),
            (_, [.., record]) => format!("`{}`", record.command),
        };
        let _ = writeln!(
            page,
            "| {system} | {} | {} | {} | {} | {} | {command} |",
            thousands(sum.effective),
            thousands(sum.acked),
            thousands(sum.lost),
            thousands(sum.duplicated),
            thousands(sum.reordered)
        );
    }
}

fn seconds(millis: u64) -> String {
    format!("{:.1} s", millis as f64 / 1_000.0)
}

/// `1234567` → `1,234,567`.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(run: &str, seed: u64) -> Record {
        Record {
            system: PARLOR.to_owned(),
            run: run.to_owned(),
            commit: "abc".to_owned(),
            seed,
            seconds: 60,
            verdict: "pass".to_owned(),
            acked: 700_000,
            injected: BTreeMap::from([("server-killed".to_owned(), 5)]),
            effective: BTreeMap::from([("server-killed".to_owned(), 4)]),
            recovery_ms: BTreeMap::from([("server-killed".to_owned(), vec![900, 1_500, 1_200])]),
            ..Record::default()
        }
    }

    #[test]
    fn rounds_of_a_run_make_one_row_and_bad_ones_are_named() {
        let bad = Record {
            verdict: "fail".to_owned(),
            lost: 2,
            dirty: true,
            broken: BTreeMap::from([("I1".to_owned(), 3)]),
            ..round("b", 9)
        };
        let other = Record { system: "other 1.0".to_owned(), lost: 77, ..round("c", 1) };
        let page = render(&[round("a", 7), round("a", 8), bad, other]);
        assert!(page.contains("| acked messages | 2,100,000 |"), "{page}");
        assert!(page.contains("| **lost** | **2** |"), "{page}");
        assert!(page.contains("| abc |  | 7–8 | 120 | 8 / 10 | 1,400,000 | 0 |"), "{page}");
        assert!(page.contains("| abc+ |  | 9 | 60 |") && page.contains("fail (I1: 3)"), "{page}");
        assert!(page.contains("| server-killed | 12 / 15 | 1.2 s | 1.5 s |"), "{page}");
        assert!(page.contains("| other 1.0 | 4 | 700,000 | 77 |"), "{page}");
        assert_eq!(
            (thousands(0), thousands(999), thousands(1_000)),
            ("0".into(), "999".into(), "1,000".into())
        );
    }
}
