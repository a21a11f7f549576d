//! The load balancer: deals new connections to the servers, and serves the page.
//!
//! It takes part in the upgrade only. `head` looks at the request, `pick` chooses among the servers
//! that `discovery` knows; one in this process gets the socket itself with the bytes already read,
//! one in another process of this host as well (`handoff`), and to any other the bytes pass
//! through here (`proxy`, then `splice`). A socket once handed over is never dealt again.
//! Everything that is not `/ws` is answered by `front`.

pub mod discovery;
pub mod forward;
pub mod front;
mod handoff;
pub mod head;
pub mod health;
pub mod page;
pub mod pick;
pub mod proxy;
mod seat;
mod splice;

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::auth::Verifier;
use crate::config::Pick;
use crate::edge::handoff::Folder;
use crate::edge::{Arrived, Came, Edge, Incoming, Peer, Stream, Upstream};
use crate::gateway::handshake::{Refusal, TOO_LONG, refuse};
use crate::gateway::{Accepted, Guest, Porch};
use crate::limits::{Limit, Limits, Seats};
use crate::telemetry::Metrics;
pub use discovery::Backends;
use discovery::{Backend, Dealt, List};
use forward::Forward;
use handoff::Handed;
use head::{Head, Upgrade};
use pick::Picker;
use proxy::Says;
use seat::Seat;
use splice::Splice;

/// How many servers that take no socket are asked, before the client is told so.
const ASKED_MAX: usize = 3;

/// How a balancer deals.
#[derive(Debug)]
pub struct Options {
    /// By which rule.
    pub pick: Pick,
    /// Where `/v1/…` goes.
    pub forward: Option<Forward>,
    /// How connections come in, and what is taken of them.
    pub edge: Arc<Edge>,
    /// Whom to trust of the servers that speak TLS.
    pub upstream: Option<Upstream>,
    /// Checks tokens; `None` in development mode.
    pub auth: Option<Verifier>,
    /// Where servers of this host take sockets.
    pub handoff: Option<Folder>,
    /// How much a client may do.
    pub limits: Arc<Limits>,
    /// Counters.
    pub metrics: Arc<Metrics>,
}

/// A balancer: what its connections share.
pub struct Balancer {
    picker: Picker,
    backends: List,
    forward: Option<Forward>,
    edge: Arc<Edge>,
    upstream: Option<Upstream>,
    auth: Option<Verifier>,
    handoff: Option<Folder>,
    limits: Arc<Limits>,
    metrics: Arc<Metrics>,
    seats: Seats,
    /// Sockets pass through here: their servers are other processes.
    passes_on: bool,
    porch: Arc<Porch>,
    tasks: TaskTracker,
}

impl Balancer {
    /// Starts to follow its servers, until `stop`.
    pub fn new(options: Options, backends: Backends, stop: CancellationToken) -> Arc<Self> {
        let Options { pick, forward, edge, upstream, auth, handoff, limits, metrics } = options;
        let passes_on = !matches!(backends, Backends::InProcess(_));
        let most = limits.settings().sockets.filter(|_| passes_on);
        metrics.sockets_max.set(most.map_or(0, i64::from));
        let seats = Seats::new(most);
        let porch = Porch::new(limits.clone(), metrics.clone(), edge.clone());
        Arc::new(Self {
            picker: Picker::new(pick),
            backends: discovery::follow(backends, upstream.clone(), stop),
            forward,
            edge,
            upstream,
            auth,
            handoff,
            limits,
            metrics,
            seats,
            passes_on,
            porch,
            tasks: TaskTracker::new(),
        })
    }

    /// Whether some server takes sockets.
    pub fn has_servers(&self) -> bool {
        self.backends.borrow().iter().any(|backend| backend.is_well())
    }

    /// Whether some server is dialled by its own name.
    fn names_servers(&self) -> bool {
        self.backends.borrow().iter().any(|backend| backend.public_url.is_some())
    }

    /// Waits until some server takes sockets.
    pub async fn servers_known(&self) {
        let mut list = self.backends.clone();
        let _ = list.wait_for(|list| list.iter().any(|backend| backend.is_well())).await;
    }

    /// The servers to try for this user, the picked one first.
    fn picked(&self, user: &str) -> Vec<Arc<Backend>> {
        let list = self.backends.borrow().clone();
        let well: Vec<&Backend> =
            list.iter().filter(|backend| backend.is_well()).map(Arc::as_ref).collect();
        let order = self.picker.order(&well, user);
        let shared = |backend: &Backend| list.iter().find(|b| b.id == backend.id).cloned();
        order.into_iter().filter_map(shared).collect()
    }

    /// Whom a client that asks is to dial: the server picked where it can be dialled itself. Else
    /// the client comes back to this balancer and takes its turn then.
    fn named(&self, user: &str) -> Option<Arc<Backend>> {
        let list = self.backends.borrow().clone();
        let well: Vec<&Backend> =
            list.iter().filter(|backend| backend.is_well()).map(Arc::as_ref).collect();
        let next = self.picker.peek(&well, user)?;
        if next.public_url.is_some() {
            return self.picked(user).into_iter().next();
        }
        list.iter().find(|backend| backend.id == next.id).cloned()
    }

    /// Waits until the connections that go through here have ended.
    pub async fn finished(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Accepts until `stop`; spliced connections then go on until their ends close them.
    pub async fn run(self: Arc<Self>, listener: TcpListener, stop: CancellationToken) {
        let mut incoming = Incoming::at(listener);
        loop {
            let came = tokio::select! {
                () = stop.cancelled() => return,
                came = incoming.next() => came,
            };
            match came {
                Came::Connection(stream, address) => self.take(stream, address),
                Came::Nothing => self.metrics.count_limited(Limit::Files.as_str()),
            }
        }
    }

    fn take(self: &Arc<Self>, stream: TcpStream, address: SocketAddr) {
        let Some((stream, guest)) = self.porch.enter(stream, address) else { return };
        self.tasks.spawn(self.clone().greet(stream, address, guest));
    }

    /// Takes a connection in. A guest has its place until it is somebody else's, and while it is
    /// told that it gets nothing.
    async fn greet(self: Arc<Self>, stream: TcpStream, address: SocketAddr, mut guest: Guest) {
        let gate = &self.edge.gate;
        let Some(arrived) = self.edge.arrive(stream, address, &mut guest).await else { return };
        let Arrived { mut stream, peer, until } = arrived;
        match head::read(&mut stream, peer, gate, until).await {
            Some(Head::Upgrade(upgrade)) => {
                if !self.passes_on {
                    let user = self.dealt_by(&upgrade).await;
                    return self.hand_over(stream, &upgrade, &user, guest).await;
                }
                let client = upgrade.caller.peer.address.ip();
                if let Err(over) = self.handshake(client, upgrade.token.as_ref()).await {
                    return refuse(stream, &Refusal::over(over)).await;
                }
                let user = self.dealt_by(&upgrade).await;
                self.deal(stream, &upgrade, &user, guest).await;
            }
            Some(Head::Plain(read)) => match guest.goes_on(peer.address.ip()) {
                Ok(stay) => {
                    drop(guest);
                    front::serve(self, stream, read, peer, Arc::new(stay)).await;
                }
                Err(over) => refuse(stream, &Refusal::over(over)).await,
            },
            Some(Head::TooLong) => {
                self.metrics.count_limited(Limit::HeadBytes.as_str());
                self.turn_back(stream, peer, Refusal::new(431, TOO_LONG)).await;
            }
            Some(Head::Bad(turned)) => self.turn_back(stream, peer, turned.into()).await,
            None if Instant::now() >= until => {
                self.metrics.count_limited(Limit::HeadTime.as_str());
            }
            None => {}
        }
    }

    /// What is no handshake costs as much as one.
    async fn turn_back(&self, stream: Stream, peer: Peer, refusal: Refusal) {
        let refusal = self.porch.charge(peer.address.ip()).map_or(refusal, Refusal::over);
        Metrics::count(&self.metrics.refused, refusal.code().as_str());
        refuse(stream, &refusal).await;
    }

    /// Whose place counts for dealing: where that matters and the query names nobody, the token's
    /// user. A token that does not hold is the server's to refuse.
    async fn dealt_by(&self, upgrade: &Upgrade) -> String {
        let named = || upgrade.user.clone();
        let unnamed = upgrade.user.is_empty() && self.picker.asks_who();
        match (&self.auth, &upgrade.token) {
            (Some(auth), Some(token)) if unnamed => {
                auth.verify(token).await.map_or_else(|_| named(), |whose| whose.user.to_string())
            }
            _ => named(),
        }
    }

    /// The servers to try for this user. Where nobody answers in time more likely all are busy than
    /// all are gone.
    fn candidates(&self, user: &str) -> Vec<Arc<Backend>> {
        let picked = self.picked(user);
        if picked.is_empty() { self.backends.borrow().to_vec() } else { picked }
    }

    /// Deals to a server in this process, which counts the socket in its own metrics.
    async fn hand_over(&self, stream: Stream, upgrade: &Upgrade, user: &str, guest: Guest) {
        let (peer, read) = (upgrade.caller.peer, upgrade.here());
        let mut accepted = Accepted { stream, peer, read, guest };
        for door in self.candidates(user).iter().filter_map(|backend| backend.door.as_ref()) {
            match door.try_send(accepted) {
                Ok(()) => return,
                Err(refused) => accepted = refused.into_inner(),
            }
        }
        refuse(accepted.stream, &nobody()).await;
    }

    /// Deals to a server in another process. A guest becomes one that passes through, which has a
    /// seat, only where no server on this host has taken its socket.
    async fn deal(
        self: &Arc<Self>,
        mut stream: Stream,
        upgrade: &Upgrade,
        user: &str,
        guest: Guest,
    ) {
        let (mut guest, mut seat) = (Some(guest), None);
        // The last server that did not take it, with its answer: the client's, if nobody does.
        let (mut asked, mut refusal) = (0, None);
        for backend in self.candidates(user) {
            stream = match self.hand_on(&backend, stream, upgrade).await {
                Handed::Over => return,
                Handed::Not(stream) => stream,
                Handed::Refused(back) => {
                    (stream, asked) = (back, asked + 1);
                    if asked == ASKED_MAX {
                        break;
                    }
                    continue;
                }
            };
            if seat.is_none() {
                match self.seat(upgrade.caller.peer.address.ip()) {
                    Ok(taken) => seat = Some(taken),
                    Err(over) => return refuse(stream, &Refusal::over(over)).await,
                }
                drop(guest.take());
            }
            match self.offer(&backend, upgrade).await {
                Offered::Taken(server, answer) => {
                    let dealt = Some(backend.hold());
                    return self.pass_on(stream, server, &answer, (seat, dealt)).await;
                }
                Offered::Refused(server, answer) => {
                    (asked, refusal) = (asked + 1, Some((server, answer)));
                    if asked == ASKED_MAX {
                        break;
                    }
                }
                Offered::Gone => {}
                Offered::Lost => break,
            }
        }
        match refusal {
            Some((server, answer)) => self.pass_on(stream, server, &answer, (seat, None)).await,
            None => refuse(stream, &nobody()).await,
        }
    }

    /// Passes an answer on, and leaves what follows to a task of its own, which holds nothing else:
    /// the one that has read the request is as large as the largest thing that it may do.
    async fn pass_on(
        &self,
        mut client: Stream,
        server: Stream,
        answer: &[u8],
        held: (Option<Seat>, Option<Dealt>),
    ) {
        if proxy::give(&mut client, answer).await.is_ok() {
            self.tasks.spawn(Splice::new(client, server, held));
        }
    }

    /// Asks a server in another process to take a socket.
    async fn offer(&self, backend: &Backend, upgrade: &Upgrade) -> Offered {
        let mut server = match proxy::dial(&backend.address, self.upstream.as_ref()).await {
            Ok(server) => server,
            Err(error) if proxy::is_local(&error) => {
                tracing::warn!(%error, "no server can be dialled from here now");
                self.metrics.count_limited(Limit::Files.as_str());
                return Offered::Lost;
            }
            Err(error) => {
                tracing::info!(server = %backend.id, %error, "passed over");
                backend.refused();
                return Offered::Gone;
            }
        };
        let Ok(answer) = proxy::ask(&mut server, &upgrade.onward()).await else {
            backend.refused();
            // Frames that it may have taken are not given to another one: the client comes back.
            return if upgrade.has_spoken() { Offered::Lost } else { Offered::Gone };
        };
        match proxy::says(&answer) {
            Says::Its => Offered::Taken(server, answer),
            Says::Away => Offered::Refused(server, answer),
            Says::Elsewhere => {
                backend.refused();
                Offered::Refused(server, answer)
            }
        }
    }
}

fn nobody() -> Refusal {
    Refusal::new(503, "no server takes sockets now").elsewhere()
}

/// What became of asking a server.
enum Offered {
    /// It answers the client; so its answer begins.
    Taken(Stream, Bytes),
    /// It takes no socket now, and says so.
    Refused(Stream, Bytes),
    /// It is not there.
    Gone,
    /// No other one is to be asked.
    Lost,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::NamedServer;
    use crate::limits::Settings;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::mpsc;

    pub const UPGRADE: &[u8] = b"GET /ws?userId=userA HTTP/1.1\r\nHost: x\r\n\r\nearly";

    /// A server that says its name, then echoes; well while `/readyz` is asked.
    pub async fn server(name: &'static str) -> (NamedServer, CancellationToken) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let stop = CancellationToken::new();
        let serving = stop.clone();
        tokio::spawn(serving.run_until_cancelled_owned(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    let mut read = vec![0; 1_024];
                    let count = stream.read(&mut read).await.unwrap();
                    if read.starts_with(b"GET /readyz") {
                        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
                        return;
                    }
                    stream.write_all(name.as_bytes()).await.unwrap();
                    stream.write_all(&read[..count]).await.unwrap();
                    let (mut from, mut to) = stream.split();
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        }));
        (NamedServer { id: crate::protocol::ProcessId::parse(name).unwrap(), address }, stop)
    }

    async fn balancer(backends: Backends, api: Option<String>) -> SocketAddr {
        limited(backends, api, Limits::none()).await
    }

    async fn limited(backends: Backends, api: Option<String>, limits: Arc<Limits>) -> SocketAddr {
        start(backends, api, limits, None).await
    }

    /// One that hands sockets over in this folder.
    pub async fn handing(backends: Backends, folder: Folder) -> SocketAddr {
        start(backends, None, Limits::none(), Some(folder)).await
    }

    pub async fn start(
        backends: Backends,
        api: Option<String>,
        limits: Arc<Limits>,
        handoff: Option<Folder>,
    ) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let forward = api.as_deref().map(|url| Forward::to(url, None).unwrap());
        let (pick, edge) = (Pick::RoundRobin, Edge::open());
        let metrics = Arc::new(Metrics::new("balancer"));
        let (upstream, auth) = (None, None);
        let options = Options { pick, forward, edge, upstream, auth, handoff, limits, metrics };
        let stop = CancellationToken::new();
        let asks = matches!(backends, Backends::Named(_));
        let balancer = Balancer::new(options, backends, stop.clone());
        tokio::spawn(balancer.clone().run(listener, stop));
        if asks {
            balancer.servers_known().await;
        }
        address
    }

    pub async fn exchange(address: SocketAddr, request: &[u8], answer: usize) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request).await.unwrap();
        let mut read = vec![0; answer];
        stream.read_exact(&mut read).await.unwrap();
        String::from_utf8(read).unwrap()
    }

    async fn request(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn bytes_are_spliced_both_ways_and_a_dead_server_is_passed_over() {
        let ((one, _one), (two, dead)) = (server("ws1").await, server("ws2").await);
        let front = balancer(Backends::Named(vec![one, two]), None).await;
        let told = "X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: http\r\n\r\nearly";
        let sent = str::from_utf8(UPGRADE).unwrap().replace("\r\nearly", told);
        let expected = |name: &str| format!("{name}{sent}");
        let length = sent.len() + 3;
        for name in ["ws1", "ws2", "ws1"] {
            assert_eq!(exchange(front, UPGRADE, length).await, expected(name));
        }
        let mut open = TcpStream::connect(front).await.unwrap();
        dead.cancel();
        tokio::time::sleep(Duration::from_millis(20)).await;
        for _ in 0..4 {
            assert_eq!(exchange(front, UPGRADE, length).await, expected("ws1"));
        }
        open.write_all(UPGRADE).await.unwrap();
        let mut read = vec![0; length];
        open.read_exact(&mut read).await.unwrap();
        open.write_all(b"more").await.unwrap();
        open.read_exact(&mut read[..4]).await.unwrap();
        assert_eq!(&read[..4], b"more");
    }

    #[tokio::test]
    async fn a_server_in_this_process_gets_the_socket_with_the_bytes_read() {
        let (door, mut handed) = mpsc::channel(1);
        let id = crate::protocol::ProcessId::parse("ws1").unwrap();
        let (metrics, seats) = (Arc::new(Metrics::new("ws1")), Arc::new(Seats::new(None)));
        let here = discovery::Here { id, door, metrics, seats };
        let front = balancer(Backends::InProcess(vec![here]), None).await;
        let mut client = TcpStream::connect(front).await.unwrap();
        client.write_all(UPGRADE).await.unwrap();
        let mut accepted = handed.recv().await.unwrap();
        assert_eq!(&accepted.read[..], UPGRADE);
        assert_eq!(accepted.peer.address, client.local_addr().unwrap());
        accepted.stream.write_all(b"hello").await.unwrap();
        let mut read = [0; 5];
        client.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"hello");
    }

    /// A server that is well by its answer, and takes no sockets.
    async fn unwilling(name: &'static str, full: bool) -> NamedServer {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut read = vec![0; 1_024];
                let count = stream.read(&mut read).await.unwrap();
                let well = read[..count].starts_with(b"GET /readyz");
                let status = if well { "200 OK" } else { "503 Service Unavailable" };
                let mark = if full { "X-Parlor-Elsewhere: yes\r\n" } else { "" };
                let answer = format!("HTTP/1.1 {status}\r\nX-From: {name}\r\n{mark}\r\n");
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        NamedServer { id: crate::protocol::ProcessId::parse(name).unwrap(), address }
    }

    #[tokio::test]
    async fn servers_that_take_nobody_are_passed_over_and_three_are_asked() {
        let ((one, _stop), (last, _stop_too)) = (server("ws1").await, server("ws9").await);
        let [two, three] = [unwilling("ws2", true).await, unwilling("ws3", true).await];
        let front = balancer(Backends::Named(vec![two.clone(), three.clone(), last]), None).await;
        for _ in 0..6 {
            assert_eq!(exchange(front, UPGRADE, 3).await, "ws9", "the third one has room");
        }
        let both = balancer(Backends::Named(vec![two.clone(), three.clone()]), None).await;
        let answer = request(both, str::from_utf8(UPGRADE).unwrap()).await;
        assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("X-From: ws"), "{answer}");
        // What others lack as well is no server's fault: it is asked again, by the next client.
        let four = unwilling("ws4", false).await;
        let front = balancer(Backends::Named(vec![four.clone(), one]), None).await;
        for _ in 0..6 {
            assert_eq!(exchange(front, UPGRADE, 3).await, "ws1");
        }
        let all = [two, three, four, unwilling("ws5", true).await, server("ws6").await.0];
        let front = balancer(Backends::Named(all.to_vec()), None).await;
        let answer = request(front, str::from_utf8(UPGRADE).unwrap()).await;
        assert!(answer.contains("X-From: ws4"), "the third of five: {answer}");
    }

    #[tokio::test]
    async fn what_passes_through_has_a_bound_too() {
        let (one, _stop) = server("ws1").await;
        let settings = Settings { sockets: Some(1), ..Settings::default() };
        let front = limited(Backends::Named(vec![one]), None, Limits::new(settings)).await;
        let mut first = TcpStream::connect(front).await.unwrap();
        first.write_all(UPGRADE).await.unwrap();
        first.read_exact(&mut [0; 3]).await.unwrap();
        let answer = request(front, str::from_utf8(UPGRADE).unwrap()).await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        let after = answer.split("Retry-After: ").nth(1).and_then(|rest| rest.lines().next());
        let after: u64 = after.unwrap().parse().unwrap();
        assert!((5..=10).contains(&after), "{answer}");
        drop(first);
        let freed = async {
            while exchange(front, UPGRADE, 3).await != "ws1" {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), freed).await.unwrap();
    }

    /// It asks on and on and reads nothing: its place is somebody else's after a while.
    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_no_answer_is_let_go() {
        let settings = Settings { plain: Some(2), ..Settings::default() };
        let front = limited(Backends::InProcess(Vec::new()), None, Limits::new(settings)).await;
        let get = "GET /parlor.js HTTP/1.1\r\nHost: x\r\n\r\n";
        let mut deaf = TcpStream::connect(front).await.unwrap();
        deaf.write_all(get.repeat(1_500).as_bytes()).await.unwrap();
        deaf.read_exact(&mut [0; 12]).await.unwrap();
        // Where places are short, nobody rests on one.
        let is_short = async || request(front, get).await.contains("connection: close");
        assert!(is_short().await);
        tokio::time::sleep(Duration::from_secs(45)).await;
        assert!(!is_short().await);
        drop(deaf);
    }

    #[tokio::test]
    async fn nobody_to_deal_to_is_a_503() {
        let front = balancer(Backends::InProcess(Vec::new()), None).await;
        let answer = request(front, str::from_utf8(UPGRADE).unwrap()).await;
        assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("Retry-After"), "{answer}");
        let connect = "GET /v1/connect?userId=a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        assert!(request(front, connect).await.starts_with("HTTP/1.1 503"));
    }

    #[tokio::test]
    async fn the_page_and_connect_are_answered_here() {
        let ((one, _one), (two, _two)) = (server("ws1").await, server("ws2").await);
        let front = balancer(Backends::Named(vec![one, two]), None).await;
        let get = |path: &str| {
            format!("GET {path} HTTP/1.1\r\nHost: chat.test\r\nConnection: close\r\n\r\n")
        };
        let page = request(front, &get("/")).await;
        assert!(page.starts_with("HTTP/1.1 200"), "{page}");
        assert!(page.contains("content-security-policy: default-src 'none'"));
        let connect = request(front, &get("/v1/connect?userId=userA")).await;
        assert!(connect.ends_with(r#"{"server":"ws1","url":"ws://chat.test/ws"}"#), "{connect}");
        // It names this balancer, and the turn is left for the connection that follows.
        assert_eq!(exchange(front, UPGRADE, 3).await, "ws1");
        for (path, status) in
            [("/v1/connect?userId=a%20b", 400), ("/../Cargo.toml", 404), ("/v1/servers", 404)]
        {
            let answer = request(front, &get(path)).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{path}: {answer}");
            assert!(answer.contains("application/problem+json"), "{answer}");
        }
        let post = "POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
        assert!(request(front, post).await.contains("allow: GET, HEAD"));
        let long = format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "x".repeat(9_000));
        assert!(request(front, &long).await.starts_with("HTTP/1.1 431"));
    }

    #[tokio::test]
    async fn the_message_api_is_behind_the_same_origin() {
        let api = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", api.local_addr().unwrap());
        tokio::spawn(async move {
            let (mut stream, _) = api.accept().await.unwrap();
            let mut read = vec![0; 4_096];
            let count = stream.read(&mut read).await.unwrap();
            let seen = String::from_utf8_lossy(&read[..count]).to_lowercase();
            let good = seen.starts_with("post /v1/messages?userid=a ")
                && seen.contains("idempotency-key: r1")
                && !seen.contains("x-hop")
                && seen.ends_with("{}");
            let status = if good { "201 Created" } else { "500 Wrong" };
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\nok");
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
        let front = balancer(Backends::InProcess(Vec::new()), Some(url)).await;
        let post = "POST /v1/messages?userId=a HTTP/1.1\r\nHost: x\r\nConnection: close, x-hop\r\n\
                    X-Hop: 1\r\nIdempotency-Key: r1\r\nContent-Length: 2\r\n\r\n{}";
        let answer = request(front, post).await;
        assert!(answer.starts_with("HTTP/1.1 201") && answer.ends_with("ok"), "{answer}");
    }
}
