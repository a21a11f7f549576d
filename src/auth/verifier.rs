//! Checks tokens. One verifier a process, cheap to clone.

use std::sync::Arc;

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{
    Algorithm, AlgorithmFamily, Header, dangerous, decode, decode_header, get_current_timestamp,
};
use serde_json::{Map, Value};
use tokio_util::sync::CancellationToken;

use super::jwks::{ASK_INTERVAL, Jwks};
use super::key::{Key, Rules};
use super::{BadKeys, Identity, KeyName, LEEWAY_SECONDS, Options, Refusal, Scopes};
use crate::protocol::{TOKEN_BYTES_MAX, Token};

/// The most keys that a token is tried with: each try costs a signature check.
const TRIES_MAX: usize = 4;
/// The longest name of a key.
const KEY_NAME_BYTES_MAX: usize = 256;
/// The types of token that are taken (RFC 8725 §3.11): not, say, one for refreshing.
const TYPES: [&str; 2] = ["jwt", "at+jwt"];

/// Checks tokens by the keys of the command line.
#[derive(Clone)]
pub struct Verifier(Arc<Inner>);

struct Inner {
    keys: Vec<Key>,
    provider: Option<Arc<Jwks>>,
    /// Whatever a token of the provider says, it is a user's.
    only_users: bool,
    rules: Arc<Rules>,
}

impl Verifier {
    /// Reads the keys; `None` where none are named. Those of a provider are fetched once here; one
    /// that does not answer is asked again by [`Verifier::keep`].
    pub async fn start(options: &Options) -> Result<Option<Self>, BadKeys> {
        if !options.has_keys() {
            return Ok(None);
        }
        let rules = Arc::new(Rules {
            audience: options.jwt_audience.clone(),
            issuer: options.jwt_issuer.clone(),
            user_claim: options.user_claim.clone(),
        });
        let mut keys = Vec::new();
        for path in &options.jwt_secret_file {
            keys.push(Key::secret(path, &rules)?);
        }
        for path in &options.jwt_key_file {
            keys.extend(Key::public(path, &rules)?);
        }
        all_are_tried(&keys)?;
        let provider = match &options.jwks_url {
            Some(url) => Some(Arc::new(Jwks::new(url, rules.clone())?)),
            None => None,
        };
        if let Some(provider) = &provider {
            if !options.jwks_users_only {
                tracing::warn!(
                    "tokens of the identity provider may say that they are of scope admin or \
                     service: give --jwks-users-only unless nobody but you decides on their scopes"
                );
            }
            provider.refresh().await;
        }
        let only_users = options.jwks_users_only;
        Ok(Some(Self(Arc::new(Inner { keys, provider, only_users, rules }))))
    }

    /// By one secret, and nothing asked of what tokens say.
    #[cfg(any(test, fuzzing))]
    pub(super) fn by_secret(secret: &[u8]) -> Self {
        let rules = Rules { user_claim: "sub".to_owned(), ..Rules::default() };
        let keys = vec![Key::of_secret(secret, &rules)];
        let rules = Arc::new(rules);
        Self(Arc::new(Inner { keys, provider: None, only_users: false, rules }))
    }

    /// Keeps the keys of the provider fresh until `stop`.
    pub async fn keep(self, stop: CancellationToken) {
        if let Some(provider) = &self.0.provider {
            stop.run_until_cancelled(provider.keep()).await;
        }
    }

    /// What is wrong with the provider, if anything is.
    pub fn trouble(&self) -> Option<String> {
        self.0.provider.as_ref().and_then(|provider| provider.trouble())
    }

    /// Whether a key may be withdrawn while this process runs.
    pub fn has_provider(&self) -> bool {
        self.0.provider.is_some()
    }

    #[cfg(test)]
    pub(super) fn provider(&self) -> Option<&Arc<Jwks>> {
        self.0.provider.as_ref()
    }

    /// Whom the token names, if it holds.
    pub async fn verify(&self, token: &Token) -> Result<Identity, Refusal> {
        let text = token.reveal();
        if text.len() > TOKEN_BYTES_MAX {
            return Err(Refusal::TooLong);
        }
        let header = decode_header(text).map_err(|_| Refusal::Malformed)?;
        check(&header)?;
        match self.try_keys(text, &header, &self.0.keys) {
            Err(Refusal::Signature) => {}
            decided => return decided,
        }
        let by_secret = header.alg.family() == AlgorithmFamily::Hmac;
        let provider = self.0.provider.as_ref().filter(|_| !by_secret);
        let Some(provider) = provider else { return Err(Refusal::Signature) };
        let identity = self.by_provider(provider, text, &header).await?;
        match self.0.only_users {
            true => Ok(Identity { scopes: Scopes::USER, ..identity }),
            false => Ok(identity),
        }
    }

    /// By the keys of the provider; one that is not among them is asked for.
    async fn by_provider(
        &self,
        provider: &Arc<Jwks>,
        text: &str,
        header: &Header,
    ) -> Result<Identity, Refusal> {
        let mut keys = provider.keys();
        let named = |keys: &[Key]| keys.iter().any(|key| key.is_named(header));
        let known = keys.as_ref().is_some_and(|keys| header.kid.is_none() || named(keys));
        let mut asked_again_in = None;
        if !known {
            asked_again_in = provider.ask_again().await?;
            keys = provider.keys();
        }
        // Without any nobody can say whether a token holds: not that it does not.
        let keys = keys.filter(|keys| !keys.is_empty()).ok_or(Refusal::NoKeys)?;
        let tried = self.try_keys(text, header, &keys);
        match (&tried, &header.kid) {
            (Err(Refusal::Signature), Some(kid)) if !named(&keys) && !named(&self.0.keys) => {
                let name = KeyName::new(kid);
                let left = asked_again_in.and_then(|left| u64::try_from(left.as_millis()).ok());
                Err(match left.filter(|_| is_new(text)) {
                    Some(after_ms) => Refusal::KeyToCome { name, after_ms },
                    None => Refusal::UnknownKey(name),
                })
            }
            _ => tried,
        }
    }

    /// By those that fit, the one that is named first; a token that names none is tried with those
    /// that have no name first.
    fn try_keys(&self, token: &str, header: &Header, keys: &[Key]) -> Result<Identity, Refusal> {
        let fitting = |called: bool| {
            let fits = move |key: &&Key| key.is_called_so(header) == called && key.fits(header);
            keys.iter().filter(fits)
        };
        for key in fitting(true).chain(fitting(false)).take(TRIES_MAX) {
            match decode::<Map<String, Value>>(token, &key.decoding, &key.validation) {
                Ok(data) => {
                    return Identity::of(&data.claims, &self.0.rules, get_current_timestamp());
                }
                Err(error) => match refusal(error.kind()) {
                    Refusal::Signature => {}
                    other => return Err(other),
                },
            }
        }
        Err(Refusal::Signature)
    }
}

/// A key that nothing is tried with would be given in vain: each token is tried with a few, and one
/// that has a name is found by it.
fn all_are_tried(keys: &[Key]) -> Result<(), BadKeys> {
    let unnamed = || keys.iter().filter(|key| key.has_no_name());
    let taking = |algorithm: Algorithm| {
        unnamed().filter(|key| key.validation.algorithms.contains(&algorithm)).count()
    };
    let algorithms = unnamed().flat_map(|key| key.validation.algorithms.iter().copied());
    match algorithms.map(|algorithm| (algorithm, taking(algorithm))).max_by_key(|(_, count)| *count)
    {
        Some((algorithm, count)) if count > TRIES_MAX => Err(BadKeys(format!(
            "{count} keys without a name take {algorithm:?}, and a token is tried with \
             {TRIES_MAX}: give fewer files, or JWKs with a \"kid\" that tokens name"
        ))),
        _ => Ok(()),
    }
}

/// Whether a token says that it was made so lately that its key may be newer than those that were
/// fetched. Nothing proves it: who lies waits for nothing. One of a key that was withdrawn is not,
/// and its client is to be told that it needs another one.
fn is_new(token: &str) -> bool {
    let claims = dangerous::insecure_decode_claims::<Map<String, Value>>(token);
    let issued = claims.ok().and_then(|claims| claims.get("iat")?.as_f64());
    let since = get_current_timestamp().saturating_sub(ASK_INTERVAL.as_secs() + LEEWAY_SECONDS);
    issued.is_some_and(|issued| issued >= since as f64)
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Verifier")
    }
}

/// A header may name a key, and never bring or point to one; what it calls critical is not
/// understood here (RFC 7515 §4.1.11).
fn check(header: &Header) -> Result<(), Refusal> {
    let brings_key = header.jku.is_some()
        || header.jwk.is_some()
        || header.x5u.is_some()
        || header.x5c.is_some();
    let long_name = header.kid.as_ref().is_some_and(|kid| kid.len() > KEY_NAME_BYTES_MAX);
    let typ = header.typ.as_deref().unwrap_or("jwt").to_ascii_lowercase();
    let typ = typ.strip_prefix("application/").unwrap_or(&typ);
    if brings_key || long_name || header.crit.is_some() || !TYPES.contains(&typ) {
        return Err(Refusal::Malformed);
    }
    Ok(())
}

fn refusal(error: &ErrorKind) -> Refusal {
    match error {
        ErrorKind::ExpiredSignature => Refusal::Ended,
        ErrorKind::ImmatureSignature => Refusal::NotYet,
        ErrorKind::InvalidAudience => Refusal::Audience,
        ErrorKind::InvalidIssuer => Refusal::Issuer,
        ErrorKind::MissingRequiredClaim(claim) => match claim.as_str() {
            "aud" => Refusal::Audience,
            "iss" => Refusal::Issuer,
            _ => Refusal::Endless,
        },
        ErrorKind::InvalidClaimFormat(claim) if claim == "exp" => Refusal::Endless,
        ErrorKind::InvalidToken
        | ErrorKind::InvalidClaimFormat(_)
        | ErrorKind::Json(_)
        | ErrorKind::Utf8(_) => Refusal::Malformed,
        _ => Refusal::Signature,
    }
}

#[cfg(test)]
mod tests;
