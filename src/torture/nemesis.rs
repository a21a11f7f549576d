//! Draws faults and runs them, several at a time on different targets.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::faults::{Attack, Effect, Kind};
use super::world::Recovery;
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
    number: u64,
    target: String,
    alone: bool,
}

/// Faults that ran at the same time, and those that bit.
#[derive(Debug, Default)]
struct Meetings {
    met: Vec<(u64, u64)>,
    bit: HashMap<u64, &'static str>,
}

impl Meetings {
    /// Pairs of kinds that bit at the same time: what does nothing meets nothing.
    fn pairs(&self) -> BTreeSet<(&'static str, &'static str)> {
        let kinds = self.met.iter().filter_map(|(a, b)| Some((self.bit.get(a)?, self.bit.get(b)?)));
        kinds.map(|(a, b)| (*a.min(b), *a.max(b))).collect()
    }
}

/// What was done.
#[derive(Debug, Default)]
pub(super) struct Deeds {
    /// Pairs of kinds that ran at the same time, and bit.
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
    let (mut next, mut alone, mut meetings) = (Instant::now(), false, Meetings::default());
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
                number += 1;
                meetings.met.extend(running.iter().map(|other| (other.number, number)));
                running.push(Running { number, target: target.clone(), alone });
                tally.begun.fetch_add(1, Ordering::Relaxed);
                let seeded = SmallRng::seed_from_u64(random.random());
                attack.world.measures.store(alone, Ordering::Relaxed);
                tasks.spawn(fault(attack.clone(), number, kind, target, alone, seeded));
                alone = random.random_ratio(1, ALONE_ONE_IN);
            }
            Some(done) = tasks.join_next(), if !tasks.is_empty() => {
                if let Ok((number, kind, effect)) = done {
                    running.retain(|r| r.number != number);
                    if let Some(took) = effect.recovery.took().filter(|_| effect.bites > 0) {
                        deeds.recovery_ms.entry(kind.name().to_owned()).or_default().push(took);
                    }
                    if effect.bites > 0 {
                        meetings.bit.insert(number, kind.name());
                        tally.effective.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
            () = sleep_until(until), if Instant::now() < until && tasks.is_empty() => {}
            else => {
                deeds.pairs = meetings.pairs();
                return deeds;
            }
        }
    }
}

async fn fault(
    attack: Arc<Attack>,
    number: u64,
    kind: Kind,
    target: String,
    alone: bool,
    mut random: SmallRng,
) -> (u64, Kind, Effect) {
    let (fault, name) = (format!("f{number}"), kind.name().to_owned());
    let begin = What::Fault { fault: fault.clone(), kind: name.clone(), target: target.clone() };
    attack.world.journal.note(begin);
    let effect = match attack.inject(kind, &target, &mut random).await {
        Ok(effect) if alone => effect,
        // How long it took is the doing of other faults as well.
        Ok(effect) => Effect { recovery: Recovery::Unmeasured, ..effect },
        Err(error) => {
            // Other faults are in the way, like a Redis that hangs: it counts for nothing.
            tracing::warn!(kind = name, %target, "a fault could not be injected: {error:#}");
            Effect::default()
        }
    };
    let Effect { bites, recovery } = effect;
    let (recovered_ms, unrecovered_ms) = (recovery.took(), recovery.in_vain());
    attack.world.journal.note(What::Healed { fault, bites, recovered_ms, unrecovered_ms });
    (number, kind, effect)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_faults_that_bit_make_a_pair() {
        let bit = HashMap::from([(1, "redis-cut"), (2, "server-killed"), (4, "api-killed")]);
        let meetings = Meetings { met: vec![(1, 2), (2, 3), (3, 4), (2, 1)], bit };
        assert_eq!(meetings.pairs(), BTreeSet::from([("redis-cut", "server-killed")]));
        let none = Meetings { bit: HashMap::new(), ..meetings };
        assert!(none.pairs().is_empty());
    }
}
