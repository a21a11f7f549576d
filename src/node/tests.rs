//! Stops that something stands in the way of.

use async_trait::async_trait;

use super::*;
use crate::board::embedded::EmbeddedBoard;
use crate::board::{Beat, Board, SlowHint};
use crate::bus::embedded::EmbeddedBus;
use crate::directory::embedded::EmbeddedDirectory;
use crate::store::StoreError;
use crate::store::memory::MemoryStore;

/// A board whose rows can't be removed: that call never comes back.
#[derive(Default)]
struct Stuck(EmbeddedBoard);

#[async_trait]
impl Board for Stuck {
    async fn beat(&self, row: &BoardRow, old: Option<(Epoch, u64)>) -> Result<Beat, StoreError> {
        self.0.beat(row, old).await
    }

    async fn read(&self) -> Result<Vec<BoardRow>, StoreError> {
        self.0.read().await
    }

    async fn remove(&self, _: &ProcessId, _: Epoch) -> Result<(), StoreError> {
        std::future::pending().await
    }

    async fn put_hints(&self, _: &ProcessId, _: u64, _: &[SlowHint]) -> Result<(), StoreError> {
        Ok(())
    }

    async fn hints(&self, _: &ProcessId, after: u64) -> Result<(u64, Vec<SlowHint>), StoreError> {
        Ok((after, Vec::new()))
    }
}

fn node(board: Arc<dyn Board>, drain_seconds: u64) -> Node {
    let wired = Wired {
        store: Arc::new(MemoryStore::default()),
        disk: None,
        board,
        directory: Arc::new(EmbeddedDirectory::default()),
        bus: Arc::new(EmbeddedBus::default()),
        lock: None,
        rows_are_past: false,
    };
    Node::new(wired, Health::new(Vec::new()), drain_seconds)
}

async fn parts(ids: &[&str]) -> Vec<(PartOptions, Arc<Metrics>)> {
    let mut parts = Vec::new();
    for id in ids {
        let options = PartOptions {
            id: ProcessId::parse(id).unwrap(),
            role: Role::Server,
            advertise: None,
            public_url: None,
            listener: listen("127.0.0.1:0".parse().unwrap(), false, "--listen").await.unwrap(),
            edge: crate::edge::Edge::open(),
            lock_held: false,
        };
        parts.push((options, Arc::new(Metrics::new(id))));
    }
    parts
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_in_time_where_the_store_does_not_answer() {
    let mut node = node(Arc::new(Stuck::default()), 2);
    node.start(parts(&["ws1", "ws2", "ws3"]).await).await.unwrap();
    node.open().await;
    let begun = Instant::now();
    node.stop().await;
    assert!(begun.elapsed() <= Duration::from_secs(7), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_node_whose_name_is_taken_stops() {
    let board = Arc::new(EmbeddedBoard::default());
    let mut node = node(board.clone(), 25);
    node.start(parts(&["ws1", "ws2"]).await).await.unwrap();
    node.open().await;
    let old = board.read().await.unwrap().remove(0);
    let other = BoardRow { epoch: Epoch(old.epoch.0.wrapping_add(1)), ..old.clone() };
    let taken = board.beat(&other, Some((old.epoch, old.beat))).await;
    assert_eq!(taken, Ok(Beat::Written));
    node.taken().await;
    node.hurry();
    let begun = Instant::now();
    node.stop().await;
    assert!(begun.elapsed() <= Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(board.read().await, Ok(vec![other]), "the other life's row stays");
}

#[tokio::test(start_paused = true)]
async fn rows_of_an_earlier_life_are_taken_over_side_by_side() {
    let board = Arc::new(EmbeddedBoard::default());
    for id in ["ws1", "ws2", "ws3"] {
        let row = crate::chat::testing::board_row(id, 7);
        assert_eq!(board.beat(&row, None).await, Ok(Beat::Written));
    }
    let mut node = node(board.clone(), 2);
    let begun = Instant::now();
    node.start(parts(&["ws1", "ws2", "ws3"]).await).await.unwrap();
    let waited = begun.elapsed();
    assert!(waited >= Duration::from_secs(6) && waited < Duration::from_secs(8), "{waited:?}");
    assert!(board.read().await.unwrap().iter().all(|row| row.epoch != Epoch(7)));
    node.stop().await;
    assert_eq!(board.read().await, Ok(vec![]));
}

#[tokio::test(start_paused = true)]
async fn a_stop_in_the_middle_of_a_start_leaves_nothing() {
    let board = Arc::new(EmbeddedBoard::default());
    // ws2 is of an earlier life: its take-over takes 6 s, while ws1 has its row already.
    let old = crate::chat::testing::board_row("ws2", 7);
    board.beat(&old, None).await.unwrap();
    let mut node = node(board.clone(), 2);
    let starting = node.start(parts(&["ws1", "ws2"]).await);
    assert!(timeout(Duration::from_secs(3), starting).await.is_err());
    assert_eq!(board.read().await.unwrap().len(), 2);
    node.stop().await;
    assert_eq!(board.read().await, Ok(vec![old]), "the own row goes, the other is not touched");
}
