//! The rules of RFC 6455 and those of our own, one by one; and then any bytes at all.

use proptest::prelude::*;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::{Message, WebSocket};

use super::fuzzed::{Said, hear, hold, oracle};
use super::*;
use crate::protocol::{FRAME_BYTES_MAX, Sizes};

const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A masked frame with a head in the shortest form.
fn masked(first: u8, payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
    let mut bytes = Vec::new();
    put(&mut bytes, 0, payload);
    bytes[0] = first;
    bytes[1] |= 0x80;
    let at = bytes.len() - payload.len();
    bytes.splice(at..at, mask);
    for (byte, mask) in bytes[at + 4..].iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
    bytes
}

fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    masked(first, payload, MASK)
}

/// What is heard however the bytes come.
#[track_caller]
fn all(bytes: &[u8]) -> (Vec<(Said, u32)>, Option<Fault>) {
    hold(bytes);
    let (heard, fault, _) = hear([bytes], false);
    (heard, fault)
}

fn text(text: &str, cost: u32) -> (Said, u32) {
    (Said::Text(text.to_owned()), cost)
}

fn pong(payload: &[u8]) -> (Said, u32) {
    (Said::Pong(payload.to_vec()), 0)
}

#[track_caller]
fn refused(bytes: &[u8], fault: Fault) {
    assert_eq!(all(bytes), (vec![], Some(fault)), "{:x?}", &bytes[..bytes.len().min(20)]);
}

/// What was said before the fault does not matter.
#[track_caller]
fn ends(bytes: &[u8], fault: Fault) {
    assert_eq!(all(bytes).1, Some(fault));
}

#[test]
fn the_examples_of_the_rfc() {
    let hello = b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58";
    assert_eq!(all(hello), (vec![text("Hello", 11)], None));
    let parts = [frame(0x01, b"Hel"), frame(0x80, b"lo")].concat();
    assert_eq!(all(&parts), (vec![text("Hello", 17)], None));
    let answer = b"\x8a\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58";
    assert_eq!(all(answer), (vec![pong(b"Hello")], None));
    let mut out = Vec::new();
    put_text(&mut out, b"Hello");
    put_ping(&mut out, b"Hello");
    put_pong(&mut out, b"Hello");
    assert_eq!(out, b"\x81\x05Hello\x89\x05Hello\x8a\x05Hello");
    for (length, head) in [(256, &b"\x82\x7e\x01\x00"[..]), (65_536, b"\x82\x7f\0\0\0\0\0\x01\0\0")]
    {
        out.clear();
        put_binary(&mut out, &vec![7; length]);
        assert!(out.starts_with(head) && out.len() == head.len() + length);
    }
}

#[test]
fn heads_that_may_not_be() {
    // Reserved bits, unknown codes, no mask.
    for first in [0xc1, 0xa1, 0x91, 0x83, 0x87, 0x8b, 0x8f, 0x03, 0x0b] {
        refused(&frame(first, b""), Fault::Protocol);
    }
    refused(b"\x81\x05Hello", Fault::Protocol);
    // Control frames in parts, or too long.
    for code in [8, 9, 10] {
        refused(&frame(code, b""), Fault::Protocol);
        refused(&frame(0x80 | code, &[b'x'; 126]), Fault::Protocol);
    }
    let longest = [b'x'; 125];
    assert_eq!(all(&frame(0x8a, &longest)), (vec![pong(&longest)], None));
    refused(&frame(0x82, b""), Fault::Unsupported);
    refused(&frame(0x02, b""), Fault::Unsupported);
}

#[test]
fn a_length_has_its_shortest_form() {
    for head in [
        &b"\x81\xfe\x00\x05"[..],
        b"\x81\xfe\x00\x7d",
        b"\x81\xff\0\0\0\0\0\0\xff\xff",
        b"\x81\xff\x80\0\0\0\0\x01\0\0",
        b"\x81\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    ] {
        refused(head, Fault::Protocol);
    }
    for length in [0, 1, 7, 8, 9, 125, 126, 127, 65_535, 65_536] {
        let bytes = frame(0x81, &vec![b'x'; length]);
        let cost = u32::try_from(bytes.len()).unwrap();
        assert_eq!(all(&bytes), (vec![text(&"x".repeat(length), cost)], None));
    }
}

#[test]
fn fragments_and_what_may_stand_between_them() {
    let (begin, more, last) = (frame(0x01, b"a"), frame(0x00, b"b"), frame(0x80, b"c"));
    let ping = frame(0x8a, b"!");
    let mixed = [&begin[..], &ping, &more, &ping, &ping, &last, &ping].concat();
    let one = pong(b"!");
    let expected = vec![one.clone(), one.clone(), one.clone(), text("abc", 21), one];
    assert_eq!(all(&mixed), (expected, None));
    refused(&more, Fault::Protocol);
    refused(&last, Fault::Protocol);
    refused(&[&begin[..], &begin].concat(), Fault::Protocol);
    refused(&[&begin[..], &frame(0x81, b"")].concat(), Fault::Protocol);
    refused(&[&begin[..], &frame(0x82, b"")].concat(), Fault::Protocol);
    ends(&[&begin[..], &last, &last].concat(), Fault::Protocol);
    let empty = [frame(0x01, b""), frame(0x00, b""), frame(0x80, b"")].concat();
    assert_eq!(all(&empty), (vec![text("", 18)], None));
    let closed = [&begin[..], &frame(0x88, b""), &last].concat();
    assert_eq!(all(&closed), (vec![(Said::Close(None), 0)], None));
}

#[test]
fn a_close_says_why_or_nothing() {
    let close = |payload: &[u8]| frame(0x88, payload);
    assert_eq!(all(&close(b"")), (vec![(Said::Close(None), 0)], None));
    refused(&close(b"x"), Fault::Protocol);
    for code in (0..=5_100_u16).chain([u16::MAX]) {
        let payload = [&code.to_be_bytes()[..], "tschüß".as_bytes()].concat();
        // RFC 6455 §7.4 and what was registered since.
        let good = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014];
        if good.contains(&code) || (3_000..5_000).contains(&code) {
            assert_eq!(all(&close(&payload)), (vec![(Said::Close(Some(code)), 0)], None));
        } else {
            refused(&close(&payload), Fault::Protocol);
        }
    }
    refused(&close(b"\x03\xe8\xff"), Fault::NotUtf8);
    refused(&close(b"\x03\xe8\xc3"), Fault::NotUtf8);
}

#[test]
fn text_is_utf8_and_the_rest_of_it_is_not_waited_for() {
    let (good, bad) = ("κόσμε€😀".as_bytes(), b"\xce\xba\xed\xa0\x80");
    refused(&frame(0x81, bad), Fault::NotUtf8);
    refused(&frame(0x81, b"a\xc3"), Fault::NotUtf8);
    // Cut inside of characters, in as many fragments as bytes.
    let last = good.len() - 1;
    let first = |index| if index == 0 { 0x01 } else { 0x00 };
    let mut parts: Vec<u8> =
        (0..last).flat_map(|index| frame(first(index), &good[index..=index])).collect();
    ends(&[&parts[..], &frame(0x80, b"")].concat(), Fault::NotUtf8);
    parts.extend(frame(0x80, &good[last..]));
    assert_eq!(all(&parts), (vec![text("κόσμε€😀", parts.len() as u32)], None));
    // A fragment, and the beginning of a frame that is not whole.
    refused(&frame(0x01, bad), Fault::NotUtf8);
    refused(&frame(0x01, b"\xf4\x90"), Fault::NotUtf8);
    let long = frame(0x81, &[bad, &[b'x'; 1_000][..]].concat());
    refused(&long[..20], Fault::NotUtf8);
}

#[test]
fn what_is_too_big_is_refused_by_its_head() {
    refused(b"\x81\xff\0\0\0\0\0\x01\0\x01", Fault::TooBig);
    refused(b"\x01\xff\x7f\0\0\0\0\x01\0\x01", Fault::TooBig);
    let half = frame(0x01, &[b'x'; 40_000]);
    refused(&[&half[..], b"\x80\xfe\x9c\x40"].concat(), Fault::TooBig);
    let rest = frame(0x80, &[b'x'; 25_536]);
    assert_eq!(all(&[half, rest].concat()).1, None);
}

#[test]
fn crumbs_are_too_big_and_a_few_fragments_are_not() {
    // A byte in each of 600 fragments, and one in each of 2,000.
    for (count, fault) in [(600, None), (2_000, Some(Fault::TooBig))] {
        let more = vec![frame(0x00, b"x"); count - 2].concat();
        let bytes = [&frame(0x01, b"x")[..], &more, &frame(0x80, b"x")].concat();
        assert_eq!(all(&bytes).1, fault, "{count}");
    }
    // What never ends, ends here.
    let bytes = [frame(0x01, b""), vec![frame(0x00, b""); 20_000].concat()].concat();
    ends(&bytes, Fault::TooBig);
    let count = (FRAME_BYTES_MAX + 16 * 1_024) / 6;
    let (heard, fault, unpaid) = hear([&bytes[..count * 6]], false);
    assert_eq!((heard, fault, unpaid), (vec![], None, count as u32 * 6));
    // Half a message, and then only pongs to what the server asks: that may go on.
    let ping = frame(0x8a, b"12345678");
    let bytes = [&frame(0x01, b"x")[..], &vec![ping; 10_000].concat()].concat();
    let (heard, fault, unpaid) = hear([&bytes[..]], false);
    assert_eq!((heard.len(), fault, unpaid), (10_000, None, 7));
}

#[test]
fn all_that_is_read_is_paid_for_or_waits_for_it() {
    let bytes = [frame(0x81, b"first"), frame(0x01, b"second"), frame(0x89, b"ping")].concat();
    for end in 0..=bytes.len() {
        let (heard, _, unpaid) = hear([&bytes[..end]], false);
        let paid = heard.iter().map(|(said, cost)| match said {
            Said::Ping(payload) => payload.len() as u32 + 6,
            _ => *cost,
        });
        assert_eq!(paid.sum::<u32>() + unpaid, end as u32);
    }
}

#[test]
fn a_whole_frame_is_handed_out_where_it_lies() {
    assert!(size_of::<Decoder>() <= 24);
    let mut decoder = Decoder::default();
    let mut bytes = [frame(0x81, b"one"), frame(0x89, b"two"), frame(0x81, b"three")].concat();
    let range = bytes.as_ptr_range();
    let mut input = &mut bytes[..];
    for _ in 0..3 {
        match decoder.next(&mut input, Sizes::MOST.frame) {
            Ok(Some(Incoming::Text { text, .. })) => assert!(range.contains(&text.as_ptr())),
            Ok(Some(Incoming::Ping(payload))) => assert!(range.contains(&payload.as_ptr())),
            other => panic!("{other:?}"),
        }
        assert_eq!(format!("{decoder:?}"), format!("{:?}", Decoder::default()));
    }
}

#[test]
fn memory_is_of_what_has_come_and_goes_with_it() {
    let mut decoder = Decoder::default();
    let mut bytes = frame(0x81, &[b'x'; 60_000]);
    let length = bytes.len();
    for (from, to, most) in
        [(0, 100, 512), (100, 300, 512), (300, 40_000, 40_000), (40_000, length - 1, 60_000)]
    {
        assert_eq!(decoder.next(&mut &mut bytes[from..to], Sizes::MOST.frame), Ok(None));
        assert!((to - 8..=most).contains(&decoder.0.room()), "{}", decoder.0.room());
    }
    let last = decoder.next(&mut &mut bytes[length - 1..], Sizes::MOST.frame);
    assert!(matches!(last, Ok(Some(Incoming::Text { text, .. })) if text.len() == 60_000));
    assert_eq!(decoder.next(&mut &mut [][..], Sizes::MOST.frame), Ok(None));
    assert_eq!(format!("{decoder:?}"), format!("{:?}", Decoder::default()));
}

#[test]
fn what_is_kept_comes_first() {
    let mut decoder = Decoder::default();
    let mut bytes = [frame(0x81, b"one"), frame(0x8a, b"two"), frame(0x81, b"three")].concat();
    let (now, later) = bytes.split_at_mut(20);
    decoder.keep(now);
    decoder.keep(&[]);
    assert!(decoder.has_kept());
    assert_eq!(decoder.unpaid(), 20);
    let mut input = later;
    let whole = input.len();
    let one = decoder.next(&mut input, Sizes::MOST.frame);
    assert_eq!(one, Ok(Some(Incoming::Text { text: "one", cost: 9 })));
    assert!(decoder.has_kept());
    assert_eq!(decoder.next(&mut &mut [][..], Sizes::MOST.frame), Ok(Some(Incoming::Pong(b"two"))));
    assert_eq!((decoder.has_kept(), decoder.unpaid(), input.len()), (true, 2, whole));
    let three = decoder.next(&mut input, Sizes::MOST.frame);
    assert_eq!(three, Ok(Some(Incoming::Text { text: "three", cost: 11 })));
    assert!(!decoder.has_kept() && input.is_empty());
}

/// What a tungstenite client hears of bytes.
fn at_client(bytes: &[u8]) -> Vec<Message> {
    let cursor = std::io::Cursor::new(bytes.to_vec());
    let mut web = WebSocket::from_raw_socket(cursor, Role::Client, None);
    std::iter::from_fn(|| web.read().ok()).collect()
}

#[test]
fn every_close_code_is_understood() {
    for code in CloseCode::ALL {
        let mut out = Vec::new();
        put_close(&mut out, code);
        let heard = at_client(&out);
        let [Message::Close(Some(frame))] = &heard[..] else { panic!("{code:?}: {heard:?}") };
        assert_eq!(u16::from(frame.code), code.number());
        assert_eq!(frame.reason, code.reason());
    }
    let faults = [Fault::Protocol, Fault::NotUtf8, Fault::TooBig, Fault::Unsupported];
    assert_eq!(faults.map(|fault| fault.code().number()), [1002, 1007, 1009, 1003]);
}

/// A frame that says something, or one of a message in several, with what stands between.
fn messages() -> impl Strategy<Value = Vec<u8>> {
    let mask = any::<[u8; 4]>();
    let control = (0x89..=0x8a_u8, proptest::collection::vec(any::<u8>(), 0..=125), mask);
    let control = control.prop_map(|(first, payload, mask)| masked(first, &payload, mask));
    let text = prop_oneof![
        8 => "\\PC{0,40}",
        1 => "[a-zé€😀]{100,400}",
        1 => (60_000..=65_536_usize).prop_map(|length| "x".repeat(length)),
    ];
    let cuts = proptest::collection::vec(any::<prop::sample::Index>(), 0..4);
    let between = proptest::collection::vec(control.clone(), 0..3);
    let message = (text, cuts, between, mask).prop_map(|(text, cuts, between, mask)| {
        let text = text.as_bytes();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
        cuts.sort_unstable();
        let ends = cuts.iter().copied().chain([text.len()]);
        let mut between = between.into_iter();
        let (mut from, mut bytes) = (0, Vec::new());
        for (index, end) in ends.enumerate() {
            let code = if index == 0 { 0x01 } else { 0x00 };
            let last = if index == cuts.len() { 0x80 } else { 0x00 };
            bytes.extend(masked(code | last, &text[from..end], mask));
            bytes.extend(between.next().unwrap_or_default());
            from = end;
        }
        bytes
    });
    let one = prop_oneof![3 => message, 1 => control];
    proptest::collection::vec(one, 1..6).prop_map(|all| all.concat())
}

/// The pieces between these cuts.
fn cut<'a>(bytes: &'a [u8], cuts: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    ends.sort_unstable();
    let mut from = 0;
    let pieces = ends.into_iter().chain([bytes.len()]).map(|end| {
        let piece = &bytes[from..end];
        from = end;
        piece
    });
    pieces.collect()
}

fn cuts() -> impl Strategy<Value = Vec<prop::sample::Index>> {
    proptest::collection::vec(any::<prop::sample::Index>(), 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_said_well_is_heard_as_tungstenite_hears_it(
        bytes in messages(), cuts in cuts(), rests in any::<bool>()
    ) {
        let (heard, fault, unpaid) = hear(cut(&bytes, &cuts), rests);
        prop_assert_eq!((fault, unpaid), (None, 0));
        let heard: Vec<_> = heard.into_iter().map(|(said, _)| said).collect();
        prop_assert_eq!((heard, false), oracle(&bytes));
    }

    #[test]
    fn no_bytes_are_taken_that_tungstenite_refuses(
        bytes in proptest::collection::vec(any::<u8>(), 0..200)
    ) {
        hold(&bytes);
    }

    #[test]
    fn nor_is_what_was_good_before_one_byte_was_changed(
        mut bytes in messages(), at in any::<prop::sample::Index>(), byte in any::<u8>()
    ) {
        let at = at.index(bytes.len().min(400));
        bytes[at] = byte;
        hold(&bytes);
    }

    #[test]
    fn a_client_hears_what_is_written(
        texts in proptest::collection::vec("\\PC{0,100}", 0..5), length in 0..70_000_usize,
        payload in proptest::collection::vec(any::<u8>(), 0..=125)
    ) {
        let (mut out, mut said) = (Vec::new(), Vec::new());
        for text in texts.into_iter().chain(["x".repeat(length)]) {
            put_text(&mut out, text.as_bytes());
            said.push(Message::text(text));
        }
        put_ping(&mut out, &payload);
        put_pong(&mut out, &payload);
        put_binary(&mut out, &payload);
        said.push(Message::Ping(payload.clone().into()));
        said.push(Message::Pong(payload.clone().into()));
        said.push(Message::Binary(payload.into()));
        prop_assert_eq!(at_client(&out), said);
    }
}
