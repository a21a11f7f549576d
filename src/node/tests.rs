//! Stops that something stands in the way of.

use async_trait::async_trait;

use super::*;
use crate::board::embedded::EmbeddedBoard;
use crate::board::{Beat, Board, SlowHint};
use crate::bus::embedded::EmbeddedBus;
use crate::directory::embedded::EmbeddedDirectory;
use crate::store::StoreError;
use crate::store::embedded::EmbeddedStore;

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
        store: EmbeddedStore::in_memory().unwrap(),
        board,
        directory: Arc::new(EmbeddedDirectory::default()),
        bus: Arc::new(EmbeddedBus::default()),
        lock: None,
        rows_are_past: false,
    };
    Node::new(wired, Health::new(Vec::new()), drain_seconds)
}

async fn options(id: &str) -> PartOptions {
    PartOptions {
        id: ProcessId::parse(id).unwrap(),
        role: Role::Server,
        advertise: None,
        public_url: None,
        listener: listen("127.0.0.1:0".parse().unwrap(), false, "--listen").await.unwrap(),
        lock_held: false,
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_in_time_where_the_store_does_not_answer() {
    let mut node = node(Arc::new(Stuck::default()), 2);
    for id in ["ws1", "ws2", "ws3"] {
        node.start(options(id).await, Arc::new(Metrics::new(id))).await.unwrap();
    }
    node.open().await;
    let begun = Instant::now();
    node.stop().await;
    assert!(begun.elapsed() <= Duration::from_secs(7), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_node_whose_name_is_taken_stops() {
    let board = Arc::new(EmbeddedBoard::default());
    let mut node = node(board.clone(), 25);
    for id in ["ws1", "ws2"] {
        node.start(options(id).await, Arc::new(Metrics::new(id))).await.unwrap();
    }
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
