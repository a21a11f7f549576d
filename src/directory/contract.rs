//! What every socket map must do, sentence by sentence of the port. Adapters' tests call [`all`].
#![cfg(test)]

use std::sync::Arc;

use super::{Directory, SOCKETS_KEPT_MAX, SocketEntry};
use crate::protocol::{DeviceId, Epoch, ProcessId, SocketId, UserId};

/// Somebody whom no other test knows.
pub fn user() -> UserId {
    UserId::parse(&format!("user-{:032x}", rand::random::<u128>())).unwrap()
}

/// A socket on ws3.
pub fn entry(socket: u128, claim: u64) -> SocketEntry {
    SocketEntry {
        socket_id: SocketId(socket),
        server: ProcessId::parse("ws3").unwrap(),
        epoch: Epoch(0xfeed_beef_0123_4567),
        device: DeviceId::plain(),
        claim,
    }
}

/// The whole suite.
pub async fn all(map: &dyn Directory) {
    a_claim_is_seen_by_a_later_locate(map).await;
    the_newest_socket_stands_first(map).await;
    a_new_claim_takes_the_place_of_an_older_one(map).await;
    only_the_pairs_that_are_named_are_removed(map).await;
    a_claim_drops_what_its_server_judged_dead(map).await;
    locate_answers_in_the_order_of_the_question(map).await;
    extend_tells_whether_a_claim_stands(map).await;
    sockets_are_bounded_and_the_newest_stay(map).await;
    claims_of_many_sockets_at_once_are_all_kept(map).await;
    calls_for_one_socket_run_in_order(map).await;
    the_instance_stays_the_same(map).await;
}

async fn sockets(map: &dyn Directory, user: &UserId) -> Vec<(u128, u64)> {
    let found = map.locate(std::slice::from_ref(user)).await.unwrap();
    assert_eq!(found.len(), 1);
    found[0].iter().map(|e| (e.socket_id.0, e.claim)).collect()
}

async fn a_claim_is_seen_by_a_later_locate(map: &dyn Directory) {
    let user = user();
    assert_eq!(sockets(map, &user).await, []);
    let claimed = SocketEntry {
        // The largest values that there are: scripts keep numbers as doubles.
        socket_id: SocketId(u128::MAX),
        server: ProcessId::parse("ws-1_Z").unwrap(),
        epoch: Epoch(u64::MAX),
        device: DeviceId::parse("phone-1").unwrap(),
        claim: u64::MAX,
    };
    map.claim(&user, &claimed, &[]).await.unwrap();
    assert_eq!(map.locate(&[user]).await.unwrap(), [vec![claimed]]);
}

async fn the_newest_socket_stands_first(map: &dyn Directory) {
    let user = user();
    for (socket, claim) in [(1, 1), (2, 2), (3, 3)] {
        map.claim(&user, &entry(socket, claim), &[]).await.unwrap();
    }
    assert_eq!(sockets(map, &user).await, [(3, 3), (2, 2), (1, 1)]);
    let whole = map.locate(std::slice::from_ref(&user)).await.unwrap();
    assert_eq!(whole[0][2], entry(1, 1), "further sockets keep all their fields");
}

async fn a_new_claim_takes_the_place_of_an_older_one(map: &dyn Directory) {
    let user = user();
    map.claim(&user, &entry(1, 1), &[]).await.unwrap();
    map.claim(&user, &entry(2, 2), &[]).await.unwrap();
    map.claim(&user, &entry(1, 3), &[]).await.unwrap();
    assert_eq!(sockets(map, &user).await, [(1, 3), (2, 2)]);
}

async fn only_the_pairs_that_are_named_are_removed(map: &dyn Directory) {
    let user = user();
    let other = self::user();
    map.claim(&other, &entry(1, 1), &[]).await.unwrap();
    for (socket, claim) in [(1, 1), (2, 2), (3, 3), (1, 4)] {
        map.claim(&user, &entry(socket, claim), &[]).await.unwrap();
    }
    // The late goodbye of an older claim, and one of a socket that never was.
    map.release(&user, SocketId(1), 1).await.unwrap();
    map.release(&user, SocketId(9), 4).await.unwrap();
    assert_eq!(sockets(map, &user).await, [(1, 4), (3, 3), (2, 2)]);
    map.release(&user, SocketId(3), 3).await.unwrap();
    assert_eq!(sockets(map, &user).await, [(1, 4), (2, 2)]);
    map.release(&user, SocketId(1), 4).await.unwrap();
    assert_eq!(sockets(map, &user).await, [(2, 2)]);
    map.release(&user, SocketId(2), 2).await.unwrap();
    assert_eq!(sockets(map, &user).await, []);
    map.release(&user, SocketId(2), 2).await.unwrap();
    assert_eq!(sockets(map, &other).await, [(1, 1)], "other people are not touched");
}

async fn a_claim_drops_what_its_server_judged_dead(map: &dyn Directory) {
    let user = user();
    for (socket, claim) in [(1, 1), (2, 2), (3, 3)] {
        map.claim(&user, &entry(socket, claim), &[]).await.unwrap();
    }
    // (2, 9) is another claim of that socket than the one that stands: it stays.
    let dead = [(SocketId(1), 1), (SocketId(2), 9), (SocketId(3), 3)];
    map.claim(&user, &entry(4, 4), &dead).await.unwrap();
    assert_eq!(sockets(map, &user).await, [(4, 4), (2, 2)]);
}

async fn locate_answers_in_the_order_of_the_question(map: &dyn Directory) {
    let users: Vec<_> = (0..100).map(|_| user()).collect();
    for (i, user) in users.iter().enumerate().filter(|(i, _)| i % 3 != 0) {
        map.claim(user, &entry(i as u128, 1), &[]).await.unwrap();
    }
    let found = map.locate(&users).await.unwrap();
    assert_eq!(found.len(), users.len());
    for (i, sockets) in found.iter().enumerate() {
        let want: Vec<_> = (i % 3 != 0).then_some(SocketId(i as u128)).into_iter().collect();
        assert_eq!(sockets.iter().map(|e| e.socket_id).collect::<Vec<_>>(), want);
    }
    assert_eq!(map.locate(&[]).await.unwrap(), Vec::<Vec<SocketEntry>>::new());
}

async fn extend_tells_whether_a_claim_stands(map: &dyn Directory) {
    let user = user();
    assert!(!map.extend(&user, SocketId(1), 1).await.unwrap());
    map.claim(&user, &entry(1, 1), &[]).await.unwrap();
    map.claim(&user, &entry(2, 2), &[]).await.unwrap();
    assert!(map.extend(&user, SocketId(1), 1).await.unwrap());
    assert!(map.extend(&user, SocketId(2), 2).await.unwrap());
    assert!(!map.extend(&user, SocketId(1), 2).await.unwrap());
    map.release(&user, SocketId(1), 1).await.unwrap();
    assert!(!map.extend(&user, SocketId(1), 1).await.unwrap());
    assert_eq!(sockets(map, &user).await, [(2, 2)], "extending changes nothing else");
}

async fn sockets_are_bounded_and_the_newest_stay(map: &dyn Directory) {
    let user = user();
    let many = SOCKETS_KEPT_MAX as u64 + 5;
    for claim in 1..=many {
        let count = map.claim(&user, &entry(u128::from(claim), claim), &[]).await.unwrap();
        assert_eq!(count, SOCKETS_KEPT_MAX.min(claim as usize));
    }
    let kept = sockets(map, &user).await;
    assert_eq!(kept.len(), SOCKETS_KEPT_MAX);
    assert_eq!(kept[0], (u128::from(many), many));
}

async fn claims_of_many_sockets_at_once_are_all_kept(map: &dyn Directory) {
    let user = user();
    let entries: Vec<_> = (1..=16).map(|i| entry(i, 1)).collect();
    let claims = entries.iter().map(|entry| map.claim(&user, entry, &[]));
    futures_util::future::try_join_all(claims).await.unwrap();
    assert_eq!(sockets(map, &user).await.len(), 16, "claims are atomic");
    let releases = (1..=15).map(|i| map.release(&user, SocketId(i), 1));
    futures_util::future::try_join_all(releases).await.unwrap();
    assert_eq!(sockets(map, &user).await, [(16, 1)]);
}

async fn calls_for_one_socket_run_in_order(map: &dyn Directory) {
    let user = Arc::new(user());
    for round in 0..50 {
        let first = entry(7, round * 2 + 1);
        let second = entry(7, round * 2 + 2);
        // Polled in this order, so made in this order.
        let (a, b, c) = tokio::join!(
            map.claim(&user, &first, &[]),
            map.release(&user, SocketId(7), first.claim),
            map.claim(&user, &second, &[]),
        );
        a.and(b).and(c).unwrap();
        assert_eq!(sockets(map, &user).await, [(7, second.claim)]);
        let (a, b) = tokio::join!(
            map.claim(&user, &first, &[]),
            map.release(&user, SocketId(7), first.claim),
        );
        a.and(b).unwrap();
        assert_eq!(sockets(map, &user).await, []);
    }
}

async fn the_instance_stays_the_same(map: &dyn Directory) {
    let first = map.instance().await.unwrap();
    assert!(!first.is_empty());
    assert_eq!(map.instance().await.unwrap(), first);
}
