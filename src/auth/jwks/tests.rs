//! Against a provider of the test's own, which counts how often it is asked.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use jsonwebtoken::get_current_timestamp;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::auth::testing::*;
use crate::auth::{KeyName, Options, Refusal, Verifier};
use crate::protocol::ErrorCode;

struct Provider {
    url: String,
    answer: Arc<Mutex<Vec<u8>>>,
    asked: Arc<AtomicUsize>,
    slow: Arc<AtomicBool>,
}

impl Provider {
    async fn start(keys: &[Value]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/keys", listener.local_addr().unwrap());
        let (answer, asked): (Arc<Mutex<Vec<u8>>>, Arc<AtomicUsize>) = Default::default();
        let (answering, counting) = (answer.clone(), asked.clone());
        let slow: Arc<AtomicBool> = Arc::default();
        let dawdles = slow.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                counting.fetch_add(1, Ordering::SeqCst);
                let answer = answering.lock().unwrap().clone();
                let dawdles = dawdles.load(Ordering::SeqCst);
                tokio::spawn(async move {
                    let mut read = [0; 1_024];
                    let _ = stream.read(&mut read).await;
                    if dawdles {
                        sleep(Duration::from_millis(300)).await;
                    }
                    let _ = stream.write_all(&answer).await;
                    if answer.is_empty() {
                        sleep(Duration::from_secs(600)).await;
                    }
                });
            }
        });
        let provider = Self { url, answer, asked, slow };
        provider.hold(keys);
        provider
    }

    fn hold(&self, keys: &[Value]) {
        self.say("200 OK", json!({"keys": keys}).to_string().as_bytes());
    }

    fn say(&self, status: &str, body: &[u8]) {
        let length = body.len();
        let head = format!(
            "HTTP/1.1 {status}\r\nLocation: {}\r\nContent-Length: {length}\r\n\
             Connection: close\r\n\r\n",
            self.url
        );
        *self.answer.lock().unwrap() = [head.as_bytes(), body].concat();
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    async fn verifier(&self) -> Verifier {
        let options = Options { jwks_url: Some(self.url.clone()), ..options() };
        Verifier::start(&options).await.unwrap().unwrap()
    }
}

async fn verdict(verifier: &Verifier, pair: &Pair, kid: Option<&str>) -> Result<(), Refusal> {
    let token = pair.sign(&claims(json!({})), |header| header.kid = kid.map(str::to_owned));
    verifier.verify(&token).await.map(|_| ())
}

#[tokio::test]
async fn a_key_that_comes_later_is_asked_for_once_a_minute() {
    let (old, new, foreign) = (Pair::p256(), Pair::ed(), Pair::p256());
    let provider = Provider::start(&[old.jwk("old")]).await;
    let verifier = provider.verifier().await;
    assert_eq!(verdict(&verifier, &old, Some("old")).await, Ok(()));
    assert_eq!(verdict(&verifier, &old, None).await, Ok(()));
    assert_eq!(verdict(&verifier, &foreign, Some("old")).await, Err(Refusal::Signature));
    assert_eq!(provider.asked(), 1, "what is known is not asked for");
    provider.hold(&[old.jwk("old"), new.jwk("new")]);
    // The start was a moment ago.
    for kid in ["new", "x", "../../dev/null"] {
        let refusal = verdict(&verifier, &new, Some(kid)).await.unwrap_err();
        let Refusal::KeyToCome { after_ms, .. } = &refusal else { panic!("{refusal:?}") };
        let minute = u64::try_from(ASK_INTERVAL.as_millis()).unwrap();
        assert!((minute - 30_000..=minute).contains(after_ms), "{refusal}");
        assert!(refusal.to_string().starts_with(&format!("no key named {kid} is ")), "{refusal}");
        assert_eq!((refusal.code(), refusal.counts()), (ErrorCode::Unavailable, true));
    }
    // One that was made before they were fetched is of a key that is gone, or of nobody's.
    let old_one = claims(json!({"iat": get_current_timestamp() - 200}));
    let old_one = new.sign(&old_one, |header| header.kid = Some("new".to_owned()));
    let refusal = verifier.verify(&old_one).await.unwrap_err();
    assert_eq!(refusal, Refusal::UnknownKey(KeyName::new("new")));
    assert_eq!(provider.asked(), 1);
    a_minute_later().await;
    let many = (0..20).map(|_| verdict(&verifier, &new, Some("new")));
    let many = futures_util::future::join_all(many).await;
    assert!(
        many.iter().all(|verdict| *verdict == Ok(())),
        "who waited shares the answer: {many:?}"
    );
    assert_eq!(provider.asked(), 2);
    for _ in 0..20 {
        let refusal = verdict(&verifier, &foreign, Some("made-up")).await;
        assert!(matches!(refusal, Err(Refusal::KeyToCome { .. })), "{refusal:?}");
    }
    assert_eq!(provider.asked(), 2, "made-up names cost the provider nothing");
    // A token of HS256 is no matter of a provider's.
    let confused = hs256(SECRET, json!({}));
    assert_eq!(verifier.verify(&confused).await, Err(Refusal::Signature));
}

async fn a_minute_later() {
    tokio::time::pause();
    tokio::time::advance(ASK_INTERVAL).await;
    tokio::time::resume();
}

#[tokio::test]
async fn a_name_that_the_provider_does_not_know_is_a_verdict() {
    let (old, foreign) = (Pair::p256(), Pair::p256());
    let provider = Provider::start(&[old.jwk("old")]).await;
    let verifier = provider.verifier().await;
    a_minute_later().await;
    let refusal = verdict(&verifier, &foreign, Some("made-up\r\n\"x")).await.unwrap_err();
    assert_eq!(refusal, Refusal::UnknownKey(KeyName::new("made-upx")));
    assert_eq!(refusal.code(), ErrorCode::Unauthorized);
    // Whether a provider that fails has it nobody can say.
    provider.say("500 Down", b"");
    a_minute_later().await;
    let refusal = verdict(&verifier, &foreign, Some("made-up")).await.unwrap_err();
    assert_eq!(refusal.code(), ErrorCode::Unavailable);
    assert_eq!(provider.asked(), 3);
}

/// A provider that takes a moment, and holds a key that is new.
async fn changed(old: &Pair, new: &Pair) -> (Provider, Verifier) {
    let provider = Provider::start(&[old.jwk("old")]).await;
    let verifier = provider.verifier().await;
    provider.hold(&[old.jwk("old"), new.jwk("new")]);
    provider.slow.store(true, Ordering::SeqCst);
    a_minute_later().await;
    (provider, verifier)
}

#[tokio::test]
async fn whoever_asks_and_leaves_keeps_nobody_from_a_new_key() {
    let (old, new) = (Pair::p256(), Pair::ed());
    let (provider, verifier) = changed(&old, &new).await;
    let asking = verdict(&verifier, &old, Some("made-up"));
    assert!(timeout(Duration::from_millis(100), asking).await.is_err(), "it left");
    assert_eq!(verdict(&verifier, &new, Some("new")).await, Ok(()));
    assert_eq!(provider.asked(), 2, "by the one fetch");
}

#[tokio::test]
async fn only_so_many_wait_for_a_fetch() {
    let (old, new) = (Pair::p256(), Pair::ed());
    let (_provider, verifier) = changed(&old, &new).await;
    let many = (0..ASKERS_MAX + 6).map(|_| verdict(&verifier, &new, Some("new")));
    let many = futures_util::future::join_all(many).await;
    let count = |wanted| many.iter().filter(|verdict| **verdict == wanted).count();
    assert_eq!((count(Ok(())), count(Err(Refusal::NoKeys))), (ASKERS_MAX, 6));
}

#[tokio::test]
async fn where_it_is_asked_for_a_providers_tokens_are_users() {
    let (pair, files) = (Pair::p256(), Files::new());
    let provider = Provider::start(&[pair.jwk("one")]).await;
    let options = Options {
        jwks_url: Some(provider.url.clone()),
        jwks_users_only: true,
        jwt_secret_file: vec![files.put("secret", SECRET)],
        ..options()
    };
    let verifier = Verifier::start(&options).await.unwrap().unwrap();
    for scope in ["admin", "service user", "openid"] {
        let token = pair.sign(&claims(json!({"scope": scope})), |_| {});
        let scopes = verifier.verify(&token).await.unwrap().scopes;
        assert_eq!((scopes.user, scopes.service, scopes.admin), (true, false, false), "{scope}");
    }
    let own = verifier.verify(&hs256(SECRET, json!({"scope": "admin"}))).await.unwrap();
    assert!(own.scopes.admin);
}

#[tokio::test]
async fn what_was_fetched_stays_while_the_provider_fails() {
    let (pair, next) = (Pair::p256(), Pair::p256());
    let provider = Provider::start(&[pair.jwk("one")]).await;
    let verifier = provider.verifier().await;
    let jwks = verifier.provider().unwrap();
    let huge = vec![b' '; FETCH_BYTES_MAX + 1];
    for (status, body) in [
        ("500 Down", &b"{}"[..]),
        ("302 Found", b""),
        ("200 OK", b"<html>"),
        ("200 OK", b"{}"),
        ("200 OK", br#"{"keys": null}"#),
        ("200 OK", br#"{"keys": {}}"#),
        ("200 OK", huge.as_slice()),
    ] {
        provider.say(status, body);
        let before = provider.asked();
        jwks.refresh().await;
        assert!(verifier.trouble().is_some(), "{status}");
        assert_eq!(provider.asked(), before + 1, "a redirect is not followed");
        assert_eq!(verdict(&verifier, &pair, Some("one")).await, Ok(()), "{status}");
    }
    provider.hold(&[next.jwk("two")]);
    jwks.refresh().await;
    assert_eq!(verifier.trouble(), None);
    assert_eq!(verdict(&verifier, &next, Some("two")).await, Ok(()));
    let withdrawn = verdict(&verifier, &pair, Some("one")).await;
    assert!(matches!(withdrawn, Err(Refusal::KeyToCome { .. })), "{withdrawn:?}");
}

/// How a provider whose keys were stolen takes all of them back at once.
#[tokio::test]
async fn a_set_without_keys_replaces_those_before_it() {
    let pair = Pair::p256();
    let secret = json!({"kty": "oct", "kid": "one", "alg": "HS256", "k": "AAAA"});
    let short = json!({"kty": "EC", "crv": "P-256", "kid": "one", "x": "AAAA", "y": "AAAA"});
    for none in [vec![], vec![json!({"use": "enc"})], vec![secret], vec![short]] {
        let provider = Provider::start(&[pair.jwk("one")]).await;
        let verifier = provider.verifier().await;
        let jwks = verifier.provider().unwrap();
        assert_eq!(verdict(&verifier, &pair, Some("one")).await, Ok(()));
        provider.hold(&none);
        jwks.refresh().await;
        assert!(verifier.trouble().unwrap().contains("no key"), "{none:?}");
        for kid in [None, Some("one")] {
            assert_eq!(verdict(&verifier, &pair, kid).await, Err(Refusal::NoKeys), "{none:?}");
        }
        a_minute_later().await;
        let refusal = verdict(&verifier, &pair, Some("one")).await.unwrap_err();
        assert_eq!(refusal, Refusal::NoKeys, "it was asked just now");
        provider.hold(&[pair.jwk("one")]);
        jwks.refresh().await;
        assert_eq!(verdict(&verifier, &pair, Some("one")).await, Ok(()));
        assert_eq!(verifier.trouble(), None);
    }
}

#[tokio::test]
async fn keys_are_believed_for_a_day_while_the_provider_fails() {
    let pair = Pair::p256();
    let provider = Provider::start(&[pair.jwk("one")]).await;
    let verifier = provider.verifier().await;
    let jwks = verifier.provider().unwrap();
    provider.say("500 Down", b"");
    let later = async |time: Duration| {
        tokio::time::pause();
        tokio::time::advance(time).await;
        tokio::time::resume();
        jwks.refresh().await;
    };
    later(KEYS_AGE_MAX - Duration::from_secs(60)).await;
    for kid in [Some("one"), None] {
        assert_eq!(verdict(&verifier, &pair, kid).await, Ok(()), "{kid:?}");
    }
    later(Duration::from_secs(61)).await;
    for kid in [Some("one"), None] {
        assert_eq!(verdict(&verifier, &pair, kid).await, Err(Refusal::NoKeys), "{kid:?}");
    }
    provider.hold(&[pair.jwk("one")]);
    later(Duration::ZERO).await;
    assert_eq!(verdict(&verifier, &pair, Some("one")).await, Ok(()));
}

#[test]
fn a_password_in_the_address_is_not_taken_and_not_repeated() {
    for url in [
        "https://user:hush@id.example/keys",
        "https://hush@id.example",
        "http://user:hush@127.0.0.1/",
        "https://user:hush@",
        "user:hush@id.example/keys",
    ] {
        let Err(BadKeys(said)) = Jwks::new(url, Arc::default()) else { panic!("taken: {url}") };
        assert!(said.contains("password") && !said.contains("hush"), "{said}");
    }
    let harmless = "https://id.example/keys?of=a@b";
    assert!(Jwks::new(harmless, Arc::default()).is_ok());
}

#[tokio::test]
async fn a_provider_that_never_answered_is_no_verdict() {
    let pair = Pair::p256();
    let provider = Provider::start(&[]).await;
    provider.say("500 Down", b"");
    let verifier = provider.verifier().await;
    assert_eq!(verdict(&verifier, &pair, Some("one")).await, Err(Refusal::NoKeys));
    assert_eq!(Refusal::NoKeys.code(), ErrorCode::Unavailable);
    provider.hold(&[pair.jwk("one")]);
    verifier.provider().unwrap().refresh().await;
    assert_eq!(verdict(&verifier, &pair, Some("one")).await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_fetch_ends_in_time() {
    let provider = Provider::start(&[]).await;
    provider.answer.lock().unwrap().clear();
    let begun = Instant::now();
    let verifier = provider.verifier().await;
    assert!(begun.elapsed() < FETCH_PATIENCE * 2, "{:?}", begun.elapsed());
    assert!(verifier.trouble().unwrap().contains("in time"));
}

#[tokio::test]
async fn a_fetch_that_fails_says_what_was_at_the_bottom_of_it() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let url = Some(format!("http://{closed}/keys"));
    let verifier = Verifier::start(&Options { jwks_url: url, ..options() }).await.unwrap().unwrap();
    let trouble = verifier.trouble().unwrap();
    assert!(trouble.contains("Connection refused"), "{trouble}");
}

#[test]
fn only_loopback_goes_without_tls() {
    for (url, good) in [
        ("http://127.0.0.1:9/keys", true),
        ("http://[::1]:9/keys", true),
        ("http://localhost/keys", true),
        ("https://id.example/keys", true),
        ("http://id.example/keys", false),
        ("http://localhost.evil/keys", false),
        ("http://127.0.0.1@evil/keys", false),
        ("file:///etc/passwd", false),
    ] {
        assert_eq!(Jwks::new(url, Arc::default()).is_ok(), good, "{url}");
    }
}
