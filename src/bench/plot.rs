//! Charts as SVG, small enough to be written by hand: latency by percentile, memory by users.
//!
//! No background is painted, and every colour is a middle one, so that a chart can stand on a light
//! page and on a dark one; where the viewer says which it is, texts follow.

use std::fmt::Write;

use super::report::Latency;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 380.0;
const LEFT: f64 = 72.0;
const RIGHT: f64 = 44.0;
const TOP: f64 = 64.0;
const BOTTOM: f64 = 48.0;
/// Of lines, in the order of the series; told apart by those who see no red or no green, too.
const COLOURS: [&str; 6] = ["#3b82f6", "#e07b00", "#14a37f", "#b069e8", "#d6456b", "#8a8f98"];
const STYLE: &str = "text{font:13px system-ui,-apple-system,'Segoe UI',sans-serif;fill:#768390}\
    .title{font-size:15px;font-weight:600}\
    .grid{stroke:#8c959f;stroke-opacity:.28}\
    .line{fill:none;stroke-width:2.2;stroke-linejoin:round}\
    @media(prefers-color-scheme:light){text{fill:#57606a}}\
    @media(prefers-color-scheme:dark){text{fill:#a3adb8}}";
/// How many points a line of percentiles has between one nine and the next.
const POINTS_PER_NINE: usize = 16;
/// As far as percentiles go: 99.999 %.
const NINES_MAX: f64 = 5.0;
/// Marks of an axis, about.
const MARKS: f64 = 5.0;

/// How numbers lie on an axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scale {
    /// From zero.
    Linear,
    /// A decade is a decade.
    Log,
    /// Nines: 0, 90, 99, 99.9 %, where numbers are how many.
    Nines,
}

/// One chart.
#[derive(Debug, Clone)]
pub(super) struct Chart {
    title: &'static str,
    x: (&'static str, Scale),
    y: (&'static str, Scale),
    series: Vec<(String, Vec<(f64, f64)>)>,
}

impl Chart {
    /// MiB by users.
    pub fn memory() -> Self {
        let (x, y) = (("users", Scale::Linear), ("MiB", Scale::Linear));
        Self { title: "Memory by users", x, y, series: Vec::new() }
    }

    /// Milliseconds by percentile.
    pub fn latency() -> Self {
        let (x, y) = (("percentile", Scale::Nines), ("ms", Scale::Log));
        Self { title: "Latency by percentile", x, y, series: Vec::new() }
    }

    /// Without any line.
    pub fn is_empty(&self) -> bool {
        self.series.is_empty()
    }

    /// Another line.
    pub fn series(&mut self, name: impl Into<String>, points: Vec<(f64, f64)>) {
        self.series.push((name.into(), points));
    }

    /// Another line, of a distribution: as far as there are values for it.
    pub fn distribution(&mut self, name: impl Into<String>, latency: &Latency) {
        let nines = (latency.count().max(1) as f64).log10().min(NINES_MAX);
        let steps = (nines * POINTS_PER_NINE as f64).ceil() as usize;
        let at = |step: usize| {
            let nines = (step as f64 / POINTS_PER_NINE as f64).min(nines);
            (nines, latency.quantile_ms(1.0 - 10_f64.powf(-nines)))
        };
        self.series(name, (0..=steps).map(at).collect());
    }

    fn draw(&self, top: f64, out: &mut String) {
        let points = || self.series.iter().flat_map(|(_, points)| points);
        let x = Axis::over(self.x.1, points().map(|(x, _)| *x), (LEFT, WIDTH - RIGHT));
        let ends = (top + HEIGHT - BOTTOM, top + TOP);
        let y = Axis::over(self.y.1, points().map(|(_, y)| *y), ends);
        let (bottom, middle) = (ends.0, (LEFT + WIDTH - RIGHT) / 2.0);
        put(out, LEFT, top + 22.0, "start", " class=\"title\"", self.title);
        for (at, label) in y.marks() {
            let right = WIDTH - RIGHT;
            let _ = write!(
                out,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>"
            );
            put(out, LEFT - 8.0, at + 4.0, "end", "", &label);
        }
        for (at, label) in x.marks() {
            let (high, low) = ends;
            let _ = write!(
                out,
                "<line class=\"grid\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{low}\" y2=\"{high}\"/>"
            );
            put(out, at, bottom + 18.0, "middle", "", &label);
        }
        put(out, middle, bottom + 38.0, "middle", "", self.x.0);
        put(out, LEFT - 8.0, top + TOP - 14.0, "end", "", self.y.0);
        let mut legend = LEFT;
        for ((name, points), colour) in self.series.iter().zip(COLOURS.iter().cycle()) {
            let line: Vec<_> = points
                .iter()
                .map(|(px, py)| format!("{:.1},{:.1}", x.place(*px), y.place(*py)))
                .collect();
            let line = line.join(" ");
            let _ = write!(
                out,
                "<polyline class=\"line\" stroke=\"{colour}\" points=\"{line}\"/>\
                 <rect x=\"{legend:.1}\" y=\"{:.1}\" width=\"14\" height=\"4\" rx=\"2\" \
                 fill=\"{colour}\"/>",
                top + 38.0
            );
            put(out, legend + 20.0, top + 44.0, "start", "", name);
            // About as wide as the text; a browser alone would know.
            legend += 44.0 + name.chars().count() as f64 * 7.2;
        }
        out.push('\n');
    }
}

fn put(out: &mut String, x: f64, y: f64, anchor: &str, more: &str, text: &str) {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    let _ =
        write!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\"{more}>{text}</text>");
}

/// Numbers and where they are.
struct Axis {
    scale: Scale,
    least: f64,
    most: f64,
    ends: (f64, f64),
}

impl Axis {
    fn over(scale: Scale, numbers: impl Iterator<Item = f64>, ends: (f64, f64)) -> Self {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for number in numbers.filter(|number| number.is_finite()) {
            (low, high) = (low.min(number), high.max(number));
        }
        let (low, high) = if low > high { (0.0, 1.0) } else { (low, high) };
        let (least, most) = match scale {
            Scale::Linear => {
                let step = nice(high.max(1e-9) / MARKS);
                (0.0, (high.max(1e-9) / step).ceil() * step)
            }
            Scale::Nines => (0.0, high.ceil().max(1.0)),
            Scale::Log => {
                let low = low.max(1e-3).log10().floor();
                (low, high.max(1e-3).log10().ceil().max(low + 1.0))
            }
        };
        Self { scale, least, most, ends }
    }

    fn place(&self, number: f64) -> f64 {
        let number = match self.scale {
            Scale::Log => number.max(1e-3).log10(),
            _ => number,
        };
        let part = ((number - self.least) / (self.most - self.least)).clamp(0.0, 1.0);
        self.ends.0 + part * (self.ends.1 - self.ends.0)
    }

    /// Where marks are, and what stands there.
    fn marks(&self) -> Vec<(f64, String)> {
        let step = match self.scale {
            Scale::Linear => nice(self.most / MARKS),
            _ => 1.0,
        };
        let count = ((self.most - self.least) / step + 1e-9).floor() as usize;
        let mark = |index: usize| {
            let number = self.least + step * index as f64;
            match self.scale {
                Scale::Linear => (self.place(number), grouped(number)),
                Scale::Log => (self.place(10_f64.powf(number)), grouped(10_f64.powf(number))),
                Scale::Nines => (self.place(number), nines(index)),
            }
        };
        (0..=count).map(mark).collect()
    }
}

/// The next one of 1, 2, 5, 10, 20 …
fn nice(number: f64) -> f64 {
    let decade = 10_f64.powf(number.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|step| step * decade);
    steps.into_iter().find(|step| *step >= number * 0.999).unwrap_or(number)
}

fn nines(count: usize) -> String {
    match count {
        0 => "0 %".to_owned(),
        1 => "90 %".to_owned(),
        2 => "99 %".to_owned(),
        more => format!("99.{} %", "9".repeat(more - 2)),
    }
}

fn trimmed(number: f64) -> String {
    let text = format!("{number:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// 250000 → 250,000.
fn grouped(number: f64) -> String {
    if number < 1_000.0 {
        return trimmed(number);
    }
    let digits = format!("{number:.0}");
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// The charts one below the other.
pub(super) fn svg(charts: &[Chart]) -> String {
    let height = HEIGHT * charts.len().max(1) as f64;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         width=\"{WIDTH}\" height=\"{height}\" role=\"img\">\n<style>{STYLE}</style>\n"
    );
    for (index, chart) in charts.iter().enumerate() {
        chart.draw(HEIGHT * index as f64, &mut out);
    }
    out.push_str("</svg>\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_distribution_is_drawn_as_far_as_it_is_known() {
        let mut latency = Latency::new();
        (1..=1_000).for_each(|ms| latency.record(Duration::from_millis(ms)));
        let mut chart = Chart::latency();
        chart.distribution("all <1 s>", &latency);
        let (_, points) = &chart.series[0];
        let (nines, last) = points[points.len() - 1];
        assert!((nines - 3.0).abs() < 1e-9 && (990.0..=1_010.0).contains(&last), "{nines} {last}");
        let svg = svg(&[chart, Chart::memory()]);
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
        assert!(svg.contains("99.9 %") && svg.contains("all &lt;1 s>") && svg.contains("Memory"));
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }

    #[test]
    fn marks_stand_at_numbers_that_people_use() {
        let axis = Axis::over(Scale::Linear, [0.0, 240_000.0].into_iter(), (0.0, 500.0));
        let marks: Vec<String> = axis.marks().into_iter().map(|(_, label)| label).collect();
        assert_eq!(marks, ["0", "50,000", "100,000", "150,000", "200,000", "250,000"]);
        let axis = Axis::over(Scale::Log, [0.2, 30.0].into_iter(), (300.0, 0.0));
        let marks: Vec<String> = axis.marks().into_iter().map(|(_, label)| label).collect();
        assert_eq!(marks, ["0.1", "1", "10", "100"]);
        assert_eq!((axis.place(0.1), axis.place(100.0)), (300.0, 0.0));
        assert_eq!(nines(4), "99.99 %");
    }
}
