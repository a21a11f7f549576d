//! Draws faults and runs them, several at a time on different targets.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::faults::{Attack, Effect, Kind};
use crate::checker::history::What;

/// Faults at a time.
const AT_ONCE: usize = 4;
/// One in so many is injected while nothing else is wrong: only its recovery means something.
const ALONE_ONE_IN: u32 = 8;
/// Draws before a turn is given up, since everything drawn is taken.
const DRAWS: usize = 12;

/// For the screen.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Faults that were begun.
    pub begun: AtomicU64,
    /// Faults that were seen to bite.
    pub effective: AtomicU64,
}

struct Running {
    target: String,
    kind: &'static str,
    alone: bool,
}

/// What was done.
#[derive(Debug, Default)]
pub(super) struct Deeds {
    /// Pairs of kinds that ran at the same time.
    pub pairs: BTreeSet<(&'static str, &'static str)>,
    /// How long each recovery took, by kind.
    pub recovery_ms: BTreeMap<String, Vec<u64>>,
}

/// Attacks until `until`, on average one fault every `gap`; returns when all are healed.
pub(super) async fn run(
    attack: Arc<Attack>,
    tally: Arc<Tally>,
    seed: u64,
    gap: Duration,
    until: Instant,
) -> Deeds {
    let mut random = SmallRng::seed_from_u64(seed ^ 0x6E65_6D65);
    let embedded = attack.fleet.links.is_empty();
    let (mut tasks, mut number) = (JoinSet::new(), 0_u64);
    let (mut running, mut deeds): (Vec<Running>, _) = (Vec::new(), Deeds::default());
    let (mut next, mut alone) = (Instant::now(), false);
    loop {
        let most = if alone || running.iter().any(|r| r.alone) { 1 } else { AT_ONCE };
        tokio::select! {
            () = sleep_until(next), if tasks.len() < most && next < until => {
                let wait = -random.random_range(1e-6..1.0_f64).ln();
                next = Instant::now() + gap.mul_f64(wait.min(4.0));
                let others: Vec<String> = running.iter().map(|r| r.target.clone()).collect();
                let drawn = (0..DRAWS).find_map(|_| {
                    let kind = Kind::draw(&mut random, embedded);
                    let target = kind.target(&mut random);
                    Kind::goes_with(&target, &others).then_some((kind, target))
                });
                let Some((kind, target)) = drawn else { continue };
                for other in &running {
                    deeds.pairs.insert((kind.name().min(other.kind), kind.name().max(other.kind)));
                }
                running.push(Running { target: target.clone(), kind: kind.name(), alone });
                number += 1;
                tally.begun.fetch_add(1, Ordering::Relaxed);
                let seeded = SmallRng::seed_from_u64(random.random());
                let name = format!("f{number}");
                attack.world.measures.store(alone, Ordering::Relaxed);
                tasks.spawn(fault(attack.clone(), name, kind, target, alone, seeded));
                alone = random.random_ratio(1, ALONE_ONE_IN);
            }
            Some(done) = tasks.join_next(), if !tasks.is_empty() => {
                if let Ok((kind, target, effect)) = done {
                    running.retain(|r| r.target != target);
                    if let Some(took) = effect.recovered_ms.filter(|_| effect.bites > 0) {
                        deeds.recovery_ms.entry(kind.name().to_owned()).or_default().push(took);
                    }
                    if effect.bites > 0 {
                        tally.effective.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
            () = sleep_until(until), if Instant::now() < until && tasks.is_empty() => {}
            else => return deeds,
        }
    }
}

async fn fault(
    attack: Arc<Attack>,
    fault: String,
    kind: Kind,
    target: String,
    alone: bool,
    mut random: SmallRng,
) -> (Kind, String, Effect) {
    let name = kind.name().to_owned();
    let begin = What::Fault { fault: fault.clone(), kind: name.clone(), target: target.clone() };
    attack.world.journal.note(begin);
    let effect = match attack.inject(kind, &target, &mut random).await {
        Ok(effect) if alone => effect,
        // How long it took is the doing of other faults as well.
        Ok(effect) => Effect { recovered_ms: None, ..effect },
        Err(error) => {
            // Other faults are in the way, like a Redis that hangs: it counts for nothing.
            tracing::warn!(kind = name, %target, "a fault could not be injected: {error:#}");
            Effect::default()
        }
    };
    let Effect { bites, recovered_ms } = effect;
    attack.world.journal.note(What::Healed { fault, bites, recovered_ms, unrecovered_ms: None });
    (kind, target, effect)
}
