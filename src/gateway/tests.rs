//! Drains: their rate, and one that begins in the middle of a handshake. Clients that do not read.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::time::{sleep, timeout};

use super::*;
use crate::chat::reads::CATCHING_UP_MAX;
use crate::chat::testing::Part;
use crate::protocol::{DeviceId, Text, UserId};

fn request(user: &str) -> String {
    format!(
        "GET /ws?userId={user} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n\
         Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
}

#[tokio::test]
async fn a_socket_that_comes_after_the_drains_look_is_sent_away_too() {
    let part = Part::new().await;
    let gateway = Gateway::new(part.chat.clone(), Edge::open(), None, 1).unwrap();
    gateway.open();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (stream, address) = listener.accept().await.unwrap();
    let (mut stream, peer) = (Stream::from(stream), Peer { address, secure: false });
    client.write_all(request("userA").as_bytes()).await.unwrap();
    let soon = Instant::now() + HEAD_PATIENCE;
    let Some(Request::Open(hello, behind)) =
        handshake::read(&mut stream, Bytes::new(), peer, &gateway.edge.gate, soon).await
    else {
        panic!("a good request")
    };
    let (seat, admitted) = gateway.seat_and_admit(&hello).await.expect("development mode");
    gateway.drain(Duration::ZERO).await;
    let arrival = gateway.enter(stream, &hello, seat, admitted, behind).unwrap();
    gateway.seat(arrival).await;
    let ends = async {
        while part.chat.metrics.sockets.get() > 0 {
            sleep(Duration::from_millis(5)).await;
        }
    };
    let ends = timeout(Duration::from_secs(10), ends);
    let heard = async {
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).await.unwrap();
        heard
    };
    let (ended, heard) = tokio::join!(ends, heard);
    assert!(ended.is_ok(), "it ends by itself");
    let shown = String::from_utf8_lossy(&heard);
    assert!(shown.contains(r#""type":"reconnect""#), "{shown}");
    let code = CloseCode::Restart.number().to_be_bytes();
    assert!(heard.windows(2).any(|pair| pair == code), "1012: {shown}");
}

/// Sixteen dials with a dead token at a server that does not know yet that it is dead.
#[tokio::test]
async fn a_dead_token_pushes_no_socket_of_its_user_out() {
    let part = Part::new().await;
    let verifier = crate::auth::testing::by_secret().await;
    let gateway = Gateway::new(part.chat.clone(), Edge::open(), Some(verifier), 1).unwrap();
    gateway.open();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let now = jsonwebtoken::get_current_timestamp();
    let hello = |issued: u64| {
        let claims = serde_json::json!({"sub": "a", "iat": issued, "exp": now + 600});
        let token = crate::auth::testing::hs256(crate::auth::testing::SECRET, claims);
        let head = request("a").replace("?userId=a", "");
        let bearer = format!("\r\nAuthorization: Bearer {}\r\n\r\n", token.reveal());
        let mut head = bytes::BytesMut::from(head.replace("\r\n\r\n", &bearer).as_bytes());
        let peer = Peer { address: "127.0.0.1:1".parse().unwrap(), secure: false };
        match handshake::judge(&mut head, peer, &gateway.edge.gate) {
            Some(Request::Open(hello, _)) => hello,
            other => panic!("{other:?}"),
        }
    };
    let enter = async |hello: &handshake::Hello, (seat, admitted): (Seat, Admitted)| {
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let arrival = gateway.enter(Stream::from(stream), hello, seat, admitted, Bytes::new());
        (client, arrival.unwrap())
    };
    let most = usize::from(part.chat.hub.sockets_per_user());
    let own: Vec<_> = (1..most).map(|_| part.enter("a", "phone")).collect();
    let (dead, young) = (hello(now - 60), hello(now));
    // All are let in before any has a place.
    let mut let_in = Vec::new();
    for _ in 0..4 {
        let_in.push(gateway.seat_and_admit(&dead).await.expect("nobody knows yet"));
    }
    let revoked =
        crate::store::Record::Revoked(crate::chat::testing::user("a"), (now - 30) * 1_000);
    crate::store::Store::write(&*part.ports, revoked).await.unwrap();
    let mut held = Vec::new();
    for (at, admitted) in let_in.into_iter().enumerate() {
        let (client, arrival) = enter(&dead, admitted).await;
        let told = arrival.entered.outbox().take_now();
        let away = told.iter().any(|event| matches!(event, Event::Close(CloseCode::Restart)));
        assert_eq!(away, at > 0, "{told:?}");
        held.push((client, arrival));
    }
    let refused = gateway.seat_and_admit(&dead).await.err().expect("it is looked at first");
    assert_eq!(refused.status, 401);
    assert!(own.iter().all(|outbox| outbox.take_now().is_empty()), "nothing became of them");
    // One that holds takes the place of the oldest, as ever.
    let admitted = gateway.seat_and_admit(&young).await.expect("a good one");
    held.push(enter(&young, admitted).await);
    let closed = |outbox: &Arc<Outbox>| {
        outbox
            .take_now()
            .iter()
            .any(|event| matches!(event, Event::Close(CloseCode::TooManySockets)))
    };
    let all = own.iter().chain(held.iter().map(|(_, arrival)| arrival.entered.outbox()));
    assert_eq!(all.filter(|outbox| closed(outbox)).count(), 1);
}

/// Who was handed over and not yet taken is answered, and nobody is handed over any more.
#[tokio::test]
async fn the_door_of_a_server_that_stops_is_closed() {
    let part = Part::new().await;
    let gateway = Gateway::new(part.chat.clone(), Edge::open(), None, 1).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let (door, handed) = mpsc::channel(DOOR_MAX);
    let mut clients = Vec::new();
    for _ in 0..20 {
        let client = TcpStream::connect(at).await.unwrap();
        let (stream, address) = listener.accept().await.unwrap();
        let (stream, guest) = gateway.porch.enter(stream, address).unwrap();
        let (stream, peer) = (Stream::from(stream), Peer { address, secure: false });
        let accepted = Accepted { stream, peer, read: request("userA").into(), guest };
        assert!(!format!("{accepted:?}").contains("userA"), "what was read is not shown");
        door.try_send(accepted).unwrap();
        clients.push(client);
    }
    let stop = CancellationToken::new();
    stop.cancel();
    let serving = tokio::spawn(gateway.serve(listener, handed, stop));
    for mut client in clients {
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        assert!(answer.contains("Retry-After: 1\r\nX-Parlor-Elsewhere: yes\r\n"), "{answer}");
    }
    assert!(door.is_closed());
    timeout(Duration::from_secs(5), serving).await.unwrap().unwrap();
}

/// What an idle socket costs by the sizes of types, as the allocator counts: its record in the
/// loop, its outbox, its entries in the hub and for its address, and its name.
#[test]
fn an_idle_socket_is_small() {
    let allocated = |bytes: usize| (bytes + 8).div_ceil(16) * 16;
    // A table is between 7/16 and 7/8 full, and has a byte beside each entry.
    let entry = |bytes: usize| (bytes + 1) * 8 / 5;
    let slot = engine::SLOT_BYTES;
    let outbox = allocated(size_of::<Outbox>() + 2 * size_of::<usize>());
    let (hub, address) = (entry(16), entry(size_of::<([u8; 8], u32)>()));
    let name = allocated(16 + "user-123456".len());
    let all = slot + outbox + hub + address + name;
    println!("{slot} {outbox} {hub} {address} {name}: {all}");
    assert!(slot <= 120, "{slot}");
    assert!(all <= 352, "{all}");
}

/// What an idle socket has since there are tokens and limits: how long its token holds and until
/// when a timer waits for that, whom it is counted for, and that address's entry. What users have
/// had of their limits is in tables that do not grow (`limits::meter`).
#[test]
fn tokens_and_limits_add_little_to_an_idle_socket() {
    let entry = |bytes: usize| (bytes + 1) * 8 / 5;
    let pass = size_of::<crate::hub::Pass>() + size_of::<u64>();
    let address = size_of::<Option<crate::limits::Address>>() + entry(size_of::<([u8; 8], u32)>());
    println!("{pass} {address}");
    assert!(pass + address <= 48, "{pass} {address}");
}

/// Whoever's socket it would be, only its outbox: what counts is when each is told.
fn outboxes(chat: &Chat, count: u128) -> Vec<Arc<Outbox>> {
    let outbox = |socket| {
        let user = UserId::parse(&format!("user-{socket}")).unwrap();
        let (device, socket) = (DeviceId::plain(), crate::protocol::SocketId(socket));
        Arc::new(Outbox::new(Who { user, device, socket }))
    };
    let outboxes: Vec<_> = (0..count).map(outbox).collect();
    outboxes.iter().for_each(|outbox| drop(chat.hub.enter(outbox.clone())));
    outboxes
}

/// In which second after the start each was sent away.
async fn told_in(outboxes: Vec<Arc<Outbox>>) -> Vec<usize> {
    let begun = tokio::time::Instant::now();
    let told = outboxes.into_iter().map(|outbox| async move {
        let events = outbox.take().await;
        let sent_away = [Event::Reconnect(0), Event::Close(CloseCode::Restart)];
        assert_eq!(events.len(), sent_away.len(), "once: {events:?}");
        assert!(matches!(events[0], Event::Reconnect(after) if after < 1_000), "{events:?}");
        assert!(matches!(events[1], Event::Close(CloseCode::Restart)), "{events:?}");
        begun.elapsed().as_secs() as usize
    });
    futures_util::future::join_all(told).await
}

#[tokio::test(start_paused = true)]
async fn a_drain_keeps_its_rate_in_every_second() {
    let part = Part::new().await;
    let gateway = Gateway::new(part.chat.clone(), Edge::open(), None, 1).unwrap();
    let told = tokio::spawn(told_in(outboxes(&part.chat, 4_000)));
    tokio::task::yield_now().await;
    let begun = tokio::time::Instant::now();
    gateway.drain(Duration::from_secs(20)).await;
    assert!(begun.elapsed() < Duration::from_secs(23), "{:?}", begun.elapsed());
    let told = told.await.unwrap();
    for second in 0..20 {
        let count = told.iter().filter(|told| **told == second).count();
        assert!((190..=210).contains(&count), "200 ± 5 % in second {second}, not {count}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_handful_is_not_kept_waiting() {
    let part = Part::new().await;
    let told = tokio::spawn(told_in(outboxes(&part.chat, 9)));
    tokio::task::yield_now().await;
    Gateway::new(part.chat.clone(), Edge::open(), None, 1)
        .unwrap()
        .drain(Duration::from_secs(20))
        .await;
    assert_eq!(told.await.unwrap(), [0; 9]);
}

/// Those who catch up hold a place at the store for a moment, however long their clients take to
/// read what is written to them meanwhile.
#[tokio::test]
async fn clients_that_do_not_read_keep_nobody_from_catching_up() {
    let part = Part::new().await;
    let gateway = Gateway::new(part.chat.clone(), Edge::open(), None, 1).unwrap();
    gateway.open();
    let listener = TcpSocket::new_v4().unwrap();
    listener.set_send_buffer_size(4_096).unwrap();
    listener.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = listener.listen(128).unwrap();
    let address = listener.local_addr().unwrap();
    let connect = async |user: &str| {
        let client = TcpSocket::new_v4().unwrap();
        client.set_recv_buffer_size(4_096).unwrap();
        let mut client = client.connect(address).await.unwrap();
        let (stream, peer) = listener.accept().await.unwrap();
        gateway.arrived(stream, peer);
        client.write_all(request(user).as_bytes()).await.unwrap();
        client
    };
    part.ports.reads_take_ms.store(1_500, Ordering::Relaxed);
    let mut deaf = Vec::new();
    for number in 0..CATCHING_UP_MAX {
        deaf.push(connect(&format!("user-{number}")).await);
    }
    let mut reading = 0;
    while reading < CATCHING_UP_MAX {
        sleep(Duration::from_millis(5)).await;
        reading += part.ports.trace().iter().filter(|call| *call == "mailbox").count();
    }
    let long = Text::from(vec![b' '; 512 * 1_024]);
    part.chat.hub.all().iter().for_each(|outbox| outbox.push(Event::Frame(long.clone())));
    part.ports.reads_take_ms.store(0, Ordering::Relaxed);

    let mut client = connect("user-x").await;
    let mut heard = Vec::new();
    // Well below the patience with a client that does not read.
    let caught_up = timeout(Duration::from_secs(8), async {
        while !String::from_utf8_lossy(&heard).contains("caughtup") {
            assert_ne!(client.read_buf(&mut heard).await.unwrap(), 0, "it stays open");
        }
    });
    assert!(caught_up.await.is_ok(), "{}", String::from_utf8_lossy(&heard));
    assert_eq!(part.chat.hub.all().len(), CATCHING_UP_MAX + 1, "and they are waited for as ever");
}
