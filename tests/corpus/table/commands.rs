//! C and D: texts that are no command, or one that is not allowed; ids.

use serde_json::{Value, json};

use crate::case::Answer::{Closes, Error, Fine, Ignored, Seen, Sent, Status};
use crate::case::Send::Api;
use crate::case::{Answer, Case, Send, post, row, scene};
use crate::scenes::{limits, people};

const JSON: &str = "Content-Type: application/json\r\n";
const OBJECT: Answer = Error("bad_request", "a frame is one JSON object with a \"type\"");

fn text(text: impl Into<String>) -> Send {
    Send::Text(text.into())
}

/// A frame of this type with a ref.
fn of(kind: &str, fields: &str) -> Send {
    text(format!(r#"{{"ref":"r-1","type":"{kind}",{fields}}}"#))
}

/// A `message` to the friend with further fields.
fn message(fields: &str) -> Send {
    of("message", &format!(r#""to":"friend",{fields}"#))
}

fn bad(says: &'static str) -> Answer {
    Error("bad_request", says)
}

fn with_data(data: &Value) -> Send {
    message(&format!(r#""message":"BAD","data":{data}"#))
}

fn said(message: &str) -> Send {
    text(json!({"type": "message", "to": "friend", "message": message}).to_string())
}

fn nested(depth: usize) -> String {
    format!("{{\"a\":{}{}}}", "[".repeat(depth - 1), "]".repeat(depth - 1))
}

fn room(body: &Value) -> Send {
    Api(post("/v1/rooms?userId=maker", JSON, &body.to_string()).into())
}

/// All of them.
pub fn lines() -> Vec<Case> {
    let texts = [no_commands(), nesting(), kinds(), fields(), numbers(), frames()].concat();
    [texts, people(), strangers(), sizes(), rooms(), ids()].concat()
}

/// What is no command at all.
fn no_commands() -> Vec<Case> {
    vec![
        row("C1", "not JSON", text("hello"), OBJECT),
        row("C1", "empty", text(""), OBJECT),
        row("C1", "a blank", text(" "), OBJECT),
        row("C1", "other quotes", text("{'type':1}"), OBJECT),
        row("C1", "a byte order mark", text("\u{feff}{}"), OBJECT),
        row("C1", "two objects", text("{}{}"), OBJECT),
        row("C1", "half an object", text("{"), OBJECT),
        row("C1", "NaN", text("NaN"), OBJECT),
        row("C1", "a NUL in a text", text("{\"type\":\"ping\",\"ref\":\"a\u{0}b\"}"), OBJECT),
        row("C1", "half a surrogate", message(r#""message":"\ud800""#), bad("\"message\"")),
        row(
            "C1",
            "surrogates in the wrong order",
            message(r#""message":"\udc00\ud800""#),
            bad("\"message\""),
        ),
        row("C2", "null", text("null"), OBJECT),
        row("C2", "[]", text("[]"), OBJECT),
        row("C2", "1", text("1"), OBJECT),
        row("C2", "\"x\"", text("\"x\""), OBJECT),
        row("C2", "true", text("true"), OBJECT),
        row("C2", "-0", text("-0"), OBJECT),
        row("C2", "1e400", text("1e400"), OBJECT),
        row(
            "C2",
            "an array of all fields",
            text(r#"["message","friend",null,"BAD",null,null,null,null,null]"#),
            OBJECT,
        ),
    ]
}

/// Texts that are nested deep.
fn nesting() -> Vec<Case> {
    vec![
        row("C3", "100,000 brackets", text("[".repeat(100_000)), Closes(1009))
            .differs("bad_json: it is over 64 KiB, and not looked at"),
        row("C3", "60,000 brackets", text("[".repeat(60_000)), OBJECT),
        row("C3", "10,000 objects", text("{\"a\":".repeat(10_000)), OBJECT),
        row(
            "C3",
            "data of depth 129",
            message(&format!(r#""message":"BAD","data":{}"#, nested(129))),
            bad("nested"),
        ),
        row(
            "C3",
            "data of depth 33",
            message(&format!(r#""message":"BAD","data":{}"#, nested(33))),
            bad("nested"),
        ),
        row(
            "C3",
            "data of depth 32",
            message(&format!(r#""message":"fine","data":{}"#, nested(32))),
            Sent,
        ),
        row(
            "C3",
            "an unknown field of depth 10,000",
            message(&format!(r#""message":"fine","new":{}"#, nested(10_000))),
            Sent,
        )
        .differs("bad_json at 129: what is unknown is skipped, without recursion"),
    ]
}

/// What a frame is, said twice or badly.
fn kinds() -> Vec<Case> {
    vec![
        row(
            "C4",
            "type twice",
            text(r#"{"type":"message","type":"ping","to":"friend","message":"BAD"}"#),
            bad("duplicate field"),
        ),
        row(
            "C4",
            "message twice",
            message(r#""message":"BAD","message":"BAD""#),
            bad("duplicate field"),
        ),
        row(
            "C5",
            "unknown type",
            of("shout", r#""to":"friend","message":"BAD""#),
            bad("unknown type \"shout\""),
        ),
        row(
            "C5",
            "a type in capitals",
            of("MESSAGE", r#""to":"friend","message":"BAD""#),
            bad("unknown type"),
        ),
        row("C5", "a type of the server's", of("welcome", r#""to":"friend""#), bad("unknown type")),
        row(
            "C5",
            "an unknown type, nested 10,000 deep",
            of("nested", &format!(r#""new":{}"#, nested(10_000))),
            bad("unknown type"),
        ),
        row("C5", "null for a type", text(r#"{"type":null}"#), bad("\"type\" is missing")),
        row("C5", "an object for a type", text(r#"{"type":{}}"#), bad("\"type\"")),
        row(
            "C5",
            "a type of 60,000 bytes",
            of(&"x".repeat(60_000), r#""a":1"#),
            bad("unknown type \"xxx"),
        ),
        row("C5", "no type", text("{}"), bad("\"type\" is missing")),
        row("C5", "a type that is a number", text(r#"{"type":1}"#), bad("\"type\"")),
        row("C5", "a type that is an array", text(r#"{"type":["ping"]}"#), bad("\"type\"")),
        row("C5", "an unknown field", message(r#""message":"fine","new":[{}]"#), Sent),
    ]
}

/// Fields that are missing or wrong.
fn fields() -> Vec<Case> {
    vec![
        row("C6", "nobody", of("message", r#""message":"BAD""#), bad("say whom it is for")),
        row("C6", "no text", of("message", r#""to":"friend""#), bad("\"message\" is missing")),
        row("C6", "null for text", message(r#""message":null"#), bad("\"message\" is missing")),
        row("C6", "a number for text", message(r#""message":7"#), bad("\"message\"")),
        row("C6", "an array for text", message(r#""message":["BAD"]"#), bad("\"message\"")),
        row(
            "C6",
            "a number for somebody",
            of("message", r#""to":7,"message":"BAD""#),
            bad("\"to\""),
        ),
        row(
            "C6",
            "somebody and a conversation",
            message(r#""conversation":"room:r","message":"BAD""#),
            bad("not both"),
        ),
        row("C6", "an array for data", message(r#""message":"BAD","data":[1]"#), bad("\"data\"")),
        row("C6", "a text for data", message(r#""message":"BAD","data":"y""#), bad("\"data\"")),
        row(
            "C6",
            "a read of a conversation in the wrong order",
            of("read", r#""conversation":"dm:z:a","seq":1"#),
            bad("\"conversation\""),
        ),
    ]
}

/// What should be a number.
fn numbers() -> Vec<Case> {
    let long = "\\\"".repeat(20_000);
    vec![
        row(
            "C6",
            "a text for a number",
            message(r#""message":"BAD","after":"1""#),
            bad("\"after\""),
        ),
        row("C6", "1e400", message(r#""message":"BAD","after":1e400"#), bad("\"after\"")),
        row("C6", "-1", message(r#""message":"BAD","after":-1"#), bad("\"after\"")),
        row("C6", "1.5", message(r#""message":"BAD","after":1.5"#), bad("\"after\"")),
        row(
            "C6",
            "2^64",
            message(r#""message":"BAD","after":18446744073709551616"#),
            bad("\"after\""),
        ),
        row(
            "C6",
            "40,000 bytes for a number",
            message(&format!(r#""message":"BAD","after":"{long}""#)),
            bad("after"),
        ),
    ]
}

/// Frames of other kinds, and refs.
fn frames() -> Vec<Case> {
    let long = "\\\"".repeat(20_000);
    vec![
        row("C6", "an ack of nothing", of("ack", r#""seq":1"#), bad("\"conversation\" is missing")),
        row(
            "C6",
            "a read of no place",
            of("read", r#""conversation":"dm:friend:me""#),
            bad("\"seq\" is missing"),
        ),
        row(
            "C6",
            "a read of 40,000 bytes",
            of("read", &format!(r#""conversation":"dm:a:b","seq":"{long}""#)),
            bad("seq"),
        ),
        row(
            "C6",
            "a signal that says nothing",
            of("signal", r#""to":"friend""#),
            bad("\"data\" is missing"),
        ),
        row("C6", "a signal to nobody", of("signal", r#""data":{}"#), bad("say whom it is for")),
        row("C6", "auth without a token", of("auth", r#""a":1"#), bad("\"token\" is missing")),
        row(
            "C6",
            "a ref that is too long",
            text(format!(
                r#"{{"type":"message","to":"friend","message":"BAD","ref":"{}"}}"#,
                "x".repeat(65)
            )),
            bad("ref"),
        ),
        row(
            "C6",
            "a ref of the server's own",
            text(r#"{"type":"message","to":"friend","message":"BAD","ref":"~1"}"#),
            bad("ref"),
        ),
    ]
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
