//! Places for connections that are no sockets: so many of an address, so many in all.
//!
//! Such a connection is a file, and costs whoever opens it nothing. **Invariant:** a quarter of the
//! places is only for those that are counted for nobody (proxies, balancers, this machine), so that
//! strangers, however many they are, can't keep a balancer from asking whether we live.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::seats::Crowd;
use super::{Address, Limit, Over};

/// How often it is said that somebody was refused.
const SAID_EVERY: Duration = Duration::from_secs(60);

/// How many of those who find no place are being told so, at most: others just find the end.
const TOLD_MAX: u32 = 64;

/// See the module.
#[derive(Debug)]
pub struct Lobby {
    most: u32,
    inside: AtomicU32,
    /// Those of them that are somebody's.
    strangers: AtomicU32,
    crowd: Option<Crowd>,
    /// What is met where all are taken, and where an address has enough.
    limits: [Limit; 2],
    said: Mutex<Option<Instant>>,
    telling: Arc<Semaphore>,
}

impl Lobby {
    pub(super) fn new(most: u32, of_an_address: Option<u32>, limits: [Limit; 2]) -> Arc<Self> {
        let (inside, strangers, said) = Default::default();
        // Where places are few, one address is not to have them all.
        let crowd = of_an_address.map(|share| Crowd::new(share.min((most / 4).max(1))));
        let telling = Arc::new(Semaphore::new((most / 8).clamp(1, TOLD_MAX) as usize));
        Arc::new(Self { most, inside, strangers, crowd, limits, said, telling })
    }

    /// Leave to tell one of those who found no place: they are files as well, and few.
    pub fn tell(&self) -> Option<OwnedSemaphorePermit> {
        self.telling.clone().try_acquire_owned().ok()
    }

    /// A place for a connection from this address.
    pub fn enter(self: &Arc<Self>, address: Option<Address>) -> Result<Stay, Over> {
        if !one_more(&self.inside, self.most) {
            return Err(self.refused(self.limits[0]));
        }
        let mut stay = Stay { lobby: self.clone(), stranger: false, address: None };
        address.map_or(Ok(()), |address| stay.is_of(address))?;
        Ok(stay)
    }

    fn refused(&self, limit: Limit) -> Over {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.is_none_or(|said| said.elapsed() >= SAID_EVERY) {
            *said = Some(Instant::now());
            let (limit, most) = (limit.as_str(), self.most);
            tracing::warn!(limit, most, "connections are refused: too many do nothing");
        }
        Over::full(limit)
    }
}

fn one_more(count: &AtomicU32, most: u32) -> bool {
    let one_more = |count| (count < most).then_some(count + 1);
    count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok()
}

/// A place that is taken; free again once this is dropped.
#[derive(Debug)]
pub struct Stay {
    lobby: Arc<Lobby>,
    stranger: bool,
    address: Option<Address>,
}

impl Stay {
    /// It turns out to be of this address: who took it for somebody else has said so.
    pub fn is_of(&mut self, address: Address) -> Result<(), Over> {
        let lobby = &self.lobby;
        if self.stranger {
            return Ok(());
        }
        if !one_more(&lobby.strangers, lobby.most - lobby.most / 4) {
            return Err(lobby.refused(lobby.limits[0]));
        }
        if let Some(crowd) = &lobby.crowd {
            if !crowd.enter(address) {
                lobby.strangers.fetch_sub(1, Ordering::Relaxed);
                return Err(lobby.refused(lobby.limits[1]));
            }
            self.address = Some(address);
        }
        self.stranger = true;
        Ok(())
    }

    /// Whether places run short, for all or for its address: whoever can do with less time here is
    /// to have less.
    pub fn is_short(&self) -> bool {
        let crowded = |(crowd, address): (&Crowd, Address)| crowd.is_half_full(address);
        self.lobby.inside.load(Ordering::Relaxed) > self.lobby.most / 2
            || self.lobby.crowd.as_ref().zip(self.address).is_some_and(crowded)
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        self.lobby.inside.fetch_sub(1, Ordering::Relaxed);
        if self.stranger {
            self.lobby.strangers.fetch_sub(1, Ordering::Relaxed);
        }
        if let (Some(crowd), Some(address)) = (&self.lobby.crowd, self.address) {
            crowd.leave(address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: [Limit; 2] = [Limit::HalfOpen, Limit::HalfOpenPerAddress];

    fn address(last: u8) -> Option<Address> {
        Address::of([203, 0, 113, last].into())
    }

    fn met(entered: &Result<Stay, Over>) -> Option<Limit> {
        entered.as_ref().err().map(|over| over.limit)
    }

    #[test]
    fn an_address_has_its_share_and_strangers_leave_a_quarter() {
        let lobby = Lobby::new(16, Some(4), LIMITS);
        let mut inside: Vec<_> = (0..4).map(|_| lobby.enter(address(7)).unwrap()).collect();
        assert_eq!(met(&lobby.enter(address(7))), Some(Limit::HalfOpenPerAddress));
        inside.extend((0..8).map(|other| lobby.enter(address(8 + other / 4)).unwrap()));
        assert_eq!(met(&lobby.enter(address(10))), Some(Limit::HalfOpen));
        assert!(inside[0].is_short());
        // One behind a proxy is a stranger as well, once the proxy has said so.
        let mut named = lobby.enter(None).unwrap();
        assert_eq!(named.is_of(address(10).unwrap()).unwrap_err().limit, Limit::HalfOpen);
        drop(named);
        inside.extend((0..4).map(|_| lobby.enter(None).unwrap()));
        assert_eq!(met(&lobby.enter(None)), Some(Limit::HalfOpen));
        inside.clear();
        let again: Vec<_> = (0..4).filter_map(|_| lobby.enter(address(7)).ok()).collect();
        assert_eq!(again.len(), 4);
    }

    #[test]
    fn places_run_short_for_an_address_before_they_do_for_all() {
        let lobby = Lobby::new(100, Some(4), LIMITS);
        let mut inside: Vec<_> = (0..2).map(|_| lobby.enter(address(7)).unwrap()).collect();
        assert!(!inside[0].is_short());
        inside.push(lobby.enter(address(7)).unwrap());
        assert!(inside[0].is_short() && !lobby.enter(address(8)).unwrap().is_short());
    }

    #[test]
    fn one_address_does_not_have_all_of_few() {
        let lobby = Lobby::new(16, Some(256), LIMITS);
        let inside: Vec<_> = (0..8).map(|_| lobby.enter(address(7))).collect();
        assert_eq!(inside.iter().filter(|entered| entered.is_ok()).count(), 4);
    }

    #[test]
    fn a_place_becomes_somebodys_once_a_proxy_has_said_whose() {
        let lobby = Lobby::new(8, Some(1), LIMITS);
        let [mut one, mut two] = [lobby.enter(None).unwrap(), lobby.enter(None).unwrap()];
        let [seven, eight] = [7, 8].map(|last| address(last).unwrap());
        assert_eq!(one.is_of(seven), Ok(()));
        assert!(two.is_of(seven).is_err());
        assert_eq!(two.is_of(eight), Ok(()));
        drop(one);
        assert!(lobby.enter(Some(seven)).is_ok() && lobby.enter(Some(eight)).is_err());
    }
}
