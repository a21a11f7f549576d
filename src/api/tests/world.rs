//! An API part on embedded parts, with its router.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request, StatusCode};
use hyper_util::service::TowerToHyperService;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::super::{ApiOptions, router};
use super::switched::{SwitchedDirectory, SwitchedStore};
use crate::auth::Verifier;
use crate::auth::testing::by_secret;
use crate::board::embedded::EmbeddedBoard;
use crate::board::{Board, BoardRow, Role};
use crate::bus::embedded::EmbeddedBus;
use crate::chat::{Chat, Parts, lane::Lanes, liveness::Liveness};
use crate::edge::Peer;
use crate::limits::{Limits, Settings};
use crate::protocol::*;
use crate::store::*;
use crate::telemetry::Metrics;

pub fn user(name: &str) -> UserId {
    UserId::parse(name).unwrap()
}

fn board_row(id: &str, role: Role) -> BoardRow {
    let public_url = (role == Role::Server).then(|| "wss://ws1.example.com/ws".to_owned());
    BoardRow { role, public_url, ..crate::chat::testing::board_row(id, 7) }
}

/// An API part with its router.
pub struct World {
    pub store: Arc<SwitchedStore>,
    pub directory: Arc<SwitchedDirectory>,
    pub chat: Arc<Chat>,
    pub router: Router,
    stop: CancellationToken,
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub bytes: Vec<u8>,
    pub json: Value,
}

impl Answer {
    /// A problem with this status and code, in the one shape that problems have.
    #[track_caller]
    pub fn problem(&self, status: u16, code: &str) {
        assert_eq!(self.status, status, "{}", self.json);
        assert_eq!(self.headers["content-type"], "application/problem+json");
        assert_eq!(self.json["status"], status);
        assert_eq!(self.json["code"], code, "{}", self.json);
        assert_eq!(self.json["type"], format!("urn:parlor:problem:{code}"));
        assert!(self.json["detail"].as_str().is_some_and(|detail| detail.len() > 8));
        assert!(self.json["title"].is_string());
        let retryable = matches!(code, "unavailable" | "rate_limited");
        assert_eq!(self.json["retryable"], retryable);
        assert_eq!(self.json["retryAfterMs"].is_u64(), retryable);
        assert_eq!(self.headers.contains_key("retry-after"), retryable);
    }
}

impl World {
    pub async fn new() -> Self {
        Self::with(ApiOptions::default()).await
    }

    pub async fn with(options: ApiOptions) -> Self {
        Self::made(options, None, Limits::none()).await
    }

    /// One that takes tokens of `auth::testing`.
    pub async fn guarded() -> Self {
        Self::limited(Settings::default()).await
    }

    /// The same where callers have limits.
    pub async fn limited(settings: Settings) -> Self {
        let auth = Some(by_secret().await);
        Self::made(ApiOptions::default(), auth, Limits::new(settings)).await
    }

    async fn made(options: ApiOptions, auth: Option<Verifier>, limits: Arc<Limits>) -> Self {
        let store = Arc::new(SwitchedStore::new());
        let directory = Arc::new(SwitchedDirectory::default());
        let board = Arc::new(EmbeddedBoard::default());
        let stop = CancellationToken::new();
        board.beat(&board_row("ws1", Role::Server), None).await.unwrap();
        let own = board_row("api-1", Role::Api);
        let (liveness, _events) =
            Liveness::start(board.clone(), own, true, stop.clone()).await.unwrap();
        let time = AtomicU64::new(1_790_000_000_000);
        let chat = Chat::new(Parts {
            store: store.clone(),
            directory: directory.clone(),
            bus: Arc::new(EmbeddedBus::default()),
            lanes: Lanes::new(store.clone()),
            reads: Arc::default(),
            liveness,
            limits,
            metrics: Arc::new(Metrics::new("api-1")),
            clock: Arc::new(move || time.fetch_add(1, Ordering::SeqCst)),
            opening: Default::default(),
        });
        let router = router(chat.clone(), auth, options);
        Self { store, directory, chat, router, stop }
    }

    pub async fn call(&self, request: Request<Body>) -> Answer {
        let service = TowerToHyperService::new(self.router.clone());
        let response = hyper::service::Service::call(&service, request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = to_bytes(Body::new(body), usize::MAX).await.unwrap().to_vec();
        let json = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        Answer { status: parts.status, headers: parts.headers, bytes, json }
    }

    pub async fn ask(&self, method: &str, target: &str) -> Answer {
        let request = Request::builder().method(method).uri(target);
        self.call(request.body(Body::empty()).unwrap()).await
    }

    /// With these headers, and a body where there is one.
    pub async fn with_headers(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = match body {
            Some(body) => {
                request = request.header("content-type", "application/json");
                Body::from(body.to_string())
            }
            None => Body::empty(),
        };
        self.call(request.body(body).unwrap()).await
    }

    /// With this token, from a client at this address.
    pub async fn from(&self, address: &str, token: &Token) -> Answer {
        let address = SocketAddr::new(address.parse().unwrap(), 4_711);
        let request = Request::builder().uri("/v1/users/userA/presence");
        let request = request.header("authorization", format!("Bearer {}", token.reveal()));
        let request = request.extension(Peer { address, secure: false });
        self.call(request.body(Body::empty()).unwrap()).await
    }

    pub async fn get(&self, target: &str) -> Answer {
        self.ask("GET", target).await
    }

    pub async fn post(&self, target: &str, key: Option<&str>, body: &Value) -> Answer {
        let mut request = Request::builder().method("POST").uri(target);
        request = request.header("content-type", "application/json");
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        self.call(request.body(Body::from(body.to_string())).unwrap()).await
    }

    /// Puts a message into a direct conversation as a lane does, without one.
    pub async fn put(&self, from: &str, to: &str, text: &str) -> (ConversationId, Seq) {
        let (from, to) = (user(from), user(to));
        let conversation = ConversationId::direct(&from, &to);
        let newest = self.store.log(&conversation, LogRange::newest(1)).await.unwrap();
        let tail = newest.entries.first().map_or(0, |entry| entry.seq);
        let raise = Raise { last: Some(tail + 1), ..Raise::default() };
        self.store.raise(&to, &conversation, &raise).await.unwrap();
        self.store.raise(&from, &conversation, &raise).await.unwrap();
        let entry = Entry {
            seq: tail + 1,
            kind: Kind::Message,
            to: Some(to),
            message: Some(text.into()),
            data: None,
            reference: Ref::parse(&format!("ref-{from}-{}", tail + 1)).ok(),
            from,
            device: DeviceId::plain(),
            timestamp: (self.chat.clock)(),
            n: tail + 1,
        };
        assert_eq!(self.store.append(&conversation, &[entry]).await, Ok(1));
        (conversation, tail + 1)
    }

    /// Puts an entry into a room, with the member record that follows it.
    pub async fn put_room(&self, room: &str, from: &str, kind: Kind, to: Option<&str>) -> Seq {
        let conversation = ConversationId::parse(&format!("room:{room}")).unwrap();
        let newest = self.store.log(&conversation, LogRange::newest(1)).await.unwrap();
        let (tail, n) = newest.entries.first().map_or((0, 0), |entry| (entry.seq, entry.n));
        let seq = tail + 1;
        let is_message = kind == Kind::Message;
        let entry = Entry {
            seq,
            kind: kind.clone(),
            from: user(from),
            to: to.map(user),
            message: is_message.then(|| format!("text {seq}").into()),
            data: None,
            reference: None,
            device: DeviceId::plain(),
            timestamp: (self.chat.clock)(),
            n: n + u64::from(is_message),
        };
        let Some(member) = to.map(user) else {
            self.store.append(&conversation, &[entry]).await.unwrap();
            return seq;
        };
        let raise = Raise { last: Some(seq), ..Raise::default() };
        self.store.raise(&member, &conversation, &raise).await.unwrap();
        self.store.append(&conversation, &[entry]).await.unwrap();
        let part = RecordPart::Member(conversation.clone(), member.clone());
        let mut spans = Vec::new();
        for record in self.store.records(part).await.unwrap() {
            if let Record::Member(_, member) = record {
                spans = member.spans;
            }
        }
        match kind {
            Kind::Joined => spans.push(Span { after: seq - 1, until: None }),
            _ => spans.last_mut().unwrap().until = Some(seq),
        }
        let member = Member { user: member, role: "member".into(), spans, as_of: seq };
        self.store.write(Record::Member(conversation, member)).await.unwrap();
        seq
    }
}
