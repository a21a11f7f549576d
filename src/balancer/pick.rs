//! Which server a new connection goes to.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::discovery::Backend;
use crate::config::Pick;

/// Deals connections. Cheap, and shared by all of a balancer's connections.
#[derive(Debug)]
pub struct Picker {
    pick: Pick,
    next: AtomicUsize,
}

impl Picker {
    /// A dealer by this rule.
    pub fn new(pick: Pick) -> Self {
        Self { pick, next: AtomicUsize::new(0) }
    }

    /// Whether it matters who comes.
    pub fn asks_who(&self) -> bool {
        self.pick == Pick::Sticky
    }

    /// The backends in the order in which they are to be tried; the first is the one picked.
    /// `backends` stand in the order of their names, so that a fresh balancer deals ws1, ws2, ….
    pub fn order<'a>(&self, backends: &[&'a Backend], user: &str) -> Vec<&'a Backend> {
        self.order_at(self.next.fetch_add(1, Ordering::Relaxed), backends, user)
    }

    /// The same without taking the turn: who would be picked now.
    pub fn peek<'a>(&self, backends: &[&'a Backend], user: &str) -> Option<&'a Backend> {
        let turn = self.next.load(Ordering::Relaxed);
        self.order_at(turn, backends, user).into_iter().next()
    }

    fn order_at<'a>(&self, turn: usize, backends: &[&'a Backend], user: &str) -> Vec<&'a Backend> {
        let mut order = backends.to_vec();
        if order.is_empty() {
            return order;
        }
        match self.pick {
            Pick::RoundRobin => {
                let first = turn % order.len();
                order.rotate_left(first);
            }
            // The sort is stable: equal ones keep the order of their names.
            Pick::LeastConnections => order.sort_by_key(|backend| backend.load()),
            Pick::Sticky => {
                order.sort_by_key(|b| std::cmp::Reverse(weight(b.id.as_str(), user)));
            }
        }
        order
    }
}

/// Highest random weight (Thaler and Ravishankar, 1998): a user stays where he is while that server
/// lives, and only the users of a server that goes are dealt anew. FNV-1a with a final mix, so that
/// every balancer of a fleet agrees, whatever its build.
fn weight(server: &str, user: &str) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in server.bytes().chain([0]).chain(user.bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn backends(count: usize) -> Vec<Backend> {
        (1..=count).map(|n| Backend::named(&format!("ws{n}"))).collect()
    }

    fn first(picker: &Picker, backends: &[Backend], user: &str) -> String {
        let all: Vec<&Backend> = backends.iter().collect();
        picker.order(&all, user)[0].id.to_string()
    }

    #[test]
    fn round_robin_is_ws1_ws2_ws3_ws1() {
        let (picker, backends) = (Picker::new(Pick::RoundRobin), backends(3));
        let dealt: Vec<_> = (0..4).map(|_| first(&picker, &backends, "u")).collect();
        assert_eq!(dealt, ["ws1", "ws2", "ws3", "ws1"]);
    }

    #[test]
    fn ten_thousand_are_dealt_evenly() {
        let (picker, backends) = (Picker::new(Pick::RoundRobin), backends(3));
        let mut counts = std::collections::BTreeMap::new();
        for _ in 0..10_000 {
            *counts.entry(first(&picker, &backends, "u")).or_insert(0) += 1;
        }
        assert_eq!(counts.into_values().collect::<Vec<_>>(), [3_334, 3_333, 3_333]);
    }

    #[test]
    fn least_connections_goes_where_there_are_fewest() {
        let (picker, backends) = (Picker::new(Pick::LeastConnections), backends(3));
        backends[0].opened();
        backends[1].opened();
        assert_eq!(first(&picker, &backends, "u"), "ws3");
        backends[2].opened();
        assert_eq!(first(&picker, &backends, "u"), "ws1");
        backends[1].closed();
        assert_eq!(first(&picker, &backends, "u"), "ws2");
    }

    proptest! {
        #[test]
        fn sticky_moves_only_the_users_of_a_server_that_goes(user in "[a-z0-9]{1,12}") {
            let picker = Picker::new(Pick::Sticky);
            let all = backends(4);
            let home = first(&picker, &all, &user);
            prop_assert_eq!(&first(&picker, &all, &user), &home);
            for gone in 0..4 {
                let mut left = backends(4);
                let removed = left.remove(gone);
                if removed.id.as_str() != home {
                    prop_assert_eq!(&first(&picker, &left, &user), &home);
                }
            }
        }
    }

    #[test]
    fn sticky_spreads_users() {
        let (picker, backends) = (Picker::new(Pick::Sticky), backends(3));
        let mut counts = std::collections::BTreeMap::new();
        for user in 0..3_000 {
            *counts.entry(first(&picker, &backends, &format!("u{user}"))).or_insert(0) += 1;
        }
        assert!(counts.values().all(|count| (900..1_100).contains(count)), "{counts:?}");
    }
}
