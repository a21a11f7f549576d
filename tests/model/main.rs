//! The rules of ARCHITECTURE.md on models whose every state is looked at; see `docs/model.md`.
//!
//! A model imports nothing of the crate: it says what the code is meant to do, step by step, and is
//! read beside it. A design that is known to be bad is a switch of its model, and must be found.

mod delivery;
mod log;
mod run;

use delivery::{Bad as BadDelivery, Delivery};
use log::{Bad as BadLog, Log};
use run::{breaks, holds, missed};

const I1: &str = "I1 acked means durable";
const I2: &str = "I2 raise, then put";
const I3: &str = "I3 dense";
const I4: &str = "I4 persist before locate";
const I5: &str = "I5 claim before catch-up";
const I6: &str = "I6 only its owner removes a map entry";
const I9: &str = "I9 a hint is kept until confirmed";
const I10: &str = "I10 liveness stands where the messages stand";
const P2: &str = "P2 idempotent";
const P3: &str = "P3 nothing lost";
const P3_STORED: &str = "P3 what is stored is offered";
const P4: &str = "P4 one order";

fn log() -> Log {
    Log::default()
}

fn delivery() -> Delivery {
    Delivery::default()
}

#[test]
fn log_and_rows() {
    let runs = [
        holds("log: two each, a crash", log),
        holds("log: two each, a crash, an answer lost, whenever it comes", || Log {
            late_bounded: false,
            unknowns: 1,
            ..log()
        }),
        holds("log: one each, an answer lost, sent again", || Log {
            crashes: 0,
            ..log().eager([1, 1])
        }),
        holds("log: two and one, a crash, sent again", || Log {
            unknowns: 0,
            ..log().eager([2, 1])
        }),
    ];
    assert_eq!(missed::<Log>(&runs), [""; 0], "windows that no state came to");
}

#[test]
fn claim_to_receipt() {
    let one = || Delivery { sockets: 1, ..delivery() };
    let runs = [
        holds("delivery: two sends, a new socket", || Delivery { sends: 2, ..delivery() }),
        holds("delivery: a loss, a new socket", || Delivery { losses: 1, ..delivery() }),
        holds("delivery: a crash, a new socket", || Delivery {
            crashes: 1,
            tries: 1,
            ..delivery()
        }),
        holds("delivery: a crash, two sends", || Delivery { crashes: 1, sends: 2, ..one() }),
        holds("delivery: a pause, a loss", || Delivery { pauses: 1, losses: 1, ..one() }),
        holds("delivery: a cut, a loss", || Delivery { cuts: 1, losses: 1, ..one() }),
        holds("delivery: Redis emptied, a new socket", || Delivery { empties: 1, ..delivery() }),
        holds("delivery: cut and emptied", || Delivery { cuts: 1, empties: 1, ..one() }),
        holds("delivery: a cut, a crash", || Delivery { cuts: 1, crashes: 1, ..one() }),
        holds("delivery: a cut, a pause", || Delivery { cuts: 1, pauses: 1, ..one() }),
        holds("delivery: a long pause, a crash", || Delivery {
            pauses: 1,
            crashes: 1,
            long_pause: true,
            ..one()
        }),
    ];
    assert_eq!(missed::<Delivery>(&runs), [""; 0], "windows that no state came to");
}

#[test]
#[ignore = "some minutes"]
fn more_of_everything() {
    let one = || Delivery { sockets: 1, ..delivery() };
    let few = || Delivery { tries: 1, ..delivery() };
    holds("log: two and one, an answer lost, sent again", || Log {
        crashes: 0,
        ..log().eager([2, 1])
    });
    holds("log: one each, a crash, an answer lost, sent again", || log().eager([1, 1]));
    holds("log: two each, a crash, sent again", || Log { unknowns: 0, ..log().eager([2, 2]) });
    holds("delivery: two sends, a loss, a new socket", || Delivery {
        sends: 2,
        losses: 1,
        ..few()
    });
    holds("delivery: a pause, a loss, two sends", || Delivery {
        pauses: 1,
        losses: 1,
        sends: 2,
        ..one()
    });
    holds("delivery: a cut, a loss, two sends", || Delivery {
        cuts: 1,
        losses: 1,
        sends: 2,
        ..one()
    });
    holds("delivery: a pause, a new socket", || Delivery { pauses: 1, ..few() });
    holds("delivery: a cut, a new socket", || Delivery { cuts: 1, ..few() });
    holds("delivery: cut and emptied, two sends", || Delivery {
        cuts: 1,
        empties: 1,
        sends: 2,
        ..one()
    });
    holds("delivery: cut and emptied, a new socket", || Delivery { cuts: 1, empties: 1, ..few() });
    holds("delivery: a pause, a crash, two sends", || Delivery {
        pauses: 1,
        crashes: 1,
        sends: 2,
        sockets: 1,
        ..few()
    });
    holds("delivery: a cut, a pause, a crash", || Delivery {
        cuts: 1,
        pauses: 1,
        crashes: 1,
        sockets: 1,
        ..few()
    });
}

fn log_breaks(bad: BadLog, model: impl Fn() -> Log, properties: &[&'static str]) {
    breaks(&format!("{bad:?}"), || Log { bad: Some(bad), ..model() }, properties);
}

#[test]
fn bad_designs_of_the_log() {
    let one = || Log { sends: [1, 1], ..log() };
    let late = || Log { late_bounded: false, ..one() };
    let calm = || Log { crashes: 0, ..one() };
    log_breaks(BadLog::PutBeforeRaise, one, &[I2, P3_STORED]);
    log_breaks(BadLog::RaiseToTheTail, calm, &[I2]);
    log_breaks(BadLog::LastLowered, || Log { sends: [2, 0], retries: 1, ..late() }, &[I2, P3]);
    log_breaks(BadLog::HitAnsweredAtOnce, late, &[P3]);
    log_breaks(BadLog::ReReadOnlyOnce, one, &[P3_STORED]);
    log_breaks(BadLog::AckBeforePut, one, &[I1]);
    let unknown = || Log { unknowns: 1, ..calm() };
    log_breaks(BadLog::UnknownTakenForFailed, unknown, &[P3_STORED]);
    log_breaks(BadLog::UnknownTakenForDone, unknown, &[I1, I3]);
    log_breaks(BadLog::AfterMoved, || Log { sends: [2, 2], ..one() }, &[P2]);
    log_breaks(BadLog::PutUnconditional, calm, &[P4, I1]);
}

fn delivery_breaks(bad: BadDelivery, model: impl Fn() -> Delivery, properties: &[&'static str]) {
    let model = || Delivery { bad: Some(bad), sockets: 1, ..model() };
    breaks(&format!("{bad:?}"), model, properties);
}

#[test]
fn bad_designs_of_delivery() {
    use BadDelivery as Bad;
    let losses = |losses| move || Delivery { losses, ..delivery() };
    let cut = || Delivery { cuts: 1, ..delivery() };
    let emptied = || Delivery { empties: 1, ..delivery() };
    let both = || Delivery { empties: 1, ..cut() };
    let crash = || Delivery { crashes: 1, ..delivery() };
    let pause = || Delivery { pauses: 1, ..delivery() };
    let pause_and_crash = || Delivery { pauses: 1, ..crash() };
    let long = || Delivery { long_pause: true, ..pause_and_crash() };
    delivery_breaks(Bad::CachedLocate, delivery, &[I4, P3]);
    delivery_breaks(Bad::CatchUpBeforeClaim, delivery, &[I5, P3]);
    delivery_breaks(Bad::ClaimNotRepeated, losses(1), &[P3]);
    delivery_breaks(Bad::MarksIgnored, delivery, &[P3]);
    delivery_breaks(Bad::LivenessInRedis, cut, &[I10]);
    delivery_breaks(Bad::LivenessInRedis, || Delivery { crashes: 1, ..cut() }, &[P3]);
    delivery_breaks(Bad::NoPermit, pause, &[I10]);
    delivery_breaks(Bad::AnsweredWithoutBeat, long, &[P3]);
    delivery_breaks(Bad::ReReadOnlyOnce, crash, &[P3_STORED]);
    delivery_breaks(Bad::LifeOfTheDeadIgnored, pause_and_crash, &[P3]);
    delivery_breaks(Bad::WokenAsIfNothing, || Delivery { losses: 1, ..pause() }, &[P3]);
    delivery_breaks(Bad::HintForgotten, losses(1), &[I9, P3]);
    delivery_breaks(Bad::NoBoard, losses(3), &[I9, P3]);
    delivery_breaks(Bad::NoBoard, cut, &[P3]);
    delivery_breaks(Bad::DeafUnseen, both, &[P3]);
    delivery_breaks(Bad::UnclaimedAloneWhileDeaf, both, &[P3]);
    delivery_breaks(Bad::RevivedWhileDeaf, || Delivery { pauses: 1, ..cut() }, &[P3]);
    delivery_breaks(Bad::NothingStartsOver, emptied, &[P3]);
    // Two sockets: one leaves late, the other is there.
    let another = || Delivery { bad: Some(Bad::ReleaseOfAnothers), ..delivery() };
    breaks("ReleaseOfAnothers", another, &[I6, P3]);
}
