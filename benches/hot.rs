//! What a message costs on its way, step by step: reading its frame, the limits, writing it out.
//!
//! `cargo bench --bench hot` prints the times. They are of one machine; what holds elsewhere is how
//! they stand to each other, and whether a step keeps far from its bound: a check of a limit may
//! take 100 ns (`docs/adr/0005-rates-in-a-fixed-table.md`), and each frame passes two of them.

// A benchmark that can't begin has nothing to say.
#![allow(clippy::unwrap_used)]

use divan::{Bencher, black_box};
use parlor::gateway::framing::{Decoder, Incoming, put_text};
use parlor::limits::{Limits, Rate, Settings};
use parlor::protocol::{ClientFrame, ConversationId, Entry, Envelope, ProcessId, UserId, answer};
use tokio::time::Instant;

fn main() {
    divan::main();
}

const FRAME: &str = concat!(
    r#"{"type":"message","to":"userB","message":"Is the bicycle still for sale?","#,
    r#""ref":"01J9Z3"}"#
);
const ENTRY: &str = concat!(
    r#"{"seq":41,"kind":"message","from":"userA","to":"userB","#,
    r#""message":"Is the bicycle still for sale?","ref":"01J9Z3","device":"phone","#,
    r#""timestamp":1780000000000,"n":40}"#
);

/// So many frames as a client sends them. A mask of zeros is taken off like any other, and leaves
/// the bytes as they were for the next time.
fn masked(count: usize) -> Vec<u8> {
    let mut frame = Vec::new();
    put_text(&mut frame, FRAME.as_bytes());
    frame[1] |= 0x80;
    frame.splice(2..2, [0; 4]);
    frame.repeat(count)
}

/// What was read from a socket in one go.
#[divan::bench(args = [1, 64], sample_size = 1000)]
fn take_frames_apart(bencher: Bencher, count: usize) {
    let (mut decoder, mut bytes) = (Decoder::default(), masked(count));
    bencher.bench_local(|| {
        let (mut input, mut length) = (black_box(&mut bytes[..]), 0);
        while let Some(Incoming::Text { text, .. }) = decoder.next(&mut input).unwrap() {
            length += text.len();
        }
        assert_eq!(length, count * FRAME.len());
    });
}

/// The same frame in two reads.
#[divan::bench(sample_size = 1000)]
fn put_a_cut_frame_together(bencher: Bencher) {
    let (mut decoder, mut bytes) = (Decoder::default(), masked(1));
    bencher.bench_local(|| {
        let (mut begin, mut end) = black_box(&mut bytes[..]).split_at_mut(40);
        assert!(decoder.next(&mut begin).unwrap().is_none());
        assert!(decoder.next(&mut end).unwrap().is_some());
    });
}

#[divan::bench(sample_size = 1000)]
fn put_a_frame_around_a_text(bencher: Bencher) {
    let mut out = Vec::new();
    bencher.bench_local(|| {
        out.clear();
        put_text(&mut out, black_box(FRAME.as_bytes()));
    });
}

#[divan::bench(sample_size = 1000)]
fn read_a_message_frame(bencher: Bencher) {
    bencher.bench(|| ClientFrame::parse(black_box(FRAME)).unwrap());
}

#[divan::bench(sample_size = 1000)]
fn write_a_message_out(bencher: Bencher) {
    let conversation = ConversationId::parse("dm:userA:userB").unwrap();
    let entry: Entry = serde_json::from_str(ENTRY).unwrap();
    bencher.bench(|| answer::entry(black_box(&conversation), black_box(&entry), false));
}

fn envelope() -> Envelope {
    Envelope::Entry {
        conversation: ConversationId::parse("dm:userA:userB").unwrap(),
        entry: serde_json::from_str::<Entry>(ENTRY).unwrap().into(),
        users: vec![UserId::parse("userB").unwrap()],
        roster: None,
        via: ProcessId::parse("ws1").unwrap(),
        again: false,
    }
}

#[divan::bench(sample_size = 1000)]
fn write_an_envelope(bencher: Bencher) {
    let (envelope, mut out) = (envelope(), Vec::new());
    bencher.bench_local(|| {
        out.clear();
        black_box(&envelope).write(&mut out);
    });
}

#[divan::bench(sample_size = 1000)]
fn read_an_envelope(bencher: Bencher) {
    let mut out = Vec::new();
    envelope().write(&mut out);
    let text = String::from_utf8(out).unwrap();
    bencher.bench(|| serde_json::from_str::<Envelope>(black_box(&text)).unwrap());
}

/// Both checks of a frame, by count and by bytes, of so many users in turn: their slots are in the
/// cache or not.
#[divan::bench(args = [1, 1_000, 100_000], sample_size = 1000)]
fn check_the_limits_of_a_frame(bencher: Bencher, users: usize) {
    // So high that each check passes: it is then that it writes.
    let much = Some(Rate::new(u32::MAX, u32::MAX));
    let limits = Limits::new(Settings { frames: much, bytes: much, ..Settings::default() });
    let names = (0..users).map(|user| UserId::parse(&format!("user{user}")).unwrap());
    let keys: Vec<_> = names.map(|name| limits.key(&name)).collect();
    let mut turn = keys.iter().cycle();
    let now = Instant::now();
    bencher.bench_local(|| {
        let key = *turn.next().unwrap();
        limits.frame(black_box(key), FRAME.len(), now).unwrap();
    });
}

/// The clock is read once for all that arrived together.
#[divan::bench(sample_size = 1000)]
fn read_the_clock() -> Instant {
    Instant::now()
}
