//! The ledger: what every run found, kept as one JSON line for each round, and made into a page.
//!
//! The page is made from the lines alone, by the tool; nobody writes it by hand. Rows of other
//! systems under the same faults stand beside ours, made by their drivers in the same form.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::page;
use crate::checker::{Report, Verdict};

/// Our own name in the ledger.
pub(super) const PARLOR: &str = "parlor";

/// A round.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Record {
    /// Which system was attacked, with its version where it is not ours.
    pub system: String,
    /// The same for all rounds of one call.
    pub run: String,
    /// When it ended, in UTC.
    pub when: String,
    /// The commit of the servers.
    pub commit: String,
    /// There were changes that are not committed.
    pub dirty: bool,
    /// `fleet` or `embedded`.
    pub target: String,
    /// The seed of load and faults.
    pub seed: u64,
    /// How long faults were injected.
    pub seconds: u64,
    /// Makes it again.
    pub command: String,
    /// `pass`, `unknown` or `fail`.
    pub verdict: String,
    /// Messages that were acknowledged.
    pub acked: u64,
    /// Texts that came to devices.
    pub received: u64,
    /// Acknowledged messages that a device, a history or the store does not have.
    pub lost: u64,
    /// Repeats that a client can't drop.
    pub duplicated: u64,
    /// Texts, sends and entries out of order.
    pub reordered: u64,
    /// Received messages whose `delivered` never came.
    pub missing_statuses: u64,
    /// Violations by invariant.
    pub broken: BTreeMap<String, u64>,
    /// Faults that were injected, by kind.
    pub injected: BTreeMap<String, u64>,
    /// Faults that were seen to bite, by kind.
    pub effective: BTreeMap<String, u64>,
    /// How long each recovery took, in milliseconds, by kind.
    pub recovery_ms: BTreeMap<String, Vec<u64>>,
    /// Different pairs of kinds that ran at the same time, and bit.
    pub pairs: u64,
}

impl Record {
    /// Takes what the judge says.
    pub fn judged(mut self, report: &Report) -> Self {
        let counts = &report.counts;
        self.verdict = match report.verdict {
            Verdict::Pass => "pass",
            Verdict::Unknown => "unknown",
            Verdict::Fail => "fail",
        }
        .to_owned();
        (self.acked, self.received) = (counts.acked, counts.received);
        (self.lost, self.duplicated) = (counts.lost, counts.shown_twice);
        (self.reordered, self.missing_statuses) = (counts.reordered, counts.missing_statuses);
        let broken = report.broken.iter();
        self.broken = broken.map(|(invariant, n)| (format!("{invariant:?}"), *n)).collect();
        (self.injected, self.effective) = (counts.faults.clone(), counts.effective.clone());
        self
    }

    /// All effective faults.
    pub fn effective_faults(&self) -> u64 {
        self.effective.values().sum()
    }

    /// All injected faults.
    pub fn injected_faults(&self) -> u64 {
        self.injected.values().sum()
    }
}

/// The page beside the lines: `ledger.jsonl` has `ledger.md`.
pub(super) fn page_of(lines: &Path) -> PathBuf {
    lines.with_extension("md")
}

/// Adds a round and makes the page anew.
pub(super) fn add(lines: &Path, record: &Record) -> anyhow::Result<()> {
    let mut line = serde_json::to_string(record)?;
    line.push('\n');
    let mut file = OpenOptions::new().create(true).append(true).open(lines)?;
    file.write_all(line.as_bytes()).with_context(|| format!("writing {}", lines.display()))?;
    make(&[lines.to_owned()]).map(|_| ())
}

/// Makes the page of the first file from the lines of all; gives its place.
pub(super) fn make(files: &[PathBuf]) -> anyhow::Result<PathBuf> {
    let first = files.first().context("say which ledger: docs/ledger.jsonl")?;
    let mut records = Vec::new();
    for file in files {
        records.extend(read(file)?);
    }
    let page = page_of(first);
    std::fs::write(&page, page::render(&records))?;
    Ok(page)
}

fn read(file: &Path) -> anyhow::Result<Vec<Record>> {
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let record = |(number, line): (usize, &str)| {
        let at = || format!("{}:{}", file.display(), number + 1);
        serde_json::from_str(line).with_context(at)
    };
    lines.map(record).collect()
}

/// The commit that this was built of, and whether the sources had other changes.
pub(super) fn commit() -> (&'static str, bool) {
    (env!("PARLOR_COMMIT"), env!("PARLOR_DIRTY") != "false")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_is_added_and_the_page_made_from_all_lines() {
        let folder = tempfile::tempdir().unwrap();
        let lines = folder.path().join("ledger.jsonl");
        let record = Record {
            system: PARLOR.to_owned(),
            run: "a".to_owned(),
            acked: 41,
            ..Default::default()
        };
        add(&lines, &record).unwrap();
        add(&lines, &Record { seed: 1, acked: 1, ..record.clone() }).unwrap();
        assert_eq!(read(&lines).unwrap()[0], record);
        let page = std::fs::read_to_string(page_of(&lines)).unwrap();
        assert!(page.contains("| acked messages | 42 |"), "{page}");
        std::fs::write(&lines, "{\"seed\":\"one\"}\n").unwrap();
        let error = format!("{:#}", make(&[lines]).unwrap_err());
        assert!(error.contains("ledger.jsonl:1"), "{error}");
    }
}
