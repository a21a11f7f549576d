//! Seeds, many of them: the code as it is passes all, every planted bug is caught by some.
#![cfg(test)]

mod bugs;

use std::collections::BTreeMap;

use super::world::{Outcome, World};
use crate::planted::{Bug, plant};

/// How many seeds run where nobody says.
const SEEDS: u64 = 50;

fn run(seed: u64, traced: bool) -> Outcome {
    World::new(seed, traced).run()
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Runs seeds on two threads, each until `enough`.
fn run_many(
    seeds: std::ops::Range<u64>,
    bug: Option<Bug>,
    enough: impl Fn(&Outcome) -> bool + Sync,
) -> Vec<Outcome> {
    let enough = &enough;
    let half = |offset: usize| {
        let seeds: Vec<u64> = seeds.clone().skip(offset).step_by(2).collect();
        move || {
            plant(bug);
            let mut outcomes = Vec::new();
            for seed in seeds {
                outcomes.push(run(seed, false).slim());
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

#[test]
fn seeds() {
    if let Some(seed) = setting("PARLOR_SIM_SEED") {
        let name = std::env::var("PARLOR_SIM_BUG").unwrap_or_default();
        plant(Bug::ALL.iter().copied().find(|bug| bug.name() == name));
        let outcome = run(seed, true);
        println!("{}", outcome.trace);
        println!("{:#?}", outcome.violations);
        return;
    }
    let begun = std::time::Instant::now();
    let first = setting("PARLOR_SIM_FIRST").unwrap_or(0);
    let count = setting("PARLOR_SIM_SEEDS").unwrap_or(SEEDS);
    let outcomes = run_many(first..first + count, None, |_| false);
    let (mut lasted, mut windows) = (0, BTreeMap::<String, u64>::new());
    for outcome in outcomes {
        lasted += outcome.lasted;
        for (window, count) in outcome.windows {
            *windows.entry(window).or_default() += count;
        }
        if !outcome.violations.is_empty() {
            let Outcome { seed, drained_in, violations, .. } = outcome;
            println!("seed {seed}: drained in {drained_in} {violations:#?}");
        }
    }
    println!("{windows:#?} {} s simulated in {:?}", lasted / 1_000, begun.elapsed());
}
