//! Long histories: time and memory of a million events and of five.

#![cfg(test)]

use std::fs;
use std::time::Instant;

use super::super::gate::Gates;
use super::super::history::*;
use super::super::judge::Checker;
use super::super::report::{Report, Verdict};

const PAIRS: usize = 30;

/// Resident bytes of this process.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// A message's events: both of the recipient's devices get it, and the sender's other one.
fn message(number: usize, mut take: impl FnMut(What)) {
    let (pair, seq) = (number % PAIRS, (number / PAIRS + 1) as u64);
    let (x, y) = (pair * 2, pair * 2 + 1);
    let (from, to) = if seq.is_multiple_of(3) { (x, y) } else { (y, x) };
    let conversation = format!("dm:u{x:03}:u{y:03}");
    let (user, body) = (format!("u{from:03}"), format!("canary-{pair} {number:064}"));
    let reference = format!("{number:032x}");
    let connection = format!("u{from:03}-0");
    take(What::Send {
        connection: connection.clone(),
        user: user.clone(),
        conversation: conversation.clone(),
        reference: reference.clone(),
        body: body.clone(),
    });
    take(What::Sent {
        connection: connection.clone(),
        user: user.clone(),
        conversation: conversation.clone(),
        reference,
        outcome: Outcome::Done,
        seq: Some(seq),
        code: None,
    });
    for connection in [format!("u{to:03}-0"), format!("u{to:03}-1"), format!("u{from:03}-1")] {
        take(What::Received {
            connection: connection.clone(),
            conversation: conversation.clone(),
            seq,
            kind: "message".into(),
            from: user.clone(),
            body: body.clone(),
            to: None,
            catchup: false,
        });
        take(What::Acked { connection, conversation: conversation.clone(), seq });
    }
    let (user, status) = (format!("u{to:03}"), Status::Delivered);
    take(What::Status { connection, conversation, seq, user, status });
}

fn opening(mut take: impl FnMut(What)) {
    for pair in 0..PAIRS {
        let users = [pair * 2, pair * 2 + 1].map(|user| format!("u{user:03}"));
        take(What::Conversation {
            conversation: format!("dm:{}:{}", users[0], users[1]),
            members: users.to_vec(),
            canary: format!("canary-{pair} "),
        });
        for (user, device) in users.iter().flat_map(|user| [(user, "0"), (user, "1")]) {
            let connection = format!("{user}-{device}");
            for outcome in [None, Some(Outcome::Done)] {
                take(What::Connect {
                    connection: connection.clone(),
                    user: user.clone(),
                    device: device.into(),
                    acks_app: false,
                    outcome,
                    server: None,
                });
            }
            take(What::Caughtup { connection });
        }
    }
}

/// Feeds at least so many events.
fn run(events: usize) -> Report {
    let before = resident();
    let begun = Instant::now();
    let mut checker = Checker::new(Gates::none());
    let (mut t, mut fed) = (0, 0);
    let mut take = |what| {
        (t, fed) = (t + 1_000, fed + 1);
        checker.feed(Event { t, what });
        fed
    };
    opening(|what| {
        take(what);
    });
    let mut number = 0;
    while number * 9 < events {
        message(number, |what| {
            take(what);
        });
        number += 1;
    }
    let report = checker.finish();
    let (took, grown) = (begun.elapsed(), resident().saturating_sub(before));
    println!("{fed} events ({number} messages) in {took:?}, {} MiB", grown >> 20);
    // Other tests may run beside it.
    assert!(grown < 2 << 30, "{grown} bytes for {fed} events");
    report
}

#[test]
fn a_long_history_costs_little() {
    let report = run(100_000);
    assert_eq!(report.verdict, Verdict::Pass, "{report}");
    assert_eq!(report.counts.raw_duplicates, 0);
}

#[test]
#[ignore = "takes a minute without optimisation; it shows time and memory"]
fn a_million_events_and_five() {
    for events in [1_000_000, 5_000_000] {
        let report = run(events);
        assert_eq!(report.verdict, Verdict::Pass, "{report}");
    }
}
