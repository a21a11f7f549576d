//! Histories in files: merged by time, with half lines, and told with their evidence.

#![cfg(test)]

use std::fs;
use std::path::{Path, PathBuf};

use super::super::files::{Damage, judge_files, merge};
use super::super::gate::{Gates, Measures};
use super::super::history::*;
use super::super::report::{Invariant, Report, Verdict};
use super::story::Story;

/// Each client's lines go to a file of its own, the rest to another.
fn write(story: &Story, folder: &Path) -> Vec<PathBuf> {
    let mut texts = [String::new(), String::new(), String::new()];
    for event in &story.events {
        let line = serde_json::to_string(event).unwrap();
        let file = match line.split("\"connection\":\"").nth(1) {
            Some(connection) if connection.starts_with('a') => 0,
            Some(_) => 1,
            None => 2,
        };
        texts[file] += &line;
        texts[file].push('\n');
    }
    let files = (0..).zip(texts).map(|(number, text)| {
        let path = folder.join(format!("{number}.jsonl"));
        fs::write(&path, text).unwrap();
        path
    });
    files.collect()
}

fn talk() -> Story {
    let mut story = Story::of_two();
    story.send("a1", "m1").acked("m1", 1).all_get(&["a2", "b1", "b2"], 1).delivered("a1", 1, "b");
    story.send("b1", "m2").acked("m2", 2).all_get(&["a1", "a2"], 2);
    story
}

#[test]
fn files_are_merged_by_time() {
    let folder = tempfile::tempdir().unwrap();
    let mut story = talk();
    story.all_get(&["b2"], 2).read_all();
    let files = write(&story, folder.path());
    // A writer whose threads overtake each other.
    let text = fs::read_to_string(&files[0]).unwrap();
    let mut lines: Vec<&str> = text.lines().collect();
    lines.reverse();
    fs::write(&files[0], lines.join("\n")).unwrap();
    let mut merged = Vec::new();
    assert_eq!(merge(&files, |event| merged.push(event)).unwrap(), Damage::default());
    assert_eq!(merged, story.events);
    assert_eq!(judge_files(&files, Gates::none()).unwrap().verdict, Verdict::Pass);
}

#[test]
fn half_lines_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let mut story = talk();
    story.all_get(&["b2"], 2).read_all();
    let files = write(&story, folder.path());
    let mut text = fs::read_to_string(&files[1]).unwrap();
    text.insert_str(0, "{\"t\":3,\"f\":\"recei\u{fffd}\n\n");
    text += "{\"t\":99,\"f\":\"rec";
    fs::write(&files[1], text).unwrap();
    let report = judge_files(&files, Gates::none()).unwrap();
    assert_eq!((report.counts.torn_lines, report.counts.damaged_lines), (1, 1));
    assert_eq!(report.verdict, Verdict::Pass);
    let missing = judge_files(&[folder.path().join("none")], Gates::none()).unwrap_err();
    assert!(missing.to_string().contains("none"), "{missing}");
}

#[test]
fn a_violation_is_told_with_its_lines_and_faults() {
    let folder = tempfile::tempdir().unwrap();
    let mut story = talk();
    let (fault, kind, target) = ("f1".to_owned(), "server-kill".into(), "ws2".into());
    story.push(What::Fault { fault: fault.clone(), kind, target });
    story.push(What::Healed { fault, bites: 3, recovered_ms: Some(1_200), unrecovered_ms: None });
    story.t += 20_000_000_000;
    let (fault, kind, target) = ("f2".to_owned(), "redis-kill".into(), "redis".into());
    story.push(What::Fault { fault, kind, target }).read_all();
    let files = write(&story, folder.path());
    let report = judge_files(&files, Gates::none()).unwrap();
    assert_eq!(report.broken.keys().collect::<Vec<_>>(), [&Invariant::I1]);
    let told = report.to_string();
    for part in ["FAIL", "b/2", "dm:a:b/2", "\"m2\"", "server-kill on ws2", "0 of 1 effective"] {
        assert!(told.contains(part), "{part} is not told in\n{told}");
    }
    let violation = &report.violations[0];
    assert!(!violation.faults.iter().any(|fault| fault.contains("redis-kill")));
    let evidence = violation.evidence.join("\n");
    for part in ["\"f\":\"send\"", "\"f\":\"sent\"", "\"connection\":\"a2\"", "\"f\":\"caughtup\""]
    {
        assert!(evidence.contains(part), "{part} is not in\n{evidence}");
    }
    assert!(!evidence.contains("m1"), "{evidence}");
    let ledger = serde_json::to_string(&report).unwrap();
    assert_eq!(serde_json::from_str::<Report>(&ledger).unwrap(), report);
}

#[test]
fn a_missed_gate_is_never_a_pass() {
    let mut story = talk();
    story.all_get(&["b2"], 2).read_all();
    let judge = |gates| super::super::files::judge(&story.events, gates);
    let gates = |wanted| Gates { wanted, ..Gates::none() };
    let wanted = |acked| {
        gates(Measures { acked, stored_share: 1.0, histories_share: 1.0, ..Measures::default() })
    };
    assert_eq!(judge(wanted(2.0)).verdict, Verdict::Pass);
    let report = judge(wanted(3.0));
    assert_eq!(report.verdict, Verdict::Unknown);
    assert!(report.to_string().contains("MISSED messages acked: 2 (at least 3)"), "{report}");
    let full = judge(Gates::default().scaled(0.001));
    assert_eq!(full.verdict, Verdict::Unknown);
    let missed: Vec<&str> =
        full.gates.iter().filter(|gate| gate.missed()).map(|gate| gate.name.as_str()).collect();
    assert!(missed.contains(&"effective faults") && missed.contains(&"membership changes"));
    // What was not drained is not judged, and not passed.
    let mut story = talk();
    story.close("b2").read_all();
    let gates = gates(Measures { drained_share: 1.0, ..Measures::default() });
    assert_eq!(super::super::files::judge(&story.events, gates).verdict, Verdict::Unknown);
}
