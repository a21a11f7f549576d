//! Seeds, many of them: the code as it is passes all, every planted bug is caught by some, and the
//! same seed always takes the same way.
#![cfg(test)]

mod bugs;

use std::collections::BTreeMap;
use std::process::Command;

use super::faults::Finale;
use super::sea::Moment;
use super::world::{Outcome, World};
use crate::planted::{Bug, plant};

/// How many seeds run where nobody says; `./test` says.
const SEEDS: u64 = 150;
/// From so many on each window must have been hit.
const ENOUGH: u64 = 1_000;
/// How many lines of a failing run's trace are shown.
const TAIL: usize = 80;

/// What must have happened over many seeds.
const WINDOWS: [&str; 37] = [
    "Crash at Raise Left",
    "Crash at Raise Applied",
    "Crash at Raise Answered",
    "Crash at Append Left",
    "Crash at Append Applied",
    "Crash at Append Answered",
    "Crash at Publish Left",
    "Crash at Publish Applied",
    "late Append",
    "late Raise",
    "late Beat",
    "late PutHints",
    "mute Append",
    "lost Append",
    "refused Append",
    "answer cut off",
    "a publish was lost",
    "a publish came twice",
    "came twice",
    "gap told",
    "drained",
    "write stalled",
    "closed 1012",
    "closed 4508",
    "membership changed",
    "given up by its client",
    "finale Crash",
    "finale CrashForgotten",
    "finale CutForgotten",
    "finale Gap",
    "finale LastGasp",
    "finale Crowd",
    "fault RedisRefusesWrites",
    "finale RedisRefusesWrites",
    "refused Claim",
    "refused Release",
    "refused Extend",
];
/// The same at any moment of a call.
const AT_A_CALL: [&str; 10] = [
    "Crash at Locate",
    "Crash at Claim",
    "Crash at Mailbox",
    "Crash at Log",
    "Crash at PutHints",
    "Crash at Write",
    "Pause at Append",
    "CutRedis at Publish",
    "CutStore at Append",
    "Empty at Locate",
];
/// The same of what the servers count themselves.
const COUNTED: [&str; 7] =
    ["hit", "hint local", "hint bus", "hint again", "hint board", "hint offline", "deaf"];

fn run(seed: u64, traced: bool) -> Outcome {
    World::new(seed, traced).run()
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Runs seeds on two threads, each until `enough`.
fn run_many(
    seeds: std::ops::Range<u64>,
    bug: Option<(Bug, Option<Finale>)>,
    enough: impl Fn(&Outcome) -> bool + Sync,
) -> Vec<Outcome> {
    let enough = &enough;
    let half = |offset: usize| {
        let seeds: Vec<u64> = seeds.clone().skip(offset).step_by(2).collect();
        move || {
            plant(bug.map(|(bug, _)| bug));
            let mut outcomes = Vec::new();
            for seed in seeds {
                let mut world = World::new(seed, false);
                world.finale = bug.and_then(|(_, finale)| finale);
                outcomes.push(world.run().slim());
                if outcomes.last().is_some_and(enough) {
                    break;
                }
            }
            outcomes
        }
    };
    std::thread::scope(|scope| {
        let (first, second) = (scope.spawn(half(0)), scope.spawn(half(1)));
        let mut all = first.join().unwrap();
        all.extend(second.join().unwrap());
        all.sort_by_key(|outcome| outcome.seed);
        all
    })
}

/// What went wrong, how to see it again, and the end of the trace.
fn show(outcome: &Outcome) {
    let Outcome { seed, violations, .. } = outcome;
    println!("seed {seed} broke: {violations:#?}");
    println!(
        "again: PARLOR_SIM_SEED={seed} cargo test --lib sim::tests::seeds -- --exact --nocapture"
    );
    let trace = run(*seed, true).trace;
    let lines: Vec<&str> = trace.lines().collect();
    for line in &lines[lines.len().saturating_sub(TAIL)..] {
        println!("{line}");
    }
}

#[test]
fn seeds() {
    if let Some(seed) = setting("PARLOR_SIM_SEED") {
        let name = std::env::var("PARLOR_SIM_BUG").unwrap_or_default();
        plant(Bug::ALL.iter().copied().find(|bug| bug.name() == name));
        let mut world = World::new(seed, true);
        let finale = std::env::var("PARLOR_SIM_FINALE").unwrap_or_default();
        world.finale = Finale::ALL.into_iter().find(|known| format!("{known:?}") == finale);
        let outcome = world.run();
        println!("{}{:#?}", outcome.trace, outcome.violations);
        assert!(outcome.violations.is_empty(), "seed {seed}");
        return;
    }
    let (begun, first) = (std::time::Instant::now(), setting("PARLOR_SIM_FIRST").unwrap_or(0));
    let count = setting("PARLOR_SIM_SEEDS").unwrap_or(SEEDS);
    let outcomes = run_many(first..first + count, None, |_| false);
    let mut windows = BTreeMap::<&str, u64>::new();
    for (window, times) in outcomes.iter().flat_map(|outcome| &outcome.windows) {
        *windows.entry(window).or_default() += times;
    }
    let lasted: u64 = outcomes.iter().map(|outcome| outcome.lasted).sum();
    let longest = outcomes.iter().map(|outcome| outcome.drained_in).max().unwrap_or(0);
    println!("{windows:#?}");
    println!(
        "{count} seeds: {} s in {:?}, longest drain {longest} ms",
        lasted / 1_000,
        begun.elapsed()
    );
    let broken: Vec<&Outcome> = outcomes.iter().filter(|o| !o.violations.is_empty()).collect();
    broken.iter().take(3).for_each(|outcome| show(outcome));
    let names: Vec<u64> = broken.iter().map(|outcome| outcome.seed).collect();
    assert!(broken.is_empty(), "{} of {count} seeds broke: {names:?}", broken.len());
    if count >= ENOUGH {
        let whole = WINDOWS.iter().chain(&COUNTED);
        let mut missed: Vec<_> = whole.filter(|name| !windows.contains_key(**name)).collect();
        let moments = [Moment::Left, Moment::Applied, Moment::Answered];
        let hit = |call: &&&str| {
            moments.iter().any(|moment| windows.contains_key(&*format!("{call} {moment:?}")))
        };
        missed.extend(AT_A_CALL.iter().filter(|call| !hit(call)));
        assert!(missed.is_empty(), "never hit: {missed:?}");
    }
}

/// A last act alone breaks nothing: what a planted bug is caught by is the bug.
#[test]
fn last_acts() {
    for finale in Finale::ALL {
        for seed in 1_000..1_012 {
            let mut world = World::new(seed, false);
            world.finale = Some(finale);
            assert_eq!(world.run().violations, [""; 0], "seed {seed} of {finale:?}");
        }
    }
}

#[test]
fn the_same_seed_takes_the_same_way() {
    for seed in [3, 4] {
        let (first, second) = (run(seed, true), run(seed, true));
        assert!(first.trace.lines().count() > 500, "a trace of nothing");
        let pairs = first.trace.lines().zip(second.trace.lines());
        for (number, (first, second)) in pairs.enumerate() {
            assert_eq!(first, second, "line {number} of seed {seed}");
        }
        assert_eq!(first.trace.len(), second.trace.len());
        assert_eq!(first.history, second.history);
    }
}

/// Nothing of this process goes in: neither its addresses nor what ran before.
#[test]
fn another_process_takes_the_same_way() {
    let trace = run(5, true).trace;
    let program = std::env::current_exe().unwrap();
    let mut again = Command::new(program);
    again.args(["sim::tests::seeds", "--exact", "--nocapture"]).env("PARLOR_SIM_SEED", "5");
    let output = String::from_utf8(again.output().unwrap().stdout).unwrap();
    assert!(output.contains(&trace), "the traces of seed 5 differ");
}
