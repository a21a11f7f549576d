//! Tokens by hand, good and bad, for the rows of identity.

use std::time::{SystemTime, UNIX_EPOCH};

use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

/// What the guarded fleet verifies with.
pub const ISSUER: &str = "https://corpus.example";
pub const SECRET: &str = "a secret of the corpus that nobody else has, 48 chars";

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let sum = chunk.iter().fold(0_u32, |sum, byte| sum << 8 | u32::from(*byte));
        let sum = sum << (8 * (3 - chunk.len()));
        for place in 0..=chunk.len() {
            let letter = (sum >> (18 - 6 * place)) & 63;
            text.push(char::from(LETTERS[letter as usize]));
        }
    }
    text
}

pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// The claims of a good token.
pub fn claims() -> Value {
    json!({"sub": "tokens", "iss": ISSUER, "iat": now(), "exp": now() + 3_600})
}

/// A token with this head and these claims, signed by HS256 with the secret.
pub fn made(head: &Value, claims: &Value, secret: &[u8]) -> String {
    let signed = format!("{}.{}", base64(&raw(head)), base64(&raw(claims)));
    let mac = Hmac::<Sha256>::new_from_slice(secret).unwrap().chain_update(&signed).finalize();
    format!("{signed}.{}", base64(&mac.into_bytes()))
}

fn raw(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

/// A good token but for these claims; null takes one away.
pub fn claiming(changes: Value) -> String {
    let mut all = claims();
    for (name, value) in changes.as_object().unwrap() {
        all[name] = value.clone();
        if value.is_null() {
            all.as_object_mut().unwrap().remove(name);
        }
    }
    made(&json!({"alg": "HS256", "typ": "JWT"}), &all, SECRET.as_bytes())
}

/// A good token but for these fields of its head.
pub fn headed(changes: Value) -> String {
    let mut head = json!({"alg": "HS256", "typ": "JWT"});
    for (name, value) in changes.as_object().unwrap() {
        head[name] = value.clone();
    }
    made(&head, &claims(), SECRET.as_bytes())
}

/// With another signature, or none.
pub fn signed_as(token: &str, signature: &str) -> String {
    let (signed, _) = token.rsplit_once('.').unwrap();
    format!("{signed}.{signature}")
}
