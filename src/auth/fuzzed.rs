//! What is read of a token before its signature holds and after, for `fuzzing`.

use std::sync::LazyLock;

use futures_util::FutureExt;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, get_current_timestamp};
use serde_json::{Map, Value, json};

use super::{Identity, LEEWAY_SECONDS, LIFE_SECONDS_MAX, Refusal, Verifier, bearer, challenge};
use crate::protocol::Token;

const SECRET: &[u8] = b"what nobody signs with but the one who holds it";
/// How long a check may take, in seconds of a token's clock.
const SLACK: u64 = 5;

static VERIFIER: LazyLock<Verifier> = LazyLock::new(|| Verifier::by_secret(SECRET));

/// Bytes as what carries a token, and as one; and signed as what they say: the first line as the
/// header, the rest as the claims, whose times count from now, so that what is kept stays good.
///
/// # Panics
///
/// Where a token is taken that nobody has signed, or one that says what is not allowed.
pub(crate) fn read(bytes: &[u8]) {
    for carried in [bearer(&[bytes], &[]), bearer(&[], &[bytes])] {
        match carried {
            Ok(Some(token)) => assert!(verified(&token).is_err(), "nobody has signed this"),
            Ok(None) => {}
            Err(refusal) => told(refusal),
        }
    }
    let Ok(text) = str::from_utf8(bytes) else { return };
    assert!(verified(&Token::new(text)).is_err(), "nobody has signed this");
    let (header, claims) = text.split_once('\n').unwrap_or(("{\"alg\":\"HS256\"}", text));
    let header = serde_json::from_str::<Header>(header);
    let claims = serde_json::from_str::<Map<String, Value>>(claims);
    let (Ok(header), Ok(mut claims)) = (header, claims) else { return };
    let now = get_current_timestamp();
    for name in ["exp", "nbf", "iat"] {
        if let Some(offset) = claims.get(name).and_then(Value::as_i64) {
            claims.insert(name.to_owned(), json!(now.saturating_add_signed(offset)));
        }
    }
    let signed = encode(&header, &claims, &EncodingKey::from_secret(SECRET));
    if let Ok(identity) = signed.map(Token::new).map_err(drop).and_then(|t| verified(&t)) {
        holds(&identity, &header, &claims, now);
    }
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
    let header = challenge(refusal);
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
