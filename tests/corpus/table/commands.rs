//! C and D: commands that are not allowed, or odd; ids.

use serde_json::{Value, json};

use crate::case::Answer::{Error, Fine, Ignored, Seen, Sent, Status};
use crate::case::Send::Api;
use crate::case::{Answer, Case, Send, post, row, scene};
use crate::scenes::{limits, people};

const JSON: &str = "Content-Type: application/json\r\n";

pub(super) fn text(text: impl Into<String>) -> Send {
    Send::Text(text.into())
}

/// A frame of this type with a ref.
pub(super) fn of(kind: &str, fields: &str) -> Send {
    text(format!(r#"{{"ref":"r-1","type":"{kind}",{fields}}}"#))
}

/// A `message` to the friend with further fields.
pub(super) fn message(fields: &str) -> Send {
    of("message", &format!(r#""to":"friend",{fields}"#))
}

pub(super) fn bad(says: &'static str) -> Answer {
    Error("bad_request", says)
}

fn with_data(data: &Value) -> Send {
    message(&format!(r#""message":"BAD","data":{data}"#))
}

fn said(message: &str) -> Send {
    text(json!({"type": "message", "to": "friend", "message": message}).to_string())
}

fn room(body: &Value) -> Send {
    Api(post("/v1/rooms?userId=maker", JSON, &body.to_string()).into())
}

/// All of them.
pub fn lines() -> Vec<Case> {
    [people(), strangers(), sizes(), rooms(), ids()].concat()
}

/// What concerns others: who says it.
fn people() -> Vec<Case> {
    vec![
        row(
            "C7",
            "a command of a browser without a token",
            scene!(people::a_command_without_a_token),
            Seen,
        )
        .guarded(),
        row(
            "C8",
            "auth where there are no tokens",
            of("auth", r#""token":"canary-of-a-token""#),
            bad("tokens are not in use"),
        ),
        row("C8", "auth twice", scene!(people::auth_twice), Seen)
            .guarded()
            .differs("already_authenticated: a fresh token is how a session goes on (design §5)"),
        row("C9", "from, id, seq, timestamp of a client", scene!(people::claims_of_a_client), Seen),
    ]
}

/// What exists, and is somebody else's.
fn strangers() -> Vec<Case> {
    let none = "no such conversation, or you";
    vec![
        row(
            "C10",
            "another's conversation",
            of("message", r#""conversation":"dm:other:somebody","message":"BAD""#),
            Error("not_found", none),
        ),
        row(
            "C10",
            "an ack in another's",
            of("ack", r#""conversation":"dm:other:somebody","seq":1"#),
            Error("not_found", none),
        ),
        row(
            "C10",
            "a read in another's",
            of("read", r#""conversation":"dm:other:somebody","seq":1"#),
            Error("not_found", none),
        ),
        row(
            "C10",
            "a signal in another's",
            of("signal", r#""conversation":"dm:other:somebody","data":{}"#),
            Error("not_found", none),
        ),
        row(
            "C10",
            "a room that is not there",
            of("message", r#""conversation":"room:nowhere","message":"BAD""#),
            Error("not_found", none),
        ),
        row(
            "C10",
            "the same bytes and time for what exists",
            scene!(people::what_exists_is_not_told),
            Seen,
        ),
        row("C11", "the same ref", scene!(people::the_same_ref), Seen),
    ]
}

/// How much it is.
fn sizes() -> Vec<Case> {
    vec![
        row("C12", "no bytes", said(""), bad("\"message\" is empty")),
        row("C12", "blanks", said(" \n\t\u{2003}"), bad("\"message\" is empty")),
        row("C12", "16 KiB", said(&"x".repeat(16_384)), Sent),
        row(
            "C12",
            "16 KiB and a byte",
            said(&"x".repeat(16_385)),
            Error("too_large", "16385 bytes, 16384 are allowed"),
        ),
        row("C12", "16 KiB of long characters", said(&"😀".repeat(4_096)), Sent),
        row(
            "C12",
            "one character more",
            said(&"😀".repeat(4_097)),
            Error("too_large", "16388 bytes"),
        ),
        row(
            "C12",
            "data of 4,096 bytes",
            message(&format!(r#""message":"fine","data":{{"k":"{}"}}"#, "x".repeat(4_096 - 8))),
            Sent,
        ),
        row(
            "C12",
            "data of 4,097 bytes",
            with_data(&json!({"k": "x".repeat(4_097 - 8)})),
            Error("too_large", "4097 bytes, 4096 are allowed"),
        ),
        row(
            "C12",
            "a signal of 4,097 bytes",
            of("signal", &format!(r#""to":"friend","data":{{"k":"{}"}}"#, "x".repeat(4_097 - 8))),
            Error("too_large", "4097 bytes"),
        ),
    ]
}

/// What is odd, and stays as it is; rooms; expressions of the store.
fn rooms() -> Vec<Case> {
    let members = |count: usize| (0..count).map(|n| format!("m{n}")).collect::<Vec<_>>();
    vec![
        row(
            "C13",
            "NUL, bidi, escapes, a script",
            scene!(people::odd_texts_stay_as_they_are),
            Seen,
        ),
        row(
            "C14",
            "an ack beyond the end, of another's, of less",
            scene!(people::acks_that_are_wrong),
            Seen,
        )
        .differs("bad_request beyond the end: it counts up to what was sent (design §4.4)"),
        row("C15", "too many commands", scene!(limits::commands), Seen)
            .guarded()
            .differs("4429 when it goes on: it is not read until there is room"),
        row("C16", "a room of nobody", room(&json!({"members": []})), Fine(201))
            .differs("bad_request: its maker is its first member"),
        row("C16", "members twice", scene!(people::members_twice), Seen)
            .differs("10,000 subscriptions: nobody subscribes, who is a member is stored"),
        row("C16", "257 members", room(&json!({"members": members(257)})), Status(400))
            .differs("limit_exceeded: a room is made with 256 at most, and more join later"),
        row("C16", "10,001 members", room(&json!({"members": members(10_001)})), Status(413))
            .differs("limit_exceeded: it is over 64 KiB, and not looked at"),
        row(
            "C17",
            "an expression",
            of("read", r#""conversation":"x OR attribute_exists(pk)","seq":1"#),
            bad("a conversation must match"),
        ),
        row(
            "C17",
            ":v",
            of("read", r#""conversation":":v","seq":1"#),
            bad("a conversation must match"),
        ),
        row(
            "C17",
            "#n",
            of("read", r##""conversation":"#n","seq":1"##),
            bad("a conversation must match"),
        ),
        row(
            "D4",
            "ids that are almost the same",
            scene!(people::ids_that_are_almost_the_same),
            Seen,
        ),
    ]
}

/// Ids of a frame, each a line of its own.
fn ids() -> Vec<Case> {
    let mut lines = Vec::new();
    let long = "x".repeat(129);
    let ids = [
        "",
        "a b",
        "a#b",
        "user:1",
        "{tag}",
        "*",
        "?",
        "[",
        r"a\r\nSET x 1",
        "../",
        "%2e%2e",
        "a/b",
        "a\\u0000",
        &long,
    ];
    for id in ids {
        let id = format!(r#""to":"{id}","message":"BAD""#);
        lines.push(row("D2", "an id of a frame", of("message", &id), bad("a user id must match")));
    }
    for id in ["\u{e9}", "e\u{301}", "\u{ff41}", "\u{430}", "a\u{200b}", "a\\u200b", "\u{212a}"] {
        let id = format!(r#""to":"{id}","message":"BAD""#);
        lines.push(row("D3", "an id of a frame", of("message", &id), bad("a user id must match")));
    }
    for id in [
        "friend", "room:", "room:a b", "room:{x}", "dm:a", "dm:b:a", "dm:a:b:c", "DM:a:b", "dm:a:",
        "dm:a:b#M",
    ] {
        let id = format!(r#""conversation":"{id}","message":"BAD""#);
        lines.push(row(
            "D2",
            "a conversation of a frame",
            of("message", &id),
            bad("a conversation must match"),
        ));
    }
    for kind in ["ack", "read"] {
        let place = of(kind, r#""conversation":"room:nowhere","seq":1"#);
        lines.push(row("C10", "a place in a room that is not there", place, Ignored).differs(
            "not_found: who is a member is looked up for none of them, and nothing is told",
        ));
    }
    lines
}
