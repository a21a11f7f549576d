//! Good tokens of every kind of key, and the classic ways to forge one.

use super::*;
use crate::auth::testing::*;
use serde_json::json;

async fn with(options: Options) -> Verifier {
    Verifier::start(&options).await.unwrap().unwrap()
}

async fn by_key(pem: &str) -> Verifier {
    let files = Files::new();
    with(Options { jwt_key_file: vec![files.put("key.pem", pem.as_bytes())], ..options() }).await
}

async fn verdict(verifier: &Verifier, token: Token) -> Result<String, Refusal> {
    verifier.verify(&token).await.map(|identity| identity.user.to_string())
}

#[tokio::test]
async fn every_kind_of_key_takes_its_own_tokens_and_no_others() {
    let pairs = [Pair::rsa(), Pair::p256(), Pair::p384(), Pair::ed()];
    for (at, pair) in pairs.iter().enumerate() {
        let files = Files::new();
        let pem = by_key(&pair.public_pem).await;
        let jwk = files.put("key.json", pair.jwk("k").to_string().as_bytes());
        let jwk = with(Options { jwt_key_file: vec![jwk], ..options() }).await;
        for verifier in [&pem, &jwk] {
            for (of, signer) in pairs.iter().enumerate() {
                let token = signer.sign(&claims(json!({})), |_| {});
                let expected =
                    if of == at { Ok("userA".to_owned()) } else { Err(Refusal::Signature) };
                assert_eq!(verdict(verifier, token).await, expected, "{of} at {at}");
            }
            let hs256 = hs256(SECRET, json!({}));
            assert_eq!(verdict(verifier, hs256).await, Err(Refusal::Signature));
        }
    }
    let secret = by_secret().await;
    assert_eq!(verdict(&secret, hs256(SECRET, json!({}))).await.as_deref(), Ok("userA"));
    let foreign = hs256(b"another secret, of 32 bytes and more", json!({}));
    assert_eq!(verdict(&secret, foreign).await, Err(Refusal::Signature));
}

#[tokio::test]
async fn a_public_key_is_never_a_secret() {
    for pair in [Pair::rsa(), Pair::p256(), Pair::ed()] {
        let verifier = by_key(&pair.public_pem).await;
        let trimmed = pair.public_pem.trim().as_bytes();
        for secret in [pair.public_pem.as_bytes(), trimmed, b"", SECRET] {
            let forged = hs256(secret, json!({"scope": "admin"}));
            assert_eq!(verdict(&verifier, forged).await, Err(Refusal::Signature));
        }
    }
}

#[tokio::test]
async fn what_is_not_signed_is_not_taken() {
    let verifier = by_secret().await;
    let payload = part(&claims(json!({})).to_string());
    let good = hs256(SECRET, json!({}));
    let (head, signature) = good.reveal().rsplit_once('.').unwrap();
    let mut forged = Vec::new();
    for alg in ["none", "None", "NONE", "nOnE", "HS384", "HS512", "RS256", "ES256", "", "HS256 "] {
        let header = part(&json!({"alg": alg, "typ": "JWT"}).to_string());
        forged.push(format!("{header}.{payload}."));
        forged.push(format!("{header}.{payload}.{signature}"));
        forged.push(format!("{header}.{payload}"));
    }
    let headless = part("{}");
    let other = part(&claims(json!({"sub": "userB"})).to_string());
    let (header, _) = head.split_once('.').unwrap();
    forged.extend([
        String::new(),
        ".".to_owned(),
        "..".to_owned(),
        format!("{head}."),
        format!("{head}.{}", &signature[1..]),
        format!("{head}.{signature}="),
        format!("{head}.{signature}.{signature}"),
        format!("{headless}.{payload}.{signature}"),
        format!("{header}.{other}.{signature}"),
        format!("{header} .{payload}.{signature}"),
        format!("{}.{payload}.{signature}", "A".repeat(4_000)),
    ]);
    for token in forged {
        let refusal = verdict(&verifier, Token::new(token.as_str())).await.unwrap_err();
        assert!(matches!(refusal, Refusal::Malformed | Refusal::Signature), "{token}: {refusal:?}");
    }
    assert_eq!(verdict(&verifier, good).await.as_deref(), Ok("userA"));
}

#[tokio::test]
async fn a_header_names_a_key_and_brings_none() {
    let pair = Pair::p256();
    let verifier = by_key(&pair.public_pem).await;
    let sign = |change: fn(&mut Header)| pair.sign(&claims(json!({})), change);
    for kid in ["../../../../dev/null", "/etc/passwd", "http://127.0.0.1:9/keys", "' OR 1=1 --", ""]
    {
        // A key without a name takes them all: a name is compared, never followed.
        let token = pair.sign(&claims(json!({})), |header| header.kid = Some(kid.to_owned()));
        assert_eq!(verdict(&verifier, token).await.as_deref(), Ok("userA"), "{kid}");
    }
    let bad: [fn(&mut Header); 9] = [
        |header| header.kid = Some("k".repeat(257)),
        |header| header.jku = Some("http://127.0.0.1:9/keys".to_owned()),
        |header| header.x5u = Some("http://127.0.0.1:9/keys".to_owned()),
        |header| header.x5c = Some(vec!["AAAA".to_owned()]),
        |header| header.jwk = serde_json::from_value(Pair::p256().jwk("k")).ok(),
        |header| header.crit = Some(vec!["b64".to_owned()]),
        |header| header.crit = Some(Vec::new()),
        |header| header.typ = Some("refresh".to_owned()),
        |header| header.typ = Some("logout+jwt".to_owned()),
    ];
    for change in bad {
        assert_eq!(verdict(&verifier, sign(change)).await, Err(Refusal::Malformed));
    }
    let good: [fn(&mut Header); 3] = [
        |header| header.typ = None,
        |header| header.typ = Some("at+JWT".to_owned()),
        |header| header.typ = Some("application/at+jwt".to_owned()),
    ];
    for change in good {
        assert_eq!(verdict(&verifier, sign(change)).await.as_deref(), Ok("userA"));
    }
}

#[tokio::test]
async fn a_key_with_a_name_takes_only_tokens_that_name_it_or_none() {
    let (pair, files) = (Pair::ed(), Files::new());
    let set = json!({"keys": [pair.jwk("one")]}).to_string();
    let key = files.put("key.json", set.as_bytes());
    let verifier = with(Options { jwt_key_file: vec![key], ..options() }).await;
    for (kid, good) in [(None, true), (Some("one"), true), (Some("ONE"), false), (Some("x"), false)]
    {
        let change = |header: &mut Header| header.kid = kid.map(str::to_owned);
        let token = pair.sign(&claims(json!({})), change);
        assert_eq!(verdict(&verifier, token).await.is_ok(), good, "{kid:?}");
    }
}

#[tokio::test]
async fn times_have_a_minute_of_leeway() {
    let verifier = by_secret().await;
    let now = jsonwebtoken::get_current_timestamp();
    for (changes, expected) in [
        (json!({"exp": now - 30}), Ok("userA".to_owned())),
        (json!({"exp": now - 90}), Err(Refusal::Ended)),
        (json!({"exp": 0}), Err(Refusal::Ended)),
        (json!({"exp": null}), Err(Refusal::Endless)),
        (json!({"exp": "9999999999"}), Err(Refusal::Endless)),
        (json!({"exp": (now + 600).to_string()}), Err(Refusal::Endless)),
        (json!({"exp": [now + 600]}), Err(Refusal::Malformed)),
        (json!({"exp": now + 3_650 * 86_400}), Err(Refusal::Endless)),
        (json!({"nbf": now + 30}), Ok("userA".to_owned())),
        (json!({"nbf": now + 90}), Err(Refusal::NotYet)),
        (json!({"nbf": "soon"}), Err(Refusal::Malformed)),
        (json!({"iat": now + 90}), Err(Refusal::NotYet)),
    ] {
        let token = hs256(SECRET, changes.clone());
        assert_eq!(verdict(&verifier, token).await, expected, "{changes}");
    }
}

#[tokio::test]
async fn audience_and_issuer_must_be_ours() {
    let files = Files::new();
    let secret = vec![files.put("secret", SECRET)];
    let strict = with(Options {
        jwt_secret_file: secret.clone(),
        jwt_audience: vec!["chat".to_owned(), "chat-2".to_owned()],
        jwt_issuer: vec!["https://id.example".to_owned()],
        ..options()
    });
    let (strict, lax) = (strict.await, by_secret().await);
    let ours = json!({"aud": "chat", "iss": "https://id.example"});
    let of = |changes: Value| {
        let mut all = ours.clone();
        all.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        hs256(SECRET, all)
    };
    for (changes, expected) in [
        (json!({}), Ok("userA".to_owned())),
        (json!({"aud": ["billing", "chat-2"]}), Ok("userA".to_owned())),
        (json!({"aud": "billing"}), Err(Refusal::Audience)),
        (json!({"aud": ["billing"]}), Err(Refusal::Audience)),
        (json!({"aud": "chat "}), Err(Refusal::Audience)),
        (json!({"aud": null}), Err(Refusal::Audience)),
        (json!({"aud": 7}), Err(Refusal::Audience)),
        (json!({"iss": "https://id.example.evil"}), Err(Refusal::Issuer)),
        (json!({"iss": null}), Err(Refusal::Issuer)),
        (json!({"iss": {"a": 1}}), Err(Refusal::Issuer)),
    ] {
        assert_eq!(verdict(&strict, of(changes.clone())).await, expected, "{changes}");
    }
    // Without an audience of our own one in a token is somebody else's (RFC 7519 §4.1.3).
    assert_eq!(verdict(&lax, of(json!({}))).await, Err(Refusal::Audience));
    assert_eq!(verdict(&lax, of(json!({"aud": null}))).await.as_deref(), Ok("userA"));
    // What is in no form of an audience is somebody else's as well.
    for aud in [json!(7), json!({"a": 1}), json!(true), json!([]), json!(["chat", 7]), json!("")] {
        let token = of(json!({"aud": aud}));
        assert_eq!(verdict(&lax, token).await, Err(Refusal::Audience), "{aud}");
    }
    for aud in [json!({"chat": 1}), json!(["chat", 7]), json!([["chat"]])] {
        let token = of(json!({"aud": aud}));
        assert_eq!(verdict(&strict, token).await, Err(Refusal::Audience), "{aud}");
    }
    for iss in [json!(["https://id.example"]), json!([]), json!(7)] {
        let token = of(json!({"iss": iss}));
        assert_eq!(verdict(&strict, token).await, Err(Refusal::Issuer), "{iss}");
    }
}

/// Two parsers could read two tokens there.
#[tokio::test]
async fn claims_that_stand_there_twice_are_refused() {
    let verifier = by_secret().await;
    let now = get_current_timestamp();
    let header = part(r#"{"alg":"HS256"}"#);
    let verdict = async |claims: &str| {
        let message = format!("{header}.{}", part(claims));
        let key = jsonwebtoken::EncodingKey::from_secret(SECRET);
        let algorithm = Algorithm::HS256;
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, algorithm).unwrap();
        verdict(&verifier, Token::new(format!("{message}.{signature}"))).await
    };
    let exp = now + 600;
    let good = format!(r#"{{"sub":"userA","exp":{exp}}}"#);
    assert_eq!(verdict(&good).await.as_deref(), Ok("userA"));
    for twice in [
        format!(r#"{{"sub":"userA","sub":"userB","exp":{exp}}}"#),
        format!(r#"{{"sub":"userA","exp":{exp},"exp":{}}}"#, exp + 1),
        format!(r#"{{"sub":"userA","exp":1,"exp":{exp}}}"#),
        format!(r#"{{"sub":"userA","exp":{exp},"nbf":{exp},"nbf":1}}"#),
        format!(r#"{{"sub":"userA","exp":{exp},"aud":"x","aud":null}}"#),
        format!(r#"{{"sub":"userA","exp":{exp},"iss":"x","iss":"y"}}"#),
    ] {
        assert_eq!(verdict(&twice).await, Err(Refusal::Malformed), "{twice}");
    }
}

#[tokio::test]
async fn a_jwks_algorithm_narrows_its_key_to_that_one() {
    let (pair, files) = (Pair::rsa(), Files::new());
    let mut jwk = pair.jwk("k");
    jwk["alg"] = json!("PS256");
    let key = files.put("key.json", jwk.to_string().as_bytes());
    let verifier = with(Options { jwt_key_file: vec![key], ..options() }).await;
    let by = |algorithm| pair.sign(&claims(json!({})), |header| header.alg = algorithm);
    assert_eq!(verdict(&verifier, by(Algorithm::PS256)).await.as_deref(), Ok("userA"));
    for other in [Algorithm::RS256, Algorithm::PS384, Algorithm::RS512] {
        assert_eq!(verdict(&verifier, by(other)).await, Err(Refusal::Signature), "{other:?}");
    }
    let verifier = by_key(&pair.public_pem).await;
    assert_eq!(verdict(&verifier, by(Algorithm::PS256)).await, Err(Refusal::Signature));
}

const RSA_1024: &str = "-----BEGIN PUBLIC KEY-----\n\
    MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQC8rZMwWqG3F4KjpAzYPJfPZ1pX\n\
    qio9gmMVkFU0q0wlax3rjD93TWRhp+iR4q1Z/5P2JVLEzkbBii3WseDAAUAqiOBT\n\
    uJC06VkjsXh9TSRfU1rRf/LtUbDsv6f5jL6ENJjB/wkBSqVFDX1t6KBMN+Oy1Xd1\n\
    3/UH+jNoexaYXfWf8QIDAQAB\n\
    -----END PUBLIC KEY-----\n";
const SECP256K1: &str = "-----BEGIN PUBLIC KEY-----\n\
    MFYwEAYHKoZIzj0CAQYFK4EEAAoDQgAE7M5ZVl5afCCYQhcr84xZGkxDBiUN0uHM\n\
    NnyxcZVMINBxQHZEOU8x7OGxF/gLMh1CfGIQAfqhW03+YBGoswDbJg==\n\
    -----END PUBLIC KEY-----\n";

#[tokio::test]
async fn keys_that_would_take_nothing_are_said_at_the_start() {
    let (files, pair, rsa) = (Files::new(), Pair::p256().jwk("k"), Pair::rsa().jwk("k"));
    let with = |jwk: &Value, name: &str, value: &str| {
        let mut changed = jwk.clone();
        changed[name] = json!(value);
        changed.to_string()
    };
    let coordinate = pair["x"].as_str().unwrap().to_owned();
    let n = rsa["n"].as_str().unwrap().to_owned();
    for (key, said) in [
        (RSA_1024.to_owned(), "2,048 bits"),
        (with(&rsa, "n", &n[..172]), "2,048 bits"),
        (SECP256K1.to_owned(), "P-256"),
        (with(&pair, "crv", "secp256k1"), "not known"),
        (with(&pair, "x", &coordinate[..40]), "length"),
        (with(&pair, "y", &format!("{coordinate}AAAA")), "length"),
        (with(&pair, "crv", "P-384"), "alg"),
        (with(&Pair::ed().jwk("k"), "x", "AAAA"), "32 bytes"),
    ] {
        let path = files.put("key", key.as_bytes());
        let started = Verifier::start(&Options { jwt_key_file: vec![path], ..options() }).await;
        let Err(BadKeys(text)) = started else { panic!("taken: {key}") };
        assert!(text.contains(said), "{said}: {text}");
    }
    let secret = by_secret().await;
    let header = part(r#"{"alg":"ES256K","typ":"JWT"}"#);
    let token = Token::new(format!("{header}.{}.AAAA", part(&claims(json!({})).to_string())));
    assert_eq!(verdict(&secret, token).await, Err(Refusal::Malformed));
}

/// Each token is tried with four: a fifth without a name would be given in vain.
#[tokio::test]
async fn more_keys_without_a_name_than_are_tried_are_refused_at_the_start() {
    let files = Files::new();
    let secret = |n: usize| format!("secret number {n}, of 32 bytes and more");
    let path = |n: usize| files.put(&format!("secret-{n}"), secret(n).as_bytes());
    let secrets = |count: usize| (0..count).map(path).collect::<Vec<_>>();
    let few = with(Options { jwt_secret_file: secrets(TRIES_MAX), ..options() }).await;
    for n in 0..TRIES_MAX {
        let token = hs256(secret(n).as_bytes(), json!({}));
        assert_eq!(verdict(&few, token).await.as_deref(), Ok("userA"), "{n}");
    }
    let many = Options { jwt_secret_file: secrets(TRIES_MAX + 1), ..options() };
    let Err(BadKeys(said)) = Verifier::start(&many).await else { panic!("taken") };
    assert!(said.contains("5 keys") && said.contains("HS256") && said.contains("kid"), "{said}");
    // Those that have names are found by them, however many there are, and hide no other one.
    let pairs: Vec<_> = (0..6).map(|_| Pair::p256()).collect();
    let unnamed = Pair::p256();
    let named: Vec<_> =
        pairs.iter().enumerate().map(|(n, pair)| pair.jwk(&n.to_string())).collect();
    let set = files.put("set.json", json!({"keys": named}).to_string().as_bytes());
    let pem = files.put("key.pem", unnamed.public_pem.as_bytes());
    let verifier = with(Options { jwt_key_file: vec![set, pem], ..options() }).await;
    for (n, pair) in pairs.iter().enumerate() {
        let token = pair.sign(&claims(json!({})), |header| header.kid = Some(n.to_string()));
        assert_eq!(verdict(&verifier, token).await.as_deref(), Ok("userA"), "{n}");
    }
    let token = unnamed.sign(&claims(json!({})), |_| {});
    assert_eq!(verdict(&verifier, token).await.as_deref(), Ok("userA"));
}

/// The claims of the recipes in `docs/auth.md`, as they stand there.
#[tokio::test]
async fn what_the_recipes_make_is_taken() {
    let page = include_str!("../../../docs/auth.md");
    for line in [
        r#"jwt.sign({}, secret, { subject: String(request.user.id), expiresIn: "30m", "#,
        r#"expiresIn: "30m", algorithm: "HS256" })"#,
        r#"claims = {"sub": str(request.user.pk), "iat": now, "exp": now + 30 * 60}"#,
        r#"jwt.encode(claims, SECRET, algorithm="HS256")"#,
        r#"json!({"sub": user.id.to_string(), "iat": now, "exp": now + 30 * 60})"#,
        r#"encode(&Header::new(Algorithm::HS256), &claims, &key)"#,
        // Each reads the secret as it is read here.
        r#"readFileSync(process.env.PARLOR_JWT_SECRET_FILE, "utf8").replace(/\r?\n$/, "")"#,
        r#"Path(settings.PARLOR_JWT_SECRET_FILE).read_text().removesuffix("\n")"#,
        r#"// the file, without its \n"#,
    ] {
        assert!(page.contains(line), "the page says something else than is tried here: {line}");
    }
    let files = Files::new();
    let secret = files.put("secret", &[SECRET, b"\n"].concat());
    let verifier = with(Options { jwt_secret_file: vec![secret], ..options() }).await;
    let now = get_current_timestamp();
    let claims = json!({"sub": "17", "iat": now, "exp": now + 30 * 60});
    let key = jsonwebtoken::EncodingKey::from_secret(SECRET);
    // `jsonwebtoken` of Node.js and PyJWT write the type, in this order or the other.
    let token = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key).unwrap();
    assert_eq!(verdict(&verifier, Token::new(token)).await.as_deref(), Ok("17"));
}

#[tokio::test]
async fn a_token_is_bounded_before_it_is_read() {
    let verifier = by_secret().await;
    let filled = |bytes: usize| hs256(SECRET, json!({"fill": "x".repeat(bytes)}));
    assert_eq!(verdict(&verifier, filled(5_000)).await.as_deref(), Ok("userA"));
    assert_eq!(verdict(&verifier, filled(16_000)).await, Err(Refusal::TooLong));
    let deep = format!("{{\"sub\":\"a\",\"exp\":1,\"x\":{}{}}}", "[".repeat(900), "]".repeat(900));
    let head = part(r#"{"alg":"HS256"}"#);
    let token = Token::new(format!("{head}.{}.AAAA", part(&deep)));
    assert_eq!(verdict(&verifier, token).await, Err(Refusal::Signature));
}

#[tokio::test]
async fn several_secrets_are_taken_while_one_is_changed() {
    let (files, new) = (Files::new(), b"the next secret, which is 32 bytes too");
    let both = vec![files.put("new", new), files.put("old", [SECRET, b"\n"].concat().as_slice())];
    let verifier = with(Options { jwt_secret_file: both, ..options() }).await;
    for secret in [SECRET, new] {
        assert_eq!(verdict(&verifier, hs256(secret, json!({}))).await.as_deref(), Ok("userA"));
    }
}

#[tokio::test]
async fn of_a_secrets_end_only_the_line_break_is_left_out() {
    let files = Files::new();
    let spaced: &[u8] = b"a secret that ends with a blank, 32 bytes ";
    for (end, secret) in [
        ("", spaced.to_vec()),
        ("\n", spaced.to_vec()),
        ("\r\n", spaced.to_vec()),
        ("\n\n", [spaced, b"\n"].concat()),
        ("\r", [spaced, b"\r"].concat()),
    ] {
        let path = files.put("secret", &[spaced, end.as_bytes()].concat());
        let verifier = with(Options { jwt_secret_file: vec![path], ..options() }).await;
        let token = hs256(&secret, json!({}));
        assert_eq!(verdict(&verifier, token).await.as_deref(), Ok("userA"), "{end:?}");
    }
}

#[tokio::test]
async fn another_claim_names_the_user() {
    let files = Files::new();
    let secret = vec![files.put("secret", SECRET)];
    let options = Options {
        jwt_secret_file: secret,
        user_claim: "https://example.com/user".to_owned(),
        ..options()
    };
    let verifier = with(options).await;
    let token = hs256(SECRET, json!({"https://example.com/user": 42}));
    assert_eq!(verdict(&verifier, token).await.as_deref(), Ok("42"));
    assert_eq!(verdict(&verifier, hs256(SECRET, json!({}))).await, Err(Refusal::User));
}

#[tokio::test]
async fn keys_that_can_not_be_used_are_said_at_the_start() {
    let (files, pair) = (Files::new(), Pair::p256());
    let start = async |options: Options| match Verifier::start(&options).await {
        Err(BadKeys(text)) => text,
        Ok(_) => panic!("taken"),
    };
    let secret = |path| Options { jwt_secret_file: vec![path], ..options() };
    let key = |path| Options { jwt_key_file: vec![path], ..options() };
    let short = start(secret(files.put("short", b"password\n"))).await;
    assert!(short.contains("at least 32 bytes") && short.contains("--new-secret"), "{short}");
    assert!(!short.contains("password"), "{short}");
    start(secret(files.0.path().join("missing"))).await;
    start(secret(files.put("large", &vec![b'x'; 70_000]))).await;
    let private = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    assert!(start(key(files.put("private", private.as_bytes()))).await.contains("pubout"));
    let mut with_private = pair.jwk("k");
    with_private["d"] = json!("AAAA");
    let with_private = files.put("private.json", with_private.to_string().as_bytes());
    assert!(start(key(with_private)).await.contains("private"));
    for bad in [
        "",
        "no key",
        "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        "{}",
        r#"{"keys": []}"#,
        r#"{"kty":"oct","k":"c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3JldA"}"#,
        r#"{"kty":"EC","crv":"P-521","x":"AA","y":"AA"}"#,
    ] {
        start(key(files.put("bad", bad.as_bytes()))).await;
    }
    let mut other = pair.jwk("k");
    other["alg"] = json!("HS256");
    start(key(files.put("other.json", other.to_string().as_bytes()))).await;
    other["alg"] = json!("ES384");
    start(key(files.put("other.json", other.to_string().as_bytes()))).await;
    for bad in ["http://id.example/keys", "ftp://id.example", "keys", "http://127.0.0.1.evil/k"] {
        start(Options { jwks_url: Some(bad.to_owned()), ..options() }).await;
    }
    assert!(Verifier::start(&options()).await.unwrap().is_none());
}
