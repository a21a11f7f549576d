//! Seeds, many of them.
#![cfg(test)]

use std::collections::BTreeMap;

use super::world::{Outcome, World};

fn run(seed: u64, traced: bool) -> Outcome {
    World::new(seed, traced).run()
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Runs seeds on two threads.
fn run_many(seeds: std::ops::Range<u64>) -> Vec<Outcome> {
    let half = |offset: usize| {
        let seeds: Vec<u64> = seeds.clone().skip(offset).step_by(2).collect();
        move || seeds.into_iter().map(|seed| run(seed, false).slim()).collect::<Vec<_>>()
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
        let outcome = run(seed, true);
        println!("{}", outcome.trace);
        println!("{:#?}", outcome.violations);
        return;
    }
    let begun = std::time::Instant::now();
    let first = setting("PARLOR_SIM_FIRST").unwrap_or(0);
    let outcomes = run_many(first..first + setting("PARLOR_SIM_SEEDS").unwrap_or(50));
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
