//! A small HTTP proxy before DynamoDB Local that does what the real one does on a bad day.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// What happens to a request.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// Refused with ProvisionedThroughputExceededException, not forwarded.
    Throttle,
    /// 500 InternalServerError, not forwarded.
    Error500,
    /// Forwarded and applied, then the connection is closed without an answer.
    DropAnswer,
    /// Forwarded and applied, but the answer never comes.
    Hang,
    /// Neither forwarded nor answered.
    Swallow,
}

/// The proxy: faults are used up in order by requests of the operation that they were set for,
/// other requests pass.
pub struct Proxy {
    pub url: String,
    plan: Arc<Mutex<Plan>>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Plan {
    operation: &'static str,
    faults: VecDeque<Fault>,
    seen: usize,
}

impl Proxy {
    pub async fn start(upstream: &str) -> Self {
        let upstream = upstream.trim_start_matches("http://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let plan = Arc::new(Mutex::new(Plan::default()));
        let shared = plan.clone();
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                connections.spawn(serve(socket, upstream.clone(), shared.clone()));
            }
        });
        Self { url, plan, task }
    }

    /// From now on the next requests of `operation` (like `PutItem`) meet these faults.
    pub fn plan(&self, operation: &'static str, faults: impl IntoIterator<Item = Fault>) {
        let faults = faults.into_iter().collect();
        *self.plan.lock().unwrap() = Plan { operation, faults, seen: 0 };
    }

    /// How many requests of the planned operation came.
    pub fn seen(&self) -> usize {
        self.plan.lock().unwrap().seen
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut client: TcpStream, upstream: String, plan: Arc<Mutex<Plan>>) {
    while let Some(request) = read_message(&mut client).await {
        let fault = {
            let mut plan = plan.lock().unwrap();
            let head = String::from_utf8_lossy(&request);
            if head.contains(&format!("DynamoDB_20120810.{}\r\n", plan.operation)) {
                plan.seen += 1;
                plan.faults.pop_front()
            } else {
                None
            }
        };
        let answer = match fault {
            Some(Fault::Throttle) => error(400, "ProvisionedThroughputExceededException"),
            Some(Fault::Error500) => error(500, "InternalServerError"),
            Some(Fault::Swallow) => Vec::new(),
            None | Some(Fault::DropAnswer | Fault::Hang) => forward(&upstream, &request).await,
        };
        match fault {
            Some(Fault::DropAnswer) => return,
            Some(Fault::Hang | Fault::Swallow) => tokio::time::sleep(Duration::from_secs(30)).await,
            _ => {}
        }
        if client.write_all(&answer).await.is_err() {
            return;
        }
    }
}

async fn forward(upstream: &str, request: &[u8]) -> Vec<u8> {
    let mut server = TcpStream::connect(upstream).await.unwrap();
    server.write_all(request).await.unwrap();
    read_message(&mut server).await.unwrap()
}

fn error(status: u16, code: &str) -> Vec<u8> {
    let kind = format!("com.amazonaws.dynamodb.v20120810#{code}");
    let body = format!(r#"{{"__type":"{kind}","message":"by the proxy"}}"#);
    let length = body.len();
    let head = format!("HTTP/1.1 {status} X\r\nContent-Type: application/x-amz-json-1.0\r\n");
    format!("{head}Content-Length: {length}\r\n\r\n{body}").into_bytes()
}

/// One request or answer with a Content-Length, head and body.
async fn read_message(socket: &mut TcpStream) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    loop {
        let mut buffer = [0; 8192];
        if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
            let length: usize = length.map_or(0, |text| text.trim().parse().unwrap());
            if bytes.len() >= end + 4 + length {
                return Some(bytes);
            }
        }
        match socket.read(&mut buffer).await {
            Ok(0) | Err(_) => return None,
            Ok(read) => bytes.extend_from_slice(&buffer[..read]),
        }
    }
}
