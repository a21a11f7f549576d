//! A small HTTP proxy before DynamoDB Local that does what the real one does on a bad day.
//!
//! Faults that are planned meet the next requests of one operation, each once; rules stand until
//! they are taken away.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// What happens to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Refused with ProvisionedThroughputExceededException, not forwarded.
    Throttle,
    /// Refused with ThrottlingException, not forwarded.
    ThrottleControl,
    /// 500 InternalServerError, not forwarded.
    Error500,
    /// 503 ServiceUnavailable, not forwarded.
    Error503,
    /// Forwarded and applied, then answered with 500.
    AppliedThen500,
    /// Forwarded and applied, then the connection is closed without an answer.
    DropAnswer,
    /// The connection is closed, nothing forwarded.
    DropRequest,
    /// Forwarded and applied, but the answer never comes.
    Hang,
    /// Neither forwarded nor answered.
    Swallow,
}

/// The proxy: other requests than those that were planned for pass.
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
    /// Requests that name this are throttled, so many of a hundred.
    throttled: Option<(String, u32)>,
    /// Pages hold so many items, and an empty page with a key stands between two.
    page_items: Option<u64>,
    emptied: HashSet<String>,
    /// Reads that don't ask to be consistent get what they got first.
    stale: bool,
    first: HashMap<String, Vec<u8>>,
    /// All requests: the operation and the body.
    requests: Vec<(String, String)>,
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

    fn plans(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap()
    }

    /// From now on the next requests of `operation` (like `PutItem`) meet these faults.
    pub fn plan(&self, operation: &'static str, faults: impl IntoIterator<Item = Fault>) {
        let mut plan = self.plans();
        (plan.operation, plan.faults, plan.seen) = (operation, faults.into_iter().collect(), 0);
    }

    /// Requests whose body names `key` are throttled, `percent` of them.
    pub fn throttle(&self, key: &str, percent: u32) {
        self.plans().throttled = Some((key.to_owned(), percent));
    }

    /// Nothing is throttled any more.
    pub fn heal(&self) {
        self.plans().throttled = None;
    }

    /// Pages of Queries end after so many items, and every second page is empty, with a key.
    pub fn cut_pages(&self, items: u64) {
        self.plans().page_items = Some(items);
    }

    /// Reads that don't ask to be consistent get what they got first.
    pub fn serve_stale(&self) {
        self.plans().stale = true;
    }

    /// How many requests of the planned operation came.
    pub fn seen(&self) -> usize {
        self.plans().seen
    }

    /// How many requests came whose body names `key`.
    pub fn naming(&self, key: &str) -> usize {
        self.plans().requests.iter().filter(|(_, body)| body.contains(key)).count()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What is done with a request.
enum Turn {
    Meets(Fault),
    Answered(Vec<u8>),
    Passes { request: Vec<u8>, kept_as: Option<String> },
}

impl Plan {
    fn turn(&mut self, request: Vec<u8>) -> Turn {
        let text = String::from_utf8_lossy(&request).into_owned();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let operation = head.split("DynamoDB_20120810.").nth(1).unwrap();
        let operation = operation.split("\r\n").next().unwrap().to_owned();
        self.requests.push((operation.clone(), body.to_owned()));
        if operation == self.operation {
            self.seen += 1;
            if let Some(fault) = self.faults.pop_front() {
                return Turn::Meets(fault);
            }
        }
        if let Some((key, percent)) = &self.throttled
            && body.contains(key)
            && rand::random_range(0..100) < *percent
        {
            return Turn::Meets(Fault::Throttle);
        }
        let mut asked: Value = serde_json::from_str(body).unwrap();
        // Sorted: the client writes the same request in any order.
        let known = asked.to_string();
        if operation != "Query" {
            return Turn::Passes { request, kept_as: None };
        }
        if self.stale && asked["ConsistentRead"] != json!(true) {
            return match self.first.get(&known) {
                Some(first) => Turn::Answered(first.clone()),
                None => Turn::Passes { request, kept_as: Some(known) },
            };
        }
        let Some(items) = self.page_items else { return Turn::Passes { request, kept_as: None } };
        let start = asked["ExclusiveStartKey"].clone();
        if !start.is_null() && self.emptied.insert(known) {
            let empty = json!({"Count": 0, "ScannedCount": 0, "Items": [],
                               "LastEvaluatedKey": start});
            return Turn::Answered(answer(200, &empty));
        }
        let limit = asked["Limit"].as_u64().unwrap_or(u64::MAX).min(items);
        asked["Limit"] = json!(limit);
        let body = asked.to_string();
        let lines = head.split("\r\n").filter(|l| !l.to_lowercase().starts_with("content-length"));
        let head = lines.collect::<Vec<_>>().join("\r\n");
        let request = format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        Turn::Passes { request: request.into_bytes(), kept_as: None }
    }
}

async fn serve(mut client: TcpStream, upstream: String, plan: Arc<Mutex<Plan>>) {
    while let Some(request) = read_message(&mut client).await {
        let turn = plan.lock().unwrap().turn(request.clone());
        let answer = match turn {
            Turn::Answered(answer) => answer,
            Turn::Passes { request, kept_as } => {
                let answer = forward(&upstream, &request).await;
                if let Some(body) = kept_as {
                    plan.lock().unwrap().first.insert(body, answer.clone());
                }
                answer
            }
            Turn::Meets(Fault::Throttle) => error(400, "ProvisionedThroughputExceededException"),
            Turn::Meets(Fault::ThrottleControl) => error(400, "ThrottlingException"),
            Turn::Meets(Fault::Error500) => error(500, "InternalServerError"),
            Turn::Meets(Fault::Error503) => error(503, "ServiceUnavailable"),
            Turn::Meets(Fault::DropRequest) => return,
            Turn::Meets(fault) => {
                if fault != Fault::Swallow {
                    forward(&upstream, &request).await;
                }
                match fault {
                    Fault::DropAnswer => return,
                    Fault::AppliedThen500 => {}
                    _ => tokio::time::sleep(Duration::from_secs(30)).await,
                }
                error(500, "InternalServerError")
            }
        };
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
    answer(status, &json!({"__type": kind, "message": "by the proxy"}))
}

fn answer(status: u16, body: &Value) -> Vec<u8> {
    let (body, kind) = (body.to_string(), "Content-Type: application/x-amz-json-1.0");
    let head = format!("HTTP/1.1 {status} X\r\n{kind}\r\nContent-Length: {}", body.len());
    format!("{head}\r\n\r\n{body}").into_bytes()
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
