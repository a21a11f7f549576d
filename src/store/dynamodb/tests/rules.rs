//! The contracts on DynamoDB Local, and what the board costs.

use super::{dm, endpoint, fresh, units, user};
use crate::board::dynamodb::DynamoBoard;
use crate::board::{Beat, Board, BoardRow, HINT_TTL_SECONDS, SlowHint};
use crate::chat::testing::board_row;
use crate::protocol::ProcessId;
use crate::store::dynamodb::fields::as_number;

#[tokio::test]
async fn the_store_passes_the_contract() {
    let Some(url) = endpoint() else { return };
    let (store, _) = fresh(&url).await;
    crate::store::contract::all(&store).await;
}

#[tokio::test]
async fn the_board_passes_the_contract() {
    let Some(url) = endpoint() else { return };
    let (store, _) = fresh(&url).await;
    crate::board::contract::all(&DynamoBoard::new(store.link())).await;
}

#[tokio::test]
async fn an_idle_process_pays_a_beat_and_a_read() {
    let Some(url) = endpoint() else { return };
    let (store, metrics) = fresh(&url).await;
    let board = DynamoBoard::new(store.link());
    let row = |beat| BoardRow {
        beat,
        public_url: Some("wss://chat.example/ws".to_owned()),
        sockets: 7,
        hints: 1,
        deaf: true,
        ..board_row("ws1", 1)
    };
    assert_eq!(board.beat(&row(1), None).await, Ok(Beat::Written));
    let before = (units(&metrics, &["beat"]), units(&metrics, &["board"]));
    assert_eq!(board.read().await.unwrap(), [row(1)]);
    assert_eq!(board.beat(&row(2), None).await, Ok(Beat::Written));
    let after = (units(&metrics, &["beat"]), units(&metrics, &["board"]));
    assert_eq!((after.0 - before.0, after.1 - before.1), (1.0, 1.0));
}

#[tokio::test]
async fn hints_are_gone_after_their_time() {
    let Some(url) = endpoint() else { return };
    let (store, _) = fresh(&url).await;
    let board = DynamoBoard::new(store.link());
    let hint = SlowHint { user: Some(user("userB")), conversation: dm(), seq: 1 };
    board.put_hints(&ProcessId::parse("ws1").unwrap(), 9, &[hint]).await.unwrap();
    let link = store.link();
    let items = link.client.scan().table_name(&link.place.table).send().await.unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let items = items.items.unwrap();
    assert_eq!(items.len(), 1);
    let left = as_number(&items[0]["ttl"]).unwrap() - now.as_secs();
    assert!((HINT_TTL_SECONDS - 5..=HINT_TTL_SECONDS).contains(&left), "{left}");
}
