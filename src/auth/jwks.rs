//! The keys of an identity provider (RFC 7517 §5), fetched, kept, and fetched again.
//!
//! A fetch is bounded in time and size and follows no redirect. What was fetched stays while the
//! provider does not answer, for a day: its outage locks nobody out who holds a good token, and a
//! key that it has withdrawn is not believed for ever. A set of keys replaces the one before it,
//! whatever it holds: one without keys takes all of them back. A key that is not
//! known is asked for at most once a minute, so that tokens that name made-up keys cost the
//! provider nothing, and by a task of its own, which ends whether or not whoever asked stays.

use std::io::Error;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::Uri;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::{ClientConfig, RootCertStore};
use serde::Deserialize;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};

use super::key::{Key, Rules};
use super::{BadKeys, Refusal};

/// How long a fetch may take.
const FETCH_PATIENCE: Duration = Duration::from_secs(5);
/// The longest answer, in bytes.
const FETCH_BYTES_MAX: usize = 256 * 1024;
/// The most keys that are kept.
const KEYS_MAX: usize = 64;
/// A key that is not known is asked for so often.
pub(super) const ASK_INTERVAL: Duration = Duration::from_secs(60);
/// How many tokens wait for a fetch at a time; others are told to come again.
const ASKERS_MAX: usize = 64;
/// Keys are fetched again so often: how long a key that the provider has withdrawn may go on.
const REFRESH_INTERVAL: Duration = Duration::from_secs(600);
/// As long as there are none.
const FIRST_INTERVAL: Duration = Duration::from_secs(5);
/// So old are those that were fetched, at most.
const KEYS_AGE_MAX: Duration = Duration::from_secs(24 * 3_600);

type Https = Client<HttpsConnector<HttpConnector>, Empty<Bytes>>;

/// The keys at one address.
pub(super) struct Jwks {
    url: Uri,
    client: Https,
    rules: Arc<Rules>,
    keys: RwLock<Option<Fetched>>,
    /// When they last answered, or did not; held during a fetch, so that who asks meanwhile shares
    /// it.
    asked: tokio::sync::Mutex<Option<Instant>>,
    askers: Arc<Semaphore>,
    trouble: Mutex<Option<String>>,
}

/// Keys, and when the provider has said that they are its own.
struct Fetched {
    at: Instant,
    keys: Arc<Vec<Key>>,
}

#[derive(Deserialize)]
struct Set {
    keys: Vec<serde_json::Value>,
}

impl Jwks {
    pub fn new(url: &str, rules: Arc<Rules>) -> Result<Self, BadKeys> {
        let authority = url.split_once("://").map_or(url, |(_, rest)| rest);
        if authority.split(['/', '?', '#']).next().is_some_and(|name| name.contains('@')) {
            // It would stand in logs and in `ps`, and is not sent.
            let text = "--jwks-url: leave name and password out of it: keys are public";
            return Err(BadKeys(text.to_owned()));
        }
        let bad = |what: &str| BadKeys(format!("--jwks-url {url}: {what}"));
        let uri: Uri = url.parse().map_err(|_| bad("it is no URL"))?;
        match uri.scheme_str() {
            Some("https") => {}
            Some("http") if is_loopback(&uri) => {}
            Some("http") => return Err(bad("keys come by https; http is for loopback alone")),
            _ => return Err(bad("it must begin with https://")),
        }
        let connector = connector(uri.scheme_str() == Some("https"));
        let connector = connector.map_err(|error| bad(&format!("TLS: {error}")))?;
        Ok(Self {
            url: uri,
            client: Client::builder(TokioExecutor::new()).build(connector),
            rules,
            keys: RwLock::default(),
            asked: tokio::sync::Mutex::default(),
            askers: Arc::new(Semaphore::new(ASKERS_MAX)),
            trouble: Mutex::default(),
        })
    }

    /// What was fetched last; `None` where nothing was lately.
    pub fn keys(&self) -> Option<Arc<Vec<Key>>> {
        let fetched = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        let fetched = fetched.as_ref().filter(|fetched| fetched.at.elapsed() < KEYS_AGE_MAX);
        fetched.map(|fetched| fetched.keys.clone())
    }

    /// Why the last fetch failed, if it did, or brought nothing.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Fetches again for a key that is not known, unless that was done a moment ago: then it gives
    /// how long they are not asked for again, and the keys may be others by now.
    pub async fn ask_again(self: &Arc<Self>) -> Result<Option<Duration>, Refusal> {
        let lately = |asked: &Option<Instant>| {
            let since = asked.as_ref().map(Instant::elapsed);
            since.and_then(|since| ASK_INTERVAL.checked_sub(since)).filter(|left| !left.is_zero())
        };
        if let Ok(asked) = self.asked.try_lock()
            && let Some(left) = lately(&asked)
        {
            return Ok(Some(left));
        }
        let Ok(permit) = self.askers.clone().try_acquire_owned() else {
            return Err(Refusal::NoKeys);
        };
        let jwks = self.clone();
        // Whoever asks may leave in the middle, and others would have to wait for a minute.
        let asking = tokio::spawn(async move {
            let _permit = permit;
            let mut asked = jwks.asked.lock().await;
            // One that ended while this waited has the answer.
            let mut answered = true;
            if lately(&asked).is_none() {
                answered = jwks.fetch().await;
                *asked = Some(Instant::now());
            }
            // One that failed says nothing of what there is.
            (!answered).then_some(ASK_INTERVAL)
        });
        asking.await.map_err(|_| Refusal::NoKeys)
    }

    /// Fetches.
    pub async fn refresh(&self) {
        let mut asked = self.asked.lock().await;
        self.fetch().await;
        *asked = Some(Instant::now());
    }

    /// Fetches again and again, for ever.
    pub async fn keep(&self) {
        loop {
            let none = self.keys().is_none_or(|keys| keys.is_empty());
            sleep(if none { FIRST_INTERVAL } else { REFRESH_INTERVAL }).await;
            self.refresh().await;
        }
    }

    /// Whether the provider has said which keys it has.
    async fn fetch(&self) -> bool {
        let begun = Instant::now();
        let fetched = timeout(FETCH_PATIENCE, self.try_fetch()).await;
        let fetched = fetched.unwrap_or_else(|_| Err("no answer in time".to_owned()));
        let answered = fetched.is_ok();
        let trouble = match fetched {
            Ok(keys) => {
                let none = keys.is_empty();
                let fetched = Fetched { at: begun, keys: Arc::new(keys) };
                *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Some(fetched);
                none.then(|| "the provider has no key that can be used".to_owned())
            }
            Err(error) => Some(format!("the keys could not be fetched: {error}")),
        };
        if let Some(trouble) = &trouble {
            tracing::warn!(url = %self.url, "{trouble}");
        }
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
        answered
    }

    async fn try_fetch(&self) -> Result<Vec<Key>, String> {
        let answer = self.client.get(self.url.clone()).await.map_err(|error| in_words(&error))?;
        if answer.status() != 200 {
            return Err(format!("it answered {}", answer.status().as_u16()));
        }
        let body = Limited::new(answer.into_body(), FETCH_BYTES_MAX).collect().await;
        let body = body.map_err(|error| in_words(&*error))?.to_bytes();
        keys_in(&body, &self.rules)
    }
}

/// The keys of a set that can be used.
pub(super) fn keys_in(set: &[u8], rules: &Rules) -> Result<Vec<Key>, String> {
    let set: Set = serde_json::from_slice(set).map_err(|_| "that is no set of keys")?;
    let mut keys = Vec::new();
    for json in set.keys.iter().take(KEYS_MAX) {
        match Key::jwk(json, rules) {
            Ok(key) => keys.push(key),
            // Of other kinds, or for other things: sets hold such.
            Err(why) => tracing::debug!(why, "a key of the provider is left out"),
        }
    }
    Ok(keys)
}

/// What an error says, and what is at the bottom of it: a refused connection, a certificate.
fn in_words(error: &(dyn std::error::Error + 'static)) -> String {
    let mut last = error;
    while let Some(cause) = last.source() {
        last = cause;
    }
    let (kind, cause) = (error.to_string(), last.to_string());
    if kind == cause { kind } else { format!("{kind}: {cause}") }
}

/// By the root certificates of the system, which loopback does without.
fn connector(by_tls: bool) -> std::io::Result<HttpsConnector<HttpConnector>> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = HttpsConnectorBuilder::new();
    let builder = if by_tls {
        builder.with_provider_and_native_roots(provider)?
    } else {
        let config = ClientConfig::builder_with_provider(provider);
        let config = config.with_safe_default_protocol_versions().map_err(Error::other)?;
        let trusted = config.with_root_certificates(RootCertStore::empty());
        builder.with_tls_config(trusted.with_no_client_auth())
    };
    Ok(builder.https_or_http().enable_http1().build())
}

fn is_loopback(url: &Uri) -> bool {
    let host = url.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests;
