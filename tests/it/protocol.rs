//! `docs/protocol.md` held against the code: every example is parsed or made by the server's own
//! writers, every table row is a constant, and each row names the test that provokes it.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use parlor::chat::lane::Bounds;
use parlor::chat::session::SENDS_MAX;
use parlor::chat::signal::SIGNALS_MAX;
use parlor::client::ServerFrame;
use parlor::edge::{HEAD_BYTES_MAX, HEAD_PATIENCE};
use parlor::limits::{Limit, Rate, Settings};
use parlor::protocol::*;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::auth::matrix::{KINDS, kind};
use crate::harness::{Parts, Stack};

const DOC: &str = include_str!("../../docs/protocol.md");

/// The lines of all blocks that are fenced with this info string.
fn examples(info: &str) -> Vec<&'static str> {
    let fence = format!("```{info}\n");
    let blocks = DOC.split(&fence).skip(1).map(|block| block.split("```").next().unwrap());
    blocks.flat_map(str::lines).collect()
}

/// The cells of the first table under a heading, without its head.
fn table(heading: &str) -> Vec<Vec<String>> {
    let (_, section) = DOC.split_once(&format!("\n## {heading}\n")).expect(heading);
    let section = section.split("\n## ").next().unwrap();
    let rows = section.lines().skip_while(|line| !line.starts_with("|---"));
    let rows: Vec<_> = rows.skip(1).take_while(|line| line.starts_with('|')).collect();
    assert!(!rows.is_empty(), "{heading} has a table");
    // `\|` stands for a bar within a cell.
    let cells = |row: &str| {
        let row = row.trim_matches('|').replace("\\|", "\u{0}");
        row.split('|').map(|cell| cell.trim().replace('\u{0}', "|")).collect()
    };
    rows.into_iter().map(cells).collect()
}

fn yes_or_no(cell: &str) -> bool {
    match cell {
        "yes" => true,
        "no" => false,
        other => panic!("{other:?} is neither yes nor no"),
    }
}

#[test]
fn every_client_example_is_taken_by_the_servers_parser() {
    let mut kinds = BTreeSet::new();
    for line in examples("json client") {
        let parsed = ClientFrame::parse(line, &Sizes::MOST);
        let parsed = parsed.unwrap_or_else(|error| panic!("{line}: {error}"));
        let kind = kind(&parsed);
        assert_eq!(serde_json::from_str::<Value>(line).unwrap()["type"], kind);
        kinds.insert(kind);
    }
    assert_eq!(kinds, KINDS.iter().copied().collect(), "each kind has an example");
}

fn text<'a>(frame: &'a Value, field: &str) -> &'a str {
    frame[field].as_str().unwrap_or_else(|| panic!("{field} of {frame}"))
}

fn number(frame: &Value, field: &str) -> u64 {
    frame[field].as_u64().unwrap_or_else(|| panic!("{field} of {frame}"))
}

fn user(frame: &Value, field: &str) -> UserId {
    UserId::parse(text(frame, field)).unwrap()
}

/// What the server writes with the same values.
fn written(frame: &Value) -> Text {
    let conversation = || ConversationId::parse(text(frame, "conversation")).unwrap();
    let (seq, timestamp) = (|| number(frame, "seq"), || number(frame, "timestamp"));
    let reference = frame["ref"].as_str().map(|name| Ref::parse(name).unwrap());
    match text(frame, "type") {
        "welcome" => answer::welcome(
            &user(frame, "userId"),
            SocketId(u128::from_str_radix(text(frame, "socketId"), 16).unwrap()),
            &ProcessId::parse(text(frame, "server")).unwrap(),
            &DeviceId::parse(text(frame, "device")).unwrap(),
            timestamp(),
            SOCKETS_PER_USER,
            &Sizes::MOST,
        ),
        "sent" => answer::sent(reference.as_ref(), &conversation(), seq(), timestamp()),
        kind @ ("message" | "joined" | "left") => {
            let entry = Entry {
                seq: seq(),
                kind: Kind::from_name(kind),
                from: user(frame, "from"),
                to: frame.get("to").map(|_| user(frame, "to")),
                message: frame["message"].as_str().map(Arc::from),
                data: frame.get("data").map(raw),
                reference: reference.clone(),
                device: DeviceId::plain(),
                timestamp: timestamp(),
                n: seq(),
            };
            answer::entry(&conversation(), &entry, reference.is_some())
        }
        "delivered" => answer::delivered(&conversation(), seq(), &user(frame, "userId")),
        "read" => answer::read(&conversation(), seq(), &user(frame, "userId")),
        "signal" => answer::signal(&conversation(), &user(frame, "from"), &raw(&frame["data"])),
        "missed" => answer::missed(&conversation(), number(frame, "from"), number(frame, "to")),
        "caughtup" => answer::caught_up(),
        "error" => {
            let known = |code: &ErrorCode| code.as_str() == text(frame, "code");
            let code = ErrorCode::ALL.into_iter().find(known).expect("a known code");
            let retry = frame["retryAfterMs"].as_u64();
            answer::error(code, text(frame, "detail"), reference.as_ref(), retry)
        }
        "pong" => answer::pong(reference.as_ref(), timestamp()),
        "authed" => answer::authed(number(frame, "expiresAt")),
        "reconnect" => answer::reconnect(number(frame, "afterMs")),
        other => panic!("the server never says {other}"),
    }
}

fn raw(value: &Value) -> Arc<RawValue> {
    Arc::from(RawValue::from_string(value.to_string()).unwrap())
}

#[test]
fn every_server_example_is_what_the_server_writes() {
    let mut kinds = BTreeSet::new();
    for line in examples("json server") {
        let frame: Value = serde_json::from_str(line).unwrap();
        assert_eq!(std::str::from_utf8(&written(&frame)).unwrap(), line);
        let read = ServerFrame::parse(line).unwrap();
        assert!(!matches!(read, ServerFrame::Other(_)), "the client knows {line}");
        kinds.insert(text(&frame, "type").to_owned());
    }
    let expected = "authed caughtup delivered error joined left message missed pong read \
                    reconnect sent signal welcome";
    assert_eq!(kinds.into_iter().collect::<Vec<_>>().join(" "), expected);
}

#[test]
fn the_error_codes_are_those_of_the_code() {
    let rows = table("Error codes");
    let told = rows.iter().map(|row| (row[0].as_str(), row[1].as_str(), yes_or_no(&row[2])));
    let mut told: Vec<_> = told.collect();
    let status = |code: ErrorCode| code.http_status().to_string();
    let kept = ErrorCode::ALL.map(|code| (format!("`{}`", code.as_str()), status(code), code));
    let mut kept: Vec<_> = kept
        .iter()
        .map(|(name, status, code)| (name.as_str(), status.as_str(), code.retryable()))
        .collect();
    told.sort();
    kept.sort();
    assert_eq!(told, kept);
}

#[test]
fn the_close_codes_are_those_of_the_code() {
    let rows = table("Close codes");
    let told = rows.iter().map(|row| (row[0].clone(), row[1].clone(), yes_or_no(&row[2])));
    let kept = CloseCode::ALL
        .map(|code| (code.number().to_string(), format!("{code:?}"), code.reconnect()));
    assert_eq!(told.collect::<Vec<_>>(), kept);
    for code in CloseCode::ALL {
        let class = match code.number() {
            4000..=4499 => Some(false),
            4500..=4999 => Some(true),
            _ => None,
        };
        assert!(class.is_none_or(|reconnect| reconnect == code.reconnect()), "{code:?}");
        assert!(code.reason().len() <= 123, "a close frame has room for it");
    }
}

/// What each process counts by itself.
fn counted_limits() -> Vec<(&'static str, String)> {
    let thousands = |number: usize| format!("{},{:03}", number / 1_000, number % 1_000);
    let number = |number: u32| match number {
        0..1_000 => number.to_string(),
        more => thousands(more as usize),
    };
    let rate = |rate: Option<Rate>, period: &str| {
        let Rate { rate, burst } = rate.unwrap();
        format!("{} {period}, {} at once", number(rate), number(burst))
    };
    let usual = Settings::USUAL;
    vec![
        ("frames of a user, of every kind", rate(usual.frames, "a second")),
        ("bytes of a user's frames, their heads included, and of bodies of requests", {
            let Rate { rate, burst } = usual.bytes.unwrap();
            format!("{} KiB a second, {} MiB at once", rate >> 10, burst >> 20)
        }),
        ("messages of a user", rate(usual.messages, "a second")),
        ("signals of a user", rate(usual.signals, "a second")),
        (
            "direct conversations that a user opens, rooms made, and people brought into rooms",
            rate(usual.new_conversations, "an hour"),
        ),
        ("direct conversations of a user", number(usual.conversations.unwrap())),
        (
            "rooms of a user",
            format!("{}, half of them by being brought in", number(usual.conversations.unwrap())),
        ),
        ("requests of a user to the Message API", rate(usual.requests, "a second")),
        ("sockets that a user opens", rate(usual.user_handshakes, "a second")),
        (
            "handshakes of an address, requests and `auth` frames whose token does not hold, \
             and requests for `/openapi.json`",
            rate(usual.handshakes, "a second"),
        ),
        ("sockets of an address", number(usual.sockets_per_address.unwrap())),
        (
            "connections of an address without a request yet, and those of plain HTTP",
            format!(
                "{} each, and a quarter of such places at most",
                number(usual.half_open_per_address.unwrap())
            ),
        ),
        ("such connections of a process", "as its open files allow, 4,096 each".to_owned()),
        ("sockets of a server, or through a balancer", "as its open files allow".to_owned()),
    ]
}

#[test]
fn the_limits_are_those_of_the_code() {
    let kib = |bytes: usize| format!("{} KiB", bytes / 1_024);
    let thousands = |number: usize| format!("{},{:03}", number / 1_000, number % 1_000);
    let (bounds, sockets) = (Bounds::default(), SOCKETS_PER_USER);
    assert_eq!(usize::from(sockets), DEVICES_PER_USER_MAX);
    let kept = [
        ("`message`", kib(MESSAGE_BYTES_MAX)),
        (
            "`data` of a message or signal",
            format!("{}, nested {DATA_DEPTH_MAX} deep", kib(DATA_BYTES_MAX)),
        ),
        ("frame, reassembled message", kib(FRAME_BYTES_MAX)),
        (
            // Private, and found by tests of `gateway/framing.rs` and of `limits/rates.rs`.
            "what a message is cut into, frame heads included",
            "80 KiB while its end is still to come (16 KiB more than a frame); in all its own \
             bytes twice and 4 KiB"
                .to_owned(),
        ),
        ("request head", format!("{}, {} s", kib(HEAD_BYTES_MAX), HEAD_PATIENCE.as_secs())),
        // The API's own bound is private; row E7 of `tests/corpus` finds it at a byte.
        ("body of `POST`", "64 KiB, 10 s".to_owned()),
        (
            // Private, and found by the tests of `edge/stall.rs`.
            "how long an answer over HTTP waits for its client",
            "30 s (15 s where places are short), and a second more for each 16 KiB".to_owned(),
        ),
        ("sends of a socket without an answer yet", SENDS_MAX.to_string()),
        ("sockets, devices of a person", format!("{sockets} each")),
        (
            "appends that wait for one conversation",
            format!("{} or {} MiB", thousands(bounds.appends), bounds.bytes >> 20),
        ),
        ("signals under way on one server", thousands(SIGNALS_MAX)),
    ];
    // Each is counted by a name, or says that it is not.
    let counted: Vec<String> = table("Limits").into_iter().map(|row| row[3].clone()).collect();
    for limit in Limit::ALL.map(Limit::as_str) {
        let named = counted.iter().any(|cell| cell.contains(&format!("`{limit}`")));
        let beside = ["files", "renewals"].contains(&limit);
        assert!(named || beside, "{limit}");
    }
    let told: Vec<_> =
        table("Limits").into_iter().map(|row| (row[0].clone(), row[1].clone())).collect();
    let kept = kept.into_iter().chain(counted_limits());
    let kept: Vec<_> = kept.map(|(what, limit)| (what.to_owned(), limit)).collect();
    assert_eq!(told, kept);
    let inline = [
        format!("1 to {} of `[A-Za-z0-9_.:+=/~-]`", id::REF_BYTES_MAX),
        format!("last {REF_WINDOW_ENTRIES} entries are searched"),
        format!("up to {}, then `ref_expired`", thousands(REF_REACH_ENTRIES as usize)),
        format!("[A-Za-z0-9_.@\\|+=~-]{{1,{}}}", id::USER_ID_BYTES_MAX),
        format!("[A-Za-z0-9_-]{{1,{}}}", id::DEVICE_ID_BYTES_MAX),
    ];
    for said in inline {
        assert!(DOC.contains(&said), "{said}");
    }
}

/// The tests that provoke the rows, from outside where that can be: table, file, test, rows.
const TESTS: &[(&str, &str, &str, &[&str])] = &[
    (
        "Connecting",
        "tests/corpus/table/handshake.rs",
        "lines",
        &["400", "404", "405", "426", "431"],
    ),
    ("Connecting", "tests/it/origins.rs", "a_page_of_another_site_opens_no_socket", &["403"]),
    (
        "Connecting",
        "tests/it/origins.rs",
        "a_name_that_was_pointed_at_this_machine_gets_nothing",
        &["421"],
    ),
    (
        "Connecting",
        "tests/it/auth/matrix.rs",
        "nobody_gets_in_anywhere_without_a_right_token",
        &["401", "403"],
    ),
    ("Connecting", "tests/it/limits/crowd.rs", "handshakes_have_a_rate_by_address", &["429"]),
    (
        "Connecting",
        "tests/it/bad/away.rs",
        "an_api_that_is_away_or_hangs_is_told_as_such",
        &["503"],
    ),
    (
        "Error codes",
        "tests/corpus/table/commands.rs",
        "lines",
        &["bad_request", "not_found", "too_large"],
    ),
    (
        "Error codes",
        "tests/it/auth/sockets.rs",
        "only_a_right_token_of_the_same_user_renews",
        &["unauthorized"],
    ),
    ("Error codes", "tests/corpus/table/api.rs", "lines", &["forbidden"]),
    (
        "Error codes",
        "tests/it/bad/away.rs",
        "refs_that_conflict_or_are_too_old_are_refused",
        &["ref_conflict", "ref_expired"],
    ),
    (
        "Error codes",
        "tests/it/bad/away.rs",
        "a_conversation_that_is_too_busy_is_rate_limited",
        &["rate_limited"],
    ),
    (
        "Error codes",
        "tests/it/bad/away.rs",
        "a_store_that_does_not_answer_is_unavailable_and_nothing_is_promised",
        &["unavailable"],
    ),
    ("Close codes", "tests/corpus/scenes/sockets.rs", "after_the_close", &["1000"]),
    ("Close codes", "tests/corpus/table/frames.rs", "lines", &["1002", "1003", "1007", "1009"]),
    ("Close codes", NOT_YET, "", &["1011"]),
    (
        "Close codes",
        "tests/it/auth/sockets.rs",
        "a_token_that_ends_closes_its_socket_after_the_leeway",
        &["4401"],
    ),
    (
        "Close codes",
        "tests/it/admin.rs",
        "a_process_that_drains_says_so_and_sends_its_sockets_away",
        &["1012"],
    ),
    ("Close codes", "tests/corpus/scenes/sockets.rs", "a_seventeenth_socket", &["4001"]),
    (
        "Close codes",
        "tests/it/bad/asleep.rs",
        "a_slow_reader_is_closed_and_loses_nothing",
        &["4508"],
    ),
    ("Close codes", "tests/corpus/scenes/slow.rs", "no_pong", &["4509"]),
    ("HTTP refusals", "tests/corpus/table/api.rs", "lines", &["405", "415"]),
    ("HTTP refusals", "tests/corpus/scenes/slow.rs", "bodies_that_trickle", &["408"]),
    ("HTTP refusals", "tests/corpus/table/api.rs", "lines", &["400, 431"]),
    (
        "HTTP refusals",
        "tests/it/origins.rs",
        "a_name_that_was_pointed_at_this_machine_gets_nothing",
        &["421"],
    ),
    (
        "HTTP refusals",
        "src/api/tests/refusals.rs",
        "a_failing_part_is_never_an_empty_list",
        &["500"],
    ),
    (
        "HTTP refusals",
        "tests/it/bad/away.rs",
        "an_api_that_is_away_or_hangs_is_told_as_such",
        &["502", "504"],
    ),
];

/// A code that nothing in this version says; its row must admit that.
const NOT_YET: &str = "";

#[test]
fn every_row_has_a_test_and_every_test_a_row() {
    let mut rows = Vec::new();
    for heading in ["Connecting", "Error codes", "Close codes", "HTTP refusals"] {
        // The first table under "Connecting" is that of the parameters.
        let table = match heading {
            "Connecting" => refusals(),
            _ => table(heading),
        };
        rows.extend(table.into_iter().map(|row| (heading, row)));
    }
    let named: BTreeSet<_> =
        rows.iter().map(|(heading, row)| (*heading, row[0].trim_matches('`').to_owned())).collect();
    let of = |test: &(&'static str, _, _, &[&str])| -> Vec<_> {
        test.3.iter().map(|row| (test.0, (*row).to_owned())).collect()
    };
    let tested: BTreeSet<_> = TESTS.iter().flat_map(of).collect();
    assert_eq!(named, tested);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (heading, file, name, keys) in TESTS {
        if *file != NOT_YET {
            let source = std::fs::read_to_string(folder.join(file)).expect(file);
            assert!(source.contains(&format!("fn {name}(")), "{file} has no {name}");
        }
        for key in *keys {
            let is = |row: &&(&str, Vec<String>)| {
                row.0 == *heading && row.1[0].trim_matches('`') == *key
            };
            let said = rows.iter().find(is).unwrap().1.last().unwrap();
            assert_eq!(said.contains("not said yet"), *file == NOT_YET, "{heading} {key}: {said}");
        }
    }
}

fn refusals() -> Vec<Vec<String>> {
    let (_, rows) = DOC.split_once("\n| status | when |\n|---|---|\n").unwrap();
    let rows = rows.lines().take_while(|line| line.starts_with('|'));
    rows.map(|row| row.trim_matches('|').splitn(2, '|').map(|c| c.trim().to_owned()).collect())
        .collect()
}

/// The routes that the page names, as (method, path).
fn routes() -> BTreeSet<(String, String)> {
    let mut all = BTreeSet::new();
    for row in table("HTTP") {
        let words = row[0].replace(['`', ','], " ");
        let (methods, paths): (Vec<_>, Vec<_>) =
            words.split_whitespace().partition(|word| !word.starts_with('/'));
        let path = paths[0].split('?').next().unwrap();
        all.extend(methods.iter().map(|m| (m.to_ascii_lowercase(), path.to_owned())));
    }
    all
}

/// The page, `/openapi.json` and the routes are the same list, and the document is served the same
/// by the API and through the balancer.
#[tokio::test]
async fn the_routes_are_those_of_openapi() {
    let stack = Stack::start(Parts::Embedded).await.unwrap();
    let document = stack.http().get("/openapi.json").await.unwrap().good().unwrap();
    let mut described = BTreeSet::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        let methods = operations.as_object().unwrap().keys();
        described.extend(methods.map(|method| (method.clone(), path.clone())));
    }
    assert_eq!(routes(), described);
    let balancer = parlor::client::Api::new(format!("http://{}", stack.balancer));
    assert_eq!(balancer.get("/openapi.json").await.unwrap().good().unwrap(), document);
    stack.stop().await;
}
