//! A server for the tests of clients: one log per conversation, in memory, with the faults that a
//! client must bear. It keeps the protocol's form and none of its promises.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use crate::protocol::{ConversationId, UserId};

/// More orders than any test gives a socket before it takes them.
const ORDERS_MAX: usize = 100_000;

enum Order {
    Say(String),
    Close(u16),
    Cut,
}

#[derive(Default)]
struct State {
    logs: HashMap<String, Vec<Value>>,
    cursors: HashMap<(String, String), u64>,
    sockets: Vec<(String, mpsc::Sender<Order>)>,
    accepted: usize,
    lose_next_sent: bool,
    forget_receipts: bool,
    swallow: Option<u64>,
    refuse_all: bool,
    refuse_next: usize,
    frame_bytes: Option<usize>,
}

pub(crate) struct Fake {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Fake {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        let shared = state.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, shared.clone()));
            }
        });
        Self { address, state, task }
    }

    pub fn url(&self) -> String {
        format!("ws://{}/ws", self.address)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// The next message is stored and its `sent` never leaves: the socket is cut.
    pub fn lose_next_sent(&self) {
        self.lock().lose_next_sent = true;
    }

    /// Everything is offered again on every connect.
    pub fn forget_receipts(&self) {
        self.lock().forget_receipts = true;
    }

    /// The entry of this seq is stored and never delivered.
    pub fn swallow(&self, seq: u64) {
        self.lock().swallow = Some(seq);
    }

    /// Every message is refused for good.
    pub fn refuse_all(&self) {
        self.lock().refuse_all = true;
    }

    /// So many messages are refused for now, and stand all the same.
    pub fn refuse_next(&self, count: usize) {
        self.lock().refuse_next = count;
    }

    /// Longer frames end their socket, and `welcome` says so.
    pub fn limit_frames(&self, bytes: usize) {
        self.lock().frame_bytes = Some(bytes);
    }

    pub fn log(&self, conversation: &str) -> Vec<String> {
        let state = self.lock();
        let log = state.logs.get(conversation).into_iter().flatten();
        log.map(|entry| entry["message"].as_str().unwrap().to_owned()).collect()
    }

    pub fn say_all(&self, text: &str) {
        for (_, socket) in &self.lock().sockets {
            let _ = socket.try_send(Order::Say(text.to_owned()));
        }
    }

    pub fn say_to(&self, user: &str, text: &str) {
        for (_, socket) in self.lock().sockets.iter().filter(|(name, _)| name == user) {
            let _ = socket.try_send(Order::Say(text.to_owned()));
        }
    }

    pub fn close_all(&self, code: u16) {
        for (_, socket) in self.lock().sockets.drain(..) {
            let _ = socket.try_send(Order::Close(code));
        }
    }
}

#[allow(clippy::result_large_err)]
async fn serve(stream: TcpStream, state: Arc<Mutex<State>>) {
    let mut query = String::new();
    let number = {
        let mut state = state.lock().unwrap();
        state.accepted += 1;
        state.accepted
    };
    let server = format!("ws{}", (number - 1) % 3 + 1);
    let accept = |request: &Request, mut response: Response| {
        query = request.uri().query().unwrap_or_default().to_owned();
        response.headers_mut().insert("X-Parlor-Server", server.parse().unwrap());
        Ok(response)
    };
    let Ok(mut socket) = tokio_tungstenite::accept_hdr_async(stream, accept).await else { return };
    let user = query.split('&').find_map(|pair| pair.strip_prefix("userId=")).unwrap().to_owned();
    let (sender, mut orders) = mpsc::channel(ORDERS_MAX);
    let say = |value: Value| sender.try_send(Order::Say(value.to_string())).unwrap();
    let mut welcome = json!({"type": "welcome", "userId": user, "socketId": "1", "server": server,
        "device": "default", "protocol": 1, "timestamp": 1, "pingMs": 25_000});
    let frame_bytes = state.lock().unwrap().frame_bytes;
    if let Some(bytes) = frame_bytes {
        welcome["limits"] = json!({"frameBytes": bytes});
    }
    say(welcome);
    state.lock().unwrap().enter(&user, &sender);
    loop {
        tokio::select! {
            order = orders.recv() => match order {
                Some(Order::Say(text)) => {
                    let _ = socket.feed(Message::text(text)).await;
                    let _ = socket.send(Message::Ping("1".into())).await;
                }
                Some(Order::Close(code)) => {
                    let frame = CloseFrame { code: code.into(), reason: "".into() };
                    let _ = socket.close(Some(frame)).await;
                }
                Some(Order::Cut) | None => return,
            },
            message = socket.next() => match message {
                Some(Ok(Message::Text(text))) if frame_bytes.is_some_and(|b| text.len() > b) => {
                    let frame = CloseFrame { code: 1009.into(), reason: "".into() };
                    let _ = socket.close(Some(frame)).await;
                }
                Some(Ok(Message::Text(text))) => {
                    let frame = serde_json::from_str(&text).unwrap();
                    state.lock().unwrap().take(&user, &frame, &sender);
                }
                Some(Ok(_)) => {}
                _ => return,
            },
        }
    }
}

impl State {
    fn enter(&mut self, user: &str, socket: &mpsc::Sender<Order>) {
        let mut frames = Vec::new();
        for (conversation, log) in &self.logs {
            let key = (user.to_owned(), conversation.clone());
            let cursor = match self.forget_receipts {
                true => 0,
                false => self.cursors.insert(key, log.len() as u64).unwrap_or(0),
            };
            let waiting =
                log.iter().filter(|e| e["to"] == user && e["seq"].as_u64() > Some(cursor));
            frames.extend(waiting.cloned());
        }
        frames.push(json!({"type": "caughtup"}));
        for frame in frames {
            let _ = socket.try_send(Order::Say(shown(frame)));
        }
        self.sockets.push((user.to_owned(), socket.clone()));
    }

    fn take(&mut self, user: &str, frame: &Value, socket: &mpsc::Sender<Order>) {
        let answer = match (frame["type"].as_str(), frame["to"].as_str()) {
            (Some("message"), Some(to)) if self.refuse_next > 0 => {
                self.refuse_next -= 1;
                let (nobody, _unheard) = mpsc::channel(8);
                self.store(user, to, frame, &nobody);
                json!({"type": "error", "code": "unavailable", "detail": "not now",
                "ref": frame["ref"], "retryable": true})
            }
            (Some("message"), Some(to)) if !self.refuse_all => {
                return self.store(user, to, frame, socket);
            }
            (Some("ping"), _) => json!({"type": "pong", "ref": frame["ref"], "timestamp": 1}),
            (Some("read"), _) => return,
            _ => {
                json!({"type": "error", "code": "bad_request", "detail": "no", "ref": frame["ref"],
                "retryable": false})
            }
        };
        let _ = socket.try_send(Order::Say(without_nulls(answer)));
    }

    fn store(&mut self, user: &str, to: &str, frame: &Value, socket: &mpsc::Sender<Order>) {
        let id = |name| UserId::parse(name).unwrap();
        let conversation = ConversationId::direct(&id(user), &id(to)).as_str().to_owned();
        let log = self.logs.entry(conversation.clone()).or_default();
        let known = log.iter().position(|e| !frame["ref"].is_null() && e["ref"] == frame["ref"]);
        let seq = known.map_or(log.len() + 1, |at| at + 1) as u64;
        let entry = json!({"type": "message", "id": format!("{conversation}/{seq}"),
            "conversation": conversation, "seq": seq, "from": user, "to": to,
            "message": frame["message"], "ref": frame["ref"], "timestamp": 1});
        let delivered = json!({"type": "delivered", "conversation": conversation, "seq": seq,
            "userId": to});
        let sent = json!({"type": "sent", "ref": frame["ref"], "id": entry["id"],
            "conversation": conversation, "seq": seq, "timestamp": 1});
        if known.is_none() {
            log.push(entry.clone());
        }
        if std::mem::take(&mut self.lose_next_sent) {
            let _ = socket.try_send(Order::Cut);
            return;
        }
        let _ = socket.try_send(Order::Say(without_nulls(sent)));
        let mut received = self.swallow == Some(seq);
        let others = self.sockets.iter().filter(|_| self.swallow != Some(seq));
        for (_, other) in others.filter(|(name, _)| name == to) {
            received |= other.try_send(Order::Say(shown(entry.clone()))).is_ok();
        }
        if received {
            self.cursors.insert((to.to_owned(), conversation), seq);
            let _ = socket.try_send(Order::Say(delivered.to_string()));
        }
    }
}

/// As the recipient sees it.
fn shown(mut entry: Value) -> String {
    if let Some(entry) = entry.as_object_mut() {
        entry.remove("ref");
    }
    entry.to_string()
}

/// The protocol leaves out what there is not.
fn without_nulls(mut frame: Value) -> String {
    if let Some(frame) = frame.as_object_mut() {
        frame.retain(|_, value| !value.is_null());
    }
    frame.to_string()
}
