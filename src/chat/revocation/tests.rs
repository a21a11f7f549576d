//! A token that was taken back is dead, and looking for that costs a connect nothing.

use std::sync::atomic::Ordering;

use super::*;
use crate::chat::catchup::{Done, Work, perform};
use crate::chat::testing::{Part, user};
use crate::hub::Acting;
use crate::store::Store;

/// The clock of a [`Part`] begins here, in seconds.
const BEGUN: u64 = 1_790_000_000;

async fn events(outbox: &Outbox) -> Vec<String> {
    let mut taken = Vec::new();
    while let Ok(more) = tokio::time::timeout(Duration::from_millis(200), outbox.take()).await {
        taken.extend(more);
    }
    let named = |event: Event| match event {
        Event::Frame(frame) | Event::Answer(frame) => String::from_utf8(frame.to_vec()).unwrap(),
        other => format!("{other:?}"),
    };
    taken.into_iter().map(named).collect()
}

fn turned_away(events: &[String]) -> bool {
    matches!(events, [error, close] if error.contains("\"code\":\"unauthorized\"")
        && error.contains("revoked") && close == "Close(Unauthorized)")
}

async fn enter(part: &Part, issued: Option<u64>) -> Done {
    let outbox = part.enter("a", "default");
    if let Some(issued) = issued {
        outbox.pass.renew(issued, u64::MAX);
    }
    perform(&part.chat, &outbox, Work::Enter { catchup: None }).await
}

#[tokio::test]
async fn a_connecting_socket_meets_it_in_its_mailbox() {
    let part = Part::new().await;
    enter(&part, None).await;
    let until = BEGUN * 1_000 + 500;
    part.ports.write(Record::Revoked(user("a"), until)).await.unwrap();
    for (issued, dead) in
        [(Some(0), true), (Some(BEGUN - 1), true), (Some(BEGUN), true), (Some(BEGUN + 1), false)]
    {
        part.ports.trace();
        let done = enter(&part, issued).await;
        assert_eq!(matches!(done, Done::Revoked), dead, "{issued:?}: {done:?}");
        assert_eq!(part.ports.trace(), ["claim", "mailbox"], "no read more than without tokens");
    }
    // In development mode nobody has a token, and none is dead.
    assert!(matches!(enter(&part, None).await, Done::Mailbox(_)));
    assert!(part.chat.is_known_dead(&user("a"), BEGUN), "the next try is refused at the door");
    let again = part.enter("a", "default");
    again.pass.renew(BEGUN, u64::MAX);
    let done = perform(
        &part.chat,
        &again,
        Work::Reread { here: HashMap::new(), consistent: true, doubted: false },
    )
    .await;
    assert!(matches!(done, Done::Revoked), "whoever looks again meets it too: {done:?}");
}

#[tokio::test]
async fn taking_back_ends_the_sockets_that_there_are() {
    let part = Part::new().await;
    let (old, late, other) =
        (part.enter("a", "phone"), part.enter("a", "web"), part.enter("b", "web"));
    old.pass.renew(BEGUN - 60, u64::MAX);
    late.pass.renew(BEGUN + LEEWAY_SECONDS + 1, u64::MAX);
    other.pass.renew(BEGUN - 60, u64::MAX);
    let until = part.chat.revoke(&user("a"), 0).await.unwrap();
    assert!((BEGUN * 1_000..BEGUN * 1_000 + 100).contains(&until), "{until}");
    let told = events(&old).await;
    assert!(turned_away(&told[told.len() - 2..]), "{told:?}");
    for spared in [&late, &other] {
        let told = events(spared).await;
        assert!(!told.iter().any(|event| event.contains("Close")), "{told:?}");
    }
    assert!(part.chat.is_revoked(&user("a"), BEGUN).await.unwrap());
    assert!(!part.chat.is_revoked(&user("a"), BEGUN + 1).await.unwrap());
    assert!(!part.chat.is_revoked(&user("b"), 0).await.unwrap());
}

/// Opened by a service's token for somebody else.
fn by_service(part: &Part, name: &str, service: &str, issued: u64) -> Arc<Outbox> {
    let outbox = part.enter(name, "web");
    let acting = Acting { user: user(service), issued };
    outbox.renew(BEGUN, u64::MAX, Some(Box::new(acting)));
    outbox
}

fn closes(told: &[String]) -> bool {
    told.iter().any(|event| event == "Close(Unauthorized)")
}

#[tokio::test]
async fn taking_a_services_tokens_back_ends_what_they_opened_for_others() {
    let part = Part::new().await;
    let (old, own) = (by_service(&part, "a", "shop", BEGUN - 60), part.enter("shop", "web"));
    own.pass.renew(BEGUN - 60, u64::MAX);
    let young = by_service(&part, "a", "shop", BEGUN + LEEWAY_SECONDS + 1);
    let other = by_service(&part, "a", "depot", BEGUN - 60);
    let renewed = by_service(&part, "a", "shop", BEGUN - 60);
    renewed.renew(BEGUN, u64::MAX, None);
    part.chat.revoke(&user("shop"), 0).await.unwrap();
    for (outbox, dead) in
        [(&old, true), (&own, true), (&young, false), (&other, false), (&renewed, false)]
    {
        let told = events(outbox).await;
        assert_eq!(closes(&told), dead, "{told:?}");
    }
    // Whose the socket is may be taken back as well.
    part.chat.revoke(&user("a"), 0).await.unwrap();
    for outbox in [&young, &other, &renewed] {
        assert!(closes(&events(outbox).await));
    }
}

#[tokio::test]
async fn a_services_socket_looks_for_its_own_token_whenever_it_reads() {
    let part = Part::new().await;
    let outbox = by_service(&part, "a", "shop", BEGUN - 60);
    let enter = || perform(&part.chat, &outbox, Work::Enter { catchup: None });
    let again = || Work::Reread { here: HashMap::new(), consistent: true, doubted: false };
    assert!(matches!(enter().await, Done::Mailbox(_)));
    assert!(matches!(perform(&part.chat, &outbox, again()).await, Done::Mailbox(_)));
    part.ports.write(Record::Revoked(user("shop"), BEGUN * 1_000)).await.unwrap();
    part.chat.revocations.doubt(&user("shop"));
    assert!(matches!(perform(&part.chat, &outbox, again()).await, Done::Revoked));
    assert!(matches!(enter().await, Done::Revoked), "one that was let in before it was told");
}

#[tokio::test]
async fn a_signer_whose_clock_is_ahead_loses_its_sockets_too_and_once() {
    let part = Part::new().await;
    let ahead = part.enter("a", "phone");
    ahead.pass.renew(BEGUN + 10, u64::MAX);
    part.chat.revoke(&user("a"), 0).await.unwrap();
    assert!(closes(&events(&ahead).await));
    assert!(!part.chat.is_known_dead(&user("a"), BEGUN + 10), "its tokens are another matter");
    let fresh = part.enter("a", "phone");
    fresh.pass.renew(BEGUN + 10, u64::MAX);
    part.chat.hear_revoked(&user("a"));
    assert!(!closes(&events(&fresh).await), "who signed in since is left alone");
    let until = part.chat.revoke(&user("a"), 30).await.unwrap();
    assert!((BEGUN + 30..BEGUN + 31).contains(&(until / 1_000)), "{until}");
    assert!(closes(&events(&fresh).await));
    assert!(part.chat.is_known_dead(&user("a"), BEGUN + 10));
}

#[tokio::test]
async fn others_are_told_though_whoever_asked_has_left() {
    let part = Part::new().await;
    let outbox = part.enter("a", "web");
    outbox.pass.renew(BEGUN - 60, u64::MAX);
    let a = user("a");
    let mut asking = Box::pin(part.chat.revoke(&a, 0));
    assert!(futures_util::poll!(&mut asking).is_pending());
    drop(asking);
    assert!(closes(&events(&outbox).await));
}

#[tokio::test]
async fn others_are_told_where_nobody_knows_whether_it_is_stored() {
    let part = Part::new().await;
    let outbox = part.enter("a", "web");
    outbox.pass.renew(BEGUN - 60, u64::MAX);
    part.ports.unsure.store(true, Ordering::Relaxed);
    part.chat.revoke(&user("a"), 0).await.unwrap_err();
    assert!(closes(&events(&outbox).await));
}

#[tokio::test]
async fn what_others_say_makes_a_server_look_and_no_more() {
    let part = Part::new().await;
    let outbox = part.enter("a", "web");
    outbox.pass.renew(BEGUN - 60, u64::MAX);
    // Somebody who can write to Redis makes this up.
    part.chat.hear_revoked(&user("a"));
    assert!(!events(&outbox).await.iter().any(|event| event.contains("Close")));
    part.ports.write(Record::Revoked(user("a"), BEGUN * 1_000)).await.unwrap();
    part.chat.hear_revoked(&user("a"));
    assert!(turned_away(&events(&outbox).await));
}

/// A server that hears of it and can't look tells the sockets nothing until it can.
#[tokio::test(start_paused = true)]
async fn who_can_not_look_tells_nothing_and_goes_on_looking() {
    let part = Part::new().await;
    let ahead = part.enter("a", "web");
    ahead.pass.renew(BEGUN + 10, u64::MAX);
    let young = part.enter("a", "phone");
    young.pass.renew(BEGUN + LEEWAY_SECONDS + 1, u64::MAX);
    let no_token = part.enter("a", "old");
    let about = ConversationId::direct(&user("a"), &user("a"));
    let away = ("revoked", about, StoreError::Unavailable("away".to_owned()));
    part.ports.failing.lock().unwrap().push(away);
    part.ports.write(Record::Revoked(user("a"), BEGUN * 1_000)).await.unwrap();
    part.chat.hear_revoked(&user("a"));
    part.chat.hear_revoked(&user("a"));
    let told = events(&ahead).await;
    assert!(!told.is_empty() && told.iter().all(|event| event == "Doubt"), "{told:?}");
    assert!(events(&no_token).await.is_empty(), "nothing of it is taken back");
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(events(&ahead).await.is_empty(), "it was told once");
    assert!(part.ports.trace().len() > 20, "it is looked for again and again");
    part.ports.failing.lock().unwrap().clear();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(turned_away(&events(&ahead).await), "with the slack of a read that was in time");
    assert!(!closes(&events(&young).await));
    assert!(part.chat.revocations.looks().is_empty());
    part.ports.trace();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(part.ports.trace().is_empty(), "and then no more");
}

#[tokio::test]
async fn at_more_people_than_that_each_socket_looks_for_itself() {
    let part = Part::new().await;
    let outbox = part.enter("a", "web");
    outbox.pass.renew(BEGUN - 60, u64::MAX);
    for other in 0..LOOKS_MAX {
        assert_eq!(part.chat.revocations.begin_look(&user(&format!("u{other}"))), Looks::Begin);
    }
    part.chat.hear_revoked(&user("a"));
    assert_eq!(events(&outbox).await, ["Doubt"]);
    assert_eq!(part.chat.revocations.looks().len(), LOOKS_MAX);
}

#[tokio::test]
async fn the_board_tells_of_it_while_redis_is_away() {
    let part = Part::new().await;
    part.ports.redis_away.store(true, Ordering::Relaxed);
    let (outbox, to_oneself) =
        (part.enter("a", "web"), ConversationId::direct(&user("a"), &user("a")));
    outbox.pass.renew(BEGUN - 60, u64::MAX);
    part.ports.write(Record::Revoked(user("a"), BEGUN * 1_000)).await.unwrap();
    let hint = SlowHint { user: Some(user("a")), conversation: to_oneself, seq: 1 };
    part.chat.hear_slow_hint(&hint);
    let told = events(&outbox).await;
    assert!(turned_away(&told[told.len() - 2..]), "{told:?}");
    // And the one who takes back puts just that there.
    part.chat.revoke(&user("b"), 0).await.unwrap();
    assert!(!part.chat.router.slow.is_empty());
}

#[tokio::test]
async fn the_api_reads_it_once_in_a_while() {
    let part = Part::new().await;
    let asked = async || part.chat.is_revoked(&user("a"), BEGUN - 1).await.unwrap();
    part.ports.trace();
    for _ in 0..9 {
        assert!(!asked().await);
    }
    assert_eq!(part.ports.trace(), ["revoked"]);
    part.ports.write(Record::Revoked(user("a"), BEGUN * 1_000)).await.unwrap();
    part.chat.hear_revoked(&user("a"));
    assert!(asked().await, "who is told looks again");
}

#[tokio::test(start_paused = true)]
async fn what_is_remembered_is_bounded_in_time_and_number() {
    let revocations = Revocations::default();
    let name = |n: usize| user(&format!("u{n}"));
    for n in 0..KNOWN_MAX + 9 {
        revocations.put(&name(n), Instant::now(), Some(5));
    }
    assert_eq!(revocations.lock().len(), KNOWN_MAX);
    assert_eq!(revocations.get(&name(1)), Some(Some(5)));
    tokio::time::advance(FRESH).await;
    assert_eq!(revocations.get(&name(1)), None);
    assert!(revocations.is_dead(&name(1), 0), "what is dead stays so");
    revocations.put(&name(KNOWN_MAX + 1), Instant::now(), None);
    assert_eq!(revocations.lock().len(), 1, "as long as there is room");
    let one = name(KNOWN_MAX + 1);
    revocations.put(&one, Instant::now(), Some(9_000));
    revocations.put(&one, Instant::now(), Some(7_000));
    assert_eq!(revocations.get(&one), Some(Some(9_000)), "it only rises");
    revocations.doubt(&one);
    assert!(revocations.is_dead(&one, 9) && !revocations.is_dead(&one, 10));
}
