//! The adapter on DynamoDB Local, and behind a proxy that throttles, fails and loses answers.

mod faults;
mod local;
mod proxy;
mod rules;
mod storms;

use std::sync::Arc;

use super::{DynamoStore, Link};
use crate::protocol::{ConversationId, DeviceId, Entry, Kind, Seq, UserId};
use crate::telemetry::Metrics;

/// DynamoDB Local, or `None` where only quick tests were asked for.
pub(crate) fn endpoint() -> Option<String> {
    let url = std::env::var("PARLOR_TEST_DYNAMODB").ok();
    let quick = std::env::var_os("PARLOR_TEST_QUICK").is_some();
    assert!(url.is_some() || quick, "PARLOR_TEST_DYNAMODB is not set: run ./test");
    url
}

/// A store on a new table, with its metrics.
pub(crate) async fn fresh(url: &str) -> (DynamoStore, Arc<Metrics>) {
    let metrics = Arc::new(Metrics::new("test"));
    let table = format!("parlor-test-{:016x}", rand::random::<u64>());
    let link = Link::new(url, &table, metrics.clone()).await.unwrap();
    (DynamoStore::open(link).await.unwrap(), metrics)
}

fn user(name: &str) -> UserId {
    UserId::parse(name).unwrap()
}

fn dm() -> ConversationId {
    ConversationId::direct(&user("userA"), &user("userB"))
}

fn entry(seq: Seq, message: &str) -> Entry {
    Entry {
        seq,
        kind: Kind::Message,
        from: user("userA"),
        to: Some(user("userB")),
        message: Some(message.into()),
        data: None,
        reference: None,
        device: DeviceId::plain(),
        timestamp: 1_790_000_000_000 + seq,
        n: seq,
    }
}

/// The units that these operations have used so far.
fn units(metrics: &Metrics, operations: &[&'static str]) -> f64 {
    let of = |operation: &&'static str| {
        let labels = crate::telemetry::Operation { operation };
        let read = metrics.read_units.get_or_create(&labels).get();
        read + metrics.write_units.get_or_create(&labels).get()
    };
    operations.iter().map(of).sum()
}

/// How many calls of an operation ended so.
fn calls(metrics: &Metrics, operation: &'static str, outcome: &'static str) -> u64 {
    metrics.store_calls.get_or_create(&crate::telemetry::Call { operation, outcome }).get()
}
