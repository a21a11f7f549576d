//! What a process uses, as Linux counts it.

use serde_json::json;

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
    /// User and system time so far.
    pub cpu_seconds: f64,
}

impl Sample {
    /// Reads /proc; `None` if there is no such process.
    pub fn of(pid: u32) -> Option<Self> {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Self::parse(&status, &stat)
    }

    fn parse(status: &str, stat: &str) -> Option<Self> {
        let kib = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim_start_matches(':').split_whitespace().next()?.parse().ok()
        };
        // The command's name stands in parentheses and may itself hold spaces and parentheses.
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
        let mut ticks = || fields.next()?.parse::<u64>().ok();
        let cpu_seconds = (ticks()? + ticks()?) as f64 / TICKS_PER_SECOND;
        Some(Self { rss_kib: kib("VmRSS")?, anon_kib: kib("RssAnon")?, cpu_seconds })
    }
}

/// The same processes at several moments.
#[derive(Debug)]
pub(super) struct Watch {
    processes: Vec<(String, u32)>,
    moments: Vec<(&'static str, Vec<Sample>)>,
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
        self.moments.push((name, samples));
    }

    /// Whether there is anything to watch.
    pub fn is_empty(&self) -> bool {
        self.processes.is_empty()
    }

    fn total(&self, name: &str) -> Sample {
        let mut total = Sample::default();
        let moment = self.moments.iter().find(|(moment, _)| *moment == name);
        for sample in moment.into_iter().flat_map(|(_, samples)| samples) {
            total.rss_kib += sample.rss_kib;
            total.anon_kib += sample.anon_kib;
            total.cpu_seconds += sample.cpu_seconds;
        }
        total
    }

    /// CPU of all between two moments.
    pub fn cpu_seconds(&self, from: &str, to: &str) -> f64 {
        self.total(to).cpu_seconds - self.total(from).cpu_seconds
    }

    /// How much the resident memory of all grew between two moments, in bytes.
    pub fn grown_bytes(&self, from: &str, to: &str) -> f64 {
        (self.total(to).rss_kib as f64 - self.total(from).rss_kib as f64) * 1_024.0
    }

    /// A row for each process and moment.
    pub fn rows(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        for (index, (process, _)) in self.processes.iter().enumerate() {
            for (name, samples) in &self.moments {
                let sample = samples.get(index).copied().unwrap_or_default();
                rows.push(vec![
                    ("process", json!(process)),
                    ("moment", json!(name)),
                    ("rss MiB", json!(tenths(sample.rss_kib as f64 / 1_024.0))),
                    ("anonymous MiB", json!(tenths(sample.anon_kib as f64 / 1_024.0))),
                    ("CPU s", json!(sample.cpu_seconds)),
                ]);
            }
        }
        rows
    }
}

fn tenths(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_whatever_its_name() {
        let status = "Name:\tx\nVmRSS:\t  2048 kB\nRssAnon:\t 1024 kB\n";
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 100 0 0 0 150 50 0 0 20 0 4 0 1 2 3";
        let sample = Sample::parse(status, stat).unwrap();
        assert_eq!(sample, Sample { rss_kib: 2_048, anon_kib: 1_024, cpu_seconds: 2.0 });
        assert!(Sample::of(std::process::id()).unwrap().rss_kib > 0);
        assert_eq!(Sample::of(u32::MAX), None);
    }
}
