//! Claims in slots: two words for each, since every idle socket has one.
//!
//! A socket's outbox knows its slot, so that nothing else is needed to find it. The sweep goes over
//! the slots, the free ones too, so that a round takes no longer whoever comes and goes.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::hub::Outbox;
use crate::slab::Slab;

/// How many slots are made at once.
const CHUNK: usize = 1_024;
/// The most free slots that a step looks at in search of claims, where few are left of many.
const PASSED_MAX: usize = 1_024;
/// No slot.
const NONE: u32 = u32::MAX;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Slots {
    /// Sockets and the numbers of their claims.
    claims: Slab<(Arc<Outbox>, u64), CHUNK>,
    /// Where the sweep goes on.
    next: usize,
}

impl Slots {
    /// Where a socket's claim stands, if it has one.
    pub fn find(&self, outbox: &Outbox) -> Option<u32> {
        let at = outbox.claim.load(Ordering::Relaxed);
        self.claims.get(at).filter(|(held, _)| std::ptr::eq(&**held, outbox)).map(|_| at)
    }

    /// A socket, and its claim's number.
    pub fn get(&self, at: u32) -> Option<(&Arc<Outbox>, u64)> {
        self.claims.get(at).map(|(outbox, number)| (outbox, *number))
    }

    /// Puts a socket in that is in none.
    pub fn insert(&mut self, outbox: Arc<Outbox>, number: u64) -> u32 {
        let at = self.claims.insert((outbox.clone(), number));
        outbox.claim.store(at, Ordering::Relaxed);
        at
    }

    /// Gives a claim another number; its old one.
    pub fn renumber(&mut self, at: u32, number: u64) -> Option<u64> {
        self.claims.get_mut(at).map(|(_, known)| std::mem::replace(known, number))
    }

    /// Takes a claim out; its number.
    pub fn remove(&mut self, at: u32) -> Option<u64> {
        let (outbox, number) = self.claims.remove(at)?;
        outbox.claim.store(NONE, Ordering::Relaxed);
        Some(number)
    }

    /// Every socket with a claim.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Outbox>> {
        self.claims.iter().map(|(outbox, _)| outbox)
    }

    /// One step of the sweep: the `1 / steps` of all slots that come next, and some more until
    /// `least` claims are met.
    pub fn sweep(&mut self, steps: usize, least: usize) -> Vec<u32> {
        let (slots, mut met) = (self.claims.slots(), Vec::new());
        let (due, least) = (slots.div_ceil(steps), least.min(self.claims.len()));
        for passed in 0..slots.min(due.max(PASSED_MAX)) {
            if passed >= due && met.len() >= least {
                break;
            }
            let at = self.next as u32;
            self.next = (self.next + 1) % slots;
            if self.claims.get(at).is_some() {
                met.push(at);
            }
        }
        met
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::Who;
    use crate::protocol::{DeviceId, SocketId, UserId};

    fn outbox(socket: usize) -> Arc<Outbox> {
        let (user, device) = (UserId::parse("a").unwrap(), DeviceId::plain());
        Arc::new(Outbox::new(Who { user, device, socket: SocketId(socket as u128) }))
    }

    #[test]
    fn a_claim_is_found_by_its_socket_alone() {
        let mut slots = Slots::default();
        let (first, second) = (outbox(1), outbox(1));
        assert_eq!(slots.find(&first), None);
        let at = slots.insert(first.clone(), 7);
        assert_eq!((slots.find(&first), slots.get(at).unwrap().1), (Some(at), 7));
        assert_eq!((slots.renumber(at, 8), slots.remove(at)), (Some(7), Some(8)));
        assert_eq!((slots.find(&first), Arc::strong_count(&first)), (None, 1));
        assert_eq!(slots.insert(second.clone(), 9), at);
        first.claim.store(at, Ordering::Relaxed);
        assert_eq!((slots.find(&first), slots.find(&second)), (None, Some(at)));
    }

    /// Whoever leaves, and fills the slots before it meanwhile.
    #[test]
    fn churn_makes_no_round_longer() {
        const STEPS: usize = 100;
        let mut slots = Slots::default();
        let sockets: Vec<_> = (0..4_000).map(outbox).collect();
        let at: Vec<_> = sockets.iter().map(|socket| slots.insert(socket.clone(), 1)).collect();
        let (stay, leave): (Vec<_>, Vec<_>) = at.into_iter().partition(|at| at % 3 == 0);
        assert!(leave.into_iter().all(|at| slots.remove(at).is_some()));
        let visitors: Vec<_> = (0..2_500).map(outbox).collect();
        let mut seen = vec![0; slots.claims.slots()];
        for _ in 0..2 * STEPS {
            let come = visitors.iter().map(|visitor| slots.insert(visitor.clone(), 1));
            let come: Vec<_> = come.collect();
            let met = slots.sweep(STEPS, 16);
            assert!(met.len() <= seen.len().div_ceil(STEPS), "{}", met.len());
            met.into_iter().for_each(|at| seen[at as usize] += 1);
            assert!(come.into_iter().all(|at| slots.remove(at).is_some()));
        }
        assert!(stay.iter().all(|at| seen[*at as usize] >= 2), "each in each round");
    }
}
