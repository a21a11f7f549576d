//! A TCP proxy between a process and one of its parts, to be cut, stalled, or left one-way.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What becomes of the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// All pass.
    Open,
    /// Connections end, and new ones end at once.
    Cut,
    /// Connections stay, and nothing passes.
    Stalled,
    /// What is asked passes, what is answered does not.
    Deaf,
}

/// See the module. Ends when dropped.
pub struct Proxy {
    address: String,
    way: Arc<watch::Sender<Way>>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Listens on a free port and leads to `HOST:PORT`.
    pub async fn start(to: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (way, to) = (Arc::new(watch::Sender::new(Way::Open)), to.to_owned());
        let ways = way.clone();
        let task = tokio::spawn(async move {
            loop {
                let Ok((from, _)) = listener.accept().await else { return };
                let (to, way) = (to.clone(), ways.subscribe());
                tokio::spawn(async move { lead(from, &to, way).await });
            }
        });
        Self { address, way, task }
    }

    /// Where it listens.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// From now on.
    pub fn set(&self, way: Way) {
        self.way.send_replace(way);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
        self.set(Way::Cut);
    }
}

async fn lead(from: TcpStream, to: &str, mut way: watch::Receiver<Way>) {
    let Ok(to) = TcpStream::connect(to).await else { return };
    let ((asks, answered), (answers, asked)) = (from.into_split(), to.into_split());
    let up = pass(asks, asked, way.clone(), |way| matches!(way, Way::Open | Way::Deaf));
    let down = pass(answers, answered, way.clone(), |way| matches!(way, Way::Open));
    tokio::select! {
        () = up => {}
        () = down => {}
        _ = way.wait_for(|way| *way == Way::Cut) => {}
    }
}

/// One way. What was read while nothing passes is lost, as in a network that drops it.
async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    way: watch::Receiver<Way>,
    passes: impl Fn(Way) -> bool,
) {
    let mut buffer = vec![0; 16 * 1_024];
    let mut lost = false;
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        // A stream with a hole in it must not go on: it would be another protocol.
        lost |= !passes(*way.borrow());
        if !lost && to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
