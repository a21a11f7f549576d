//! The table: the 93 rows of the corpus, a line for each case of a row.
//!
//! A line is what the corpus calls it, what it is, what is sent, and what is answered. `differs`
//! says what the corpus states where Parlor answers something else by design; the answer beside it
//! is Parlor's.

mod api;
mod bus;
mod commands;
mod frames;
mod handshake;
mod texts;
mod tokens;

use std::collections::BTreeSet;

use crate::case::Answer::{Error, Status};
use crate::case::Case;

/// How many rows each group of the corpus has.
const ROWS: [(char, u32); 8] =
    [('A', 23), ('B', 22), ('C', 17), ('D', 4), ('E', 11), ('F', 9), ('G', 6), ('H', 1)];

/// What is sent in some line, and must stand in no log: what people say, and what proves who they
/// are.
pub const CANARIES: [&str; 3] = ["canary-of-a-message", "canary-of-a-token", "canary-of-a-query"];

/// Why a line answers `bad_request` where the corpus has a name of its own for what is wrong.
const ONE_CODE: &str = "bad_json, bad_id, bad_cursor: a client does the same about each of them";
/// The rows where it has one.
const OWN_CODES: [&str; 8] = ["B21", "C1", "C3", "C17", "D1", "D2", "D3", "E1"];

/// All lines, in the order of the corpus.
pub fn all() -> Vec<Case> {
    let parts = [
        handshake::lines(),
        frames::lines(),
        texts::lines(),
        commands::lines(),
        api::lines(),
        tokens::lines(),
        bus::lines(),
    ];
    let named = |case: Case| match case.answer {
        Status(400) | Error("bad_request", _)
            if case.differs.is_none() && OWN_CODES.contains(&case.row) =>
        {
            case.differs(ONE_CODE)
        }
        _ => case,
    };
    parts.into_iter().flatten().map(named).collect()
}

/// What the logs say and must not.
pub fn told_in_logs(logs: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(logs);
    let mut told: Vec<String> = Vec::new();
    for canary in CANARIES {
        let lines = text.lines().filter(|line| line.contains(canary));
        told.extend(lines.take(1).map(|line| format!("a log tells {canary}: {line}")));
    }
    // Nobody from outside writes colours or a line of his own.
    let control = |line: &&str| line.chars().any(|c| c.is_control() && c != '\t');
    told.extend(text.lines().filter(control).take(3).map(|line| format!("control: {line:?}")));
    let forged = text.lines().filter(|line| line.starts_with("FORGED"));
    told.extend(forged.take(1).map(|line| format!("forged: {line}")));
    told
}

#[test]
fn the_table_has_every_row() {
    let mut expected = BTreeSet::new();
    for (group, count) in ROWS {
        expected.extend((1..=count).map(|number| format!("{group}{number}")));
    }
    assert_eq!(expected.len(), 93);
    let there: BTreeSet<String> = all().iter().map(|case| case.row.to_owned()).collect();
    let lacking: Vec<_> = expected.symmetric_difference(&there).collect();
    assert!(lacking.is_empty(), "{lacking:?}");
}

#[test]
fn a_log_that_tells_is_found() {
    let logs = b"INFO fine\nINFO \x1b[31mred\nFORGED line\nWARN canary-of-a-token\n";
    assert_eq!(told_in_logs(logs).len(), 3);
    assert!(told_in_logs(b"INFO fine\n").is_empty());
}
