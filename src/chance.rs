//! Chance: random numbers, and the order of hash maps.
//!
//! Production asks the operating system. A test may seed its thread (`seeded`): the simulation then
//! takes the same way again for the same seed.

use std::ops::Range;

use rand::RngExt;

/// The hashing of maps whose order has effects, or that are looked into for each message. Keyed by
/// chance, so that nobody can choose names that fall together. In tests a map of the same history
/// always has the same order.
#[cfg(not(test))]
#[derive(Debug, Clone, Default)]
pub struct Hashing(ahash::RandomState);
#[cfg(not(test))]
impl std::hash::BuildHasher for Hashing {
    type Hasher = ahash::AHasher;

    fn build_hasher(&self) -> Self::Hasher {
        self.0.build_hasher()
    }
}
#[cfg(test)]
pub type Hashing = std::hash::BuildHasherDefault<std::hash::DefaultHasher>;

/// 128 random bits, for ids.
pub fn bits() -> u128 {
    #[cfg(test)]
    if let Some(bits) = seeded::next(|random| random.random()) {
        return bits;
    }
    rand::random()
}

/// A number of the range, for jitter.
pub fn within(range: Range<u64>) -> u64 {
    #[cfg(test)]
    if let Some(number) = seeded::next(|random| random.random_range(range.clone())) {
        return number;
    }
    rand::rng().random_range(range)
}

#[cfg(test)]
pub(crate) mod seeded {
    use std::cell::RefCell;

    use rand::SeedableRng;
    use rand::rngs::StdRng;

    thread_local! {
        static HERE: RefCell<Option<StdRng>> = const { RefCell::new(None) };
    }

    /// Seeds the chance of this thread, or gives it back to the operating system.
    pub fn seed(seed: Option<u64>) {
        HERE.set(seed.map(StdRng::seed_from_u64));
    }

    pub(super) fn next<T>(draw: impl FnOnce(&mut StdRng) -> T) -> Option<T> {
        HERE.with_borrow_mut(|random| random.as_mut().map(draw))
    }

    #[test]
    fn a_seeded_thread_draws_the_same_again() {
        let draw = || (super::bits(), super::within(3..1_000_000));
        let seeded = || {
            seed(Some(7));
            (draw(), draw())
        };
        let first = seeded();
        assert_ne!(first.0, first.1);
        assert_eq!(first, seeded());
        seed(None);
        assert_ne!(draw(), draw());
    }
}
