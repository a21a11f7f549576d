//! Histories in files: the lines of many processes, merged by time, and judged.
//!
//! A killed client leaves half a line at the end of its file; that and other damage is counted,
//! and no reason to give up.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

use super::evidence::Evidence;
use super::gate::Gates;
use super::history::Event;
use super::judge::Checker;
use super::report::Report;

/// A writer's threads may write lines out of order, within so many.
const WINDOW: usize = 256;
/// One file, its lines in order.
struct Lines {
    reader: BufReader<File>,
    window: BTreeMap<(u64, u64), Event>,
    number: u64,
    ended: bool,
    torn: u64,
    damaged: u64,
}

impl Lines {
    fn open(path: &Path) -> io::Result<Self> {
        let named =
            |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        let reader = BufReader::with_capacity(1 << 16, File::open(path).map_err(named)?);
        let window = BTreeMap::new();
        Ok(Self { reader, window, number: 0, ended: false, torn: 0, damaged: 0 })
    }

    fn fill(&mut self) -> io::Result<()> {
        let mut line = Vec::new();
        while !self.ended && self.window.len() < WINDOW {
            line.clear();
            self.ended = self.reader.read_until(b'\n', &mut line)? == 0;
            if line.trim_ascii().is_empty() {
                continue;
            }
            match serde_json::from_slice::<Event>(&line) {
                Ok(event) => {
                    self.number += 1;
                    self.window.insert((event.t, self.number), event);
                }
                Err(_) if line.last() != Some(&b'\n') => self.torn += 1,
                Err(_) => self.damaged += 1,
            }
        }
        Ok(())
    }

    fn next_time(&mut self) -> io::Result<Option<u64>> {
        self.fill()?;
        Ok(self.window.first_key_value().map(|((t, _), _)| *t))
    }
}

/// What could not be read.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Damage {
    /// Half lines at the end of a file.
    pub torn: u64,
    /// Other lines.
    pub damaged: u64,
}

/// Gives the events of all files, by time.
pub fn merge<P: AsRef<Path>>(paths: &[P], mut take: impl FnMut(Event)) -> io::Result<Damage> {
    let opened = paths.iter().map(|path| Lines::open(path.as_ref()));
    let mut files = opened.collect::<io::Result<Vec<_>>>()?;
    let mut next = BinaryHeap::new();
    for (at, file) in files.iter_mut().enumerate() {
        next.extend(file.next_time()?.map(|t| Reverse((t, at))));
    }
    while let Some(Reverse((_, at))) = next.pop() {
        if let Some((_, event)) = files[at].window.pop_first() {
            take(event);
        }
        next.extend(files[at].next_time()?.map(|t| Reverse((t, at))));
    }
    let torn = files.iter().map(|file| file.torn).sum();
    Ok(Damage { torn, damaged: files.iter().map(|file| file.damaged).sum() })
}

/// Judges what many processes wrote.
pub fn judge_files<P: AsRef<Path>>(paths: &[P], gates: Gates) -> io::Result<Report> {
    let mut checker = Checker::new(gates);
    let damage = merge(paths, |event| checker.feed(event))?;
    let mut report = checker.finish();
    (report.counts.torn_lines, report.counts.damaged_lines) = (damage.torn, damage.damaged);
    if !report.violations.is_empty() {
        // Only now is known which of the many lines tell the story.
        let mut evidence = Evidence::new(&mut report.violations);
        merge(paths, |event| evidence.look(&event))?;
    }
    Ok(report)
}

/// Judges a history in memory.
pub fn judge(events: &[Event], gates: Gates) -> Report {
    let mut order: Vec<&Event> = events.iter().collect();
    order.sort_by_key(|event| event.t);
    let mut checker = Checker::new(gates);
    order.iter().for_each(|event| checker.feed((*event).clone()));
    let mut report = checker.finish();
    let mut evidence = Evidence::new(&mut report.violations);
    order.iter().for_each(|event| evidence.look(event));
    report
}
