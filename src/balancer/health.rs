//! Asks a server whether it takes sockets.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::proxy;
use crate::edge::Upstream;

/// How long a server may take to answer: with the time between two looks less than 3 s.
const PATIENCE: Duration = Duration::from_millis(1_500);

/// Whether `GET /readyz` on the server's own port is answered with 200; `None` where it could not
/// be asked for want of something here.
pub async fn answers(address: &str, upstream: Option<&Upstream>) -> Option<bool> {
    match timeout(PATIENCE, ask(address, upstream)).await {
        Ok(Err(error)) if proxy::is_local(&error) => None,
        Ok(answer) => Some(answer.unwrap_or(false)),
        Err(_) => Some(false),
    }
}

async fn ask(address: &str, upstream: Option<&Upstream>) -> std::io::Result<bool> {
    let mut stream = proxy::dial(address, upstream).await?;
    let address = proxy::place(address);
    let request = format!("GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await?;
    Ok(&answer[..] == b"HTTP/1.1 200" || &answer[..] == b"HTTP/1.0 200")
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    async fn server(answer: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 256];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        address
    }

    #[tokio::test]
    async fn only_a_200_is_well() {
        for (answer, well) in [
            ("HTTP/1.1 200 OK\r\n\r\n", true),
            ("HTTP/1.1 503 Service Unavailable\r\n\r\n", false),
            ("", false),
        ] {
            assert_eq!(answers(&server(answer).await, None).await, Some(well), "{answer}");
        }
        assert_eq!(answers("127.0.0.1:1", None).await, Some(false));
    }
}
