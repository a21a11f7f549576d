//! Which servers there are: on the board, by name on the command line, or in this very process.
//!
//! One task keeps the list; connections read the newest one. A server that refuses a connection is
//! passed over at once, until the next look shows it well.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::health;
use crate::board::{Board, BoardRow, Role};
use crate::config::NamedServer;
use crate::edge::Upstream;
use crate::gateway::Door;
use crate::limits::Seats;
use crate::protocol::{Epoch, ProcessId};
use crate::telemetry::Metrics;

/// How often the board is read, or named servers are asked for their health.
pub const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// A row that did not move for so long gets no new users: a beat and a half, so that one late beat
/// costs nothing. (A killed server is noticed sooner, by its refused connection.)
const STALE: Duration = Duration::from_millis(7_500);

/// A server that connections can be dealt to.
#[derive(Debug)]
pub struct Backend {
    /// Its name.
    pub id: ProcessId,
    /// `HOST:PORT`, or `tls://HOST:PORT`; empty for one in this process.
    pub address: String,
    /// Where browsers reach it themselves.
    pub public_url: Option<String>,
    /// The way in, for one in this process.
    pub door: Option<Door>,
    /// Sockets that it has told of, beyond those that came through here.
    told: AtomicU32,
    /// Where a server in this process counts its sockets itself.
    counted: Option<Arc<Metrics>>,
    /// Whether there is room on one in this process.
    seats: Option<Arc<Seats>>,
    open: AtomicU32,
    well: AtomicBool,
}

impl Backend {
    fn new(id: ProcessId, address: String) -> Self {
        Self {
            id,
            address,
            public_url: None,
            door: None,
            counted: None,
            seats: None,
            told: AtomicU32::new(0),
            open: AtomicU32::new(0),
            well: AtomicBool::new(true),
        }
    }

    #[cfg(test)]
    pub(super) fn named(id: &str) -> Self {
        Self::new(ProcessId::parse(id).unwrap(), String::new())
    }

    /// How many sockets it holds, as far as is known here.
    pub fn load(&self) -> u32 {
        if let (Some(door), Some(metrics)) = (&self.door, &self.counted) {
            let waiting = door.max_capacity() - door.capacity();
            let open = metrics.sockets.get() + i64::try_from(waiting).unwrap_or(i64::MAX);
            return u32::try_from(open).unwrap_or(u32::MAX);
        }
        self.open.load(Ordering::Relaxed).max(self.told.load(Ordering::Relaxed))
    }

    /// So many sockets it says that it has.
    pub fn tells(&self, sockets: u32) {
        self.told.store(sockets, Ordering::Relaxed);
    }

    /// A connection was dealt to it, until what is given back is dropped.
    pub fn hold(self: &Arc<Self>) -> Dealt {
        self.opened();
        Dealt(self.clone())
    }

    /// A connection was dealt to it.
    pub(super) fn opened(&self) {
        self.open.fetch_add(1, Ordering::Relaxed);
        self.told.fetch_add(1, Ordering::Relaxed);
    }

    /// A connection that was dealt to it has ended.
    pub(super) fn closed(&self) {
        let less = |count: u32| Some(count.saturating_sub(1));
        let _ = self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        let _ = self.told.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// It refused a connection: passed over until the next look.
    pub fn refused(&self) {
        self.well.store(false, Ordering::Relaxed);
    }

    /// Whether it is to be dealt to.
    pub fn is_well(&self) -> bool {
        let open = self.door.as_ref().is_none_or(|door| !door.is_closed());
        let room = self.seats.as_ref().is_none_or(|seats| !seats.are_taken());
        self.well.load(Ordering::Relaxed) && open && room
    }
}

/// A connection that was dealt to a server.
#[derive(Debug)]
pub struct Dealt(Arc<Backend>);

impl Drop for Dealt {
    fn drop(&mut self) {
        self.0.closed();
    }
}

/// A server in this process.
pub struct Here {
    /// Its name.
    pub id: ProcessId,
    /// The way in.
    pub door: Door,
    /// Where it counts its sockets.
    pub metrics: Arc<Metrics>,
    /// How many it takes.
    pub seats: Arc<Seats>,
}

/// The newest list, in the order of names.
pub type List = watch::Receiver<Arc<Vec<Arc<Backend>>>>;

/// Where the list comes from.
pub enum Backends {
    /// Servers in this process.
    InProcess(Vec<Here>),
    /// Servers by name and address, asked for their health.
    Named(Vec<NamedServer>),
    /// Whoever is on the board.
    Board(Arc<dyn Board>),
}

/// Starts keeping the list, until `stop`.
pub fn follow(backends: Backends, upstream: Option<Upstream>, stop: CancellationToken) -> List {
    let (sender, list) = watch::channel(Arc::new(Vec::new()));
    match backends {
        Backends::InProcess(doors) => {
            let with_door = |Here { id, door, metrics, seats }| {
                let (door, counted, seats) = (Some(door), Some(metrics), Some(seats));
                Arc::new(Backend { door, counted, seats, ..Backend::new(id, String::new()) })
            };
            sender.send_replace(Arc::new(doors.into_iter().map(with_door).collect()));
            // The list never changes; the task only keeps the channel open.
            tokio::spawn(async move {
                stop.cancelled().await;
                drop(sender);
            });
        }
        Backends::Named(servers) => {
            let backend = |server: NamedServer| Arc::new(Backend::new(server.id, server.address));
            let mut backends: Vec<_> = servers.into_iter().map(backend).collect();
            backends.sort_by_key(|a| natural(&a.id));
            // Until it has answered nobody knows whether it is one that may be trusted.
            backends.iter().for_each(|backend| backend.refused());
            sender.send_replace(Arc::new(backends));
            tokio::spawn(async move { stop.run_until_cancelled(ask(sender, upstream)).await });
        }
        Backends::Board(board) => {
            let looking = async move { Watched::default().look(&*board, upstream, sender).await };
            tokio::spawn(async move { stop.run_until_cancelled(looking).await });
        }
    }
    list
}

async fn ask(sender: watch::Sender<Arc<Vec<Arc<Backend>>>>, upstream: Option<Upstream>) {
    loop {
        let list = sender.borrow().clone();
        // Nobody tells when a socket that was handed over ends: the next answer says how many are
        // left, and until then a count that never falls must not keep all others away.
        list.iter().for_each(|backend| backend.tells(0));
        ask_all(&list, upstream.as_ref()).await;
        // The same list: for whoever waits until one of them is well.
        sender.send_replace(list);
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// Whoever answers is well from now on, and nobody else: one that hangs is not dealt to while its
/// answer is waited for.
async fn ask_all(list: &[Arc<Backend>], upstream: Option<&Upstream>) {
    let asking = list.iter().map(|backend| async move {
        if let Some(answers) = health::answers(&backend.address, upstream).await {
            backend.well.store(answers, Ordering::Relaxed);
        }
    });
    futures_util::future::join_all(asking).await;
}

/// ws2 before ws10.
fn natural(id: &ProcessId) -> (String, u64, String) {
    let text = id.as_str();
    let digits = text.bytes().rev().take_while(u8::is_ascii_digit).count();
    let (name, number) = text.split_at(text.len() - digits);
    (name.to_owned(), number.parse().unwrap_or(u64::MAX), text.to_owned())
}

struct Seen {
    epoch: Epoch,
    beat: u64,
    moved: Instant,
    /// By its row it takes sockets; whether it answers is asked then.
    may: bool,
    backend: Arc<Backend>,
}

/// The board's rows, judged by whether they move.
#[derive(Default)]
struct Watched {
    seen: Vec<Seen>,
}

impl Watched {
    async fn look(
        &mut self,
        board: &dyn Board,
        upstream: Option<Upstream>,
        sender: watch::Sender<Arc<Vec<Arc<Backend>>>>,
    ) {
        loop {
            match board.read().await {
                Ok(rows) => {
                    self.judge(rows, Instant::now());
                    // A process that hangs keeps its row for a while, and answers nothing.
                    ask_all(&self.to_ask(), upstream.as_ref()).await;
                    let all = self.seen.iter().map(|seen| seen.backend.clone());
                    sender.send_replace(Arc::new(all.collect()));
                }
                // The store is away for all: the last list is the best there is.
                Err(error) => tracing::warn!(%error, "the board could not be read"),
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    fn judge(&mut self, rows: Vec<BoardRow>, now: Instant) {
        let servers: Vec<_> = rows.into_iter().filter(|row| row.role == Role::Server).collect();
        self.seen.retain(|seen| servers.iter().any(|row| row.id == seen.backend.id));
        for row in servers {
            let known = self.seen.iter_mut().find(|seen| seen.backend.id == row.id);
            match known {
                Some(seen) if seen.epoch == row.epoch && seen.backend.address == row.address => {
                    if seen.beat != row.beat {
                        (seen.beat, seen.moved) = (row.beat, now);
                        seen.backend.tells(row.sockets);
                    }
                }
                Some(seen) => *seen = Self::first_seen(&row, now),
                None => self.seen.push(Self::first_seen(&row, now)),
            }
            if let Some(seen) = self.seen.iter_mut().find(|seen| seen.backend.id == row.id) {
                let fresh = now.duration_since(seen.moved) < STALE;
                seen.may = row.accepting && fresh;
                if !seen.may {
                    seen.backend.refused();
                }
            }
        }
        self.seen.sort_by_key(|a| natural(&a.backend.id));
    }

    fn first_seen(row: &BoardRow, now: Instant) -> Seen {
        let public_url = row.public_url.clone();
        let backend = Backend { public_url, ..Backend::new(row.id.clone(), row.address.clone()) };
        backend.tells(row.sockets);
        let (epoch, beat, backend) = (row.epoch, row.beat, Arc::new(backend));
        Seen { epoch, beat, moved: now, may: false, backend }
    }

    fn to_ask(&self) -> Vec<Arc<Backend>> {
        self.seen.iter().filter(|seen| seen.may).map(|seen| seen.backend.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::testing::board_row;

    fn row(id: &str, epoch: u64, beat: u64, accepting: bool) -> BoardRow {
        BoardRow { beat, address: format!("{id}:1"), accepting, ..board_row(id, epoch) }
    }

    fn asked(watched: &Watched) -> Vec<String> {
        watched.to_ask().into_iter().map(|backend| backend.id.to_string()).collect()
    }

    #[test]
    fn servers_are_dealt_to_while_their_rows_move() {
        let (mut watched, start) = (Watched::default(), Instant::now());
        watched.judge(vec![row("ws10", 1, 1, true), row("ws2", 1, 1, true)], start);
        assert_eq!(asked(&watched), ["ws2", "ws10"]);
        watched.judge(vec![row("ws10", 1, 2, true), row("ws2", 1, 1, true)], start + STALE);
        assert_eq!(asked(&watched), ["ws10"], "ws2 stands still");
        assert!(!watched.seen[0].backend.is_well());
        watched.judge(vec![row("ws10", 1, 3, false), row("ws2", 2, 1, true)], start + STALE);
        assert_eq!(asked(&watched), ["ws2"], "ws2 came back, ws10 drains");
        watched.judge(vec![row("ws2", 2, 2, true)], start + STALE);
        assert_eq!(watched.seen.len(), 1, "ws10 has left");
    }

    /// What a server has said since is newer than its row.
    #[test]
    fn a_row_says_once_how_many_sockets_there_are() {
        let (mut watched, start) = (Watched::default(), Instant::now());
        let says = |beat, sockets| BoardRow { sockets, ..row("ws1", 1, beat, true) };
        let mut load = |beat, sockets| {
            watched.judge(vec![says(beat, sockets)], start);
            let load = watched.seen[0].backend.load();
            watched.seen[0].backend.tells(load + 1);
            load
        };
        assert_eq!((load(1, 5), load(1, 5), load(1, 5), load(2, 6)), (5, 6, 7, 6));
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_named_server_said_is_forgotten_and_what_it_holds_is_not() {
        let id = ProcessId::parse("ws1").unwrap();
        let named = NamedServer { id, address: "127.0.0.1:1".to_owned() };
        let stop = CancellationToken::new();
        let list = follow(Backends::Named(vec![named]), None, stop.clone());
        let backend = list.borrow()[0].clone();
        let held = backend.hold();
        backend.tells(9);
        assert_eq!(backend.load(), 9);
        tokio::time::sleep(LOOK_INTERVAL * 3).await;
        assert_eq!(backend.load(), 1);
        drop((held, stop));
        assert_eq!(backend.load(), 0);
    }

    #[tokio::test]
    async fn only_an_answer_makes_well_again() {
        let (mut watched, start) = (Watched::default(), Instant::now());
        let mut hanging = row("ws1", 1, 1, true);
        // Taken by the kernel, and answered by nobody.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        hanging.address = listener.local_addr().unwrap().to_string();
        for beat in 1..=2 {
            watched.judge(vec![BoardRow { beat, ..hanging.clone() }], start);
            watched.seen[0].backend.refused();
            let list = watched.to_ask();
            let asking = ask_all(&list, None);
            tokio::pin!(asking);
            let early = tokio::time::timeout(Duration::from_millis(50), &mut asking).await;
            assert!(early.is_err() && !list[0].is_well(), "not while the answer is waited for");
            asking.await;
            assert!(!list[0].is_well());
        }
    }
}
