//! How much a client may do, of real processes: each limit refuses as stated, tells how long to
//! wait and is right, is counted, and keeps nobody else from anything.

mod crowd;
mod files;
mod flood;
mod rates;
mod sizes;

use std::collections::BTreeMap;
use std::time::Duration;

use parlor::protocol::Token;
use serde_json::{Value, json};

use crate::admin;
use crate::auth::{Guarded, token};
use crate::harness::{Parts, eventually};
use crate::raw::{Raw, upgrade_head};

/// A stack with tokens and limits.
pub struct Limited {
    pub guarded: Guarded,
}

/// On a port that nobody else can have taken.
pub const ADMIN: [&str; 2] = ["--admin-listen", "127.0.0.1:0"];

impl Limited {
    pub async fn start(limits: &[&str]) -> Self {
        Self::start_on(Parts::Embedded, limits).await.unwrap()
    }

    /// `None` where real parts are left out.
    pub async fn start_on(parts: Parts, limits: &[&str]) -> Option<Self> {
        let options = [limits, &ADMIN].concat();
        Some(Self { guarded: Guarded::start(parts, &options).await? })
    }

    /// A socket of this user whose `caughtup` was read.
    pub async fn at(&self, server: &str, user: &str) -> Raw {
        let mut raw = Raw::dial(&self.guarded.stack.servers[server]).await;
        raw.write(upgrade_head("", &bearer(&token(user, json!({})))).as_bytes()).await;
        assert_eq!(raw.head().await.expect("an answer").status, 101);
        raw.wait_for(|said| (said["type"] == "caughtup").then_some(())).await;
        raw
    }

    /// How often a limit was met.
    pub async fn met(&self, limit: &str) -> u64 {
        met(&self.guarded.stack.admin, limit).await
    }
}

pub async fn met(admin: &str, limit: &str) -> u64 {
    let samples: BTreeMap<String, f64> = admin::metrics(admin).await;
    let label = format!("limit=\"{limit}\"");
    admin::sum(&samples, "parlor_limited_total", &[&label]) as u64
}

pub fn bearer(token: &Token) -> String {
    format!("Authorization: Bearer {}\r\n", token.reveal())
}

pub fn message(to: &str, text: &str, reference: &str) -> String {
    json!({"type": "message", "to": to, "message": text, "ref": reference}).to_string()
}

/// The next `sent`, `error` or `pong`.
pub async fn answer(raw: &mut Raw) -> Value {
    let is_answer = |said: &Value| {
        ["sent", "error", "pong"].iter().any(|kind| said["type"] == *kind).then(|| said.clone())
    };
    raw.wait_for(is_answer).await
}

/// So many of them.
pub async fn answers(raw: &mut Raw, count: usize) -> Vec<Value> {
    let mut all = Vec::new();
    while all.len() < count {
        all.push(answer(raw).await);
    }
    all
}

/// The wait that a refusal tells, in the one shape that refusals of limits have.
#[track_caller]
pub fn told(refusal: &Value) -> Duration {
    let detail = refusal["detail"].as_str().unwrap_or_default();
    assert!(detail.ends_with(": wait and try again"), "{refusal}");
    said_to_wait(refusal)
}

/// The same whatever else it says.
#[track_caller]
pub fn said_to_wait(refusal: &Value) -> Duration {
    assert_eq!((&refusal["type"], &refusal["code"]), (&json!("error"), &json!("rate_limited")));
    assert_eq!(refusal["retryable"], true, "{refusal}");
    Duration::from_millis(refusal["retryAfterMs"].as_u64().unwrap())
}

/// Waits as long as was said, and hardly longer.
pub async fn wait(told: Duration) {
    tokio::time::sleep(told).await;
}

/// Asks until the process has written down what a limit refused.
pub async fn counted(limited: &Limited, limit: &str, at_least: u64) {
    let what = format!("{limit} is counted {at_least} times");
    eventually(&what, async || (limited.met(limit).await >= at_least).then_some(())).await;
}
