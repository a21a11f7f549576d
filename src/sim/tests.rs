//! Seeds, many of them.
#![cfg(test)]

use super::world::{Outcome, World};

fn run(seed: u64, traced: bool) -> Outcome {
    World::new(seed, traced).run()
}

#[test]
fn seeds() {
    let var = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    if let Some(seed) = var("PARLOR_SIM_SEED") {
        let outcome = run(seed, true);
        println!("{}", outcome.trace);
        println!("{:#?}", outcome.violations);
        return;
    }
    let begun = std::time::Instant::now();
    let (mut lasted, mut windows) = (0, std::collections::BTreeMap::<String, u64>::new());
    for seed in 0..var("PARLOR_SIM_SEEDS").unwrap_or(50) {
        let outcome = run(seed, false);
        lasted += outcome.lasted;
        for (window, count) in outcome.windows {
            *windows.entry(window).or_default() += count;
        }
        if !outcome.violations.is_empty() {
            println!("seed {seed}: drained in {} {:#?}", outcome.drained_in, outcome.violations);
        }
    }
    println!("{windows:#?} {} s simulated in {:?}", lasted / 1_000, begun.elapsed());
}
