//! Signed publishes (`--bus-key`): who holds no key of the fleet can say nothing on the bus, and
//! can't say again what somebody else has said.
//!
//! A signed publish is still JSON that a person can read:
//! `{"mac":"…","key":"…","life":"…","number":7,"at":1790000000000,"batch":…}`. The HMAC-SHA256 is
//! that of the channel and of every byte behind the `mac`, so a publish counts on its own channel
//! only. `replay` sees that it counts once.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use hmac::{Hmac, KeyInit, Mac};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::replay::Replays;

/// The shortest key: what `openssl rand -hex 16` gives.
const KEY_CHARS_MIN: usize = 32;
/// A rotation needs two.
const KEYS_MAX: usize = 8;
/// What stands before the signature, and behind it.
const OPENING: &[u8] = b"{\"mac\":\"";
const MAC_HEX: usize = 64;
const KEY_FIELD: &[u8] = b"\",\"key\":\"";
const KEY_ID_HEX: usize = 8;
/// What stands before the batch.
const BATCH_FIELD: &[u8] = b",\"batch\":";

/// Keys that can't be used, in a sentence that does not show them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadKeys(String);

/// Why a publish is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It carries no signature.
    Unsigned,
    /// Signed with a key that is not ours.
    Foreign,
    /// Not what was signed, or not for this channel.
    Altered,
    /// It was heard before.
    Replayed,
    /// Published before this listener began, or its publisher's clock is far off.
    Stale,
    /// The signature holds, but a later version wrote what we can't read.
    Malformed,
}

impl Refusal {
    /// The outcome's name in the metrics.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Unsigned => "unsigned",
            Self::Foreign => "foreign",
            Self::Altered => "altered",
            Self::Replayed => "replayed",
            Self::Stale => "stale",
            Self::Malformed => "malformed",
        }
    }
}

/// The keys of a fleet: the first one signs, all are accepted.
#[derive(Clone)]
pub struct Keys(Arc<[Key]>);

struct Key {
    /// Names it on the wire, and says nothing of it.
    id: String,
    mac: Hmac<Sha256>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids: Vec<_> = self.0.iter().map(|key| &key.id).collect();
        f.debug_tuple("Keys").field(&ids).finish()
    }
}

impl Keys {
    /// Takes keys as they were written down; `None` where there are none.
    pub fn new<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Option<Self>, BadKeys> {
        let texts: Vec<&str> = texts.into_iter().map(str::trim).collect();
        let bad = |what: String| {
            BadKeys(format!("{what}: make one with `openssl rand -hex 32`, the same everywhere"))
        };
        if texts.len() > KEYS_MAX {
            return Err(bad(format!("there are more than {KEYS_MAX} bus keys")));
        }
        if texts.iter().any(|text| text.len() < KEY_CHARS_MIN) {
            return Err(bad(format!("a bus key has at least {KEY_CHARS_MIN} characters")));
        }
        let key = |text: &&str| {
            let mac = Hmac::new_from_slice(text.as_bytes()).map_err(|e| bad(e.to_string()))?;
            let digest = Sha256::new().chain_update("parlor bus key ").chain_update(text);
            let id = hex(&digest.finalize()[..KEY_ID_HEX / 2]);
            Ok(Key { id, mac })
        };
        let keys = texts.iter().map(key).collect::<Result<Vec<_>, _>>()?;
        Ok((!keys.is_empty()).then(|| Self(keys.into())))
    }
}

/// The HMAC of a channel and what follows a signature.
fn mac_of(key: &Key, channel: &str, signed: &[u8]) -> Hmac<Sha256> {
    let length = channel.len() as u64;
    let parts = [&length.to_be_bytes()[..], channel.as_bytes(), signed];
    parts.into_iter().fold(key.mac.clone(), |mac, part| mac.chain_update(part))
}

/// Signs what a process publishes.
#[derive(Debug)]
pub struct Signer {
    keys: Keys,
    life: u64,
    number: AtomicU64,
}

impl Signer {
    /// A publisher that begins its life.
    pub fn new(keys: Keys) -> Self {
        Self { keys, life: rand::random(), number: AtomicU64::new(0) }
    }

    /// The first part of a publish; the batch follows, as JSON.
    pub fn begin(&self) -> Vec<u8> {
        let number = self.number.fetch_add(1, Ordering::Relaxed) + 1;
        let (life, at) = (self.life, now_ms());
        let mut payload = [OPENING, &[b'0'; MAC_HEX], KEY_FIELD].concat();
        payload.extend_from_slice(self.keys.0.first().map_or("", |key| &key.id).as_bytes());
        let fields = format!(r#"","life":"{life:016x}","number":{number},"at":{at}"#);
        payload.extend_from_slice(fields.as_bytes());
        payload.extend_from_slice(BATCH_FIELD);
        payload
    }

    /// Ends a publish that was begun here, and signs it.
    pub fn finish(&self, payload: &mut Vec<u8>, channel: &str) {
        payload.push(b'}');
        let (opening, signed) = payload.split_at_mut(OPENING.len() + MAC_HEX);
        if let Some(key) = self.keys.0.first() {
            let mac = mac_of(key, channel, signed).finalize().into_bytes();
            opening[OPENING.len()..].copy_from_slice(hex(&mac).as_bytes());
        }
    }
}

/// What stands between the signature and the batch.
#[derive(Deserialize)]
struct Head {
    life: String,
    number: u64,
    at: u64,
}

/// Checks what one channel hears. Without keys whatever comes is taken, signed or not.
pub struct Guard {
    keys: Option<Keys>,
    channel: String,
    replays: Mutex<Replays>,
    /// When listening began, by both clocks: the wall clock may be set while this runs.
    began: (u64, Instant),
}

impl Guard {
    /// For a channel that is listened to from now on.
    pub fn new(keys: Option<Keys>, channel: String) -> Self {
        let began = (now_ms(), Instant::now());
        Self { keys, channel, replays: Mutex::new(Replays::since(began.0)), began }
    }

    /// The batch in a payload, as JSON, if it may be believed.
    pub fn open<'a>(&self, payload: &'a [u8]) -> Result<&'a [u8], Refusal> {
        let Some(keys) = &self.keys else {
            // A fleet that is given its key server by server: those without can still read.
            let parted = payload.starts_with(OPENING).then(|| part(payload));
            return parted.map_or(Ok(payload), |parted| Ok(parted?.1));
        };
        self.check(keys, payload)?;
        let (head, batch) = part(payload)?;
        let life = u64::from_str_radix(&head.life, 16).map_err(|_| Refusal::Malformed)?;
        let (wall, since) = self.began;
        let now = wall + since.elapsed().as_millis() as u64;
        let mut replays = self.replays.lock().unwrap_or_else(PoisonError::into_inner);
        replays.admit(life, head.number, head.at, now)?;
        Ok(batch)
    }

    /// Whether a payload is what a holder of a key has published on this channel.
    fn check(&self, keys: &Keys, payload: &[u8]) -> Result<(), Refusal> {
        let rest = payload.strip_prefix(OPENING).ok_or(Refusal::Unsigned)?;
        let (mac, signed) = rest.split_at_checked(MAC_HEX).ok_or(Refusal::Unsigned)?;
        let id = signed.strip_prefix(KEY_FIELD).and_then(|rest| rest.get(..KEY_ID_HEX));
        let id = id.ok_or(Refusal::Unsigned)?;
        let key = keys.0.iter().find(|key| key.id.as_bytes() == id).ok_or(Refusal::Foreign)?;
        let mac = unhex(mac).ok_or(Refusal::Altered)?;
        // In the same time whatever the difference.
        mac_of(key, &self.channel, signed).verify_slice(&mac).map_err(|_| Refusal::Altered)
    }
}

/// Which key a publish claims to be signed with, and the batch in it: of what is not believed, for
/// whoever looks for its sender.
pub(super) fn claimed(payload: &[u8]) -> Option<(&str, &[u8])> {
    let signed = payload.strip_prefix(OPENING)?.get(MAC_HEX..)?.strip_prefix(KEY_FIELD)?;
    let key = str::from_utf8(signed.get(..KEY_ID_HEX)?).ok()?;
    let batch = part(payload).ok()?.1;
    key.bytes().all(|byte| byte.is_ascii_hexdigit()).then_some((key, batch))
}

/// Takes a publish apart without reading the batch, which is read once, later. The batch comes
/// last, and nothing before it can hold its name.
fn part(payload: &[u8]) -> Result<(Head, &[u8]), Refusal> {
    let found = payload.windows(BATCH_FIELD.len()).position(|window| window == BATCH_FIELD);
    let (head, rest) = payload.split_at(found.ok_or(Refusal::Malformed)?);
    let batch = rest[BATCH_FIELD.len()..].strip_suffix(b"}").ok_or(Refusal::Malformed)?;
    let head = serde_json::from_slice(&[head, b"}"].concat());
    Ok((head.map_err(|_| Refusal::Malformed)?, batch))
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from(b"0123456789abcdef"[usize::from(nibble)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

fn unhex(text: &[u8]) -> Option<Vec<u8>> {
    // Small letters only: a signature has one form.
    let nibble = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let byte = |pair: &[u8]| Some((nibble(pair[0])? << 4) | nibble(pair[1])?);
    text.chunks_exact(2).map(byte).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OLD: &str = "an old key of the fleet, 32 chars";
    const NEW: &str = "a new key of the fleet, 32 chars.";

    fn keys(texts: &[&str]) -> Keys {
        Keys::new(texts.iter().copied()).unwrap().unwrap()
    }

    fn publish(signer: &Signer, channel: &str, batch: &str) -> Vec<u8> {
        let mut payload = signer.begin();
        payload.extend_from_slice(batch.as_bytes());
        signer.finish(&mut payload, channel);
        payload
    }

    fn guard(texts: &[&str]) -> Guard {
        Guard::new(Some(keys(texts)), "messages:ws3".to_owned())
    }

    #[test]
    fn what_was_signed_is_opened_once() {
        let (signer, guard) = (Signer::new(keys(&[NEW])), guard(&[NEW]));
        for batch in [r#"{"type":"probe"}"#, r#"[{"a":1}, {"b":"\u0000"}]"#] {
            let payload = publish(&signer, "messages:ws3", batch);
            let shown: serde_json::Value = serde_json::from_slice(&payload).unwrap();
            assert_eq!(shown["batch"], serde_json::from_str::<serde_json::Value>(batch).unwrap());
            assert_eq!(guard.open(&payload), Ok(batch.as_bytes()));
            assert_eq!(guard.open(&payload), Err(Refusal::Replayed));
        }
    }

    #[test]
    fn a_publish_is_for_its_channel_alone() {
        let (signer, guard) = (Signer::new(keys(&[NEW])), guard(&[NEW]));
        for channel in ["messages:ws2", "messages:ws33", "a:messages:ws3", ""] {
            assert_eq!(guard.open(&publish(&signer, channel, "[]")), Err(Refusal::Altered));
        }
    }

    #[test]
    fn each_byte_counts() {
        let (signer, guard) = (Signer::new(keys(&[NEW])), guard(&[NEW]));
        let payload = publish(&signer, "messages:ws3", r#"{"message":"Hi"}"#);
        for at in 0..payload.len() {
            for bit in [1, 32] {
                let mut altered = payload.clone();
                altered[at] ^= bit;
                let refused = guard.open(&altered).unwrap_err();
                let expected = match at {
                    0..8 => refused == Refusal::Unsigned,
                    72..81 => refused == Refusal::Unsigned,
                    81..89 => refused == Refusal::Foreign,
                    _ => refused == Refusal::Altered,
                };
                assert!(expected, "byte {at}: {refused:?}");
            }
            assert!(guard.open(&payload[..at]).is_err(), "cut at {at}");
        }
        assert_eq!(guard.open(&payload), Ok(&br#"{"message":"Hi"}"#[..]));
    }

    #[test]
    fn what_is_not_believed_says_where_to_look() {
        let batch = r#"{"type":"hint","v":1,"conversation":"dm:a:b","seq":1,"via":"ws2"}"#;
        let said = publish(&Signer::new(keys(&[OLD])), "messages:ws3", batch);
        let (key, shown) = claimed(&said).unwrap();
        assert_eq!((key, shown), (keys(&[OLD]).0[0].id.as_str(), batch.as_bytes()));
        assert_eq!(super::super::payload::sender(shown).as_deref(), Some("ws2"));
        for nothing in [&said[..60], batch.as_bytes(), b"", b"{\"mac\":\""] {
            assert_eq!(claimed(nothing), None);
        }
        assert_eq!(super::super::payload::sender(b"[{}]"), None);
    }

    #[test]
    fn an_old_key_is_accepted_while_keys_change() {
        let (old, new) = (Signer::new(keys(&[OLD])), Signer::new(keys(&[NEW, OLD])));
        let from_old = || publish(&old, "messages:ws3", "[]");
        let from_new = || publish(&new, "messages:ws3", "[]");
        let both = guard(&[NEW, OLD]);
        assert!(both.open(&from_old()).is_ok() && both.open(&from_new()).is_ok());
        let first = guard(&[OLD, NEW]);
        assert!(first.open(&from_old()).is_ok() && first.open(&from_new()).is_ok());
        assert_eq!(guard(&[NEW]).open(&from_old()), Err(Refusal::Foreign));
        assert_eq!(guard(&[OLD]).open(&from_new()), Err(Refusal::Foreign));
    }

    #[test]
    fn without_a_key_all_is_read_and_with_one_only_what_is_signed() {
        let signer = Signer::new(keys(&[NEW]));
        let open = Guard::new(None, "messages:ws3".to_owned());
        assert_eq!(open.open(br#"{"type":"probe"}"#), Ok(&br#"{"type":"probe"}"#[..]));
        assert_eq!(open.open(&publish(&signer, "messages:ws3", "[1]")), Ok(&b"[1]"[..]));
        assert_eq!(guard(&[NEW]).open(br#"{"type":"probe"}"#), Err(Refusal::Unsigned));
        assert_eq!(open.open(br#"{"mac":"x"}"#), Err(Refusal::Malformed));
    }

    proptest! {
        /// Whatever comes, signed by somebody of the fleet or not.
        #[test]
        fn garbage_ends_nothing(mut bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let channel = "messages:ws3".to_owned();
            let (open, guard) = (Guard::new(None, channel), guard(&[NEW]));
            prop_assert!(guard.open(&bytes).is_err());
            let _ = open.open(&bytes);
            let _ = open.open(&[OPENING, &bytes].concat());
            bytes.splice(0..0, [OPENING, &[b'0'; MAC_HEX], KEY_FIELD].concat());
            prop_assert!(guard.open(&bytes).is_err());
            let signer = Signer::new(keys(&[NEW]));
            let key = signer.keys.0[0].id.as_bytes().to_vec();
            bytes.splice(MAC_HEX + 17..MAC_HEX + 17, key);
            signer.finish(&mut bytes, "messages:ws3");
            prop_assert_eq!(guard.open(&bytes), Err(Refusal::Malformed));
            let _ = open.open(&bytes);
        }
    }

    #[test]
    fn keys_are_long_enough_and_never_shown() {
        assert!(Keys::new([]).unwrap().is_none());
        let short = Keys::new(["secret"]).unwrap_err().to_string();
        assert!(short.contains("openssl") && !short.contains("secret"), "{short}");
        assert!(Keys::new([NEW; KEYS_MAX + 1]).is_err());
        let shown = format!("{:?}", keys(&[NEW, OLD]));
        assert!(!shown.contains("fleet"), "{shown}");
    }
}
