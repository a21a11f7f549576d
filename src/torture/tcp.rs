//! A TCP proxy that does what networks do on a bad day.
//!
//! Each connection has rules of its own, so that a fault may hit some of them. Bytes are never
//! changed or reordered: TCP does not do that either. What a fault takes away it takes until the
//! connection's end.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::journal::locked;

const BUFFER_BYTES: usize = 16 * 1_024;
/// In so many bytes from its client a connection is known as one that subscribes.
const SNIFF_BYTES: u64 = 4_096;
/// How long a listener waits before it tries to get its port back.
const REBIND: Duration = Duration::from_millis(20);

/// What happens to bytes on one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Way {
    /// They go on at once.
    #[default]
    Pass,
    /// They stay where they are, until the rule changes.
    Hold,
    /// They are taken, and gone.
    Drop,
    /// They go on after so many milliseconds, more or less.
    Delay(u64, u64),
    /// They go on in pieces of a few bytes.
    Slice,
    /// They go on at so many bytes each 50 ms.
    Trickle(usize),
    /// So many go on, then the connection is reset in the middle of whatever that was.
    Cut(usize),
    /// The connection is reset.
    Reset,
}

/// The two ways of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Rules {
    /// From the client.
    pub up: Way,
    /// To the client.
    pub down: Way,
}

impl Rules {
    /// The same both ways.
    pub fn both(way: Way) -> Self {
        Self { up: way, down: way }
    }
}

/// How often a rule has bitten: bytes held or lost, connections reset.
pub(super) type Bites = Arc<AtomicU64>;

/// Rules, and where it is counted that they bite: several faults may be on one proxy.
#[derive(Clone, Default)]
struct Ruled {
    rules: Rules,
    bites: Bites,
}

struct Line {
    ruled: watch::Sender<Ruled>,
    subscribes: bool,
}

impl Line {
    /// Gives it other rules. TCP loses nothing in the middle of a stream: one that has lost bytes
    /// may lose more, or be reset, and one that is to be reset is.
    fn rule(&self, ruled: &Ruled) {
        self.ruled.send_modify(|now| {
            let may_follow = |before, next| match before {
                Way::Reset => next == Way::Reset,
                Way::Drop => matches!(next, Way::Drop | Way::Reset),
                _ => true,
            };
            let Ruled { rules: before, .. } = *now;
            let next = ruled.rules;
            let goes_on = may_follow(before.up, next.up) && may_follow(before.down, next.down);
            *now = ruled.clone();
            if !goes_on {
                now.rules = Rules::both(Way::Reset);
            }
        });
    }
}

#[derive(Default)]
struct State {
    lines: HashMap<u64, Line>,
    /// Of connections that are yet to come.
    coming: Ruled,
    next: u64,
}

struct Shared {
    state: Mutex<State>,
    refuses: watch::Sender<bool>,
    upstream: SocketAddr,
}

/// The proxy. Ends with all its connections when it is dropped.
pub(super) struct Tcp {
    /// Where it listens.
    pub address: SocketAddr,
    shared: Arc<Shared>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Tcp {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Tcp {
    /// Listens at `address` and goes on to `upstream`.
    pub async fn start(
        address: SocketAddr,
        upstream: SocketAddr,
        seed: u64,
    ) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let (state, refuses) = (Mutex::default(), watch::Sender::new(false));
        let shared = Arc::new(Shared { state, refuses, upstream });
        let task = tokio::spawn(accept(listener, address, shared.clone(), seed));
        Ok(Self { address, shared, task })
    }

    /// Open connections, of those that subscribe or of the others.
    pub fn lines(&self, subscribing: Option<bool>) -> Vec<u64> {
        let state = locked(&self.shared.state);
        let wanted = |line: &Line| subscribing.is_none_or(|wanted| line.subscribes == wanted);
        let mut lines: Vec<u64> =
            state.lines.iter().filter(|(_, line)| wanted(line)).map(|(id, _)| *id).collect();
        lines.sort_unstable();
        lines
    }

    /// Gives these connections other rules; tells how often they bite.
    pub fn rule(&self, lines: &[u64], rules: Rules) -> Bites {
        let ruled = Ruled { rules, bites: Bites::default() };
        let state = locked(&self.shared.state);
        for line in lines.iter().filter_map(|id| state.lines.get(id)) {
            line.rule(&ruled);
        }
        ruled.bites
    }

    /// Gives all connections other rules, and those that are yet to come.
    pub fn rule_all(&self, rules: Rules) -> Bites {
        let ruled = Ruled { rules, bites: Bites::default() };
        let mut state = locked(&self.shared.state);
        // A reset is over with the connection.
        let is_over = |way| matches!(way, Way::Reset | Way::Cut(_));
        state.coming = match is_over(rules.up) || is_over(rules.down) {
            true => Ruled::default(),
            false => ruled.clone(),
        };
        for line in state.lines.values() {
            line.rule(&ruled);
        }
        ruled.bites
    }

    /// Refuses connections, or takes them again. Open ones are not touched.
    pub fn refuse(&self, refuses: bool) {
        self.shared.refuses.send_replace(refuses);
    }
}

async fn accept(listener: TcpListener, address: SocketAddr, shared: Arc<Shared>, seed: u64) {
    let mut lines = JoinSet::new();
    let mut refuses = shared.refuses.subscribe();
    let mut listener = Some(listener);
    loop {
        if *refuses.borrow_and_update() {
            listener = None;
            if refuses.changed().await.is_err() {
                return;
            }
            continue;
        }
        let Some(open) = &listener else {
            listener = TcpListener::bind(address).await.ok();
            sleep(REBIND).await;
            continue;
        };
        tokio::select! {
            accepted = open.accept() => {
                let Ok((client, _)) = accepted else { continue };
                let (id, ruled) = shared.enter();
                let random = SmallRng::seed_from_u64(seed ^ id.wrapping_mul(0x9E37_79B9_7F4A_7C15));
                lines.spawn(carry(client, id, ruled, shared.clone(), random));
            }
            _ = refuses.changed() => {}
            Some(_) = lines.join_next() => {}
        }
    }
}

impl Shared {
    fn enter(&self) -> (u64, watch::Receiver<Ruled>) {
        let mut state = locked(&self.state);
        let id = state.next;
        state.next += 1;
        let (sender, receiver) = watch::channel(state.coming.clone());
        state.lines.insert(id, Line { ruled: sender, subscribes: false });
        (id, receiver)
    }
}

/// Why a connection ends.
enum End {
    /// As its ends want it.
    Quiet,
    /// With a reset, both ways.
    Reset,
}

async fn carry(
    mut client: TcpStream,
    id: u64,
    ruled: watch::Receiver<Ruled>,
    shared: Arc<Shared>,
    mut random: SmallRng,
) {
    if let Ok(mut server) = TcpStream::connect(shared.upstream).await {
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let end = {
            let (from_client, to_client) = client.split();
            let (from_server, to_server) = server.split();
            let other = SmallRng::from_rng(&mut random);
            let up = Pump { id, up: true, ruled: ruled.clone(), shared: &shared, random };
            let down = Pump { id, up: false, ruled, shared: &shared, random: other };
            let (up, down) = (up.run(from_client, to_server), down.run(from_server, to_client));
            tokio::pin!(up, down);
            tokio::select! {
                end = &mut up => match end { End::Quiet => down.await, reset => reset },
                end = &mut down => match end { End::Quiet => up.await, reset => reset },
            }
        };
        if matches!(end, End::Reset) {
            let _ = (client.set_zero_linger(), server.set_zero_linger());
        }
    } else {
        let _ = client.set_zero_linger();
    }
    locked(&shared.state).lines.remove(&id);
}

struct Pump<'a> {
    id: u64,
    up: bool,
    ruled: watch::Receiver<Ruled>,
    shared: &'a Shared,
    random: SmallRng,
}

impl Pump<'_> {
    fn way(&mut self) -> Way {
        let rules = self.ruled.borrow_and_update().rules;
        if self.up { rules.up } else { rules.down }
    }

    fn bite(&self) {
        self.ruled.borrow().bites.fetch_add(1, Ordering::Relaxed);
    }

    async fn run(mut self, mut from: ReadHalf<'_>, mut to: WriteHalf<'_>) -> End {
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut seen = 0;
        loop {
            if self.way() == Way::Reset {
                self.bite();
                return End::Reset;
            }
            let read = tokio::select! {
                read = from.read(&mut buffer) => read,
                changed = self.ruled.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => return End::Reset,
                },
            };
            match read {
                Ok(0) => {
                    let _ = to.shutdown().await;
                    return End::Quiet;
                }
                // The other end hears of a reset as such.
                Err(_) => return End::Reset,
                Ok(count) => {
                    self.sniff(&buffer[..count], seen);
                    seen += count as u64;
                    if let Some(end) = self.pass(&buffer[..count], &mut to).await {
                        return end;
                    }
                }
            }
        }
    }

    fn sniff(&self, bytes: &[u8], seen: u64) {
        if self.up && seen < SNIFF_BYTES && bytes.windows(9).any(|word| word == b"SUBSCRIBE") {
            let mut state = locked(&self.shared.state);
            if let Some(line) = state.lines.get_mut(&self.id) {
                line.subscribes = true;
            }
        }
    }

    /// Hands bytes on as the rule of the moment says.
    async fn pass(&mut self, mut bytes: &[u8], to: &mut WriteHalf<'_>) -> Option<End> {
        while !bytes.is_empty() {
            let way = self.way();
            if way != Way::Pass {
                self.bite();
            }
            let piece = match way {
                Way::Pass => bytes.len(),
                Way::Hold => {
                    if self.ruled.changed().await.is_err() {
                        return Some(End::Reset);
                    }
                    continue;
                }
                Way::Drop => return None,
                Way::Delay(base, jitter) => {
                    let wait = base + self.random.random_range(0..=jitter);
                    sleep(Duration::from_millis(wait)).await;
                    bytes.len()
                }
                Way::Slice => {
                    sleep(Duration::from_millis(1)).await;
                    self.random.random_range(1..=24).min(bytes.len())
                }
                Way::Trickle(count) => {
                    sleep(Duration::from_millis(50)).await;
                    count.clamp(1, bytes.len())
                }
                Way::Cut(count) => {
                    let _ = to.write_all(&bytes[..count.min(bytes.len())]).await;
                    // Given a moment to leave: a reset throws away what is still to be sent.
                    sleep(Duration::from_millis(2)).await;
                    return Some(End::Reset);
                }
                Way::Reset => return Some(End::Reset),
            };
            if to.write_all(&bytes[..piece]).await.is_err() {
                return Some(End::Reset);
            }
            bytes = &bytes[piece..];
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;
    use tokio::time::timeout;

    const LONG: Duration = Duration::from_secs(5);
    const SHORT: Duration = Duration::from_millis(200);

    /// A proxy before a server that repeats what it hears, and a connection through it.
    async fn echo() -> (Tcp, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let upstream = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        });
        let proxy = Tcp::start((Ipv4Addr::LOCALHOST, 0).into(), upstream, 7).await.unwrap();
        let client = TcpStream::connect(proxy.address).await.unwrap();
        (proxy, client)
    }

    async fn says(client: &mut TcpStream, text: &str) -> Option<String> {
        client.write_all(text.as_bytes()).await.ok()?;
        hears(client, text.len(), LONG).await
    }

    async fn hears(client: &mut TcpStream, count: usize, limit: Duration) -> Option<String> {
        let mut bytes = vec![0; count];
        timeout(limit, client.read_exact(&mut bytes)).await.ok()?.ok()?;
        String::from_utf8(bytes).ok()
    }

    fn count(bites: &Bites) -> u64 {
        bites.load(Ordering::Relaxed)
    }

    #[tokio::test]
    async fn what_is_held_or_late_or_in_pieces_arrives_whole() {
        let (proxy, mut client) = echo().await;
        assert_eq!(says(&mut client, "hello").await.unwrap(), "hello");
        let bites = proxy.rule_all(Rules { up: Way::Pass, down: Way::Hold });
        client.write_all(b"held").await.unwrap();
        assert_eq!(hears(&mut client, 4, SHORT).await, None);
        assert!(count(&bites) > 0);
        proxy.rule_all(Rules::default());
        assert_eq!(hears(&mut client, 4, LONG).await.unwrap(), "held");
        for way in [Way::Delay(20, 20), Way::Slice, Way::Trickle(7)] {
            let bites = proxy.rule_all(Rules::both(way));
            let text = "some more than twenty-four bytes of text";
            assert_eq!(says(&mut client, text).await.unwrap(), text);
            assert!(count(&bites) > 0, "{way:?}");
        }
    }

    #[tokio::test]
    async fn what_is_cut_ends_in_the_middle_and_by_a_reset() {
        let (proxy, mut client) = echo().await;
        says(&mut client, "hello").await.unwrap();
        let bites = proxy.rule_all(Rules { up: Way::Pass, down: Way::Cut(3) });
        client.write_all(b"abcdef").await.unwrap();
        assert_eq!(hears(&mut client, 3, LONG).await.unwrap(), "abc");
        let end = timeout(LONG, client.read(&mut [0; 8])).await.unwrap();
        assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
        assert_eq!(count(&bites), 1);
        // The next one is whole again.
        let mut next = TcpStream::connect(proxy.address).await.unwrap();
        assert_eq!(says(&mut next, "hello").await.unwrap(), "hello");
    }

    #[tokio::test]
    async fn a_rule_hits_the_lines_that_it_names_and_those_that_subscribe_are_told_apart() {
        let (proxy, mut one) = echo().await;
        says(&mut one, "hello").await.unwrap();
        let mut two = TcpStream::connect(proxy.address).await.unwrap();
        says(&mut two, "*2\r\n$9\r\nSUBSCRIBE\r\n").await.unwrap();
        let subscribing = proxy.lines(Some(true));
        assert_eq!((proxy.lines(None).len(), subscribing.len()), (2, 1));
        let bites = proxy.rule(&subscribing, Rules { up: Way::Drop, down: Way::Pass });
        two.write_all(b"gone").await.unwrap();
        assert_eq!(hears(&mut two, 4, SHORT).await, None);
        assert_eq!((count(&bites), says(&mut one, "here").await.unwrap()), (1, "here".to_owned()));
        proxy.rule(&subscribing, Rules::both(Way::Reset));
        assert!(timeout(LONG, two.read(&mut [0; 8])).await.unwrap().is_err());
    }

    #[tokio::test]
    async fn no_stream_goes_on_with_a_hole_in_it() {
        for rules in [Rules { up: Way::Pass, down: Way::Drop }, Rules::both(Way::Reset)] {
            let (proxy, mut client) = echo().await;
            says(&mut client, "hello").await.unwrap();
            let lines = proxy.lines(None);
            let bites = proxy.rule(&lines, rules);
            if rules.down == Way::Drop {
                client.write_all(b"gone").await.unwrap();
                timeout(LONG, async {
                    while count(&bites) == 0 {
                        sleep(REBIND).await
                    }
                })
                .await
                .unwrap();
            }
            // The next fault, or a healing, at the same moment.
            proxy.rule_all(Rules::both(Way::Delay(1, 1)));
            proxy.rule_all(Rules::default());
            let end = timeout(LONG, client.read(&mut [0; 8])).await.unwrap();
            assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset, "{rules:?}");
        }
    }

    #[tokio::test]
    async fn refused_is_refused_until_it_is_not() {
        let (proxy, mut open) = echo().await;
        says(&mut open, "hello").await.unwrap();
        proxy.refuse(true);
        let refused = async { while TcpStream::connect(proxy.address).await.is_ok() {} };
        timeout(LONG, refused).await.unwrap();
        assert_eq!(says(&mut open, "still").await.unwrap(), "still");
        proxy.refuse(false);
        let taken = async { while TcpStream::connect(proxy.address).await.is_err() {} };
        timeout(LONG, taken).await.unwrap();
    }
}
