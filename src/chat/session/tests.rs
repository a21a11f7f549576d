//! A session while anything on the way is lost, repeated, reordered or late, over a real store.

mod client;
mod sim;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::Instant;

use self::sim::{Sim, Step};
use super::{Done, Event, Input, Outputs, Session, Wish, Work};

const SEEDS: usize = 60;
const STEPS: usize = 250;

/// Whatever happens, the client sees every conversation's texts in order and without holes (P4,
/// I7), what waited before `caughtup` (P7), nothing that it may not see (P9), no copy of its own;
/// `delivered` is said and cursors are stored only of what it has really received (I8); and in the
/// end it has everything (P3) and is pushed nothing again.
async fn run(seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let wish = Wish {
        acks_app: random.random_bool(0.3),
        catchup: random.random_bool(0.3).then(|| random.random_range(1..6)),
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
    let before = sim.client.texts;
    sim.settle().await;
    assert_eq!(sim.client.texts, before, "a second reconnect pushes nothing again");
}

#[tokio::test]
async fn a_client_sees_every_text_in_order_whatever_is_lost_on_the_way() {
    for _ in 0..SEEDS {
        let seed: u64 = rand::random();
        run(seed).await;
    }
}

/// A mark set while a read is under way asks for another, also while the socket catches up.
#[test]
fn a_reread_asked_for_during_the_first_read_follows_it() {
    let who = crate::chat::testing::socket("a", "default").who.clone();
    let server = crate::protocol::ProcessId::parse("ws1").unwrap();
    let (mut session, now) = (Session::new(who, server, Wish::default()), Instant::now());
    let mut out = Outputs::default();
    session.start(1, now, &mut out);
    assert!(matches!(out.work, Some(Work::Enter { catchup: None })));
    let mut out = Outputs::default();
    session.step(Input::Event(Event::Reread), 1, now, &mut out);
    assert!(out.work.is_none(), "one piece of work at a time");
    let mut out = Outputs::default();
    session.step(Input::Done(Done::Mailbox(Vec::new())), 1, now, &mut out);
    assert!(matches!(out.work, Some(Work::Reread)), "{out:?}");
    assert!(out.frames.is_empty(), "not caught up yet");
    let mut out = Outputs::default();
    session.step(Input::Done(Done::Mailbox(Vec::new())), 1, now, &mut out);
    assert!(out.work.is_none() && out.frames == [crate::protocol::answer::caught_up()]);
}
