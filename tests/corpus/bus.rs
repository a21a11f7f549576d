//! What a holder of the bus key could publish (docs/protocol.md, "What Redis shows").

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

pub const KEY: &str = "0b7f5c1d9e3a4286b1c4d7e8f9012345";

pub struct Signing {
    number: AtomicU64,
    life: u64,
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Signing {
    pub fn new() -> Self {
        Self { number: AtomicU64::new(0), life: rand::random() }
    }

    /// A batch as this fleet believes it on this channel.
    pub fn sign(&self, channel: &str, batch: &str) -> String {
        let number = self.number.fetch_add(1, Ordering::Relaxed) + 1;
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
        let id = Sha256::new().chain_update("parlor bus key ").chain_update(KEY).finalize();
        let (id, life) = (hex(&id[..4]), self.life);
        let signed = format!(
            r#"","key":"{id}","life":"{life:016x}","number":{number},"at":{at},"batch":{batch}}}"#
        );
        let length = (channel.len() as u64).to_be_bytes();
        let mac = Hmac::<Sha256>::new_from_slice(KEY.as_bytes()).unwrap();
        let mac = mac.chain_update(length).chain_update(channel).chain_update(&signed).finalize();
        format!(r#"{{"mac":"{}{signed}"#, hex(&mac.into_bytes()))
    }
}
