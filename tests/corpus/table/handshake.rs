//! A: requests that open a socket, or should not.

use crate::case::Answer::{Ends, Last, Opens, Seen, Shown, Status};
use crate::case::{Case, Send, plain, row, scene};
use crate::raw::{KEY, upgrade_head};
use crate::scenes::{limits, slow, sockets};

fn head(text: impl Into<Vec<u8>>) -> Send {
    Send::Head(text.into())
}

/// An upgrade with one header line replaced; empty lines go.
fn with(line: &str, by: &str) -> Send {
    let head = upgrade_head("userId=odd", "");
    let lines = head.trim_end().split("\r\n");
    let lines = lines.map(|old| if old.starts_with(line) { by } else { old });
    let lines: Vec<_> = lines.filter(|line| !line.is_empty()).collect();
    Send::Head(format!("{}\r\n\r\n", lines.join("\r\n")).into())
}

/// An upgrade with further lines.
fn plus(line: &str) -> Send {
    head(upgrade_head("userId=odd", &format!("{line}\r\n")))
}

/// A request, and a good one behind it, which is not to be answered.
fn behind(request: &str) -> Send {
    head(format!("{request}{}", upgrade_head("userId=smuggled", "")))
}

/// The same without a user in the query.
fn nobody(line: &str) -> Send {
    head(upgrade_head("", &format!("{line}\r\n")))
}

fn query(query: &str) -> Send {
    head(upgrade_head(query, ""))
}

fn method(name: &str) -> Send {
    with("GET", &format!("{name} /ws?userId=odd HTTP/1.1"))
}

/// 64 KiB that are no protocol.
fn noise() -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as u8
    };
    std::iter::once(1).chain((0..65_536).map(|_| next())).collect()
}

/// All of them.
pub fn lines() -> Vec<Case> {
    let heads = [good(), keys(), methods(), origins(), heads()].concat();
    [heads, connections(), ids(), queries()].concat()
}

/// What opens.
fn good() -> Vec<Case> {
    let id = "a".repeat(128);
    vec![
        row(
            "A1",
            "a list in Connection",
            with("Connection", "connection: keep-alive, UPGRADE"),
            Opens,
        ),
        row("A1", "names in odd case", with("Upgrade", "uPgRaDe: WebSocket"), Opens),
        row(
            "A1",
            "what a proxy adds",
            plus("Content-Length: 0\r\nX-Forwarded-For: 127.0.0.1"),
            Opens,
        ),
        row(
            "A1",
            "all parameters",
            query("&&x=%20&userId=auth0%7C5f%2B&device=d_-&acks=app&catchup=1&v=1&"),
            Opens,
        ),
        row("A1", "the longest id", query(&format!("userId={id}")), Opens),
    ]
}

/// Versions and keys.
fn keys() -> Vec<Case> {
    let twice = format!("Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Key: {KEY}");
    vec![
        row(
            "A2",
            "version 8",
            with("Sec-WebSocket-Version", "Sec-WebSocket-Version: 8"),
            Status(426),
        ),
        row("A2", "no version", with("Sec-WebSocket-Version", ""), Status(426)),
        row("A3", "no key", with("Sec-WebSocket-Key", ""), Status(400)),
        row("A3", "two keys", with("Sec-WebSocket-Key", &twice), Status(400)),
        row(
            "A3",
            "not base64",
            with("Sec-WebSocket-Key", "Sec-WebSocket-Key: !!!!!!!!!!!!!!!!!!!!!!=="),
            Status(400),
        ),
        row(
            "A3",
            "15 bytes",
            with("Sec-WebSocket-Key", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25j"),
            Status(400),
        ),
        row(
            "A3",
            "17 bytes",
            with("Sec-WebSocket-Key", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZXM="),
            Status(400),
        ),
    ]
}

/// Methods, and what is no upgrade.
fn methods() -> Vec<Case> {
    vec![
        row("A4", "POST", method("POST"), Status(405)),
        row("A4", "PUT", method("PUT"), Status(405)),
        row("A4", "DELETE", method("DELETE"), Status(405)),
        row("A4", "HEAD", method("HEAD"), Status(405)),
        row("A4", "BREW", method("BREW"), Status(405)),
        row("A4", "get in small letters", method("gEt"), Status(405)),
        row("A5", "HTTP/1.0", with("GET", "GET /ws?userId=odd HTTP/1.0"), Status(426)),
        row("A6", "no Upgrade", with("Upgrade", ""), Status(426)),
        row("A6", "another Upgrade", with("Upgrade", "Upgrade: h2c"), Status(426)),
        row(
            "A6",
            "no upgrade in Connection",
            with("Connection", "Connection: keep-alive"),
            Status(426),
        ),
        row(
            "A6",
            "plain HTTP",
            head("GET /ws?userId=odd HTTP/1.1\r\nHost: x\r\n\r\n"),
            Status(426),
        ),
    ]
}

/// Whose page it is, and who says so.
fn origins() -> Vec<Case> {
    let bearer = format!("Authorization: Bearer {}", super::tokens::good());
    vec![
        row("A7", "the same origin", plus("Origin: http://localhost"), Opens),
        row("A7", "not listed", plus("Origin: http://evil.example"), Status(403)),
        row("A7", "another scheme", plus("Origin: ftp://localhost"), Status(403)),
        row("A7", "https where TLS may end before", plus("Origin: https://localhost"), Opens)
            .differs(
                "403: a plain listener can't tell what a proxy took off (docs/threat-model.md)",
            ),
        row("A7", "another port", plus("Origin: http://localhost:1"), Status(403)),
        row("A7", "ours in front", plus("Origin: http://localhost.evil.tld"), Status(403)),
        row("A7", "ours at the end", plus("Origin: http://evillocalhost"), Status(403)),
        row("A8", "null", plus("Origin: null"), Status(403)),
        row("A9", "two", plus("Origin: http://localhost\r\nOrigin: http://localhost"), Status(400)),
        row("A9", "a control character", plus("Origin: http://local\x01host"), Status(400)),
        row("A9", "not ASCII", plus("Origin: http://loc\u{e4}lhost"), Status(400)),
        row("A10", "a cookie", nobody("Cookie: session=1"), Status(401))
            .guarded()
            .differs("403: a cookie is no identity here, with or without Origin"),
        row("A10", "a bearer", nobody(&bearer), Opens).guarded(),
    ]
}

/// Heads that are long, slow, or carry what they should not.
fn heads() -> Vec<Case> {
    let many = "X: y\r\n".repeat(101);
    let long = format!("X: {}", "y".repeat(20 * 1_024));
    let uri = format!("userId=odd&x={}", "y".repeat(70 * 1_024));
    let chunked = "Transfer-Encoding: chunked\r\n";
    let both = "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n";
    let lengths = "Content-Length: 0\r\nContent-Length: 5\r\n";
    let deflate = "Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=99";
    vec![
        row("A11", "101 headers", plus(&many), Status(431)),
        row("A11", "a header of 20 KiB", plus(&long), Status(431)),
        row("A11", "a URI of 70 KiB", query(&uri), Status(431))
            .differs("414: the head is bounded as a whole, and read no further"),
        row("A12", "1,000 heads that trickle", scene!(slow::heads_that_trickle), Seen)
            .slow()
            .differs("closed at 5 s: it is 10 s (design, and docs/protocol.md)"),
        row("A13", "20 MB of head in small pieces", scene!(slow::a_head_without_end), Seen)
            .differs("50 ms of the processor: 0.5 s, unoptimised and with all that runs beside"),
        row(
            "A14",
            "a body",
            behind(&format!("{}hello", upgrade_head("userId=odd", "Content-Length: 5\r\n"))),
            Last(400),
        ),
        row("A14", "chunked", behind(&upgrade_head("userId=odd", chunked)), Last(400)),
        row("A14", "both", behind(&upgrade_head("userId=odd", both)), Last(400)),
        row("A14", "lengths that differ", behind(&upgrade_head("userId=odd", lengths)), Last(400)),
        row("A15", "deflate offered", plus(deflate), Opens),
        row("A16", "only unknown subprotocols", plus("Sec-WebSocket-Protocol: mqtt, wamp"), Opens)
            .differs(
                "400: none is agreed to, which the client sees (RFC 6455 §4.1), as with extensions",
            ),
    ]
}

/// What follows a head, and what is none.
fn connections() -> Vec<Case> {
    let tls = "\x16\x03\x01\x02\0\x01\0\x01\u{7c}\x03\x03";
    let preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    vec![
        row("A17", "a token in the URL", query("token=canary-of-a-query"), Status(401)).guarded(),
        row("A17", "no log tells the query", query("userId=odd&token=canary-of-a-query"), Opens),
        row("A18", "no Host", with("Host", ""), Status(400)),
        row("A18", "two Hosts", with("Host", "Host: x\r\nHost: x"), Status(400)),
        row(
            "A18",
            "another's name for the loopback",
            with("Host", "Host: rebound.example"),
            Status(421),
        ),
        row("A19", "the preface of HTTP/2", head(preface), Last(400)),
        row("A19", "TLS", head(tls), Last(400)),
        row(
            "A19",
            "TLS, as a library says it",
            head(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec()),
            Last(400),
        ),
        row("A19", "noise", head(noise()), Ends)
            .differs("closed within 1 s: within 2 s, the answer has a second to arrive"),
        row("A19", "SSH", head("SSH-2.0-OpenSSH_9.6\r\n"), Last(400)),
        row("A19", "NULs", head(vec![0; 64]), Last(400)),
        row("A19", "another version", head("GET /ws?userId=odd HTTP/9.9\r\n\r\n"), Last(400)),
        row(
            "A20",
            "100 frames in the segment of the request",
            scene!(sockets::frames_with_the_head),
            Seen,
        ),
        row("A21", "CR in a value", plus("X: a\rb"), Status(400)),
        row("A21", "LF in a value", plus("X: a\nb"), Status(400)),
        row("A21", "NUL in a value", plus("X: a\0b"), Status(400)),
        row("A21", "a folded value", with("Host", "Host: a\r\n b"), Status(400)),
        row("A21", "a blank before the colon", with("Host", "Host : x"), Status(400)),
        row("A21", "a name that is not ASCII", plus("\u{e9}: x"), Status(400)),
        row("A22", "many sockets from one address", scene!(limits::sockets_of_an_address), Seen)
            .guarded(),
        row("A22", "a 17th socket of a person", scene!(sockets::a_seventeenth_socket), Seen)
            .differs("4409: it is 4001, for the oldest"),
        row("A22", "a server that drains", scene!(sockets::a_server_that_drains), Seen)
            .real()
            .differs(
                "503 with Retry-After: so for who is at the door already; it listens no more, and \
                 the balancer deals elsewhere",
            ),
        row("A23", "open and silent", scene!(sockets::open_and_silent), Seen)
            .slow()
            .differs("4408 after 5 s: who it is was known before the 101, nothing is waited for"),
        row(
            "A23",
            "a browser without a token",
            nobody("Origin: http://localhost"),
            Shown("unauthorized", 4401),
        )
        .guarded(),
    ]
}

/// Ids of people and devices.
fn ids() -> Vec<Case> {
    vec![
        row("D1", "empty", query("userId="), Status(400)),
        row("D1", "65 bytes", query(&format!("userId={}", "a".repeat(65))), Opens)
            .differs("bad_id: the design allows 128, as identity providers need"),
        row("D1", "129 bytes", query(&format!("userId={}", "a".repeat(129))), Status(400)),
        row("D1", "2,049 bytes", query(&format!("userId={}", "a".repeat(2_049))), Status(400)),
        row(
            "D1",
            "a device of 33 bytes",
            query(&format!("userId=a&device={}", "d".repeat(33))),
            Status(400),
        ),
        row("D2", "#", query("userId=a%23b"), Status(400)),
        row("D2", ":", query("userId=user:1"), Status(400)),
        row("D2", "{}", query("userId=%7btag%7d"), Status(400)),
        row("D2", "*", query("userId=*"), Status(400)),
        row("D2", "?", query("userId=%3f"), Status(400)),
        row("D2", "[", query("userId=["), Status(400)),
        row("D2", "CRLF", query("userId=a%0d%0aSET%20x%201"), Status(400)),
        row("D2", "a line for the log", query("userId=a%0aFORGED%20line"), Status(400)),
        row("D2", "colours for the log", query("userId=%1b[31mred"), Status(400)),
        row("D2", "../", query("userId=../"), Status(400)),
        row("D2", "%2e%2e/", query("userId=%2e%2e%2f"), Status(400)),
        row("D2", "%252e", query("userId=%252e%252e"), Status(400)),
        row("D2", "NUL", query("userId=%00"), Status(400)),
        row("D2", "a blank", query("userId=a%20b"), Status(400)),
        row("D2", "a dot in a device", query("userId=a&device=my.phone"), Status(400)),
        row("D3", "composed", query("userId=%c3%a9"), Status(400)),
        row("D3", "decomposed", query("userId=e%cc%81"), Status(400)),
        row("D3", "fullwidth", query("userId=%ef%bd%81"), Status(400)),
        row("D3", "Cyrillic", query("userId=%d0%b0"), Status(400)),
        row("D3", "of no width", query("userId=a%e2%80%8b"), Status(400)),
        row("D3", "not UTF-8", query("userId=%ff"), Status(400)),
    ]
}

/// Parameters and paths.
fn queries() -> Vec<Case> {
    vec![
        row("E9", "a bad percent", query("userId=%zz"), Status(400)),
        row("E9", "half a percent", query("userId=%4"), Status(400)),
        row("E3", "a parameter twice", query("userId=a&userId=b"), Status(400)),
        row("E3", "a device twice", query("userId=a&device=x&device=y"), Status(400)),
        row("E3", "no user", query(""), Status(400)),
        row("E3", "another name for it", query("userid=a"), Status(400)),
        row("E3", "an empty device", query("userId=a&device="), Status(400)),
        row("E3", "a device without a value", query("userId=a&device"), Status(400)),
        row("E3", "empty acks", query("userId=a&acks="), Status(400)),
        row("E3", "catchup of many", query("userId=a&catchup=many"), Status(400)),
        row("E3", "version 0", query("userId=a&v=0"), Status(400)),
        row("E3", "version 1.0", query("userId=a&v=1.0"), Status(400)),
        row("E3", "acks of another kind", query("userId=a&acks=pong"), Status(400)),
        row("E3", "catchup 0", query("userId=a&catchup=0"), Status(400)),
        row("E3", "catchup -1", query("userId=a&catchup=-1"), Status(400)),
        row("E3", "catchup 10001", query("userId=a&catchup=10001"), Status(400)),
        row("E3", "catchup 2^64", query("userId=a&catchup=18446744073709551616"), Status(400)),
        row("E3", "a version to come", query("userId=a&v=2"), Status(400)),
        row("E3", "a version that is none", query("userId=a&v="), Status(400)),
        row("E11", "another path", head(plain("GET", "/socket", "")), Status(404)),
        row("E11", "with a slash", head(plain("GET", "/ws/?userId=a", "")), Status(404)),
        row("E11", "with two slashes", head(plain("GET", "//ws?userId=a", "")), Status(404)),
        row("E11", "in capitals", head(plain("GET", "/WS?userId=a", "")), Status(404)),
        row(
            "E11",
            "a line for the log",
            head(plain("GET", "/%0aFORGED%20line%1b[31m", "")),
            Status(404),
        ),
        row(
            "E11",
            "colours for the log",
            head(b"GET /\x1b[31mred HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
            Status(400),
        ),
        row("E11", "a path behind it", head(plain("GET", "/ws/x?userId=a", "")), Status(404)),
        row("E11", "a path with a climb", head(plain("GET", "/..%2fws?userId=a", "")), Status(404)),
        row("E11", "metrics where people are", head(plain("GET", "/metrics", "")), Status(404)),
    ]
}
