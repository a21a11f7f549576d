//! The meter against a naive model, and what holds whoever shares a key's slots.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// Keys as a hash gives them.
fn key(name: u64) -> Key {
    // splitmix64: a different one for each name, well mixed.
    let mut hash = name.wrapping_add(0x9e37_79b9_7f4a_7c15);
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    Key(hash ^ (hash >> 31))
}

/// A bucket that fills drop by drop, of one key, in exact numbers.
struct Bucket {
    rate: Rate,
    /// In units × nanoseconds.
    level: u128,
    at: Duration,
}

const NANOS: u128 = 1_000_000_000;

impl Bucket {
    fn new(rate: Rate) -> Self {
        Self { rate, level: u128::from(rate.burst) * NANOS, at: Duration::ZERO }
    }

    fn take(&mut self, units: u64, now: Duration) -> bool {
        let full = u128::from(self.rate.burst) * NANOS;
        let filled = (now - self.at).as_nanos() * u128::from(self.rate.rate);
        self.level = (self.level + filled).min(full);
        self.at = now;
        let wanted = u128::from(units) * NANOS;
        let enough = self.level >= wanted;
        self.level -= if enough { wanted } else { 0 };
        enough
    }
}

/// Rates by which a second can be divided: the model and the meter then agree to the nanosecond.
fn rates() -> impl Strategy<Value = Rate> {
    (prop::sample::select(vec![1_u32, 5, 50, 200, 1_000]), 1_u32..50)
        .prop_map(|(rate, burst)| Rate::new(rate, burst))
}

proptest! {
    #[test]
    fn a_key_alone_gets_what_the_model_gives(
        rate in rates(),
        calls in prop::collection::vec((0_u64..400, 1_u64..4), 1..200),
    ) {
        let (meter, mut bucket) = (Meter::new(rate, SECOND), Bucket::new(rate));
        let mut now = Duration::ZERO;
        for (pause, units) in calls {
            now += Duration::from_millis(pause);
            let units = units.min(u64::from(rate.burst));
            let taken = meter.take(key(7), units, meter.start + now).is_ok();
            prop_assert_eq!(taken, bucket.take(units, now), "at {:?}", now);
        }
    }

    /// However many share the table: in any window nobody gets more than a burst and the rate.
    #[test]
    fn nobody_gets_more_than_the_limit(
        rate in rates(),
        calls in prop::collection::vec((0_u64..4_000, 0_u64..20, 1_u64..3), 1..400),
    ) {
        let meter = Meter::new(rate, SECOND);
        let mut now = Duration::ZERO;
        let mut taken: HashMap<u64, Vec<(Duration, u64)>> = HashMap::new();
        for (name, pause, units) in calls {
            now += Duration::from_millis(pause);
            let units = units.min(u64::from(rate.burst));
            if meter.take(key(name % 200), units, meter.start + now).is_ok() {
                taken.entry(name % 200).or_default().push((now, units));
            }
        }
        for times in taken.values() {
            for (at, (from, _)) in times.iter().enumerate() {
                let mut sum = 0;
                for (to, units) in &times[at..] {
                    sum += units;
                    let allowed = u128::from(rate.burst) * NANOS
                        + (*to - *from).as_nanos() * u128::from(rate.rate);
                    prop_assert!(u128::from(sum) * NANOS <= allowed, "{} in {:?}", sum, to);
                }
            }
        }
    }

    /// Who waits as long as was said gets it, and not a moment sooner.
    #[test]
    fn the_wait_is_right(rate in rates(), before in 0_u64..60, units in 1_u64..40) {
        let meter = Meter::new(rate, SECOND);
        let mut now = meter.start + SECOND;
        for _ in 0..before {
            let _ = meter.take(key(1), 1, now);
        }
        if let Err(wait) = meter.take(key(1), units, now) {
            prop_assert!(meter.take(key(1), units, now + wait - Duration::from_nanos(1)).is_err());
            now += wait;
            prop_assert_eq!(meter.take(key(1), units, now), Ok(()));
        }
    }
}

#[test]
fn more_than_a_burst_goes_when_nothing_is_owed() {
    let meter = Meter::new(Rate::new(10, 5), SECOND);
    let now = meter.start;
    assert_eq!(meter.take(key(1), 20, now), Ok(()));
    assert_eq!(meter.take(key(1), 20, now), Err(2 * SECOND));
    assert_eq!(meter.take(key(1), 20, now + 2 * SECOND), Ok(()));
}

#[test]
fn what_is_owed_is_waited_for_and_has_a_bound() {
    let meter = Meter::new(Rate::new(10, 5), SECOND);
    let now = meter.start;
    meter.owe(key(1), 3, now);
    assert_eq!(meter.take(key(1), 2, now), Ok(()));
    meter.owe(key(1), 3, now);
    assert_eq!(meter.take(key(1), 1, now), Err(4 * SECOND / 10));
    meter.owe(key(1), 1_000, now);
    assert_eq!(meter.take(key(1), 1, now), Err(6 * SECOND / 10), "two bursts, and one more");
}

#[test]
fn those_under_way_count_as_taken() {
    let meter = Meter::new(Rate::new(10, 5), SECOND);
    let is_left = |ahead, units| meter.is_left(key(1), ahead, units, meter.start);
    assert_eq!([is_left(0, 5), is_left(4, 1), is_left(0, 20)], [Ok(()); 3]);
    assert_eq!(is_left(5, 1), Err(SECOND / 10));
    assert_eq!(is_left(1, 20), Err(SECOND / 10), "more than a burst goes when nothing is owed");
}

#[tokio::test(start_paused = true)]
async fn it_runs_by_the_clock_of_the_runtime() {
    let meter = Meter::new(Rate::new(3, 3), Duration::from_secs(3_600));
    let take = || meter.take(key(1), 1, Instant::now());
    assert_eq!([take(), take(), take()], [Ok(()); 3]);
    assert_eq!(take(), Err(Duration::from_secs(1_200)));
    tokio::time::advance(Duration::from_secs(1_199)).await;
    assert_eq!(take(), Err(SECOND));
    tokio::time::advance(SECOND).await;
    assert_eq!([take(), take().map_err(|_| SECOND)], [Ok(()), Err(SECOND)]);
}

/// A hundred who flood do not shut others out, and none of them gets more for being many.
#[test]
fn others_are_not_kept_waiting_by_a_hundred_who_flood() {
    let meter = Meter::new(Rate::new(50, 200), SECOND);
    let now = meter.start + SECOND;
    for name in 0..100 {
        let taken = (0..1_000).filter(|_| meter.take(key(name), 1, now).is_ok()).count();
        assert!(taken <= 200, "{taken}");
    }
    let refused = (1_000..101_000).filter(|name| meter.take(key(*name), 1, now).is_err());
    let refused = refused.count();
    assert!(refused <= 3, "{refused} of a hundred thousand");
}

/// How many in a hundred thousand others are refused while `full` keys are at their limit.
fn shut_out(period: Duration, full: u64) -> usize {
    let meter = Meter::new(Rate::new(1, 1), period);
    let now = meter.start + period;
    for name in 0..full {
        let _ = meter.take(key(name), 1, now);
    }
    let others = 1_000_000..1_100_000;
    others.filter(|name| meter.is_left(key(*name), 0, 1, now).is_err()).count()
}

/// The table of ADR 5.
#[test]
fn innocents_are_shut_out_as_often_as_is_written() {
    for (full, by_second, by_hour) in [
        (100, 0..=3, 0..=1),
        (1_000, 150..=400, 0..=1),
        (2_000, 1_800..=3_000, 0..=1),
        (5_000, 22_000..=28_000, 0..=10),
        (10_000, 65_000..=73_000, 20..=70),
    ] {
        let second = shut_out(SECOND, full);
        assert!(by_second.contains(&second), "{full} by the second: {second}");
        let hour = shut_out(3_600 * SECOND, full);
        assert!(by_hour.contains(&hour), "{full} by the hour: {hour}");
    }
}

#[test]
fn nothing_is_had_for_nothing_and_nothing_overflows() {
    let meter = Meter::new(Rate::new(u32::MAX, 1), SECOND);
    assert_eq!(meter.take(key(1), 1, meter.start), Ok(()));
    assert!(meter.take(key(1), 1, meter.start).is_err());
    let meter = Meter::new(Rate::new(1_000_000, u32::MAX), Duration::from_secs(3_600));
    assert_eq!(meter.cost(8 << 20), 3_600_000 * (8 << 20), "more than 64 bits on the way");
    assert_eq!(meter.refill(), Duration::from_nanos(3_600_000 * u64::from(u32::MAX)));
}

#[test]
fn any_number_of_keys_takes_the_same_memory() {
    for (period, slots_each) in [(SECOND, SLOTS), (3_600 * SECOND, SLOTS_BY_HOUR)] {
        let meter = Meter::new(Rate::new(1, 1), period);
        let slots = || {
            let each = meter.shards.iter().map(|shard| shard.lock().unwrap().capacity());
            each.sum::<usize>()
        };
        assert_eq!(slots(), 0, "nothing, before the first one");
        for name in 0..1_000_000 {
            let _ = meter.take(key(name), 1, meter.start);
        }
        assert_eq!(slots(), SHARDS * slots_each);
    }
    assert_eq!(SHARDS * SLOTS * size_of::<u64>(), 128 << 10);
    assert_eq!(SHARDS * SLOTS_BY_HOUR * size_of::<u64>(), 2 << 20);
}

#[test]
fn threads_that_share_a_key_get_no_more_together() {
    let meter = Meter::new(Rate::new(1, 500), Duration::from_secs(3_600));
    let taken: usize = std::thread::scope(|scope| {
        let take = || (0..1_000).filter(|_| meter.take(key(1), 1, meter.start).is_ok()).count();
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(taken, 500);
}
