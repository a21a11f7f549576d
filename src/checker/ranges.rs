//! Sets of seqs as ranges: what a device has is nearly dense, so a set is a few numbers.

/// See the module. Ranges are inclusive, sorted, and never touch each other.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Ranges(Vec<(u64, u64)>);

impl Ranges {
    /// Says whether the seq is new.
    pub fn insert(&mut self, seq: u64) -> bool {
        if let Some((_, last)) = self.0.last_mut()
            && seq == *last + 1
        {
            *last = seq;
            return true;
        }
        if self.contains(seq) {
            return false;
        }
        self.insert_range(seq, seq);
        true
    }

    pub fn insert_range(&mut self, from: u64, to: u64) {
        if from > to {
            return;
        }
        // All that overlap or touch the new one become one with it.
        let start = self.0.partition_point(|(_, last)| last.saturating_add(1) < from);
        let end = self.0.partition_point(|(first, _)| *first <= to.saturating_add(1));
        let touched = self.0.get(start..end).unwrap_or_default();
        let first = touched.first().map_or(from, |(first, _)| from.min(*first));
        let last = touched.last().map_or(to, |(_, last)| to.max(*last));
        self.0.splice(start..end.max(start), [(first, last)]);
    }

    pub fn contains(&self, seq: u64) -> bool {
        let at = self.0.partition_point(|(_, last)| *last < seq);
        self.0.get(at).is_some_and(|(first, _)| *first <= seq)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn first(&self) -> Option<u64> {
        self.0.first().map(|(first, _)| *first)
    }

    pub fn last(&self) -> Option<u64> {
        self.0.last().map(|(_, last)| *last)
    }

    pub fn union(&self, other: &Self) -> Self {
        let mut all = self.clone();
        other.0.iter().for_each(|(first, last)| all.insert_range(*first, *last));
        all
    }

    /// What of `from..=to` is not in the set.
    pub fn gaps(&self, from: u64, to: u64) -> Self {
        let mut gaps = Vec::new();
        let mut next = from;
        let start = self.0.partition_point(|(_, last)| *last < from);
        for (first, last) in self.0.iter().skip(start) {
            if next > to || *first > to {
                break;
            }
            if *first > next {
                gaps.push((next, first - 1));
            }
            next = last.saturating_add(1);
        }
        if next <= to {
            gaps.push((next, to));
        }
        Self(gaps)
    }

    /// What is in this set and not in the other.
    pub fn without(&self, other: &Self) -> Self {
        let gaps = self.0.iter().flat_map(|(first, last)| other.gaps(*first, *last).0);
        Self(gaps.collect())
    }

    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.0.iter().copied()
    }
}

impl FromIterator<(u64, u64)> for Ranges {
    fn from_iter<I: IntoIterator<Item = (u64, u64)>>(ranges: I) -> Self {
        let mut set = Self::default();
        ranges.into_iter().for_each(|(first, last)| set.insert_range(first, last));
        set
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn plain(set: &Ranges) -> BTreeSet<u64> {
        set.iter().flat_map(|(first, last)| first..=last).collect()
    }

    fn set() -> impl Strategy<Value = Ranges> {
        let ranges = proptest::collection::vec((0u64..40, 0u64..6), 0..12);
        ranges.prop_map(|ranges| ranges.into_iter().map(|(from, len)| (from, from + len)).collect())
    }

    proptest! {
        #[test]
        fn a_set_of_ranges_is_a_set(a in set(), b in set(), seq in 0u64..50, len in 0u64..20) {
            let (pa, pb) = (plain(&a), plain(&b));
            prop_assert!(a.0.is_sorted() && a.0.windows(2).all(|w| w[0].1 + 1 < w[1].0));
            prop_assert_eq!(a.contains(seq), pa.contains(&seq));
            prop_assert_eq!((a.first(), a.last()), (pa.first().copied(), pa.last().copied()));
            prop_assert_eq!(plain(&a.union(&b)), &pa | &pb);
            prop_assert_eq!(plain(&a.without(&b)), &pa - &pb);
            let wanted: BTreeSet<u64> = (seq..=seq + len).collect();
            prop_assert_eq!(plain(&a.gaps(seq, seq + len)), &wanted - &pa);
            let mut more = a;
            prop_assert_eq!(more.insert(seq), !pa.contains(&seq));
            prop_assert_eq!(plain(&more), &pa | &BTreeSet::from([seq]));
        }
    }
}
