//! Drains: their rate, and one that begins in the middle of a handshake.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::*;
use crate::chat::testing::Part;
use crate::protocol::{DeviceId, UserId};

#[tokio::test]
async fn a_socket_that_comes_after_the_drains_look_is_sent_away_too() {
    let part = Part::new().await;
    let gateway = Gateway::new(part.chat.clone(), Edge::open());
    gateway.open();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (stream, address) = listener.accept().await.unwrap();
    let (mut stream, peer) = (Stream::from(stream), Peer { address, secure: false });
    let request = "GET /ws?userId=userA HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n\
                   Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    client.write_all(request.as_bytes()).await.unwrap();
    let Some(Request::Open(hello, behind)) =
        handshake::read(&mut stream, Bytes::new(), peer, &gateway.edge.gate).await
    else {
        panic!("a good request")
    };
    gateway.drain(Duration::ZERO).await;
    let (socket, entered) = gateway.enter(stream, &hello, behind).await;
    let run = timeout(Duration::from_secs(10), gateway.run(socket, entered));
    let heard = async {
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).await.unwrap();
        heard
    };
    let (ended, heard) = tokio::join!(run, heard);
    assert!(ended.is_ok(), "it ends by itself");
    let shown = String::from_utf8_lossy(&heard);
    assert!(shown.contains(r#""type":"reconnect""#), "{shown}");
    let code = CloseCode::Restart.number().to_be_bytes();
    assert!(heard.windows(2).any(|pair| pair == code), "1012: {shown}");
}

/// Whoever's socket it would be, only its outbox: what counts is when each is told.
fn outboxes(chat: &Chat, count: u128) -> Vec<Arc<Outbox>> {
    let outbox = |socket| {
        let user = UserId::parse(&format!("user-{socket}")).unwrap();
        let (device, socket) = (DeviceId::plain(), SocketId(socket));
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
    let gateway = Gateway::new(part.chat.clone(), Edge::open());
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
    Gateway::new(part.chat.clone(), Edge::open()).drain(Duration::from_secs(20)).await;
    assert_eq!(told.await.unwrap(), [0; 9]);
}
