//! A session while anything on the way is lost, repeated, reordered or late, over a real store.

mod client;
mod sim;

use std::sync::LazyLock;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::Instant;

use self::sim::{Sim, Step};
use super::{Done, Effect, Event, Here, Input, Outputs, Session, Wish};
use crate::chat::catchup::Waiting;
use crate::chat::catchup::Work;
use crate::chat::testing::{message, user};
use crate::hub::Who;
use crate::limits::{Limit, Over};
use crate::protocol::*;

const SEEDS: usize = 60;
const STEPS: usize = 250;

/// Whatever happens, the client sees every conversation's texts in order and without holes (P4,
/// I7), what waited before `caughtup` (P7), nothing that it may not see (P9), no copy of its own;
/// `delivered` is said and cursors are stored only of what it has really received (I8); and in the
/// end it has everything (P3) and is pushed nothing again, and the session costs no memory.
async fn run(seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let wish = Wish {
        acks_app: random.random_bool(0.3),
        catchup: random.random_bool(0.3).then(|| random.random_range(1..6)),
        guarded: random.random_bool(0.5),
    };
    let lossless = random.random_bool(0.5);
    // The seed of a run that failed stands last.
    eprintln!("seed {seed}, {wish:?}, lossless: {lossless}");
    let mut sim = Sim::new(random, wish, lossless).await;
    for _ in 0..STEPS {
        let step = Step::any(&mut sim.random);
        sim.step(step).await;
    }
    sim.settle().await;
    sim.step(Step::Close).await;
    let before = sim.client.repeats;
    sim.settle().await;
    assert_eq!(sim.client.repeats, before, "a second reconnect pushes nothing again");
    // What it may push for the first time is the person's own whose `sent` was lost, where somebody
    // has raised the row since.
    sim.step(Step::Close).await;
    let before = sim.client.texts;
    sim.settle().await;
    assert_eq!(sim.client.texts, before, "a third one pushes nothing at all");
    sim.rest().await;
}

#[tokio::test]
async fn a_client_sees_every_text_in_order_whatever_is_lost_on_the_way() {
    // One that once failed, and any.
    let seeds = (0..SEEDS).map(|_| rand::random());
    for seed in std::iter::once(17_273_856_779_635_201_856).chain(seeds) {
        run(seed).await;
    }
}

/// A mark set while a read is under way asks for another, also while the socket catches up.
#[test]
fn a_reread_asked_for_during_the_first_read_follows_it() {
    let (mut session, now) = (Session::new(Wish::default()), Instant::now());
    let mut out = Outputs::default();
    session.start(&here(now), &mut out);
    assert!(matches!(out.work, Some(Work::Enter { catchup: None })));
    let mut out = Outputs::default();
    session.step(Input::Event(Event::Reread), &here(now), &mut out);
    assert!(out.work.is_none(), "one piece of work at a time");
    let mut out = Outputs::default();
    session.step(Input::Done(Done::Mailbox(Vec::new())), &here(now), &mut out);
    assert!(matches!(out.work, Some(Work::Reread { consistent: true, .. })), "{out:?}");
    assert!(out.frames.is_empty(), "not caught up yet");
    let mut out = Outputs::default();
    session.step(Input::Done(Done::Mailbox(Vec::new())), &here(now), &mut out);
    assert!(out.work.is_none() && out.frames == [crate::protocol::answer::caught_up()]);
}

/// Who sends too much is told so for each frame that asks for something. What only confirms is
/// taken: nobody would send it again.
#[test]
fn frames_over_a_limit_are_answered_and_do_nothing() {
    let (mut session, now) = session(Wish { acks_app: true, ..Wish::default() });
    let over = Over { limit: Limit::Frames, wait: Duration::from_micros(6_001) };
    for frame in [
        r#"{"type":"message","to":"b","message":"Hi","ref":"r"}"#,
        r#"{"type":"read","conversation":"dm:a:b","seq":1,"ref":"r"}"#,
        r#"{"type":"signal","to":"b","data":{},"ref":"r"}"#,
        r#"{"type":"ping","ref":"r"}"#,
        r#"{"type":"auth","token":"t","ref":"r"}"#,
    ] {
        let mut out = Outputs::default();
        session.hear(frame, || Err(over), &here(now), &mut out);
        let answer: serde_json::Value = serde_json::from_slice(&out.frames[0]).unwrap();
        let expected = serde_json::json!({"type": "error", "code": "rate_limited", "ref": "r",
            "detail": "too many frames: wait and try again", "retryable": true,
            "retryAfterMs": 7});
        assert_eq!((answer, out.frames.len()), (expected, 1), "{frame}");
        assert!(matches!(out.effects[..], [Effect::Refused(ErrorCode::RateLimited)]), "{out:?}");
        assert!(out.close.is_none() && !session.paused());
    }
    for (frame, frames) in [
        (r#"{"type":"ack","conversation":"dm:a:b","seq":1}"#, 0),
        (r#"{"type":"message","to":"b"}"#, 1),
    ] {
        let mut out = Outputs::default();
        session.hear(frame, || Err(over), &here(now), &mut out);
        assert_eq!(out.frames.len(), frames, "{frame}");
        let limited = |effect: &Effect| matches!(effect, Effect::Refused(ErrorCode::RateLimited));
        assert!(!out.effects.iter().any(limited), "{frame}: as ever");
    }
}

#[test]
fn the_belt_reads_what_stood_a_moment_ago_unless_more_is_asked_for() {
    let is_read = |out: &Outputs| match out.work {
        Some(Work::Reread { consistent, .. }) => Some(consistent),
        _ => None,
    };
    for (first, second, expected) in [
        (Event::Belt, Event::Belt, false),
        (Event::Belt, Event::Reread, true),
        (Event::Reread, Event::Belt, true),
    ] {
        let (mut session, now) = session(Wish::default());
        step(&mut session, Input::Event(Event::Belt), now);
        let out = step(&mut session, Input::Done(Done::Mailbox(Vec::new())), now);
        assert!(out.work.is_none(), "the first read is all that the belt could ask for: {out:?}");
        let out = step(&mut session, Input::Event(Event::Belt), now);
        assert_eq!(is_read(&out), Some(false));
        step(&mut session, Input::Event(first), now);
        step(&mut session, Input::Event(second), now);
        let out = step(&mut session, Input::Done(Done::Mailbox(Vec::new())), now);
        assert_eq!(is_read(&out), Some(expected));
    }
}

/// Nothing is told to a socket whose token may be dead, and nothing taken from it, whatever it was
/// about to read; once the mailbox was read it has it all.
#[test]
fn a_socket_in_doubt_is_told_nothing_until_its_mailbox_was_read() {
    for reading in [false, true] {
        let (mut session, now) = session(Wish { guarded: true, ..Wish::default() });
        step(&mut session, Input::Done(Done::Mailbox(Vec::new())), now);
        if reading {
            step(&mut session, Input::Event(text("b", 1)), now);
            step(&mut session, Input::Done(Done::Loaded(dm("b"), 0)), now);
            let hint = Event::Hint { conversation: dm("b"), seq: 2, via: None };
            let out = step(&mut session, Input::Event(hint), now);
            assert!(matches!(out.work, Some(Work::Pause(..))), "{out:?}");
            let out = step(&mut session, Input::Done(Done::Paused(dm("b"))), now);
            assert!(matches!(out.work, Some(Work::Read { .. })), "{out:?}");
        }
        let out = step(&mut session, Input::Event(Event::Doubt), now);
        let rereads = |out: &Outputs| matches!(out.work, Some(Work::Reread { doubted: true, .. }));
        assert_eq!(rereads(&out), !reading, "{out:?}");
        assert!(session.paused());
        let status = Event::Frame(Text::from_static(b"{}"));
        for event in [text("c", 1), text("b", 3), status] {
            let out = step(&mut session, Input::Event(event), now);
            assert!(out.frames.is_empty(), "{out:?}");
        }
        let send = r#"{"type":"message","to":"b","message":"Hi","ref":"r"}"#;
        let out = step(&mut session, Input::Frame(send), now);
        assert!(!out.effects.iter().any(|effect| matches!(effect, Effect::Send(_))), "{out:?}");
        if reading {
            let out = step(&mut session, Input::Done(page("b", 2..=2, false)), now);
            assert!(out.frames.is_empty() && rereads(&out), "{out:?}");
        }
        let mut out = step(&mut session, Input::Done(Done::Mailbox(Vec::new())), now);
        assert!(!session.paused());
        let mut told = Vec::new();
        for _ in 0..9 {
            told.extend(
                out.frames.drain(..).map(|frame| String::from_utf8(frame.to_vec()).unwrap()),
            );
            let done = match out.work.take() {
                None => break,
                Some(Work::Load(conversation, _)) => Done::Loaded(conversation, 0),
                Some(Work::Pause(conversation, _)) => Done::Paused(conversation),
                Some(Work::Read { conversation, after, .. }) => {
                    let end = if conversation == dm("b") { 3 } else { 1 };
                    let other = if conversation == dm("b") { "b" } else { "c" };
                    page(other, after + 1..=end, false)
                }
                Some(other) => panic!("{other:?}"),
            };
            out = step(&mut session, Input::Done(done), now);
        }
        let told = told.iter().filter(|frame| frame.contains("\"message\"")).count();
        assert_eq!(told, if reading { 3 } else { 4 }, "all of it, reading: {reading}");
    }
}

/// A read that had begun before the doubt may have been too early.
#[test]
fn a_mailbox_that_was_being_read_ends_no_doubt() {
    let (mut session, now) = session(Wish { guarded: true, ..Wish::default() });
    step(&mut session, Input::Event(Event::Doubt), now);
    let out = step(&mut session, Input::Done(Done::Mailbox(Vec::new())), now);
    assert!(matches!(out.work, Some(Work::Reread { doubted: true, .. })), "{out:?}");
    assert!(session.paused());
    let out = step(&mut session, Input::Done(Done::Mailbox(Vec::new())), now);
    assert!(!session.paused() && out.frames == [answer::caught_up()], "{out:?}");
}

fn dm(other: &str) -> ConversationId {
    ConversationId::parse(&format!("dm:a:{other}")).unwrap()
}

/// A socket of `a`.
fn who() -> &'static Who {
    static WHO: LazyLock<Who> = LazyLock::new(|| {
        let (user, device) = (user("a"), DeviceId::plain());
        Who { user, device, socket: SocketId(1) }
    });
    &WHO
}

fn here(now: Instant) -> Here<'static> {
    static SERVER: LazyLock<ProcessId> = LazyLock::new(via);
    Here { who: who(), server: &SERVER, sockets_per_user: 16, sizes: Sizes::MOST, clock: 1, now }
}

/// A session of `a` that has said `welcome`.
fn session(wish: Wish) -> (Session, Instant) {
    let (mut session, now) = (Session::new(wish), Instant::now());
    session.start(&here(now), &mut Outputs::default());
    (session, now)
}

fn via() -> ProcessId {
    ProcessId::parse("ws1").unwrap()
}

fn step(session: &mut Session, input: Input<'_>, now: Instant) -> Outputs {
    let mut out = Outputs::default();
    session.step(input, &here(now), &mut out);
    out
}

fn text(other: &str, seq: Seq) -> Event {
    let conversation = dm(other);
    let text = answer::entry(&conversation, &message(other, "a", seq), false);
    Event::Text { conversation, seq, n: seq, text, via: via(), again: false }
}

fn page(other: &str, seqs: std::ops::RangeInclusive<Seq>, more: bool) -> Done {
    let entries = seqs.map(|seq| (seq, Some(message(other, "a", seq)))).collect();
    Done::Page { conversation: dm(other), start: 0, entries, skip: 0, more }
}

/// The end of the log.
fn nothing(other: &str) -> Done {
    let (conversation, entries) = (dm(other), Vec::new());
    Done::Page { conversation, start: 0, entries, skip: 0, more: false }
}

fn waits(other: &str) -> Waiting {
    Waiting { conversation: dm(other), cursor: 0, start: 0, end: 1 }
}

#[test]
fn a_conversation_that_cannot_be_read_keeps_no_other_from_being_read() {
    let (mut session, now) = session(Wish::default());
    let mailbox = Done::Mailbox(vec![waits("b"), waits("c")]);
    let out = step(&mut session, Input::Done(mailbox), now);
    assert!(matches!(out.work, Some(Work::Read { conversation, .. }) if conversation == dm("b")));
    let out = step(&mut session, Input::Done(Done::Failed(dm("b"))), now);
    assert!(matches!(out.work, Some(Work::Read { conversation, .. }) if conversation == dm("c")));
    let out = step(&mut session, Input::Done(page("c", 1..=1, false)), now);
    assert!(out.frames.contains(&answer::caught_up()), "{out:?}");
    let out = step(&mut session, Input::Event(text("b", 5)), now);
    assert!(out.work.is_some(), "what is new is tried: {out:?}");
}

#[test]
fn a_cursor_that_was_not_stored_rests_again() {
    let (mut session, now) = session(Wish { acks_app: true, ..Wish::default() });
    step(&mut session, Input::Done(Done::Mailbox(vec![waits("b")])), now);
    step(&mut session, Input::Done(page("b", 1..=1, false)), now);
    let ack = r#"{"type":"ack","conversation":"dm:a:b","seq":1}"#;
    let out = step(&mut session, Input::Frame(ack), now);
    assert!(matches!(out.work, Some(Work::Store(_))), "{out:?}");
    let failed = Done::Stored { stored: Vec::new(), failed: vec![dm("b")] };
    let out = step(&mut session, Input::Done(failed), now);
    assert!(out.work.is_none(), "other work may go on: {out:?}");
    assert!(matches!(out.effects[..], [Effect::Rest(at)] if at > now), "{out:?}");
    let later = now + Duration::from_secs(60);
    let out = step(&mut session, Input::Event(Event::Flush), later);
    assert!(matches!(out.work, Some(Work::Store(_))), "{out:?}");
}

#[test]
fn a_read_that_was_not_stored_waits_for_what_is_to_be_read() {
    let (mut session, now) = session(Wish::default());
    let see = r#"{"type":"read","conversation":"dm:a:c","seq":1}"#;
    step(&mut session, Input::Done(Done::Mailbox(Vec::new())), now);
    let out = step(&mut session, Input::Frame(see), now);
    assert!(matches!(out.work, Some(Work::See { .. })), "{out:?}");
    step(&mut session, Input::Event(text("b", 1)), now);
    let out = step(&mut session, Input::Done(Done::Unseen(dm("c"), 1)), now);
    assert!(matches!(out.work, Some(Work::Load(..))), "{out:?}");
    let out = step(&mut session, Input::Done(Done::Loaded(dm("b"), 0)), now);
    assert!(matches!(out.work, Some(Work::See { seq: 1, .. })), "{out:?}");
}

/// Who reads and closes the tab has read.
#[test]
fn reads_that_the_store_does_not_know_are_left_behind() {
    let (mut session, now) = session(Wish::default());
    step(&mut session, Input::Done(Done::Mailbox(Vec::new())), now);
    for seen in [r#""dm:a:c","seq":1"#, r#""dm:a:b","seq":2"#, r#""dm:a:b","seq":3"#] {
        let see = format!(r#"{{"type":"read","conversation":{seen}}}"#);
        step(&mut session, Input::Frame(&see), now);
    }
    let left = session.finish(who());
    assert_eq!(left.sees, [(dm("c"), 1), (dm("b"), 3)], "one under way, one that waits");
    let (mut session, now) = self::session(Wish::default());
    step(&mut session, Input::Done(Done::Mailbox(Vec::new())), now);
    let see = r#"{"type":"read","conversation":"dm:a:c","seq":1}"#;
    step(&mut session, Input::Frame(see), now);
    step(&mut session, Input::Done(Done::Seen(dm("c"), Some(1))), now);
    assert!(session.finish(who()).sees.is_empty(), "it is stored");
}

/// While the store is away a client's answers may lie unread.
#[test]
fn a_socket_that_is_not_read_is_not_silent() {
    let (mut session, now) = session(Wish::default());
    step(&mut session, Input::Done(Done::Mailbox(Vec::new())), now);
    for number in 0..80 {
        let see = format!(r#"{{"type":"read","conversation":"dm:a:u{number}","seq":1}}"#);
        step(&mut session, Input::Frame(&see), now);
    }
    assert!(session.paused());
    let at = |tick: u64| now + Duration::from_secs(25 * tick);
    for tick in 1..10 {
        let out = step(&mut session, Input::Event(Event::Tick), at(tick));
        assert!(out.close.is_none() && out.ping.is_some(), "{out:?}");
    }
}

#[test]
fn a_stored_raise_of_an_own_send_is_told_once() {
    let (mut session, now) = session(Wish::default());
    step(&mut session, Input::Done(Done::Mailbox(Vec::new())), now);
    let (reference, conversation) = (None, dm("b"));
    let sent = Event::Sent { reference, conversation, seq: 1, n: 1, timestamp: 1 };
    step(&mut session, Input::Event(sent), now);
    step(&mut session, Input::Done(Done::Loaded(dm("b"), 0)), now);
    let out = step(&mut session, Input::Event(Event::Flush), now + Duration::from_secs(60));
    assert!(matches!(out.work, Some(Work::Store(_))), "{out:?}");
    let stored = || Done::Stored { stored: vec![(dm("b"), 1)], failed: Vec::new() };
    let out = step(&mut session, Input::Done(stored()), now);
    assert!(matches!(&out.effects[..], [Effect::Raised(id, 1)] if *id == dm("b")), "{out:?}");
    assert!(step(&mut session, Input::Done(stored()), now).effects.is_empty());
}

#[test]
fn who_is_busy_is_caught_up_all_the_same() {
    let (mut session, now) = session(Wish::default());
    step(&mut session, Input::Done(Done::Mailbox(vec![waits("b"), waits("c")])), now);
    // Something new comes during every read.
    for (seq, other, caught_up) in [(2, "b", false), (2, "c", true)] {
        step(&mut session, Input::Event(text(other, seq)), now);
        let out = step(&mut session, Input::Done(page(other, seq - 1..=seq - 1, false)), now);
        assert!(matches!(out.work, Some(Work::Read { .. })), "{out:?}");
        assert_eq!(out.frames.contains(&answer::caught_up()), caught_up, "{out:?}");
    }
    for other in ["b", "c"] {
        let out = step(&mut session, Input::Done(page(other, 2..=2, false)), now);
        assert_eq!(out.frames.len(), 1, "then what is live: {out:?}");
    }
}

/// The sender of a text waits for its status, and raises nothing meanwhile.
#[test]
fn who_goes_on_sending_owes_a_status_all_the_same() {
    let (mut session, begun) = session(Wish { acks_app: true, ..Wish::default() });
    step(&mut session, Input::Done(Done::Mailbox(Vec::new())), begun);
    step(&mut session, Input::Event(text("b", 1)), begun);
    step(&mut session, Input::Done(Done::Loaded(dm("b"), 0)), begun);
    let ack = r#"{"type":"ack","conversation":"dm:a:b","seq":1}"#;
    let out = step(&mut session, Input::Frame(ack), begun);
    let Some(&Effect::Rest(mut flush)) = out.effects.last() else { panic!("{out:?}") };
    let mut stored = Vec::new();
    for seq in 2..=61 {
        let now = begun + Duration::from_secs(10 * (seq - 1));
        let sent =
            Event::Sent { reference: None, conversation: dm("b"), seq, n: seq, timestamp: 1 };
        let mut effects = step(&mut session, Input::Event(sent), now).effects;
        if flush <= now {
            let out = step(&mut session, Input::Event(Event::Flush), now);
            if let Some(Work::Store(raises)) = out.work {
                stored.push((seq, raises[0].1.delivered.unwrap()));
                let done = Done::Stored { stored: vec![(dm("b"), seq)], failed: Vec::new() };
                effects.append(&mut step(&mut session, Input::Done(done), now).effects);
            }
            effects.extend(out.effects);
        }
        for effect in effects {
            if let Effect::Rest(at) = effect {
                flush = at;
            }
        }
    }
    assert_eq!(stored, [(4, 4)], "within 30 s, and then no more than a raise in 10 minutes");
}

/// The raises of one sender's lane carry the cursor; those of others don't know it.
#[test]
fn a_status_is_stored_in_time_whoever_the_texts_come_through() {
    let lanes: Vec<ProcessId> =
        ["ws1", "ws2", "ws3"].map(|id| ProcessId::parse(id).unwrap()).into();
    for (lanes, gap, expected) in [(&lanes[..1], 27, 0..=0), (&lanes[..], 12, 10..=14)] {
        let (mut session, begun) = session(Wish { acks_app: true, ..Wish::default() });
        step(&mut session, Input::Done(Done::Mailbox(Vec::new())), begun);
        let (mut flush, mut waits, mut stored, mut stores) = (None, None, 0, 0);
        for second in 0..400 {
            let now = begun + Duration::from_secs(second);
            let mut outs = Vec::new();
            if second % gap == 0 {
                let seq = second / gap + 1;
                let Event::Text { conversation, text, .. } = text("b", seq) else { unreachable!() };
                let via = lanes[(seq as usize) % lanes.len()].clone();
                let again = false;
                let heard = Event::Text { conversation, seq, n: seq, text, via, again };
                let heard = step(&mut session, Input::Event(heard), now);
                let dropped = matches!(heard.work, Some(Work::Load(..)));
                outs.push(heard);
                // Its position was dropped once all of it was stored.
                if dropped {
                    let loaded = Done::Loaded(dm("b"), stored);
                    outs.push(step(&mut session, Input::Done(loaded), now));
                }
                let ack = format!(r#"{{"type":"ack","conversation":"dm:a:b","seq":{seq}}}"#);
                outs.push(step(&mut session, Input::Frame(&ack), now));
                waits = waits.or(Some(now));
            }
            if flush.take_if(|at| *at <= now).is_some() {
                outs.push(step(&mut session, Input::Event(Event::Flush), now));
            }
            let store = outs.iter().find_map(|out| match &out.work {
                Some(Work::Store(raises)) => Some(raises),
                _ => None,
            });
            if let Some(raises) = store {
                stored = raises[0].1.delivered.unwrap();
                let done = Done::Stored { stored: vec![(dm("b"), stored)], failed: Vec::new() };
                outs.push(step(&mut session, Input::Done(done), now));
                let waited = now - waits.take().unwrap();
                assert!(waited.as_secs() <= 30, "{waited:?}");
                stores += 1;
            }
            for effect in outs.into_iter().flat_map(|out| out.effects) {
                if let Effect::Rest(at) = effect {
                    flush = Some(at);
                }
            }
        }
        assert!(expected.contains(&stores), "{stores}, texts each {gap} s by {}", lanes.len());
    }
}

/// A busy conversation is never quiet; its cursor is stored all the same, and not too often.
#[test]
fn a_cursor_does_not_trail_for_ever() {
    let (mut session, begun) = session(Wish { acks_app: true, ..Wish::default() });
    step(&mut session, Input::Done(Done::Mailbox(Vec::new())), begun);
    step(&mut session, Input::Event(text("b", 1)), begun);
    let (mut flush, mut stored) = (None, Vec::new());
    let out = step(&mut session, Input::Done(Done::Loaded(dm("b"), 0)), begun);
    assert_eq!(out.frames.len(), 1);
    for seq in 1..=90 {
        let now = begun + Duration::from_secs(20 * seq);
        let mut outs = vec![];
        let ack = format!(r#"{{"type":"ack","conversation":"dm:a:b","seq":{seq}}}"#);
        outs.push(step(&mut session, Input::Frame(&ack), now));
        outs.push(step(&mut session, Input::Event(text("b", seq + 1)), now));
        if flush.take_if(|at| *at <= now).is_some() {
            outs.push(step(&mut session, Input::Event(Event::Flush), now));
        }
        for out in &outs {
            if let Some(Work::Store(raises)) = &out.work {
                stored.push(raises[0].1.delivered.unwrap());
            }
        }
        if stored.last() == Some(&seq) {
            let done = Done::Stored { stored: vec![(dm("b"), seq)], failed: Vec::new() };
            outs.push(step(&mut session, Input::Done(done), now));
        }
        for effect in outs.into_iter().flat_map(|out| out.effects) {
            if let Effect::Rest(at) = effect {
                flush = Some(at);
            }
        }
    }
    assert!((2..=3).contains(&stored.len()), "every 10 minutes of 30: {stored:?}");
}

#[test]
fn an_envelope_beyond_the_end_of_the_log_is_dropped() {
    let (mut session, now) = session(Wish::default());
    step(&mut session, Input::Done(Done::Mailbox(Vec::new())), now);
    step(&mut session, Input::Event(text("b", 1)), now);
    step(&mut session, Input::Done(Done::Loaded(dm("b"), 0)), now);
    let out = step(&mut session, Input::Event(text("b", 4)), now);
    assert!(matches!(out.work, Some(Work::Pause(..))), "{out:?}");
    let out = step(&mut session, Input::Done(Done::Paused(dm("b"))), now);
    assert!(matches!(out.work, Some(Work::Read { after: 1, .. })), "{out:?}");
    let empty = nothing("b");
    step(&mut session, Input::Done(empty), now);
    step(&mut session, Input::Event(text("b", 2)), now);
    let out = step(&mut session, Input::Event(text("b", 3)), now);
    assert_eq!(out.frames.len(), 1, "4 is not the one that was heard of: {out:?}");
}

#[tokio::test]
async fn a_client_is_pinged_at_every_tick_and_given_up_when_it_is_silent() {
    let mut session = Session::new(Wish::default());
    let mut tick = |alive: bool| {
        let (now, mut out) = (Instant::now(), Outputs::default());
        if alive {
            session.step(Input::Pong(&[]), &here(now), &mut out);
        }
        session.step(Input::Event(Event::Tick), &here(now), &mut out);
        (out.ping.is_some(), out.close)
    };
    for _ in 0..4 {
        assert_eq!(tick(true), (true, None), "as often as `pingMs` says");
    }
    assert_eq!(tick(false), (true, None));
    assert_eq!(tick(false), (false, Some(CloseCode::Silent)));
}

/// A session that said `caughtup`, and was sent text 1 of `b`.
fn with_a_text(wish: Wish) -> (Session, Instant) {
    let (mut session, now) = session(wish);
    step(&mut session, Input::Done(Done::Mailbox(Vec::new())), now);
    step(&mut session, Input::Event(text("b", 1)), now);
    let out = step(&mut session, Input::Done(Done::Loaded(dm("b"), 0)), now);
    assert_eq!(out.frames.len(), 1);
    (session, now)
}

/// Paused for a minute (SIGSTOP, a machine that slept): what the client said meanwhile is read
/// after the tick.
#[test]
fn a_process_that_stood_still_gives_no_client_up() {
    let (mut session, mut now) = with_a_text(Wish::default());
    let second = Duration::from_secs(1);
    for pause in [25, 60, 25] {
        now += pause * second;
        let out = step(&mut session, Input::Event(Event::Tick), now);
        assert_eq!(out.close, None, "after {pause} s");
    }
    now += 25 * second;
    let out = step(&mut session, Input::Event(Event::Tick), now);
    assert_eq!(out.close, Some(CloseCode::Slow), "it had the time, awake");
}

#[test]
fn an_app_acknowledges_what_it_missed_too() {
    let (mut session, now) = session(Wish { acks_app: true, catchup: Some(0), ..Wish::default() });
    let missed = Waiting { conversation: dm("b"), cursor: 0, start: 9, end: 9 };
    let out = step(&mut session, Input::Done(Done::Mailbox(vec![missed])), now);
    assert_eq!(out.frames, [answer::missed(&dm("b"), 1, 9)]);
    let end = nothing("b");
    step(&mut session, Input::Done(end), now);
    let ack = |seq| format!(r#"{{"type":"ack","conversation":"dm:a:b","seq":{seq}}}"#);
    let out = step(&mut session, Input::Frame(&ack(3)), now);
    assert!(out.work.is_none(), "not all of it: {out:?}");
    let out = step(&mut session, Input::Frame(&ack(700)), now);
    let Some(Work::Store(raises)) = out.work else { panic!("{out:?}") };
    assert_eq!((raises[0].1.delivered, &raises[0].1.cursors[0].1), (Some(9), &9), "clamped");
}

#[test]
fn a_slow_reader_costs_no_memory() {
    let (mut session, now) = with_a_text(Wish { acks_app: true, ..Wish::default() });
    for seq in 2..=300 {
        step(&mut session, Input::Event(text("b", seq)), now);
    }
    for other in 0..100 {
        let other = format!("c{other}");
        step(&mut session, Input::Event(text(&other, 1)), now);
        step(&mut session, Input::Done(Done::Loaded(dm(&other), 0)), now);
    }
    assert_eq!(session.inbox().texts_held(), 0, "they stand in the store");
    let ack = r#"{"type":"ack","conversation":"dm:a:b","seq":256}"#;
    let out = step(&mut session, Input::Frame(ack), now);
    let next = matches!(&out.work, Some(Work::Pause(id, _) | Work::Read { conversation: id, .. })
        if *id == dm("b"));
    assert!(next, "and are read from there: {out:?}");
}

/// The row of a sender without further devices is raised by nobody else.
#[test]
fn own_sends_whose_row_was_not_raised_are_left_behind() {
    let sent = |seq| {
        let (reference, conversation, n, timestamp) = (None, dm("b"), seq, 1);
        Event::Sent { reference, conversation, seq, n, timestamp }
    };
    // The answer came before the row was read.
    let (mut early, now) = session(Wish::default());
    step(&mut early, Input::Event(sent(4)), now);
    let left = early.finish(who());
    assert_eq!(left.own, [(dm("b"), 4)]);
    assert_eq!((left.raises[0].1.last, left.raises[0].1.delivered), (Some(4), None));
    // It passed, behind a text that was not received.
    let (mut late, now) = with_a_text(Wish::default());
    step(&mut late, Input::Event(sent(2)), now);
    let left = late.finish(who());
    assert_eq!(left.own, [(dm("b"), 2)]);
    assert_eq!((left.raises[0].1.last, left.raises[0].1.delivered), (Some(2), None));
    let room = ConversationId::parse("room:r").unwrap();
    let mut left = super::Unstored::default();
    left.sent(&room, 1);
    assert!(left.raises.is_empty() && left.own.is_empty(), "rows do not tell of rooms' messages");
}

/// With a token nothing is taken from a client before it is known that the token holds.
#[test]
fn a_guarded_socket_is_read_once_its_mailbox_is_there() {
    let (mut session, now) = session(Wish { guarded: true, ..Wish::default() });
    assert!(session.paused());
    step(&mut session, Input::Event(Event::Tick), now + Duration::from_secs(1));
    assert!(session.paused(), "a tick that comes at once says nothing");
    step(&mut session, Input::Done(Done::Mailbox(Vec::new())), now);
    assert!(!session.paused());
    let hi = r#"{"type":"message","to":"b","message":"Hi"}"#;
    let out = step(&mut session, Input::Frame(hi), now);
    assert!(matches!(out.effects[..], [Effect::Send(_)]), "{out:?}");
}

#[test]
fn a_dead_token_ends_the_socket_before_anything_is_sent() {
    let (mut session, now) = session(Wish { guarded: true, ..Wish::default() });
    let out = step(&mut session, Input::Done(Done::Revoked), now);
    assert_eq!(out.close, Some(CloseCode::Unauthorized));
    assert!(out.work.is_none());
    let error = std::str::from_utf8(&out.frames[0]).unwrap();
    assert!(error.contains("\"code\":\"unauthorized\"") && error.contains("revoked"), "{error}");
    assert!(!session.finish(who()).entered, "its device is not registered");
}

#[test]
fn a_token_that_may_be_dead_hears_nothing_of_others() {
    let (mut session, now) = session(Wish { guarded: true, ..Wish::default() });
    let signal = || Event::Frame(Text::from_static(br#"{"type":"signal"}"#));
    let out = step(&mut session, Input::Event(signal()), now);
    assert!(out.frames.is_empty(), "{out:?}");
    let ended = Text::from_static(br#"{"type":"error"}"#);
    let out = step(&mut session, Input::Event(Event::Answer(ended.clone())), now);
    assert_eq!(out.frames, [ended], "but why it is sent away");
    step(&mut session, Input::Done(Done::Mailbox(Vec::new())), now);
    assert_eq!(step(&mut session, Input::Event(signal()), now).frames.len(), 1);
}

#[test]
fn while_the_store_is_away_a_guarded_socket_is_told_to_wait() {
    let (mut session, now) = session(Wish { guarded: true, ..Wish::default() });
    let late = now + Duration::from_millis(PING_INTERVAL_MS);
    let out = step(&mut session, Input::Event(Event::Tick), late);
    assert_eq!(out.close, None, "it stays open (P10)");
    assert!(!session.paused());
    for frame in [
        r#"{"type":"message","to":"b","message":"Hi","ref":"r1"}"#,
        r#"{"type":"signal","to":"b","data":{},"ref":"r1"}"#,
        r#"{"type":"read","conversation":"dm:a:b","seq":1,"ref":"r1"}"#,
        r#"{"type":"auth","token":"x","ref":"r1"}"#,
    ] {
        let out = step(&mut session, Input::Frame(frame), late);
        assert!(matches!(out.effects[..], [Effect::Refused(ErrorCode::Unavailable)]), "{out:?}");
        let error = std::str::from_utf8(&out.frames[0]).unwrap();
        assert!(error.contains("retryAfterMs") && error.contains("\"r1\""), "{error}");
    }
    let out = step(&mut session, Input::Frame(r#"{"type":"ping","ref":"p"}"#), late);
    assert!(std::str::from_utf8(&out.frames[0]).unwrap().contains("pong"));
    step(&mut session, Input::Done(Done::Mailbox(Vec::new())), late);
    let hi = r#"{"type":"message","to":"b","message":"Hi"}"#;
    let out = step(&mut session, Input::Frame(hi), late);
    assert!(matches!(out.effects[..], [Effect::Send(_)]), "{out:?}");
}

#[test]
fn a_fresh_token_is_handed_to_whoever_checks_it() {
    let (mut session, now) = session(Wish::default());
    let frame = r#"{"type":"auth","token":"a.b.c","ref":"r1"}"#;
    let out = step(&mut session, Input::Frame(frame), now);
    let [Effect::Renew { token, reference }] = &out.effects[..] else { panic!("{out:?}") };
    assert_eq!((token.reveal(), reference.as_ref().map(Ref::as_str)), ("a.b.c", Some("r1")));
    assert!(out.frames.is_empty() && !format!("{out:?}").contains("a.b.c"), "{out:?}");
}

/// What every person who is only there costs.
#[test]
fn an_idle_session_is_a_few_bytes_and_owns_no_memory() {
    assert!(size_of::<Session>() <= 24, "{}", size_of::<Session>());
    let mut idle = Vec::with_capacity(1_000);
    for number in 0..1_000 {
        let (acks_app, guarded) = (number % 2 == 0, number % 3 == 0);
        let (mut session, now) = session(Wish { acks_app, guarded, catchup: Some(9) });
        assert!(!session.is_idle(), "its mailbox is to be read");
        step(&mut session, Input::Done(Done::Mailbox(Vec::new())), now);
        let later = now + Duration::from_secs(25);
        let ping = r#"{"type":"ping","ref":"r"}"#;
        for input in [Input::Event(Event::Tick), Input::Pong(&[0; 8]), Input::Frame(ping)] {
            step(&mut session, input, later);
        }
        idle.push(session);
    }
    assert!(idle.iter().all(Session::is_idle));
    assert!(idle.into_iter().all(|session| session.finish(who()).entered));
}

/// A text, its receipt, its cursor, and a minute in which a late copy may come.
#[test]
fn a_session_at_rest_again_lets_go_of_all_but_the_number_of_its_ping() {
    let (mut session, begun) = session(Wish::default());
    step(&mut session, Input::Done(Done::Mailbox(Vec::new())), begun);
    assert!(session.is_idle());
    let mut pings = Vec::new();
    for seq in 1..=2 {
        let now = begun + seq as u32 * Duration::from_secs(200);
        step(&mut session, Input::Event(text("b", seq)), now);
        let out = step(&mut session, Input::Done(Done::Loaded(dm("b"), seq - 1)), now);
        let ping = out.ping.unwrap();
        assert!(session.asked_for(&ping));
        pings.push(u64::from_be_bytes(ping));
        step(&mut session, Input::Pong(&ping), now);
        let quiet = now + Duration::from_secs(30);
        let out = step(&mut session, Input::Event(Event::Flush), quiet);
        assert!(matches!(out.work, Some(Work::Store(_))), "{out:?}");
        let done = Done::Stored { stored: vec![(dm("b"), seq)], failed: Vec::new() };
        step(&mut session, Input::Done(done), quiet);
        assert!(!session.is_idle(), "a copy that comes late is known");
        step(&mut session, Input::Event(Event::Tick), quiet);
        assert!(!session.is_idle());
        step(&mut session, Input::Pong(&[]), quiet);
        let out = step(&mut session, Input::Event(Event::Tick), now + Duration::from_secs(61));
        assert_eq!((session.is_idle(), out.ping), (true, Some([0; 8])));
        assert!(!session.asked_for(&ping));
    }
    assert_eq!(pings, [1, 2], "no pong to an old ping proves a new one");
}
