//! A loop, turn by turn: what fails in one socket's turn, and places that are another's by now.

use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::chat::testing::Part;
use crate::edge::{Edge, Peer, Stream};
use crate::gateway::handshake::{self, Request};
use crate::protocol::{Text, UserId};

struct World {
    part: Part,
    gateway: Arc<Gateway>,
    listener: TcpListener,
    poll: mio::Poll,
    this: Loop,
}

impl World {
    async fn new() -> Self {
        let part = Part::new().await;
        let gateway = Gateway::new(part.chat.clone(), Edge::open(), None, 1).unwrap();
        gateway.open();
        let poll = mio::Poll::new().unwrap();
        let this = Loop::new(gateway.clone(), poll.registry().try_clone().unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self { part, gateway, listener, poll, this }
    }

    /// Opens a socket, and seats it in the loop.
    async fn seat(&mut self, user: &str) -> (TcpStream, Place) {
        let client = TcpStream::connect(self.listener.local_addr().unwrap()).await.unwrap();
        let (stream, address) = self.listener.accept().await.unwrap();
        let request = format!(
            "GET /ws?userId={user} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n\
             Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        let peer = Peer { address, secure: false };
        let mut head = bytes::BytesMut::from(request.as_bytes());
        let judged = handshake::judge(&mut head, peer, &self.gateway.edge.gate);
        let Some(Request::Open(hello, behind)) = judged else { panic!("a good request") };
        let (seat, admitted) = self.gateway.seat_and_admit(&hello).await.expect("no tokens");
        let stream = Stream::from(stream);
        let arrival = self.gateway.enter(stream, &hello, seat, admitted, behind).unwrap();
        let before = self.this.slots.len();
        let place = self.this.seat(arrival);
        assert_eq!(self.this.slots.len(), before + 1);
        (client, place)
    }

    /// A turn, as `run` takes it.
    fn turn(&mut self) {
        let mut events = mio::Events::with_capacity(EVENTS_MAX);
        self.poll.poll(&mut events, Some(Duration::from_millis(100))).unwrap();
        self.this.take_times();
        self.this.hear_of(&events, &Bell::default());
        self.this.turns();
    }

    fn is_busy(&self, place: Place) -> bool {
        self.this.slots.get(place.index).unwrap().is_busy()
    }

    fn is_stuck(&self, place: Place) -> bool {
        self.this.slots.get(place.index).unwrap().is_stuck()
    }

    fn is_closing(&self, place: Place) -> bool {
        self.this.slots.get(place.index).unwrap().is_closing()
    }

    fn sockets_of(&self, user: &str) -> usize {
        self.part.chat.hub.of(&UserId::parse(user).unwrap()).len()
    }
}

#[tokio::test]
async fn a_panic_in_a_turn_ends_that_socket_alone() {
    let mut world = World::new().await;
    let (mut a, place) = world.seat("userA").await;
    let (mut b, other) = world.seat("userB").await;
    world.this.at(place, |_, lent| {
        lent.write.extend_from_slice(b"half a frame");
        panic!("planted")
    });
    assert_eq!((world.this.slots.len(), world.this.lent.write.len()), (1, 0));
    assert_eq!((world.sockets_of("userA"), world.sockets_of("userB")), (0, 1));
    let mut heard = Vec::new();
    a.read_to_end(&mut heard).await.unwrap();
    assert!(String::from_utf8_lossy(&heard).contains("welcome"), "it was said before");
    world.this.at(other, |slot, lent| slot.tick(lent, other));
    // The second frame is the ping.
    let mut heard = Vec::new();
    while !heard.windows(2).any(|pair| pair == [0x89, 8]) {
        assert_ne!(b.read_buf(&mut heard).await.unwrap(), 0, "the other one goes on");
    }
}

#[tokio::test]
async fn what_comes_for_one_that_has_ended_is_not_for_its_successor() {
    let mut world = World::new().await;
    let (client, place) = world.seat("userA").await;
    drop(client);
    world.turn();
    world.turn();
    assert!(world.this.has_none() && world.this.held.is_none());
    let (_client, next) = world.seat("userB").await;
    assert_eq!((next.index, next.generation), (place.index, place.generation + 1));
    world.this.at(place, |_, _| panic!("it is over"));
    world.this.done((place, Ok(None)));
    world.this.lent.timers.set(Instant::now(), place, timers::Why::Close);
    world.turn();
    assert_eq!(world.this.slots.len(), 1);
    world.this.done((next, Ok(None)));
    assert!(world.this.has_none(), "its read of the store panicked");
}

/// Between turns a socket that has been caught up holds its record and nothing else.
#[tokio::test]
async fn a_socket_at_rest_has_no_box() {
    let mut world = World::new().await;
    let (_client, place) = world.seat("userA").await;
    assert!(world.is_busy(place), "its mailbox is being read");
    let done = world.this.lent.works.next().await.unwrap();
    world.this.done(done);
    world.this.turns();
    while let Some(Some(done)) = world.this.lent.works.next().now_or_never() {
        world.this.done(done);
        world.this.turns();
    }
    assert!(!world.is_busy(place));
    assert_eq!((world.this.lent.write.len(), world.this.again.len()), (0, 0));
}

/// What a client does not take is kept, and goes on when it takes some; one that takes nothing for
/// long is closed.
#[tokio::test]
async fn what_is_not_taken_waits_for_the_client_and_not_for_ever() {
    let mut world = World::new().await;
    let (client, place) = world.seat("userA").await;
    let outbox = world.part.chat.hub.of(&UserId::parse("userA").unwrap()).remove(0);
    // More than a connection of this machine holds under way.
    let much = Text::from(vec![b' '; 64 << 20]);
    outbox.answer(much.clone());
    world.this.at(place, |slot, lent| slot.turn(lent, place));
    assert!(world.is_stuck(place));
    outbox.answer(Text::from_static(b"{}"));
    world.turn();
    assert!(world.is_stuck(place), "and nothing else is taken meanwhile");
    // On a thread of its own: by turns with the writer, congestion control takes the way for slow.
    let mut client = client.into_std().unwrap();
    client.set_nonblocking(false).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let reading = std::thread::spawn(move || {
        let (mut heard, mut buffer) = (Vec::new(), vec![0; 1 << 16]);
        // What the session says may come behind it.
        let has_all = |heard: &[u8]| heard.windows(4).any(|four| four == [0x81, 2, b'{', b'}']);
        let mut looked = 0;
        while !has_all(&heard[looked..]) {
            looked = heard.len().saturating_sub(3);
            let count = std::io::Read::read(&mut client, &mut buffer).unwrap();
            assert_ne!(count, 0, "it stays open");
            heard.extend_from_slice(&buffer[..count]);
        }
        (client, heard.len())
    });
    while !reading.is_finished() {
        world.turn();
    }
    let (_client, heard) = reading.join().unwrap();
    assert!(heard > much.len() && !world.is_stuck(place));
    outbox.answer(much);
    world.this.at(place, |slot, lent| slot.turn(lent, place));
    assert!(world.is_stuck(place));
    let patience = |world: &mut World| {
        world.this.lent.now += Duration::from_secs(11);
        world.this.at(place, |slot, lent| slot.timer(timers::Why::Patience, lent, place));
    };
    world.this.lent.now += Duration::from_secs(60);
    patience(&mut world);
    assert!(world.is_stuck(place) && !world.is_closing(place), "this process stood still");
    patience(&mut world);
    assert!(world.is_closing(place), "it is told so, if it listens");
    world.this.at(place, |slot, lent| slot.timer(timers::Why::Close, lent, place));
    assert!(world.this.has_none());
}

/// A token that was looked at long ago is shown again: its key may have been withdrawn.
#[tokio::test]
async fn whoever_has_stayed_for_a_day_comes_again() {
    let mut world = World::new().await;
    let (mut client, place) = world.seat("userA").await;
    let outbox = world.part.chat.hub.of(&UserId::parse("userA").unwrap()).remove(0);
    let now = world.this.lent.clock / 1_000;
    outbox.pass.renew(now, now + 366 * 86_400);
    crate::gateway::admission::looked_at(&outbox, world.this.lent.clock);
    let day = (now + 23 * 3_600 - 2)..=(now + 24 * 3_600);
    assert!(day.contains(&outbox.pass.ends().unwrap()), "{:?}", outbox.pass);
    for (stays, closes) in [(now + 1_000, false), (now - 10, true)] {
        outbox.pass.stay(stays);
        world.this.at(place, |slot, lent| slot.timer(timers::Why::Token, lent, place));
        world.this.at(place, |slot, lent| slot.turn(lent, place));
        assert_eq!(world.is_closing(place), closes);
    }
    let code = crate::protocol::CloseCode::Restart.number().to_be_bytes();
    let mut heard = Vec::new();
    while !heard.windows(2).any(|pair| pair == code) {
        assert_ne!(client.read_buf(&mut heard).await.unwrap(), 0, "1012");
    }
    let shown = String::from_utf8_lossy(&heard);
    assert!(shown.contains(r#""type":"reconnect""#) && !shown.contains("error"), "{shown}");
}
