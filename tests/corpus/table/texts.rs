//! C: texts that are no command.

use super::commands::{bad, message, of, text};
use crate::case::Answer::{Closes, Error, Sent};
use crate::case::{Answer, Case, row};

const OBJECT: Answer = Error("bad_request", "a frame is one JSON object with a \"type\"");

fn nested(depth: usize) -> String {
    format!("{{\"a\":{}{}}}", "[".repeat(depth - 1), "]".repeat(depth - 1))
}

/// All of them.
pub fn lines() -> Vec<Case> {
    [no_commands(), nesting(), kinds(), fields(), numbers(), frames()].concat()
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

/// What should be a number, and is none that counts anything.
const NO_NUMBERS: [&str; 9] =
    ["\"1\"", "1e400", "-1", "1.5", "18446744073709551616", "[1]", "{}", "true", "null"];

/// What should be a number.
fn numbers() -> Vec<Case> {
    let long = "\\\"".repeat(20_000);
    let places = ["ack", "read"].into_iter().flat_map(|kind| {
        NO_NUMBERS.map(|seq| {
            let place = of(kind, &format!(r#""conversation":"dm:a:friend","seq":{seq}"#));
            row("C6", "no number for a place", place, bad("\"seq\""))
        })
    });
    let mut lines = vec![
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
    ];
    lines.extend(places);
    lines
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
