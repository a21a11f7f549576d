//! What a run has to say: for a person as a table, for a script as one line of JSON.

use std::io::IsTerminal;
use std::time::Duration;

use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value, json};

use super::flow::Faults;
use super::machine;
use super::plot::{Chart, svg};

/// Longer waits count as this.
const LATENCY_US_MAX: u64 = 120_000_000;
/// Two digits are good to 1 %, and keep a histogram small enough for each pair to have its own.
const DIGITS: u8 = 2;

/// What a distribution tells, in the order of reading, and how that is shown.
const QUANTILES: [(&str, &str); 6] = [
    ("p50_ms", "ms: p50"),
    ("p90_ms", "p90"),
    ("p99_ms", "p99"),
    ("p999_ms", "p99.9"),
    ("max_ms", "max"),
    ("count", "of"),
];

/// Latencies in microseconds.
#[derive(Debug, Clone)]
pub(super) struct Latency(Histogram<u64>);

impl Latency {
    /// None yet.
    pub fn new() -> Self {
        // The bounds are constants that the constructor accepts; a failure could only be theirs.
        let made = Histogram::new_with_bounds(1, LATENCY_US_MAX, DIGITS);
        Self(made.unwrap_or_else(|error| unreachable!("{error}")))
    }

    /// One more.
    pub fn record(&mut self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(LATENCY_US_MAX);
        self.0.saturating_record(micros.clamp(1, LATENCY_US_MAX));
    }

    /// All of another one.
    pub fn add(&mut self, other: &Latency) {
        // Same bounds, so it can't fail.
        let _ = self.0.add(&other.0);
    }

    /// How many.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// In milliseconds: so much of all was as fast or faster.
    pub fn quantile_ms(&self, quantile: f64) -> f64 {
        self.0.value_at_quantile(quantile) as f64 / 1_000.0
    }

    fn figures(&self) -> Value {
        let ms = |quantile| self.quantile_ms(quantile);
        json!({"p50_ms": ms(0.5), "p90_ms": ms(0.9), "p99_ms": ms(0.99), "p999_ms": ms(0.999),
            "max_ms": self.0.max() as f64 / 1_000.0, "count": self.0.len()})
    }
}

impl Default for Latency {
    fn default() -> Self {
        Self::new()
    }
}

/// From one process of the load to another: each value that came, and how often.
impl Serialize for Latency {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let recorded = self.0.iter_recorded();
        let pair = |step: hdrhistogram::iterators::IterationValue<u64>| {
            (step.value_iterated_to(), step.count_at_value())
        };
        serializer.collect_seq(recorded.map(pair))
    }
}

impl<'de> Deserialize<'de> for Latency {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut latency = Self::new();
        for (value, count) in Vec::<(u64, u64)>::deserialize(deserializer)? {
            latency.0.saturating_record_n(value, count);
        }
        Ok(latency)
    }
}

/// A row of a table: its cells in the order of the columns.
pub(super) type Row = Vec<(&'static str, Value)>;

/// The report of a run.
#[derive(Debug)]
pub(super) struct Report {
    scenario: &'static str,
    figures: Vec<(&'static str, Value)>,
    tables: Vec<(&'static str, Vec<Row>)>,
    failures: Vec<String>,
    /// What `--plot` draws, beside the distributions.
    charts: Vec<Chart>,
    /// All distributions.
    latencies: Chart,
    machine: Value,
}

impl Report {
    /// Nothing yet, and nothing wrong.
    pub fn new(scenario: &'static str) -> Self {
        Self {
            scenario,
            figures: Vec::new(),
            tables: Vec::new(),
            failures: Vec::new(),
            charts: Vec::new(),
            latencies: Chart::latency(),
            machine: machine::describe(),
        }
    }

    /// A figure under a name that says its unit, as in `open_seconds`.
    pub fn figure(&mut self, name: &'static str, value: impl Into<Value>) {
        self.figures.push((name, value.into()));
    }

    /// A figure with three digits behind the point.
    pub fn decimal(&mut self, name: &'static str, value: f64) {
        self.figure(name, (value * 1_000.0).round() / 1_000.0);
    }

    /// A distribution.
    pub fn latency(&mut self, name: &'static str, latency: &Latency) {
        self.figure(name, latency.figures());
        self.line(name.replace('_', " "), latency);
    }

    /// A distribution that is only drawn, since a table has its figures.
    pub fn line(&mut self, name: String, latency: &Latency) {
        if latency.count() > 0 {
            self.latencies.distribution(name, latency);
        }
    }

    /// Another chart.
    pub fn chart(&mut self, chart: Chart) {
        self.charts.push(chart);
    }

    /// All charts as SVG.
    pub fn svg(&self) -> String {
        let latencies = (!self.latencies.is_empty()).then_some(&self.latencies);
        let charts: Vec<_> = self.charts.iter().chain(latencies).cloned().collect();
        svg(&charts)
    }

    /// Rows that all have the same fields.
    pub fn table(&mut self, name: &'static str, rows: Vec<Row>) {
        if !rows.is_empty() {
            self.tables.push((name, rows));
        }
    }

    /// The run is a failed one, and why.
    pub fn fail(&mut self, why: impl Into<String>) {
        self.failures.push(why.into());
    }

    /// Every fault that is not zero makes a failed run.
    pub fn faults(&mut self, faults: Faults) {
        for (name, count) in faults.named() {
            self.figures.push((name, count.into()));
            if count > 0 {
                self.fail(format!("{count} messages {name}"));
            }
        }
    }

    /// Whether nothing went wrong.
    pub fn is_good(&self) -> bool {
        self.failures.is_empty()
    }

    /// To stdout.
    pub fn print(&self, as_json: bool) {
        if as_json {
            println!("{}", self.json());
        } else {
            print!("{}", self.text());
        }
    }

    fn json(&self) -> Value {
        let mut object = Map::new();
        object.insert("scenario".into(), self.scenario.into());
        object.insert("good".into(), self.is_good().into());
        object.insert("failures".into(), self.failures.clone().into());
        object.insert("machine".into(), self.machine.clone());
        for (name, value) in &self.figures {
            object.insert(name.replace(' ', "_"), value.clone());
        }
        for (name, rows) in &self.tables {
            let named = |(name, cell): &(&str, Value)| (name.replace(' ', "_"), cell.clone());
            let object_of = |row: &Row| Value::Object(row.iter().map(named).collect());
            object.insert((*name).into(), rows.iter().map(object_of).collect());
        }
        Value::Object(object)
    }

    fn text(&self) -> String {
        let mut out = format!("parlor bench {}\n", self.scenario);
        for (name, rows) in &self.tables {
            out.push_str(&format!("\n{}\n", name.replace('_', " ")));
            table(rows, &mut out);
        }
        out.push('\n');
        for (name, value) in &self.figures {
            out.push_str(&format!("  {:<32} {}\n", name.replace('_', " "), shown(value)));
        }
        for failure in &self.failures {
            out.push_str(&format!("\nFAILED: {failure}"));
        }
        out.push_str(if self.is_good() { "\nnothing lost\n" } else { "\n" });
        out
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Object(fields) => {
            let known =
                QUANTILES.iter().filter_map(|(name, shown)| Some((shown, fields.get(*name)?)));
            let shown = known.map(|(name, value)| format!("{name} {}", self::shown(value)));
            shown.collect::<Vec<_>>().join(", ")
        }
        Value::Number(number) => match (number.as_u64(), number.as_f64()) {
            (Some(whole), _) => grouped(whole),
            // Digits that mean nothing are left to `--json`.
            (None, Some(large)) if large >= 1_000.0 => grouped(large.round() as u64),
            (None, Some(some)) if some >= 100.0 => format!("{some:.1}"),
            _ => number.to_string(),
        },
        other => other.to_string(),
    }
}

/// 250000 → 250,000: from five digits on, since a port or a year is none.
fn grouped(number: u64) -> String {
    if number < 10_000 {
        return number.to_string();
    }
    format!("{},{:03}", grouped_all(number / 1_000), number % 1_000)
}

fn grouped_all(number: u64) -> String {
    match number {
        0..1_000 => number.to_string(),
        more => format!("{},{:03}", grouped_all(more / 1_000), more % 1_000),
    }
}

fn table(rows: &[Row], out: &mut String) {
    let Some(first) = rows.first() else { return };
    let cell = |row: &Row, column: usize| row.get(column).map(|(_, cell)| shown(cell));
    let width = |(column, (name, _)): (usize, &(&str, Value))| {
        let cells = rows.iter().filter_map(|row| Some(cell(row, column)?.len()));
        cells.chain([name.len()]).max().unwrap_or_default()
    };
    let widths: Vec<usize> = first.iter().enumerate().map(width).collect();
    for ((name, _), width) in first.iter().zip(&widths) {
        out.push_str(&format!("  {name:>width$}"));
    }
    out.push('\n');
    for row in rows {
        for (column, width) in widths.iter().enumerate() {
            out.push_str(&format!("  {:>width$}", cell(row, column).unwrap_or_default()));
        }
        out.push('\n');
    }
}

/// How far a phase is: a bar on a terminal, a line at its beginning elsewhere.
pub(super) fn progress(what: &'static str, total: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        eprintln!("{what}: {total}");
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(total).with_message(what);
    let style = ProgressStyle::with_template("{msg:>12} {bar:40} {pos}/{len} {elapsed}");
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

#[cfg(test)]
impl Report {
    /// A figure by its name.
    pub fn number(&self, name: &str) -> f64 {
        self.json()[name].as_f64().unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_lost_message_is_a_failed_run() {
        let mut report = Report::new("pairs");
        report.faults(Faults::default());
        assert!(report.is_good());
        report.faults(Faults { missing: 1, ..Faults::default() });
        assert!(!report.is_good());
        assert!(report.text().contains("FAILED: 1 messages missing"));
        assert_eq!(report.json()["good"], json!(false));
    }

    #[test]
    fn figures_and_tables_are_readable() {
        let mut report = Report::new("idle");
        report.table("servers", vec![vec![("server", json!("ws1")), ("users", json!(3_334))]]);
        let mut latency = Latency::new();
        (1..=100).for_each(|ms| latency.record(Duration::from_millis(ms)));
        report.latency("latency", &latency);
        report.decimal("open_seconds", 1.23456);
        let text = report.text();
        assert!(text.contains("  server  users\n     ws1   3334\n"), "{text}");
        assert!(text.contains("open seconds"), "{text}");
        assert_eq!(report.json()["open_seconds"], json!(1.235));
        assert!(text.contains("ms: p50 50.") && text.contains(", p99.9 "), "{text}");
        assert!(report.json()["machine"]["cores"].as_u64() > Some(0));
        let drawn = report.svg();
        assert!(drawn.contains("Latency by percentile") && drawn.contains(">latency</text>"));
        let p50 = report.json()["latency"]["p50_ms"].as_f64().unwrap();
        assert!((49.0..=51.0).contains(&p50), "{p50}");
    }
}
