//! What processes use, as Linux counts it.

use serde_json::json;

use super::kernel::Kernel;
use super::report::Row;

/// `USER_HZ`, which is 100 on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// Memory and CPU of a process at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Sample {
    /// Resident memory.
    pub rss_kib: u64,
    /// The part of it that no file backs.
    pub anon_kib: u64,
    /// What this process alone has, and could not read again from a file.
    pub private_kib: u64,
    /// User and system time so far.
    pub cpu_seconds: f64,
}

impl Sample {
    /// Reads /proc; `None` if there is no such process.
    pub fn of(pid: u32) -> Option<Self> {
        let read = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}"));
        // Of another user's process this is not told, nor of one that keeps to itself (without
        // PARLOR_INSPECTABLE=1) to who is not root; what no file backs comes close.
        let rollup = read("smaps_rollup").unwrap_or_default();
        Self::parse(&read("status").ok()?, &read("stat").ok()?, &rollup)
    }

    fn parse(status: &str, stat: &str, rollup: &str) -> Option<Self> {
        let kib = |text: &str, name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim_start_matches(':').split_whitespace().next()?.parse::<u64>().ok()
        };
        // The command's name stands in parentheses and may itself hold spaces and parentheses.
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
        let mut ticks = || fields.next()?.parse::<u64>().ok();
        let cpu_seconds = (ticks()? + ticks()?) as f64 / TICKS_PER_SECOND;
        let anon_kib = kib(status, "RssAnon")?;
        // Clean pages are the program, which is private until another process runs it too.
        let private_kib = kib(rollup, "Private_Dirty").unwrap_or(anon_kib);
        Some(Self { rss_kib: kib(status, "VmRSS")?, anon_kib, private_kib, cpu_seconds })
    }
}

/// Those of these processes that are not there, or can't be read.
pub(super) fn unreadable(pids: &[u32]) -> Vec<u32> {
    pids.iter().copied().filter(|pid| Sample::of(*pid).is_none()).collect()
}

/// All of them and the kernel at one moment.
#[derive(Debug, Clone)]
struct Moment {
    name: &'static str,
    samples: Vec<Sample>,
    kernel: Kernel,
}

/// The same processes at several moments.
#[derive(Debug)]
pub(super) struct Watch {
    processes: Vec<(String, u32)>,
    moments: Vec<Moment>,
}

impl Watch {
    /// Takes the first moment, `before`.
    pub fn new(processes: &[(String, u32)]) -> Self {
        let mut watch = Self { processes: processes.to_vec(), moments: Vec::new() };
        watch.mark("before");
        watch
    }

    /// Takes another moment.
    pub fn mark(&mut self, name: &'static str) {
        let sample = |(_, pid): &(String, u32)| Sample::of(*pid).unwrap_or_default();
        let samples = self.processes.iter().map(sample).collect();
        self.moments.push(Moment { name, samples, kernel: Kernel::now() });
    }

    /// The last moment's name.
    pub fn last(&self) -> &'static str {
        self.moments.last().map_or("", |moment| moment.name)
    }

    /// Whether there is anything to watch.
    pub fn is_empty(&self) -> bool {
        self.processes.is_empty()
    }

    fn sum(&self, name: &str, of: impl Fn(&Sample) -> f64) -> f64 {
        let moment = self.moments.iter().rfind(|moment| moment.name == name);
        moment.map_or(0.0, |moment| moment.samples.iter().map(of).sum())
    }

    /// CPU of all between two moments.
    pub fn cpu_seconds(&self, from: &str, to: &str) -> f64 {
        self.sum(to, |sample| sample.cpu_seconds) - self.sum(from, |sample| sample.cpu_seconds)
    }

    /// The memory of all that nobody else shares, in bytes.
    pub fn private_bytes(&self, name: &str) -> f64 {
        self.sum(name, |sample| sample.private_kib as f64) * 1_024.0
    }

    /// The memory of all that no file backs, in bytes.
    pub fn anonymous_bytes(&self, name: &str) -> f64 {
        self.sum(name, |sample| sample.anon_kib as f64) * 1_024.0
    }

    /// The kernel at that moment.
    pub fn kernel(&self, name: &str) -> Kernel {
        let moment = self.moments.iter().rfind(|moment| moment.name == name);
        moment.map(|moment| moment.kernel).unwrap_or_default()
    }

    /// How much the memory of all grew between two moments, in bytes.
    pub fn grown_bytes(&self, from: &str, to: &str) -> f64 {
        self.private_bytes(to) - self.private_bytes(from)
    }

    /// A row for each process and moment.
    pub fn rows(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        for (index, (process, _)) in self.processes.iter().enumerate() {
            for moment in &self.moments {
                let sample = moment.samples.get(index).copied().unwrap_or_default();
                rows.push(vec![
                    ("process", json!(process)),
                    ("moment", json!(moment.name)),
                    ("rss MiB", json!(tenths(sample.rss_kib as f64 / 1_024.0))),
                    ("private MiB", json!(tenths(sample.private_kib as f64 / 1_024.0))),
                    ("anonymous MiB", json!(tenths(sample.anon_kib as f64 / 1_024.0))),
                    ("CPU s", json!(sample.cpu_seconds)),
                ]);
            }
        }
        rows
    }
}

pub(super) fn tenths(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_whatever_its_name() {
        let status = "Name:\tx\nVmRSS:\t  2048 kB\nRssAnon:\t 1024 kB\n";
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 100 0 0 0 150 50 0 0 20 0 4 0 1 2 3";
        let rollup = "Private_Clean:        36 kB\nPrivate_Dirty:      1012 kB\n";
        let sample = Sample::parse(status, stat, rollup).unwrap();
        let (rss_kib, anon_kib, cpu_seconds) = (2_048, 1_024, 2.0);
        let told = Sample { rss_kib, anon_kib, private_kib: 1_012, cpu_seconds };
        assert_eq!(sample, told);
        let hidden = Sample::parse(status, stat, "").unwrap();
        assert_eq!(hidden, Sample { private_kib: 1_024, ..told });
        assert!(Sample::of(std::process::id()).unwrap().rss_kib > 0);
        assert_eq!(Sample::of(u32::MAX), None);
    }

    #[test]
    fn a_process_that_has_ended_is_not_one_that_uses_nothing() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pids = [child.id(), std::process::id()];
        assert!(unreadable(&pids).is_empty());
        child.kill().unwrap();
        // As long as nobody has waited for it, its entry stays, and is empty.
        while !unreadable(&pids).contains(&child.id()) {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        child.wait().unwrap();
        assert_eq!(unreadable(&pids), [child.id()]);
    }
}
