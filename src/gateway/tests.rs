//! A drain that begins in the middle of a handshake.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::*;
use crate::chat::testing::Part;

#[tokio::test]
async fn a_socket_that_comes_after_the_drains_look_is_sent_away_too() {
    let part = Part::new().await;
    let gateway = Gateway::new(part.chat.clone());
    gateway.open();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (mut stream, _) = listener.accept().await.unwrap();
    let request = "GET /ws?userId=userA HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n\
                   Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    client.write_all(request.as_bytes()).await.unwrap();
    let Some(Request::Open(hello, behind)) = handshake::read(&mut stream, Bytes::new()).await
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
