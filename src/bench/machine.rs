//! Where a figure was measured: it means little without.

use std::fs::read_to_string;

use serde_json::{Value, json};

/// The version, and the commit that it was built of.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("PARLOR_COMMIT"), ")");
/// Arguments after which a secret stands.
const SECRETS: [&str; 2] = ["--token", "--redis"];

/// The machine, as it was when the run began.
pub(super) fn describe() -> Value {
    let read = |path| read_to_string(path).unwrap_or_default();
    let (cpu, memory) = (read("/proc/cpuinfo"), read("/proc/meminfo"));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    json!({
        "cpu": field(&cpu, "model name"),
        "cores": cores,
        "memory": field(&memory, "MemTotal"),
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "load_average": read("/proc/loadavg").split_whitespace().next(),
        "version": VERSION,
        "command": command(std::env::args().skip(1)),
    })
}

fn field(text: &str, name: &str) -> String {
    let line = text.lines().find(|line| line.starts_with(name));
    line.and_then(|line| line.split_once(':')).map_or("", |(_, value)| value.trim()).to_owned()
}

/// The command line without what may be secret in it.
fn command(arguments: impl Iterator<Item = String>) -> String {
    let mut words = vec!["parlor".to_owned()];
    for word in arguments {
        let (name, value) = word.split_once('=').unwrap_or((&word, ""));
        let hidden = words.last().is_some_and(|last| SECRETS.contains(&last.as_str()));
        words.push(match (hidden, SECRETS.contains(&name) && !value.is_empty()) {
            (true, _) => "…".to_owned(),
            (_, true) => format!("{name}=…"),
            _ => word,
        });
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_tells_where_and_how_and_no_secret() {
        let told = describe();
        assert!(told["cores"].as_u64() > Some(0) && told["version"].is_string(), "{told}");
        let words = ["bench", "--token", "abc", "--redis=redis://:pw@h", "--json"];
        let said = command(words.into_iter().map(str::to_owned));
        assert_eq!(said, "parlor bench --token … --redis=… --json");
        assert_eq!(field("MemTotal:   9 kB\n", "MemTotal"), "9 kB");
    }
}
