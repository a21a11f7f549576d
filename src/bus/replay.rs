//! What was heard once is not heard again: a window for each life of a publisher, bounded.
//!
//! A publish carries its publisher's life, a number that rises with every publish of that life, and
//! the time. **Invariant:** a number of a life is admitted once, and nothing that was published
//! before the listener began. Numbers may overtake each other within [`WINDOW`]: when a connection
//! is replaced, what still lies in the old one may arrive after what went over the new one.

use std::collections::HashMap;

use super::signing::Refusal;

/// How far a number may lie behind the highest one of its life.
const WINDOW: u64 = 1_024;
const WORDS: usize = WINDOW as usize / 64;
/// How many lives are remembered; the one longest silent goes.
const LIVES_MAX: usize = 1_024;
/// How far ahead a publisher's clock may be: as far as AWS accepts signed requests.
const AHEAD_MS_MAX: u64 = 5 * 60 * 1_000;

/// The lives heard so far.
#[derive(Debug)]
pub(super) struct Replays {
    /// An unknown life must begin at this time or later, in milliseconds.
    floor: u64,
    lives: HashMap<u64, Window>,
    ordinal: u64,
}

/// One life of a publisher.
#[derive(Debug)]
struct Window {
    /// What was published before the first number that was heard must be as young as a new life.
    first: u64,
    floor: u64,
    highest: u64,
    /// A bit for each of the last [`WINDOW`] numbers.
    seen: [u64; WORDS],
    newest_at: u64,
    /// When it was heard last, as an ordinal.
    heard: u64,
}

impl Replays {
    /// For a listener that begins now.
    pub(super) fn since(now: u64) -> Self {
        Self { floor: now, lives: HashMap::new(), ordinal: 0 }
    }

    /// Admits a publish that is proven to be a publisher's, or says why not. `now` is the
    /// listener's time.
    pub(super) fn admit(
        &mut self,
        life: u64,
        number: u64,
        at: u64,
        now: u64,
    ) -> Result<(), Refusal> {
        self.ordinal += 1;
        if let Some(window) = self.lives.get_mut(&life) {
            window.admit(number, at)?;
            window.heard = self.ordinal;
            return Ok(());
        }
        if at < self.floor || at > now.saturating_add(AHEAD_MS_MAX) {
            return Err(Refusal::Stale);
        }
        if self.lives.len() >= LIVES_MAX {
            self.forget_one();
        }
        let (floor, heard) = (self.floor, self.ordinal);
        let mut window = Window {
            first: number,
            floor,
            highest: number,
            seen: [0; WORDS],
            newest_at: at,
            heard,
        };
        window.mark(number);
        self.lives.insert(life, window);
        Ok(())
    }

    /// Whatever the forgotten life has published is too old from now on.
    fn forget_one(&mut self) {
        let silent = self.lives.iter().min_by_key(|(_, window)| window.heard);
        if let Some(life) = silent.map(|(life, _)| *life)
            && let Some(gone) = self.lives.remove(&life)
        {
            self.floor = self.floor.max(gone.newest_at.saturating_add(1));
        }
    }
}

impl Window {
    fn admit(&mut self, number: u64, at: u64) -> Result<(), Refusal> {
        if number > self.highest {
            let passed = number - self.highest;
            if passed >= WINDOW {
                self.seen = [0; WORDS];
            } else {
                (self.highest + 1..number).for_each(|between| self.clear(between));
            }
            self.highest = number;
        } else if self.highest - number >= WINDOW || self.is_marked(number) {
            return Err(Refusal::Replayed);
        } else if number < self.first && at < self.floor {
            return Err(Refusal::Stale);
        }
        self.mark(number);
        self.newest_at = self.newest_at.max(at);
        Ok(())
    }

    fn place(number: u64) -> (usize, u64) {
        let bit = number % WINDOW;
        ((bit / 64) as usize, 1 << (bit % 64))
    }

    fn is_marked(&self, number: u64) -> bool {
        let (word, bit) = Self::place(number);
        self.seen[word] & bit != 0
    }

    fn mark(&mut self, number: u64) {
        let (word, bit) = Self::place(number);
        self.seen[word] |= bit;
    }

    fn clear(&mut self, number: u64) {
        let (word, bit) = Self::place(number);
        self.seen[word] &= !bit;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: u64 = 1_790_000_000_000;

    #[test]
    fn a_number_is_admitted_once_in_any_order() {
        let mut replays = Replays::since(START);
        for number in [5, 4, 9, 7, 6, 8, 3_000, 2_999, 1_977] {
            assert_eq!(replays.admit(1, number, START, START), Ok(()), "{number}");
            assert_eq!(replays.admit(1, number, START, START), Err(Refusal::Replayed), "{number}");
        }
        let old = replays.admit(1, 3_000 - WINDOW, START, START);
        assert_eq!(old, Err(Refusal::Replayed), "behind the window");
        assert_eq!(replays.admit(2, 5, START, START), Ok(()), "another life has its own numbers");
    }

    #[test]
    fn nothing_from_before_the_beginning_is_admitted() {
        let mut replays = Replays::since(START);
        assert_eq!(replays.admit(1, 7, START - 1, START), Err(Refusal::Stale));
        assert_eq!(replays.admit(1, 8, START, START), Ok(()));
        assert_eq!(replays.admit(1, 7, START - 1, START), Err(Refusal::Stale), "nor behind it");
        assert_eq!(replays.admit(1, 6, START, START), Ok(()), "but what it has overtaken");
        // A publisher whose clock goes back is still the same publisher.
        assert_eq!(replays.admit(1, 9, START - 3_600_000, START), Ok(()));
        let ahead = START + AHEAD_MS_MAX + 1;
        assert_eq!(replays.admit(2, 1, ahead, START), Err(Refusal::Stale), "from the future");
        assert_eq!(replays.admit(2, 1, ahead, START + 1), Ok(()));
    }

    #[test]
    fn what_was_forgotten_does_not_come_back() {
        let mut replays = Replays::since(START);
        for life in 0..=LIVES_MAX as u64 {
            replays.admit(0, life, START + life, START).unwrap();
            replays.admit(life + 1, 1, START + life, START).unwrap();
        }
        assert_eq!(replays.lives.len(), LIVES_MAX, "bounded");
        assert_eq!(replays.admit(1, 1, START, START), Err(Refusal::Stale));
        assert_eq!(replays.admit(0, 3, START + 3, START), Err(Refusal::Replayed), "it was busy");
    }

    proptest! {
        /// Against a plain set of what was admitted.
        #[test]
        fn it_agrees_with_a_set(steps in prop::collection::vec(0_u64..3 * WINDOW, 1..400)) {
            let (mut replays, mut seen) = (Replays::since(0), std::collections::HashSet::new());
            let mut highest = 0;
            for number in steps {
                let within = number + WINDOW > highest;
                let admitted = replays.admit(1, number, 1, 1).is_ok();
                prop_assert_eq!(admitted, within && !seen.contains(&number));
                if admitted {
                    seen.insert(number);
                    highest = highest.max(number);
                }
            }
        }
    }
}
