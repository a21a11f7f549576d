//! E: the Message API.

use serde_json::json;

use crate::case::Answer::{Bare, Seen, Status};
use crate::case::{Case, Send, get, plain, post, row, scene};
use crate::scenes::{pages, slow, store};

const MESSAGES: &str = "/v1/messages?userId=api-user";
const JSON: &str = "Content-Type: application/json\r\n";
const HI: &str = r#"{"to":"friend","message":"BAD"}"#;

fn ask(target: &str) -> Send {
    Send::Api(get(target, "").into())
}

/// A page of one's own.
fn page(query: &str) -> Send {
    ask(&format!("/v1/conversations/dm:api-user:friend/messages?userId=api-user&{query}"))
}

fn list(query: &str) -> Send {
    ask(&format!("/v1/users/api-user/conversations?userId=api-user&{query}"))
}

fn by(method: &str, target: &str) -> Send {
    Send::Api(plain(method, target, "").into())
}

fn send(more: &str, body: &str) -> Send {
    Send::Api(post(MESSAGES, more, body).into())
}

fn json(body: &str) -> Send {
    send(JSON, body)
}

fn with_head(more: &str, body: &str) -> Send {
    Send::Api(format!("{}{body}", plain("POST", MESSAGES, more)).into())
}

fn origin(target: &str) -> Send {
    Send::Api(get(target, "Origin: http://evil.example\r\nCookie: a=b\r\n").into())
}

/// All of them.
pub fn lines() -> Vec<Case> {
    [pages(), types(), bodies(), sizes(), keys(), paths(), doors(), ids()].concat()
}

/// Pages and lists: cursors, limits, whose they are.
fn pages() -> Vec<Case> {
    vec![
        row("E1", "garbage", list("after=garbage"), Status(400)),
        row("E1", "4 KiB", list(&format!("after={}", "61".repeat(2_048))), Status(400)),
        row("E1", "10 KiB", list(&format!("after={}", "61".repeat(5_120))), Bare(431))
            .differs("400 bad_cursor: the head is bounded at 8 KiB"),
        row("E1", "cut short, a bit turned", scene!(pages::cursors_that_are_altered), Seen),
        row("E2", "another's, in another place", scene!(pages::cursors_of_others), Seen).differs(
            "bad_cursor, and old keys: there is one code for what is wrong in a request, and a \
             cursor is checked by a sum: whoever forges one sees his own list only",
        ),
        row("E3", "limit 0", page("limit=0"), Status(400)),
        row("E3", "limit -1", page("limit=-1"), Status(400)),
        row("E3", "limit abc", page("limit=abc"), Status(400)),
        row("E3", "limit 1,000,000", page("limit=1000000"), Status(400))
            .differs("clamped to 100: 1 to 500, and what is more is said to be wrong"),
        row("E3", "before and after", page("before=5&after=2"), Status(400)),
        row("E3", "limit twice", page("limit=3&limit=3"), Status(400)),
        row("E3", "before x", page("before=x"), Status(400)),
        row("E3", "after 2^64", page("after=18446744073709551616"), Status(400)),
        row("E3", "after +1", page("after=%2b1"), Status(400)),
        row(
            "E4",
            "a foreign conversation",
            ask("/v1/conversations/dm:userB:userC/messages?userId=api-user"),
            Status(404),
        ),
        row(
            "E4",
            "a room that is not there",
            ask("/v1/conversations/room:nowhere/messages?userId=api-user"),
            Status(404),
        ),
        row(
            "E4",
            "another's list",
            ask("/v1/users/userB/conversations?userId=api-user"),
            Status(404),
        ),
        row("E4", "the same bytes for what exists", scene!(pages::what_exists_is_not_told), Seen),
        row("E5", "somebody who has left", scene!(pages::somebody_who_has_left), Seen),
    ]
}

/// Bodies that are no JSON, or don't say so.
fn types() -> Vec<Case> {
    let typed = post(MESSAGES, &format!("{JSON}X: y\r\n"), "").replace("Length: 0", "Length: 2");
    vec![
        row("E6", "no type", send("", HI), Status(415)),
        row("E6", "text/plain", send("Content-Type: text/plain\r\n", HI), Status(415)),
        row(
            "E6",
            "a form",
            send("Content-Type: application/x-www-form-urlencoded\r\n", HI),
            Status(415),
        ),
        row("E6", "gzip", send(&format!("{JSON}Content-Encoding: gzip\r\n"), HI), Status(415)),
        row("E6", "not JSON", json("not json"), Status(400)),
        row("E6", "no body", json(""), Status(400)),
        row("E6", "an array", json("[]"), Status(400)),
        row("E6", "not UTF-8", Send::Api([typed.as_bytes(), b"\xff\xfe"].concat()), Status(400)),
    ]
}

/// Bodies that say what is not allowed.
fn bodies() -> Vec<Case> {
    let brackets = format!("{{\"members\":{}", "[".repeat(60_000));
    let deep = format!("{}{}", "[".repeat(20_000), "]".repeat(20_000));
    vec![
        row("E6", "no text", json(r#"{"to":"friend"}"#), Status(400)),
        row(
            "E6",
            "somebody else's name",
            json(r#"{"from":"userC","to":"friend","message":"BAD"}"#),
            Status(403),
        ),
        row("E6", "a bad id", json(r#"{"to":"user B","message":"BAD"}"#), Status(400)),
        row("E6", "an empty text", json(r#"{"to":"friend","message":""}"#), Status(400)),
        row(
            "E6",
            "a room that is not there",
            json(r#"{"conversation":"room:nowhere","message":"BAD"}"#),
            Status(404),
        ),
        row("E6", "60,000 brackets", json(&"[".repeat(60_000)), Status(400)),
        row(
            "E6",
            "a room of 60,000 brackets",
            Send::Api(post("/v1/rooms?userId=api-user", JSON, &brackets).into()),
            Status(400),
        ),
        row(
            "E6",
            "an unknown field of depth 20,000",
            json(&format!(r#"{{"to":"a b","new":{deep}}}"#)),
            Status(400),
        ),
        row(
            "E6",
            "another's conversation",
            json(r#"{"conversation":"dm:x:y","message":"BAD"}"#),
            Status(404),
        ),
    ]
}

/// Bodies that are too large or too slow.
fn sizes() -> Vec<Case> {
    let chunk = format!("4000\r\n{}\r\n", " ".repeat(0x4000)).repeat(5);
    let both = format!("Content-Length: 2\r\nTransfer-Encoding: chunked\r\n{JSON}");
    let long = json!({"to": "friend", "message": "x".repeat(16_385)}).to_string();
    vec![
        row("E7", "64 KiB and a byte", json(&" ".repeat(65_537)), Status(413)),
        row("E7", "a long message", json(&long), Status(413)),
        row(
            "E7",
            "10 GB announced",
            with_head(&format!("Content-Length: 9999999999\r\n{JSON}"), ""),
            Status(413),
        ),
        row(
            "E7",
            "chunks without end",
            with_head(&format!("Transfer-Encoding: chunked\r\n{JSON}"), &chunk),
            Status(413),
        ),
        row("E7", "two lengths", with_head(&both, &format!("0\r\n\r\n{HI}")), Bare(400)),
        row("E7", "a byte a second", scene!(slow::bodies_that_trickle), Seen).slow(),
    ]
}

/// `Idempotency-Key`.
fn keys() -> Vec<Case> {
    vec![
        row("E8", "a key again", scene!(pages::a_key_again), Seen)
            .differs("201 again: it is 200 when an earlier try had stored it (design §5)"),
        row(
            "E8",
            "two keys",
            send(&format!("{JSON}Idempotency-Key: a\r\nIdempotency-Key: b\r\n"), HI),
            Status(400),
        ),
        row(
            "E8",
            "a key with a blank",
            send(&format!("{JSON}Idempotency-Key: a b\r\n"), HI),
            Status(400),
        ),
        row(
            "E8",
            "a key of the server's own",
            send(&format!("{JSON}Idempotency-Key: ~1\r\n"), HI),
            Status(400),
        ),
        row("E8", "an empty key", send(&format!("{JSON}Idempotency-Key:\r\n"), HI), Status(400)),
    ]
}

/// Paths and methods.
fn paths() -> Vec<Case> {
    vec![
        row("E9", "a bad percent", page("after=%zz"), Status(400)),
        row("E9", "%00 in the path", ask("/v1/users/%00/presence?userId=api-user"), Status(400)),
        row(
            "E9",
            "not UTF-8 in the path",
            ask("/v1/users/%ff/presence?userId=api-user"),
            Status(400),
        ),
        row(
            "E9",
            "no conversation",
            ask("/v1/conversations/nothing/messages?userId=api-user"),
            Status(400),
        ),
        row("E9", "nobody asks", ask("/v1/conversations/dm:userA:userB/messages"), Status(400)),
        row("E9", "a line for the log", ask("/v1/%0aFORGED%20line%1b[31m"), Status(404)),
        row("E9", "an unknown path", ask("/v1/nothing"), Status(404)),
        row("E9", "an empty path", ask("/v1/"), Status(404)),
        row(
            "E9",
            "a bad id in the path",
            ask("/v1/users/a%20b/presence?userId=api-user"),
            Status(400),
        ),
        row(
            "E9",
            "a climb in the path",
            ask("/v1/users/..%2f..%2fetc/presence?userId=api-user"),
            Status(400),
        ),
        row("E9", "GET for POST", by("GET", MESSAGES), Status(405)),
        row("E9", "POST for GET", by("POST", "/v1/servers"), Status(405)),
        row("E9", "DELETE of rooms", by("DELETE", "/v1/rooms?userId=api-user"), Status(405)),
        row(
            "E9",
            "PATCH of a member",
            by("PATCH", "/v1/rooms/r/members/a?userId=api-user"),
            Status(405),
        ),
        row("E9", "BREW", by("BREW", "/openapi.json"), Status(405)),
    ]
}

/// What is no place of the API, or not for whoever asks.
fn doors() -> Vec<Case> {
    let preflight = "Origin: http://evil.example\r\nAccess-Control-Request-Method: POST\r\n";
    vec![
        row("E10", "the store is away", scene!(store::away_from_the_store), Seen)
            .real()
            .slow()
            .differs("throttled: DynamoDB Local never is, store::dynamodb::tests::storms has it"),
        row("E11", "/metrics", ask("/metrics"), Status(404)),
        row("E11", "/debug", ask("/debug/pprof"), Status(404)),
        row("E11", "/admin", ask("/admin"), Status(404)),
        row("E11", "a climb", ask("/../etc/passwd"), Status(404)),
        row(
            "E11",
            "another origin, with a cookie",
            origin("/v1/users/api-user/presence?userId=api-user"),
            Status(403),
        ),
        row(
            "E11",
            "another origin asks first",
            Send::Api(plain("OPTIONS", MESSAGES, preflight).into()),
            Status(403),
        ),
    ]
}

/// What other groups have, at the API.
fn ids() -> Vec<Case> {
    vec![
        row("D1", "empty in the path", ask("/v1/users//presence?userId=api-user"), Status(400)),
        row(
            "D2",
            "a conversation in the wrong order",
            ask("/v1/conversations/dm:userB:userA/messages?userId=userA"),
            Status(400),
        ),
        row(
            "C17",
            "an expression in the path",
            ask("/v1/conversations/x%20OR%20attribute_exists(pk)/messages?userId=api-user"),
            Status(400),
        ),
        row(
            "C17",
            ":v in the path",
            ask("/v1/conversations/:v/messages?userId=api-user"),
            Status(400),
        ),
        row(
            "A21",
            "a blank before the colon, at the API",
            Send::Api(get("/v1/servers", "X : y\r\n").into()),
            Bare(400),
        ),
        row(
            "A11",
            "120 headers at the API",
            Send::Api(get("/v1/servers", &"X: y\r\n".repeat(120)).into()),
            Bare(431),
        ),
        row(
            "A11",
            "a header of 9,000 bytes at the API",
            Send::Api(get("/v1/servers", &format!("X: {}\r\n", "y".repeat(9_000))).into()),
            Bare(431),
        ),
        row(
            "A19",
            "TLS at the API",
            Send::Api(b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n".to_vec()),
            Bare(400),
        ),
    ]
}
