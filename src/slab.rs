//! Things in numbered slots, in chunks of a fixed size: growing copies nothing that is there, and
//! wastes less than a chunk. For what every idle person has one of.

/// No slot.
const NONE: u32 = u32::MAX;

/// A thing with a pointer in it needs no further room for being one.
#[derive(Debug)]
enum Slot<T> {
    Held(T),
    /// Free, as is the one with this number.
    Free(u32),
}

/// See the module.
#[derive(Debug)]
pub struct Slab<T, const CHUNK: usize> {
    chunks: Vec<Box<[Slot<T>]>>,
    free: u32,
    held: usize,
}

impl<T, const CHUNK: usize> Default for Slab<T, CHUNK> {
    fn default() -> Self {
        Self { chunks: Vec::new(), free: NONE, held: 0 }
    }
}

impl<T, const CHUNK: usize> Slab<T, CHUNK> {
    /// How many things there are.
    pub fn len(&self) -> usize {
        self.held
    }

    /// How many slots there are, the free ones too.
    pub fn slots(&self) -> usize {
        self.chunks.len() * CHUNK
    }

    fn slot_mut(&mut self, at: u32) -> Option<&mut Slot<T>> {
        self.chunks.get_mut(at as usize / CHUNK)?.get_mut(at as usize % CHUNK)
    }

    /// What stands there.
    pub fn get(&self, at: u32) -> Option<&T> {
        match self.chunks.get(at as usize / CHUNK)?.get(at as usize % CHUNK)? {
            Slot::Held(thing) => Some(thing),
            Slot::Free(_) => None,
        }
    }

    /// What stands there.
    pub fn get_mut(&mut self, at: u32) -> Option<&mut T> {
        match self.slot_mut(at)? {
            Slot::Held(thing) => Some(thing),
            Slot::Free(_) => None,
        }
    }

    /// Puts something in; its number.
    pub fn insert(&mut self, thing: T) -> u32 {
        if self.free == NONE {
            self.grow();
        }
        let at = self.free;
        let free = self.slot_mut(at).map(|slot| std::mem::replace(slot, Slot::Held(thing)));
        self.free = if let Some(Slot::Free(next)) = free { next } else { NONE };
        self.held += 1;
        at
    }

    fn grow(&mut self) {
        let (begin, end) = (self.slots() as u32, (self.slots() + CHUNK) as u32);
        let free = |at| Slot::Free(if at + 1 == end { NONE } else { at + 1 });
        self.chunks.push((begin..end).map(free).collect());
        self.free = begin;
    }

    /// Takes something out.
    pub fn remove(&mut self, at: u32) -> Option<T> {
        let free = Slot::Free(self.free);
        let slot = self.slot_mut(at).filter(|slot| matches!(slot, Slot::Held(_)))?;
        let Slot::Held(thing) = std::mem::replace(slot, free) else { return None };
        self.free = at;
        self.held -= 1;
        Some(thing)
    }

    /// All that there is.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.chunks.iter().flatten().filter_map(|slot| match slot {
            Slot::Held(thing) => Some(thing),
            Slot::Free(_) => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Arc;

    use rand::RngExt;

    use super::*;

    #[test]
    fn a_thing_with_a_pointer_costs_what_it_is() {
        assert_eq!(size_of::<Slot<(Arc<u8>, u64)>>(), 16);
        let mut slab = Slab::<u64, 16>::default();
        assert_eq!(slab.slots(), 0);
        for thing in 0..100 {
            slab.insert(thing);
        }
        assert_eq!((slab.len(), slab.slots()), (100, 112));
    }

    #[test]
    fn whoever_comes_and_goes_each_is_found_by_its_number() {
        let (mut slab, mut known) = (Slab::<u64, 8>::default(), HashMap::new());
        for thing in 0..20_000 {
            let at: u32 = rand::rng().random_range(0..300);
            match rand::rng().random_range(0..4) {
                0 | 1 if known.len() < 250 => {
                    assert_eq!(known.insert(slab.insert(thing), thing), None, "a free one");
                }
                2 => {
                    let changed = slab.get_mut(at).map(|known| *known += 1);
                    assert_eq!(changed, known.get_mut(&at).map(|known| *known += 1));
                }
                _ => assert_eq!(slab.remove(at), known.remove(&at)),
            }
            assert_eq!((slab.get(at), slab.len()), (known.get(&at), known.len()));
        }
        assert!(slab.slots() <= 256, "what is free is taken first");
        assert_eq!(slab.iter().sum::<u64>(), known.values().sum::<u64>());
        assert!(slab.get(NONE).is_none() && slab.remove(NONE).is_none());
    }
}
