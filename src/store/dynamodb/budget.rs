//! How many retries may be spent: a bucket for each partition, and one for the link as a whole.
//!
//! A retry draws from both, a success pays a part back into both. So a partition that is throttled
//! takes no retries from the others, and an outage of everything does not multiply its own load.
//! **Invariant:** of any number of requests, but for those of the board, at most [`LINK_RETRIES`]
//! plus a fifth of the successes are retries.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU32, Ordering};

/// Retries of one partition that may be spent before any success pays some back.
const PARTITION_RETRIES: u32 = 10;
/// The same for all partitions together.
const LINK_RETRIES: u32 = 100;
/// What a retry costs, in the coin of [`PAY_BACK`].
const RETRY: u32 = 10;
/// What a success pays back: a fifth of a retry.
const PAY_BACK: u32 = 2;
/// How many buckets there are for partitions. Two that fall into one share it: beside a throttled
/// partition that is one of four thousand.
const PARTITIONS: usize = 4_096;

/// The bucket of a partition.
#[derive(Debug, Clone, Copy)]
pub struct Partition(usize);

/// The buckets of a link.
#[derive(Debug)]
pub struct Budget {
    link: Bucket,
    partitions: Box<[Bucket]>,
    /// With keys of its own, so that nobody can choose an id that falls into another's bucket.
    hasher: RandomState,
}

impl Budget {
    /// Full ones.
    pub fn full() -> Self {
        let partitions = (0..PARTITIONS).map(|_| Bucket::full(PARTITION_RETRIES)).collect();
        Self { link: Bucket::full(LINK_RETRIES), partitions, hasher: RandomState::new() }
    }

    /// The bucket of the partition with this key.
    pub fn partition(&self, pk: &str) -> Partition {
        Partition(self.hasher.hash_one(pk) as usize % PARTITIONS)
    }

    /// Takes one retry, if there is one. Those of the few calls that go `ahead` are not the link's:
    /// who is alive must be known in an outage too.
    pub fn take(&self, partition: Partition, ahead: bool) -> bool {
        let own = &self.partitions[partition.0];
        if !own.take() {
            return false;
        }
        if ahead || self.link.take() {
            return true;
        }
        own.put(RETRY, PARTITION_RETRIES);
        false
    }

    /// A success pays back.
    pub fn pay_back(&self, partition: Partition) {
        self.partitions[partition.0].put(PAY_BACK, PARTITION_RETRIES);
        self.link.put(PAY_BACK, LINK_RETRIES);
    }
}

#[derive(Debug)]
struct Bucket(AtomicU32);

impl Bucket {
    fn full(retries: u32) -> Self {
        Self(AtomicU32::new(retries * RETRY))
    }

    fn take(&self) -> bool {
        let take = |left: u32| left.checked_sub(RETRY);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }

    fn put(&self, coins: u32, retries_max: u32) {
        let full = retries_max * RETRY;
        let put = |left: u32| (left < full).then(|| full.min(left + coins));
        // A bucket that is full keeps what it has.
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, put);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many retries are left in a partition, which are all taken.
    fn left(budget: &Budget, partition: Partition) -> usize {
        (0..1_000).filter(|_| budget.take(partition, false)).count()
    }

    #[test]
    fn a_partition_spends_its_own_retries_and_is_paid_back() {
        let budget = Budget::full();
        let (hot, cold) = (Partition(7), Partition(8));
        assert_eq!(left(&budget, hot), PARTITION_RETRIES as usize);
        (0..4).for_each(|_| budget.pay_back(hot));
        assert_eq!(left(&budget, hot), 0, "four successes are not yet a retry");
        budget.pay_back(hot);
        assert_eq!(left(&budget, hot), 1);
        (0..5_000).for_each(|_| budget.pay_back(hot));
        assert_eq!(left(&budget, hot), 10, "a bucket does not overflow");
        assert_eq!(left(&budget, cold), 10, "the others have all of theirs");
    }

    #[test]
    fn an_outage_of_everything_spends_the_retries_of_the_link() {
        let budget = Budget::full();
        let spent: usize = (0..100).map(|at| left(&budget, Partition(at))).sum();
        assert_eq!(spent, LINK_RETRIES as usize);
        assert!(!budget.take(Partition(500), false));
        assert!(budget.take(Partition(500), true), "the board has its own");
        (0..50).for_each(|_| budget.pay_back(Partition(500)));
        assert_eq!(left(&budget, Partition(600)), 10, "50 successes pay for 10 retries");
        assert_eq!(left(&budget, Partition(601)), 0);
    }

    #[test]
    fn a_retry_that_the_link_has_not_is_not_the_partitions_loss() {
        let budget = Budget::full();
        (0..10).for_each(|at| assert_eq!(left(&budget, Partition(at)), 10));
        assert_eq!(left(&budget, Partition(20)), 0);
        (0..100).for_each(|_| budget.pay_back(Partition(30)));
        assert_eq!(left(&budget, Partition(20)), 10);
    }

    #[test]
    fn a_key_has_one_bucket() {
        let budget = Budget::full();
        assert_eq!(budget.partition("U#a").0, budget.partition("U#a").0);
        let used = (0..1_000).map(|i| budget.partition(&format!("U#{i}")).0);
        let used: std::collections::BTreeSet<_> = used.collect();
        assert!(used.len() > 800, "{}", used.len());
    }
}
