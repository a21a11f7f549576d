//! What came of a run, and how it is told.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

use crate::case::Case;
use crate::run::Lines;

#[derive(Default)]
pub struct Report {
    pub failed: BTreeMap<&'static str, String>,
    pub faults: Vec<String>,
    ran: usize,
    /// Row and line of what has run.
    lines: BTreeSet<(&'static str, &'static str)>,
    figures: Vec<String>,
}

impl Report {
    pub fn note(&mut self, case: &Case, failure: Option<String>) {
        self.ran += 1;
        self.lines.insert((case.row, case.what));
        if let Some(failure) = failure {
            let said: String = failure.chars().take(600).collect();
            let all = self.failed.entry(case.row).or_default();
            all.push_str(&format!("\n    {}: {said}", case.what));
        }
    }

    /// Said at once, past the capture of the test harness: a run takes minutes.
    pub fn figure(&mut self, line: String) {
        let _ = std::io::stderr().write_all(format!("corpus: {line}\n").as_bytes());
        self.figures.push(line);
    }

    fn has_run(&self, case: &Case) -> bool {
        self.lines.contains(&(case.row, case.what))
    }

    /// What became of each row.
    pub fn tell(&self, table: &[Case], parts: &str, lines: Lines) {
        let mut rows: BTreeMap<(char, u32), &'static str> = BTreeMap::new();
        for case in table {
            let (group, number) = case.row.split_at(1);
            rows.insert((group.chars().next().unwrap(), number.parse().unwrap()), case.row);
        }
        let (mut passed, mut failed, mut text) = (0, 0, String::new());
        let (mut later, mut elsewhere, mut left_out) = (Vec::new(), Vec::new(), Vec::new());
        for row in rows.values() {
            let cases: Vec<&Case> = table.iter().filter(|case| case.row == *row).collect();
            if let Some(failures) = self.failed.get(row) {
                failed += 1;
                text.push_str(&format!("  {row} FAILED:{failures}\n"));
            } else if cases.iter().any(|case| self.has_run(case)) {
                passed += 1;
                // What was left out of it has not passed.
                let left = cases.iter().filter(|case| !self.has_run(case));
                left_out.extend(left.map(|case| format!("{row} {}", case.what)));
            } else if lines == Lines::Ordinary && cases.iter().all(|case| case.long) {
                later.push(*row);
            } else {
                elsewhere.push(*row);
            }
        }
        let mut head = format!("corpus: {} rows, {passed} passed, {failed} failed", rows.len());
        for (what, rows) in [("in ./test full", &later), ("not on these parts", &elsewhere)] {
            if !rows.is_empty() {
                head.push_str(&format!(", {} {what} ({})", rows.len(), rows.join(" ")));
            }
        }
        let differs: usize = table.iter().filter(|case| case.differs.is_some()).count();
        text.push_str(&format!(
            "  {} exchanges with {parts}; {differs} lines differ by design\n",
            self.ran
        ));
        if !left_out.is_empty() {
            text.push_str(&format!("  left out of rows that passed: {}\n", left_out.join("; ")));
        }
        for line in self.figures.iter().chain(&self.faults) {
            text.push_str(&format!("  {line}\n"));
        }
        // Past the capture of the test harness: it is to be seen in every run.
        let _ = std::io::stderr().write_all(format!("\n{head}\n{text}").as_bytes());
    }
}
