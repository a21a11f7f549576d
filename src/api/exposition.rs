//! `/metrics`: the registries of several process parts as one Prometheus text (format 0.0.4).
//!
//! Each part encodes its own registry, in which every line carries `process="…"`. A text names a
//! family once, with all its samples behind it, so the families of the parts are put together here.
//! Counters are named `…_total` in their HELP and TYPE lines too, as this format has it.

use std::fmt::Write;
use std::sync::Arc;

use prometheus_client::encoding::text::encode_registry;

use crate::telemetry::Metrics;

/// The media type of the text.
pub(super) const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

#[derive(Default)]
struct Family {
    name: String,
    help: String,
    kind: String,
    samples: String,
}

/// The metrics of all parts, each family once.
pub fn exposition(parts: &[Arc<Metrics>]) -> String {
    let mut families: Vec<Family> = Vec::new();
    for part in parts {
        let mut text = String::new();
        // Writing to a String can't fail, and a part that could not be encoded is left out.
        if encode_registry(&mut text, part.registry()).is_ok() {
            gather(&text, &mut families);
        }
    }
    let mut answer = String::new();
    for Family { name, help, kind, samples } in families.iter().filter(|f| !f.samples.is_empty()) {
        let suffix = if kind == "counter" { "_total" } else { "" };
        let head = format!("# HELP {name}{suffix} {help}\n# TYPE {name}{suffix} {kind}\n");
        let _ = write!(answer, "{head}{samples}");
    }
    answer
}

/// The encoder writes `# HELP name text`, `# TYPE name kind`, maybe `# UNIT`, then the samples.
fn gather(text: &str, families: &mut Vec<Family>) {
    let mut current = None;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap_or((rest, ""));
            let known = families.iter().position(|family| family.name == name);
            current = Some(known.unwrap_or_else(|| {
                let (name, help) = (name.to_owned(), help.to_owned());
                families.push(Family { name, help, ..Family::default() });
                families.len() - 1
            }));
            continue;
        }
        let Some(family) = current.and_then(|at: usize| families.get_mut(at)) else { continue };
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            family.kind = rest.rsplit(' ').next().unwrap_or_default().to_owned();
        } else if !line.starts_with('#') {
            family.samples.push_str(line);
            family.samples.push('\n');
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn three_parts_are_one_text_in_which_each_family_stands_once() {
        let parts: Vec<_> = ["ws1", "ws2", "ws3"].map(|id| Arc::new(Metrics::new(id))).into();
        for part in &parts {
            part.sockets.set(3);
            part.delivery_seconds.observe(0.002);
            part.count_message("stored");
        }
        Metrics::count(&parts[1].messages, "ref_conflict");
        let text = exposition(&parts);
        let (mut helped, mut typed, mut seen) = (HashSet::new(), HashSet::new(), HashSet::new());
        let mut family = String::new();
        for line in text.lines() {
            let words: Vec<_> = line.split(' ').collect();
            match (words[0], words[1]) {
                ("#", "HELP") => assert!(helped.insert(words[2].to_owned()), "{line}"),
                ("#", "TYPE") => {
                    assert!(typed.insert(words[2].to_owned()), "{line}");
                    family = words[2].to_owned();
                }
                ("#", _) => panic!("{line}"),
                (sample, value) => {
                    assert!(sample.starts_with(&family), "{sample} stands under {family}");
                    assert!(sample.contains("process=\"ws"), "{sample}");
                    assert!(seen.insert(sample.to_owned()), "{sample} twice");
                    value.parse::<f64>().unwrap();
                }
            }
        }
        assert_eq!(helped, typed);
        assert!(text.contains("parlor_sockets{process=\"ws3\"} 3\n"), "{text}");
        assert!(text.contains("# TYPE parlor_messages_total counter\n"), "{text}");
        let stored = "parlor_messages_total{process=\"ws2\",outcome=\"stored\"} 1\n";
        assert!(text.contains(stored), "{text}");
        assert!(text.contains("parlor_delivery_seconds_count{process=\"ws2\"} 1\n"), "{text}");
        assert!(text.contains("le=\"+Inf\""), "{text}");
    }
}
