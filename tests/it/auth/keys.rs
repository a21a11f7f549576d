//! Public keys and those of a provider, on a command line: whose tokens get in, and whose don't.

use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use parlor::auth::mint;
use parlor::client::ClientError;
use parlor::protocol::Token;
use rcgen::KeyPair;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::{SECRET, now, token, with_token};
use crate::harness::{Parts, Person, Stack};

/// A key of P-256, the private half of which signs.
struct Signer {
    private: EncodingKey,
    public_pem: String,
}

impl Signer {
    fn new() -> Self {
        let pair = KeyPair::generate().unwrap();
        let private = EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes()).unwrap();
        Self { private, public_pem: pair.public_key_pem() }
    }

    fn sign(&self, kid: Option<&str>, more: Value) -> Token {
        let header = Header { kid: kid.map(str::to_owned), ..Header::new(Algorithm::ES256) };
        Token::new(encode(&header, &claims(more), &self.private).unwrap())
    }

    fn jwk(&self, kid: &str) -> Value {
        let jwk = Jwk::from_encoding_key(&self.private, Algorithm::ES256).unwrap();
        let mut json = serde_json::to_value(jwk).unwrap();
        json["kid"] = json!(kid);
        json
    }

    /// What one signs who takes the public key for a secret.
    fn confused(&self, more: Value) -> Vec<Token> {
        let texts = [self.public_pem.as_str(), self.public_pem.trim()];
        let sign = |text: &str| mint::signed(text.as_bytes(), &claims(more.clone())).unwrap();
        texts.map(sign).into()
    }
}

fn claims(more: Value) -> Value {
    let mut claims = json!({"sub": "userA", "iat": now(), "exp": now() + 600});
    claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    claims
}

/// How the API and a server take a token of this user.
async fn taken(stack: &Stack, user: &str, token: &Token) -> bool {
    let api = stack.http().token(Some(token.clone()));
    let page = api.get(&format!("/v1/users/{user}/conversations")).await.unwrap();
    let options = with_token(&stack.ws(), user, token.clone());
    let socket = match Person::try_with(&options).await {
        Ok(_) => true,
        Err(ClientError::Refused { status: 401, .. }) => false,
        Err(error) => panic!("{error}"),
    };
    assert_eq!(page.status, if socket { 200 } else { 401 }, "{page:?}");
    socket
}

#[tokio::test]
async fn by_a_public_key_only_its_private_half_signs() {
    let (signer, stranger) = (Signer::new(), Signer::new());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key.pem");
    std::fs::write(&path, &signer.public_pem).unwrap();
    let options = ["--jwt-key-file", path.to_str().unwrap(), "--jwt-audience", "chat,other"];
    let more = ["--jwt-issuer", "https://id.test", "--user-claim", "uid"];
    let options = [&options[..], &more].concat();
    let stack = Stack::start_with(Parts::Embedded, &options).await.unwrap();
    let ours = |more: Value| {
        let mut all = json!({"aud": "chat", "iss": "https://id.test", "uid": 42});
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        all
    };
    assert!(taken(&stack, "42", &signer.sign(None, ours(json!({})))).await);
    let several = ours(json!({"aud": ["x", "other"], "uid": "userB"}));
    assert!(taken(&stack, "userB", &signer.sign(Some("any"), several)).await);
    for wrong in [json!({"aud": "chats"}), json!({"iss": "https://id.test/"}), json!({"uid": null})]
    {
        let token = signer.sign(None, ours(wrong.clone()));
        assert!(!taken(&stack, "42", &token).await, "{wrong}");
    }
    assert!(!taken(&stack, "42", &signer.sign(None, json!({"uid": 42}))).await, "no aud, no iss");
    assert!(!taken(&stack, "42", &stranger.sign(None, ours(json!({})))).await);
    for forged in signer.confused(ours(json!({"scope": "admin"}))) {
        assert!(!taken(&stack, "42", &forged).await, "a public key is no secret");
    }
    stack.stop().await;
}

/// Serves a set of keys, for ever.
async fn provider(keys: Value) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/keys", listener.local_addr().unwrap());
    let body = keys.to_string();
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = [0; 4_096];
            let _ = stream.read(&mut head).await;
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    url
}

/// A file that cannot be opened unnoticed: whoever opens a pipe to read lets its writer go on.
struct Trap {
    path: std::path::PathBuf,
    opened: std::thread::JoinHandle<()>,
    _folder: tempfile::TempDir,
}

impl Trap {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.pem");
        let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(made.success());
        let writer = path.clone();
        let opened = std::thread::spawn(move || {
            // Nothing is written: a reader finds its end.
            drop(std::fs::File::options().write(true).open(writer).unwrap());
        });
        Self { path, opened, _folder: folder }
    }

    /// Nobody has opened it so far; who does so now is noticed.
    fn was_left_alone(self) {
        assert!(!self.opened.is_finished(), "a file that a token names was opened");
        drop(std::fs::File::open(&self.path).unwrap());
        self.opened.join().unwrap();
    }
}

/// Whatever a token says of where its key is, no file is opened for it.
#[tokio::test]
async fn no_token_has_a_file_opened() {
    let (signer, trap) = (Signer::new(), Trap::new());
    let folder = tempfile::tempdir().unwrap();
    let (secret, public) = (folder.path().join("secret"), folder.path().join("public.pem"));
    std::fs::write(&secret, SECRET).unwrap();
    std::fs::write(&public, &signer.public_pem).unwrap();
    let url = provider(json!({"keys": [signer.jwk("one")]})).await;
    let path = trap.path.to_str().unwrap();
    let climbing = format!("{}{path}", "../".repeat(20));
    for options in [
        ["--jwt-secret-file", secret.to_str().unwrap()],
        ["--jwt-key-file", public.to_str().unwrap()],
        ["--jwks-url", &url],
    ] {
        let stack = Stack::start_with(Parts::Embedded, &options).await.unwrap();
        for named in [path, &climbing, &format!("file://{path}"), &format!("{path}\0.jwk")] {
            for place in ["kid", "jku", "x5u"] {
                let header = |algorithm| {
                    let (mut header, named) = (Header::new(algorithm), Some(named.to_owned()));
                    match place {
                        "kid" => header.kid = named,
                        "jku" => header.jku = named,
                        _ => header.x5u = named,
                    }
                    header
                };
                let by_secret = EncodingKey::from_secret(SECRET.as_bytes());
                for (algorithm, key) in
                    [(Algorithm::HS256, &by_secret), (Algorithm::ES256, &signer.private)]
                {
                    let token = encode(&header(algorithm), &claims(json!({})), key).unwrap();
                    let api = stack.http().token(Some(Token::new(token.clone())));
                    let asked = api.get("/v1/users/userA/conversations").await.unwrap();
                    assert!([200, 401, 503].contains(&asked.status), "{place} {named}: {asked:?}");
                    let _ = Person::try_with(&with_token(&stack.ws(), "userA", Token::new(token)))
                        .await;
                }
            }
        }
        stack.stop().await;
    }
    trap.was_left_alone();
}

/// A key that the provider may have by now: who comes again later may get in.
async fn to_come(stack: &Stack, token: &Token) {
    let api = stack.http().token(Some(token.clone()));
    let answer = api.get("/v1/users/userA/conversations").await.unwrap();
    assert_eq!((answer.status, &answer.body["retryable"]), (503, &json!(true)), "{answer:?}");
    assert!(answer.body["retryAfterMs"].as_u64().unwrap() > 1_000, "{answer:?}");
    assert!(answer.body["detail"].as_str().unwrap().contains("no key named two"), "{answer:?}");
    let options = with_token(&stack.ws(), "userA", token.clone());
    let refused = Person::try_with(&options).await.err();
    assert!(matches!(refused, Some(ClientError::Refused { status: 503, .. })), "{refused:?}");
}

#[tokio::test]
async fn a_providers_tokens_are_users_where_that_is_asked_for() {
    let (signer, stranger) = (Signer::new(), Signer::new());
    let url = provider(json!({"keys": [signer.jwk("one")]})).await;
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, SECRET).unwrap();
    let keys = ["--jwks-url", url.as_str(), "--jwt-secret-file", secret.to_str().unwrap()];
    for (more, status) in [(&[][..], 200), (&["--jwks-users-only"], 403)] {
        let options = [&keys[..], more].concat();
        let stack = Stack::start_with(Parts::Embedded, &options).await.unwrap();
        assert!(taken(&stack, "userA", &signer.sign(Some("one"), json!({}))).await);
        assert!(taken(&stack, "userA", &signer.sign(None, json!({}))).await);
        to_come(&stack, &signer.sign(Some("two"), json!({}))).await;
        assert!(!taken(&stack, "userA", &stranger.sign(Some("one"), json!({}))).await);
        for forged in signer.confused(json!({})) {
            assert!(!taken(&stack, "userA", &forged).await);
        }
        let revoke = async |token: Token| {
            let api = stack.http().token(Some(token));
            api.post("/v1/users/userZ/revoke", &json!({})).await.unwrap().status
        };
        assert_eq!(revoke(signer.sign(Some("one"), json!({"scope": "admin"}))).await, status);
        assert_eq!(revoke(token("root", json!({"scope": "admin"}))).await, 200, "one's own");
        stack.stop().await;
    }
}
