//! What every bus must do, sentence by sentence of the port. Adapters' tests call [`all`].
#![cfg(test)]

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::{Bus, Heard, Subscription};
use crate::protocol::{
    ConversationId, DeviceId, Entry, Envelope, Kind, ProcessId, Receipt, UserId,
};

/// A process that no other test knows.
pub fn process() -> ProcessId {
    ProcessId::parse(&format!("p-{:016x}", rand::random::<u64>())).unwrap()
}

/// A numbered envelope.
pub fn probe(number: u64) -> Arc<Envelope> {
    Arc::new(Envelope::Probe { number })
}

/// `userA` says `text` to `userB`.
pub fn entry(text: &str) -> Arc<Envelope> {
    let (a, b) = (UserId::parse("userA").unwrap(), UserId::parse("userB").unwrap());
    let entry = Entry {
        seq: 7,
        kind: Kind::Message,
        from: a.clone(),
        to: Some(b.clone()),
        message: Some(text.into()),
        data: Some(serde_json::from_str("{\"spaces\" : 1}").unwrap()),
        reference: None,
        device: DeviceId::plain(),
        timestamp: 1_790_000_000_000,
        n: 7,
    };
    Arc::new(Envelope::Entry {
        conversation: ConversationId::direct(&a, &b),
        entry: Arc::new(entry),
        roster: None,
        users: vec![b],
        via: ProcessId::parse("ws1").unwrap(),
        again: false,
    })
}

/// The whole suite.
pub async fn all(bus: &dyn Bus) {
    what_is_published_is_heard_unchanged(bus).await;
    a_batch_stays_together(bus).await;
    only_the_addressee_hears_it(bus).await;
    the_order_of_publishing_is_kept(bus).await;
    nobody_listening_is_no_error(bus).await;
    a_large_batch_arrives_whole(bus).await;
    a_new_subscription_hears_what_follows(bus).await;
}

/// The next batch; a gap or silence fails the test.
pub async fn batch(subscription: &mut Subscription) -> Vec<Arc<Envelope>> {
    match timeout(Duration::from_secs(5), subscription.recv()).await {
        Ok(Some(Heard::Batch(batch))) => batch,
        other => panic!("{other:?}"),
    }
}

/// The next `count` envelopes, however they are batched.
pub async fn envelopes(subscription: &mut Subscription, count: usize) -> Vec<Arc<Envelope>> {
    let mut heard = Vec::new();
    while heard.len() < count {
        heard.extend(batch(subscription).await);
    }
    heard
}

fn shown(envelopes: &[Arc<Envelope>]) -> String {
    format!("{envelopes:?}")
}

async fn what_is_published_is_heard_unchanged(bus: &dyn Bus) {
    let me = process();
    let mut subscription = bus.subscribe(&me).await.unwrap();
    let receipt = Envelope::Receipt {
        conversation: ConversationId::parse("room:general").unwrap(),
        seq: u64::MAX,
        user: None,
        device: Some(DeviceId::plain()),
        receipt: Receipt::Have,
        server: me.clone(),
    };
    for envelope in [entry("Hi \u{1F600}\"\\\n\u{0}"), probe(u64::MAX), Arc::new(receipt)] {
        bus.publish(&me, std::slice::from_ref(&envelope)).await.unwrap();
        assert_eq!(shown(&batch(&mut subscription).await), shown(&[envelope]));
    }
}

async fn a_batch_stays_together(bus: &dyn Bus) {
    let me = process();
    let mut subscription = bus.subscribe(&me).await.unwrap();
    let sent: Vec<_> = (0..100).map(probe).collect();
    bus.publish(&me, &sent).await.unwrap();
    assert_eq!(shown(&batch(&mut subscription).await), shown(&sent));
    bus.publish(&me, &[]).await.unwrap();
    bus.publish(&me, &[probe(1)]).await.unwrap();
    assert_eq!(shown(&batch(&mut subscription).await), shown(&[probe(1)]), "nothing is no batch");
}

async fn only_the_addressee_hears_it(bus: &dyn Bus) {
    let (a, b) = (process(), process());
    let mut at_a = bus.subscribe(&a).await.unwrap();
    let mut at_b = bus.subscribe(&b).await.unwrap();
    bus.publish(&b, &[probe(1)]).await.unwrap();
    bus.publish(&a, &[probe(2)]).await.unwrap();
    assert_eq!(shown(&batch(&mut at_a).await), shown(&[probe(2)]));
    assert_eq!(shown(&batch(&mut at_b).await), shown(&[probe(1)]));
}

async fn the_order_of_publishing_is_kept(bus: &dyn Bus) {
    let me = process();
    let mut subscription = bus.subscribe(&me).await.unwrap();
    for number in 0..500 {
        bus.publish(&me, &[probe(2 * number), probe(2 * number + 1)]).await.unwrap();
    }
    let heard = envelopes(&mut subscription, 1_000).await;
    assert_eq!(shown(&heard), shown(&(0..1_000).map(probe).collect::<Vec<_>>()));
}

async fn nobody_listening_is_no_error(bus: &dyn Bus) {
    let me = process();
    bus.publish(&me, &[probe(1)]).await.unwrap();
    let mut subscription = bus.subscribe(&me).await.unwrap();
    bus.publish(&me, &[probe(2)]).await.unwrap();
    let heard = batch(&mut subscription).await;
    assert_eq!(shown(&heard), shown(&[probe(2)]), "what was published before is not heard");
}

async fn a_large_batch_arrives_whole(bus: &dyn Bus) {
    let me = process();
    let mut subscription = bus.subscribe(&me).await.unwrap();
    let text = "x".repeat(16 * 1024);
    let sent: Vec<_> = (0..150).map(|i| entry(&format!("{i} {text}"))).collect();
    bus.publish(&me, &sent).await.unwrap();
    let heard = envelopes(&mut subscription, sent.len()).await;
    assert!(shown(&heard) == shown(&sent));
}

async fn a_new_subscription_hears_what_follows(bus: &dyn Bus) {
    let me = process();
    drop(bus.subscribe(&me).await.unwrap());
    let mut subscription = bus.subscribe(&me).await.unwrap();
    bus.publish(&me, &[probe(1)]).await.unwrap();
    assert_eq!(shown(&batch(&mut subscription).await), shown(&[probe(1)]));
}
