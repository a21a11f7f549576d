//! F: tokens, at every door.

use serde_json::json;

use crate::case::Answer::{Bare, Fine, Seen, Status};
use crate::case::Send::{Api, Bearer};
use crate::case::{Case, Send, get, row, scene};
use crate::raw::upgrade_head;
use crate::scenes::{limits, people};
use crate::token::{claiming, claims, headed, made, now, signed_as};

/// A token that opens.
pub fn good() -> String {
    claiming(json!({}))
}

/// To the Message API alone, with this token.
fn at_api(token: &str) -> Send {
    let line = format!("Authorization: Bearer {token}\r\n");
    Api(get("/v1/users/tokens/conversations", &line).into())
}

fn bearer(token: &str) -> Send {
    Bearer(format!("Bearer {token}"))
}

fn claim(changes: serde_json::Value) -> Send {
    bearer(&claiming(changes))
}

fn head(changes: serde_json::Value) -> Send {
    bearer(&headed(changes))
}

/// A P-256 key of nobody's signed this (openssl): the claims hold until 2286.
const ES256: &str = "eyJhbGciOiJFUzI1NiIsInR5cCI6IkpXVCJ9.\
    eyJzdWIiOiJ0b2tlbnMiLCJleHAiOjk5OTk5OTk5OTl9.\
    o1kBa2BH8GduEM7x6Qe0pjfLblXw5_0Jb_y897OzVJwxotJAfY4kEZa6NaKhQG9__cPlE2u8YkLgni0TrPEMIA";

/// All of them.
pub fn lines() -> Vec<Case> {
    let lines = [signatures(), claimed(), keys()].concat();
    lines.into_iter().map(Case::guarded).collect()
}

/// Who says so.
fn signatures() -> Vec<Case> {
    let good = good();
    let none = signed_as(&headed(json!({"alg": "none"})), "");
    let small = signed_as(&headed(json!({"alg": "NoNe"})), "");
    let public = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA\n-----END PUBLIC KEY-----\n";
    let confused = made(&json!({"alg": "HS256", "typ": "JWT"}), &claims(), public.as_bytes());
    let two = format!("Bearer {good}\r\nAuthorization: Bearer {good}");
    let other: &[u8] = b"another secret, as long as it must be, or so";
    let foreign = made(&json!({"alg": "HS256"}), &claims(), other);
    vec![
        row("F1", "a good one", at_api(&good), Fine(200)),
        row("F1", "none", Bearer(String::new()), Status(401)),
        row("F1", "an empty header", Bearer(" ".to_owned()), Status(401)),
        row("F1", "Basic", Bearer("Basic dXNlcjpwYXNz".to_owned()), Status(401)),
        row("F1", "twice", Bearer(two), Status(400)),
        row("F2", "alg none", bearer(&none), Status(401)),
        row("F2", "alg NoNe", bearer(&small), Status(401)),
        // Where the server holds that public key: tests/it/auth.
        row("F2", "HS256 with a public key of nobody's", bearer(&confused), Status(401)),
        row("F2", "ES256 of a foreign key", bearer(ES256), Status(401)),
        row("F2", "HS384 in its head", head(json!({"alg": "HS384"})), Status(401)),
        row("F2", "no signature", bearer(&signed_as(&good, "")), Status(401)),
        row("F2", "another secret", bearer(&foreign), Status(401)),
    ]
}

/// What it says of time and place.
fn claimed() -> Vec<Case> {
    let tenant = claiming(json!({"tenant": "somebody else's"}));
    vec![
        row("F3", "exp past", claim(json!({"exp": now() - 600})), Status(401)),
        row("F3", "no exp", claim(json!({"exp": null})), Status(401)),
        row("F3", "exp as text", claim(json!({"exp": "9999999999"})), Status(401)),
        row("F3", "exp in ten years", claim(json!({"exp": now() + 315_360_000})), Status(401)),
        row("F3", "nbf as text", claim(json!({"nbf": "1"})), Status(401)),
        row("F3", "nbf to come", claim(json!({"nbf": now() + 7_200})), Status(401)),
        row("F4", "another aud", claim(json!({"aud": "somebody else's service"})), Status(401)),
        row("F4", "another iss", claim(json!({"iss": "https://evil.example"})), Status(401)),
        row("F4", "another tenant", at_api(&tenant), Fine(200)).differs(
            "401 for another tenant: there are none, a fleet is one; whom a token is for, iss and \
             aud say",
        ),
        row("F4", "a refresh token", head(json!({"typ": "refresh+jwt"})), Status(401)),
    ]
}

/// Which key it is for, for whom, how long, and how long it holds.
fn keys() -> Vec<Case> {
    let empty = made(&json!({"alg": "HS256", "kid": "../../dev/null"}), &claims(), b"");
    let large = |bytes: usize| claiming(json!({"x": "a".repeat(bytes)}));
    let line = format!("Authorization: Bearer {}\r\n", large(12_000));
    vec![
        row("F5", "kid that climbs", at_api(&headed(json!({"kid": "../../dev/null"}))), Fine(200))
            .differs(
                "401: the secret has no name, and nothing is looked up by what a token calls it",
            ),
        row("F5", "kid of a foreign key", bearer(&empty), Status(401)),
        row(
            "F5",
            "jku, x5u, kid: a URL of somebody who listens",
            scene!(people::keys_elsewhere),
            Seen,
        ),
        row("F5", "jwk", head(json!({"jwk": {"kty": "oct", "k": "YQ"}, "kid": "x"})), Status(401)),
        row("F5", "an unknown crit", head(json!({"crit": ["exp2"], "exp2": 1})), Status(401)),
        row("F6", "an empty sub", claim(json!({"sub": ""})), Status(401)),
        row("F6", "a sub of 4 KiB", claim(json!({"sub": "a".repeat(4_096)})), Status(401)),
        row("F6", "a sub with #", claim(json!({"sub": "a#b"})), Status(401)),
        row("F6", "no sub", claim(json!({"sub": null})), Status(401)),
        row("F7", "a token of 7 KiB", at_api(&large(5_000)), Fine(200)),
        row("F7", "a token of 16 KiB", Send::Head(upgrade_head("", &line).into()), Status(431)),
        row("F7", "a token of 16 KiB, at the API", at_api(&large(12_000)), Bare(431)),
        row("F7", "bad tokens without end", scene!(limits::bad_tokens), Seen)
            .differs("10 a minute: 50 a second and 500 at once, many share an address"),
        row("F8", "ends while connected", scene!(people::a_token_that_ends), Seen)
            .slow()
            .differs("4419 within 60 s: it is 4401, after its leeway"),
        row(
            "F8",
            "is taken back while connected",
            scene!(people::a_token_that_is_taken_back),
            Seen,
        ),
        row("F9", "exp 30 s ago", scene!(people::a_token_in_its_leeway), Seen),
    ]
}
