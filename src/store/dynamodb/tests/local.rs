//! Items, pages and units, as DynamoDB Local sees them.

use std::sync::Arc;

use aws_sdk_dynamodb::types::AttributeValue;

use super::{calls, dm, endpoint, entry, fresh, units, user};
use crate::protocol::DeviceId;
use crate::store::dynamodb::items::{Item, number, text};
use crate::store::dynamodb::table::{self, Made};
use crate::store::dynamodb::{DynamoStore, Link};
use crate::store::{Device, LogRange, MailboxPart, Order, Raise, Record, Store, StoreError};
use crate::telemetry::Metrics;

/// All items of a table.
async fn scan(store: &DynamoStore) -> Vec<Item> {
    let link = store.link();
    link.client.scan().table_name(&link.place.table).send().await.unwrap().items.unwrap()
}

#[tokio::test]
async fn a_message_costs_a_raise_and_a_put() {
    let Some(url) = endpoint() else { return };
    let (store, metrics) = fresh(&url).await;
    let written = || units(&metrics, &["raise", "append"]);
    let body = "x".repeat(512);
    for seq in 1..=10 {
        let raise = Raise { last: Some(seq), ..Raise::default() };
        store.raise(&user("userB"), &dm(), &raise).await.unwrap();
        assert_eq!(store.append(&dm(), &[entry(seq, &body)]).await, Ok(1));
    }
    assert_eq!(written(), 20.0);

    // Occupied: nothing is written, and it is billed all the same.
    assert_eq!(store.append(&dm(), &[entry(10, "late")]).await, Ok(0));
    assert_eq!(written(), 21.0);
    assert_eq!(calls(&metrics, "append", "condition"), 1);
    // A raise that rises no more: one failed condition.
    let raise = Raise { last: Some(9), ..Raise::default() };
    store.raise(&user("userB"), &dm(), &raise).await.unwrap();
    assert_eq!(written(), 22.0);

    store
        .mailbox(&user("userB"), MailboxPart::Page { after: None, consistent: true })
        .await
        .unwrap();
    assert_eq!(units(&metrics, &["mailbox"]), 1.0);
}

#[tokio::test]
async fn the_items_are_those_of_the_data_model() {
    let Some(url) = endpoint() else { return };
    let (store, _) = fresh(&url).await;
    let phone = DeviceId::parse("phone").unwrap();
    let raise = Raise {
        last: Some(3),
        delivered: Some(2),
        read: Some((1, 1)),
        cursors: vec![(phone.clone(), 2), (DeviceId::plain(), 1)],
    };
    store.raise(&user("userB"), &dm(), &raise).await.unwrap();
    store.append(&dm(), &[entry(1, "Hi")]).await.unwrap();
    let device = Device { device: phone.clone(), first_seen: 5, last_seen: 6 };
    store.write(Record::Device(user("userB"), device)).await.unwrap();
    let starts = vec![(dm(), 2)];
    let record = Record::Starts { user: user("userB"), device: phone, chunk: 0, starts };
    store.write(record).await.unwrap();

    let mut items = scan(&store).await;
    items.sort_by_key(|item| ["pk", "sk"].map(|name| item[name].as_s().unwrap().clone()));
    let expected: Vec<Item> = [
        vec![
            ("pk", text("C#dm:userA:userB")),
            ("sk", text("M#00000000000000000001")),
            ("kind", text("message")),
            ("from", text("userA")),
            ("to", text("userB")),
            ("message", text("Hi")),
            ("device", text("default")),
            ("timestamp", number(1_790_000_000_001)),
            ("n", number(1)),
            ("v", number(1)),
        ],
        vec![
            ("pk", text("U#userB")),
            ("sk", text("C#dm:userA:userB")),
            ("last", number(3)),
            ("delivered", number(2)),
            ("read", number(1)),
            ("readN", number(1)),
            ("c.default", number(1)),
            ("c.phone", number(2)),
            ("v", number(1)),
        ],
        vec![
            ("pk", text("U#userB")),
            ("sk", text("D#phone")),
            ("firstSeen", number(5)),
            ("lastSeen", number(6)),
            ("v", number(1)),
        ],
        vec![
            ("pk", text("V#userB#phone")),
            ("sk", text("0")),
            ("starts", AttributeValue::M([("dm:userA:userB".to_owned(), number(2))].into())),
            ("v", number(1)),
        ],
    ]
    .into_iter()
    .map(|item| item.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    .collect();
    assert_eq!(items, expected);
}

#[tokio::test]
async fn a_page_that_ends_at_the_ranges_own_end_has_no_more() {
    let Some(url) = endpoint() else { return };
    let (store, _) = fresh(&url).await;
    for seq in 1..=6 {
        assert_eq!(store.append(&dm(), &[entry(seq, "Hi")]).await, Ok(1));
    }
    // DynamoDB gives a last key at a limit, also where nothing can follow it.
    let range = LogRange { after: 3, before: Some(6), order: Order::Ascending, limit: 2 };
    let between = store.log(&dm(), range).await.unwrap();
    assert_eq!((between.entries.len(), between.more), (2, false));
}

#[tokio::test]
async fn damage_is_said_and_nothing_panics() {
    let Some(url) = endpoint() else { return };
    let (store, _) = fresh(&url).await;
    let link = store.link();
    let put = async |pairs: &[(&str, AttributeValue)]| {
        let item = pairs.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        link.client
            .put_item()
            .table_name(&link.place.table)
            .set_item(Some(item))
            .send()
            .await
            .unwrap();
    };
    put(&[("pk", text("C#dm:userA:userB")), ("sk", text("M#00000000000000000001"))]).await;
    let error = store.log(&dm(), LogRange::newest(1)).await.unwrap_err();
    assert!(matches!(error, StoreError::Damaged(_)), "{error}");

    put(&[("pk", text("U#userB")), ("sk", text("C#dm:userA:userB")), ("last", text("7"))]).await;
    let error = store.mailbox(&user("userB"), MailboxPart::Row(dm())).await.unwrap_err();
    assert!(matches!(error, StoreError::Damaged(_)), "{error}");
    let raise = Raise { last: Some(9), ..Raise::default() };
    let error = store.raise(&user("userB"), &dm(), &raise).await.unwrap_err();
    assert!(matches!(error, StoreError::Damaged(_)), "{error}");
    let other = crate::protocol::ConversationId::parse("dm:userB:userC").unwrap();
    store.raise(&user("userB"), &other, &raise).await.unwrap();
    let part = MailboxPart::Page { after: None, consistent: true };
    let page = store.mailbox(&user("userB"), part).await.unwrap();
    assert_eq!((page.rows.len(), page.damaged.len()), (1, 1), "it hides no other: {page:?}");

    // A kind of item of a later version is passed over.
    put(&[("pk", text("U#userC")), ("sk", text("X#new"))]).await;
    let part = MailboxPart::Page { after: None, consistent: true };
    let page = store.mailbox(&user("userC"), part).await.unwrap();
    assert!(page.rows.is_empty() && page.devices.is_empty() && page.next.is_none());
}

#[tokio::test]
async fn a_table_is_made_once_and_checked() {
    let Some(url) = endpoint() else { return };
    let name = format!("parlor-test-{:016x}", rand::random::<u64>());
    let metrics = || Arc::new(Metrics::new("test"));
    let link = Link::new(&url, &name, metrics()).await.unwrap();
    let faults = table::check(&link).await.unwrap();
    assert!(faults.len() == 1 && faults[0].contains("table create"), "{faults:?}");
    assert_eq!(table::create(&link).await, Ok(Made::Created));
    assert_eq!(table::create(&link).await, Ok(Made::Existed));
    assert_eq!(table::check(&link).await, Ok(vec![]));
}

#[tokio::test]
async fn a_table_of_another_shape_is_refused() {
    let Some(url) = endpoint() else { return };
    use aws_sdk_dynamodb::types as t;
    let name = format!("parlor-test-{:016x}", rand::random::<u64>());
    let link = Link::new(&url, &name, Arc::new(Metrics::new("test"))).await.unwrap();
    let definition = t::AttributeDefinition::builder()
        .attribute_name("id")
        .attribute_type(t::ScalarAttributeType::S);
    let key = t::KeySchemaElement::builder().attribute_name("id").key_type(t::KeyType::Hash);
    link.client
        .create_table()
        .table_name(&name)
        .billing_mode(t::BillingMode::PayPerRequest)
        .attribute_definitions(definition.build().unwrap())
        .key_schema(key.build().unwrap())
        .send()
        .await
        .unwrap();
    let faults = table::check(&link).await.unwrap();
    assert!(faults.len() == 2 && faults[0].contains("`pk`"), "{faults:?}");
    assert!(faults[1].contains("TTL is off"), "{faults:?}");
    assert!(matches!(DynamoStore::open(link).await.err(), Some(StoreError::Refused(_))));
}
