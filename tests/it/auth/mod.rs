//! Who gets in: `parlor up` with a secret, asked without, with foreign, ended and right tokens.
//!
//! `matrix` walks every route and frame, `sockets` is what becomes of a token while a socket is
//! open, `revoked` takes tokens back, `secrecy` looks for them where they must not be, `names` is
//! by which name one comes, `line` the command line, `keys` the kinds of keys that it names,
//! `banner` what is said at the start, `keyless` a process of a fleet that lacks the keys,
//! `carried` where a request has its token.

mod banner;
mod carried;
mod keyless;
mod keys;
mod line;
pub mod matrix;
mod names;
mod revoked;
mod secrecy;
mod sockets;

use std::time::{SystemTime, UNIX_EPOCH};

use parlor::auth::mint;
use parlor::client::ClientOptions;
use parlor::protocol::Token;
use serde_json::{Value, json};

use crate::harness::{Parts, Stack};

pub const SECRET: &str = "the secret of these tests, 32 bytes and more";
pub const FOREIGN: &str = "a secret of somebody else, 32 bytes and more";

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// A token of ours for this person, with further claims; `null` takes one away.
pub fn token(sub: &str, more: Value) -> Token {
    signed(SECRET, sub, more)
}

pub fn signed(secret: &str, sub: &str, more: Value) -> Token {
    let mut claims = json!({"sub": sub, "iat": now(), "exp": now() + 600});
    claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    claims.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    mint::signed(secret.as_bytes(), &claims).unwrap()
}

/// A stack that asks for tokens, and the folder of its secret.
pub struct Guarded {
    pub stack: Stack,
    _folder: tempfile::TempDir,
}

impl Guarded {
    pub async fn start(parts: Parts, more: &[&str]) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let secret = folder.path().join("secret");
        std::fs::write(&secret, format!("{SECRET}\n")).unwrap();
        let own = ["--jwt-secret-file", secret.to_str().unwrap()];
        let stack = match parts {
            Parts::Fleet => Stack::start_sharing(parts, more, &own).await?,
            _ => Stack::start_with(parts, &[&own, more].concat()).await?,
        };
        Some(Self { stack, _folder: folder })
    }
}

/// How a person connects with a token: without `userId`, as its user.
pub fn with_token(url: &str, sub: &str, token: Token) -> ClientOptions {
    ClientOptions::new(url, sub).token(Some(token))
}
