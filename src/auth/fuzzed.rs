//! What is read of a token before its signature holds and after, for `fuzzing`.

use std::sync::LazyLock;

use futures_util::FutureExt;
use jsonwebtoken::crypto::sign;
use jsonwebtoken::{
    Algorithm, AlgorithmFamily, EncodingKey, Header, encode, get_current_timestamp,
};
use serde_json::{Map, Value, json};

use super::jwks::keys_in;
use super::key::Rules;
use super::{Identity, LEEWAY_SECONDS, LIFE_SECONDS_MAX, Refusal, Verifier, bearer, challenge};
use crate::protocol::Token;

const SECRET: &[u8] = b"what nobody signs with but the one who holds it";
/// How long a check may take, in seconds of a token's clock.
const SLACK: u64 = 5;

/// All that a header can say.
const ALGORITHMS: [Algorithm; 12] = [
    Algorithm::HS256,
    Algorithm::HS384,
    Algorithm::HS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::EdDSA,
];

static VERIFIER: LazyLock<Verifier> = LazyLock::new(|| Verifier::by_secret(SECRET));

/// Bytes as what carries a token, and as one; and signed as what they say: the first line as the
/// header, the rest as the claims, whose times count from now, so that what is kept stays good.
/// Whether one that was signed is taken.
///
/// # Panics
///
/// Where a token is taken that nobody has signed, or one that says what is not allowed.
pub(crate) fn read(bytes: &[u8]) -> bool {
    for carried in [bearer(&[bytes], &[]), bearer(&[], &[bytes])] {
        match carried {
            Ok(Some(token)) => assert!(verified(&token).is_err(), "nobody has signed this"),
            Ok(None) => {}
            Err(refusal) => told(refusal),
        }
    }
    let Ok(text) = str::from_utf8(bytes) else { return false };
    assert!(verified(&Token::new(text)).is_err(), "nobody has signed this");
    let (header, claims) = text.split_once('\n').unwrap_or(("{\"alg\":\"HS256\"}", text));
    let now = get_current_timestamp();
    // Both, whatever becomes of the first.
    [again(header, claims, now), raw(header, claims, now)].contains(&true)
}

/// A provider's set of keys, the first line being the header of a token that one of them is chosen
/// for. Whether one is.
///
/// # Panics
///
/// Where a key would check what it must not: a secret's signature, another algorithm than its own,
/// a token that names another key.
pub(crate) fn choose(bytes: &[u8]) -> bool {
    let end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    let (header, set) = bytes.split_at(end);
    let rules = Rules { user_claim: "sub".to_owned(), ..Rules::default() };
    let Ok(keys) = keys_in(set, &rules) else { return false };
    assert!(keys.len() <= 64, "a set is bounded");
    let own: Vec<Value> = serde_json::from_slice::<Value>(set)
        .ok()
        .and_then(|set| set["keys"].as_array().cloned())
        .unwrap_or_default();
    let mut chosen = false;
    let named = serde_json::from_slice::<Header>(header).ok();
    for algorithm in ALGORITHMS {
        let header = Header { alg: algorithm, ..named.clone().unwrap_or_default() };
        for key in &keys {
            let fits = key.fits(&header);
            assert!(
                !fits || algorithm.family() != AlgorithmFamily::Hmac,
                "a secret: {algorithm:?}"
            );
            // A key that has a name is for tokens that have none, or its own.
            assert!(!fits || header.kid.is_none() || key.is_named(&header) || key.has_no_name());
            chosen |= fits && named.as_ref().is_some_and(|named| named.alg == algorithm);
        }
        let is_its = |json: &Value| header.kid.is_some() && json["kid"] == json!(header.kid);
        let any_named = keys.iter().any(|key| key.is_named(&header));
        assert!(!any_named || own.iter().any(is_its), "nobody has called it so");
    }
    chosen
}

/// Signed as what they say, written anew: times are relative to now.
fn again(header: &str, claims: &str, now: u64) -> bool {
    let header = serde_json::from_str::<Header>(header);
    let claims = serde_json::from_str::<Map<String, Value>>(claims);
    let (Ok(header), Ok(mut claims)) = (header, claims) else { return false };
    for name in ["exp", "nbf", "iat"] {
        if let Some(offset) = claims.get(name).and_then(Value::as_i64) {
            claims.insert(name.to_owned(), json!(now.saturating_add_signed(offset)));
        }
    }
    let signed = encode(&header, &claims, &EncodingKey::from_secret(SECRET));
    let identity = signed.map(Token::new).map_err(drop).and_then(|token| verified(&token));
    identity.inspect(|identity| holds(identity, &header, &claims, now)).is_ok()
}

/// Signed byte for byte, with fields twice and odd numbers, but that `NOW` becomes a time to come.
/// What is taken then is what everybody else reads there.
fn raw(header: &str, claims: &str, now: u64) -> bool {
    let claims = claims.replace("NOW", &(now + 300).to_string());
    let message = format!("{}.{}", base64url(header.as_bytes()), base64url(claims.as_bytes()));
    let key = EncodingKey::from_secret(SECRET);
    let Ok(signature) = sign(message.as_bytes(), &key, Algorithm::HS256) else { return false };
    let Ok(identity) = verified(&Token::new(format!("{message}.{signature}"))) else {
        return false;
    };
    let header = serde_json::from_str::<Header>(header);
    let claims = serde_json::from_str::<Map<String, Value>>(&claims);
    assert!(header.is_ok() && claims.is_ok(), "it is taken and no JSON: {header:?} {claims:?}");
    if let (Ok(header), Ok(claims)) = (header, claims) {
        holds(&identity, &header, &claims, now);
    }
    true
}

fn base64url(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte));
        let bits = bits << (8 * (3 - chunk.len()));
        for place in 0..=chunk.len() {
            text.push(char::from(LETTERS[(bits >> (18 - 6 * place)) as usize & 63]));
        }
    }
    text
}

fn verified(token: &Token) -> Result<Identity, ()> {
    let checked = VERIFIER.verify(token).now_or_never();
    checked.unwrap_or(Err(Refusal::NoKeys)).map_err(|refusal| {
        assert_ne!(refusal, Refusal::NoKeys, "a secret waits for nobody");
        told(refusal);
    })
}

/// What is answered is a header and a sentence.
fn told(refusal: Refusal) {
    let Some(header) = challenge(&refusal) else { return };
    assert!(header.bytes().all(|byte| (b' '..0x7f).contains(&byte)), "{header}");
}

fn holds(identity: &Identity, header: &Header, claims: &Map<String, Value>, now: u64) {
    assert_eq!(header.alg, Algorithm::HS256);
    let brings = [&header.jku, &header.x5u].iter().any(|url| url.is_some());
    assert!(!brings && header.jwk.is_none() && header.x5c.is_none() && header.crit.is_none());
    assert!(claims.get("aud").is_none_or(Value::is_null), "it is for somebody else: {claims:?}");
    let named = match &claims["sub"] {
        Value::String(user) => user.clone(),
        other => other.to_string(),
    };
    assert_eq!(identity.user.as_str(), named);
    assert!(claims["exp"].is_number(), "{claims:?}");
    let earliest = now.saturating_sub(LEEWAY_SECONDS + SLACK);
    assert!((earliest..=now + LIFE_SECONDS_MAX + SLACK).contains(&identity.expires));
    assert!(identity.issued <= now + LEEWAY_SECONDS + SLACK);
    let scopes = identity.scopes;
    assert!(scopes.user || scopes.service || scopes.admin, "it may do nothing: {claims:?}");
}
