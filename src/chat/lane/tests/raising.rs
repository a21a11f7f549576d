//! Raise, then put: whose rows are raised, how often, and what rides along. `faulty` refuses every
//! put whose recipient's row does not say it.

use std::time::Duration;

use super::faulty::{Fault, What};
use super::world::{Say, World, dm, socket, user};
use crate::protocol::{ConversationId, DeviceId, Seq};
use crate::store::{Device, MailboxPart, Record, Row, Store};

async fn row(world: &World, name: &str) -> Option<Row> {
    let part = MailboxPart::Row(dm());
    world.calm.mailbox(&user(name), part).await.unwrap().rows.pop()
}

async fn register(world: &World, name: &str) {
    let device = DeviceId::parse(name).unwrap();
    let device = Device { device, first_seen: 1, last_seen: 1 };
    world.write(Record::Device(user("a"), device)).await;
}

#[tokio::test(start_paused = true)]
async fn the_first_message_raises_both_rows() {
    let world = World::new();
    assert_eq!(world.seq(Say::to("b", "a", "Hi")).await, 1);
    let expected = ["log newest", "raise a 1", "raise b 1", "put 1", "stored", "handed 1"];
    assert_eq!(world.trace(), expected);
    assert_eq!(row(&world, "a").await.map(|row| row.last), Some(1));
    assert_eq!(row(&world, "b").await.map(|row| row.last), Some(1));
}

#[tokio::test(start_paused = true)]
async fn later_ones_raise_the_recipients_row() {
    let (world, socket) = (World::new(), socket("default"));
    register(&world, "default").await;
    world.say_by(&socket, Say::to("a", "b", "one")).await;
    world.trace();
    world.say_by(&socket, Say::to("a", "b", "two")).await;
    let expected = ["devices a", "raise b 2", "put 2", "stored", "handed 2"];
    assert_eq!(world.trace(), expected, "the sender has no further device");
    world.say_by(&socket, Say::to("a", "b", "three")).await;
    assert_eq!(world.trace(), ["raise b 3", "put 3", "stored", "handed 3"]);
    assert_eq!(row(&world, "a").await.map(|row| row.last), Some(1), "raised lazily, elsewhere");
}

#[tokio::test(start_paused = true)]
async fn a_sender_without_a_socket_has_its_row_raised() {
    let world = World::new();
    world.seq(Say::to("a", "b", "one")).await;
    world.trace();
    world.seq(Say::to("a", "b", "two")).await;
    assert_eq!(world.trace(), ["raise a 2", "raise b 2", "put 2", "stored", "handed 2"]);
}

#[tokio::test(start_paused = true)]
async fn a_sender_whose_socket_has_ended_has_its_row_raised() {
    let (world, socket) = (World::new(), socket("default"));
    register(&world, "default").await;
    world.say_by(&socket, Say::to("a", "b", "one")).await;
    world.store.plan(What::Append, [Fault::Slow(Duration::from_secs(1))]);
    world.submit_by(&socket, Say::to("a", "b", "two"));
    tokio::time::sleep(Duration::from_millis(10)).await;
    world.submit_by(&socket, Say::to("a", "b", "three"));
    world.trace();
    socket.close();
    world.lanes.finish().await;
    let expected = ["stored", "raise a 2", "handed 2", "raise a 3", "raise b 3", "put 3"];
    assert_eq!(world.trace()[..6], expected, "nobody heard the answer: before it goes on");
    assert_eq!(row(&world, "a").await.map(|row| row.last), Some(3));
}

#[tokio::test(start_paused = true)]
async fn a_sender_with_further_devices_has_its_row_raised() {
    let (world, socket) = (World::new(), socket("default"));
    register(&world, "default").await;
    world.say_by(&socket, Say::to("a", "b", "one")).await;
    world.say_by(&socket, Say::to("a", "b", "two")).await;
    register(&world, "phone").await;
    world.say_by(&socket, Say::to("a", "b", "three")).await;
    assert_eq!(row(&world, "a").await.map(|row| row.last), Some(1), "the list is not 30 s old");
    tokio::time::sleep(Duration::from_secs(31)).await;
    world.trace();
    world.say_by(&socket, Say::to("a", "b", "four")).await;
    let expected = ["devices a", "raise a 4", "raise b 4", "put 4", "stored", "handed 4"];
    assert_eq!(world.trace(), expected);
    // Who can't be asked about is raised: too much does no harm.
    tokio::time::sleep(Duration::from_secs(31)).await;
    world.store.plan(What::Mailbox, [Fault::Fail]);
    world.say_by(&socket, Say::to("a", "b", "five")).await;
    assert_eq!(row(&world, "a").await.map(|row| row.last), Some(5));
}

#[tokio::test(start_paused = true)]
async fn one_raise_covers_all_that_waits() {
    for takes in [usize::MAX, 1] {
        let (world, socket) = (World::new(), socket("default"));
        world.store.takes(takes);
        world.store.plan(What::Append, [Fault::Slow(Duration::from_secs(1))]);
        for seq in 1..=10 {
            world.submit_by(&socket, Say::to("a", "b", &seq.to_string()));
            // The first is under way; the others come meanwhile.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        world.lanes.finish().await;
        let trace = world.trace();
        let raises: Vec<_> = trace.iter().filter(|line| line.starts_with("raise")).collect();
        assert_eq!(raises, ["raise a 1", "raise b 1", "raise b 10"], "{trace:?}");
        let puts = trace.iter().filter(|line| line.starts_with("put")).count();
        assert_eq!(puts, if takes == 1 { 10 } else { 2 }, "{trace:?}");
        assert_eq!(world.texts().await, (1..=10).map(|seq| seq.to_string()).collect::<Vec<_>>());
        assert_eq!(world.handed(), (1..=10).collect::<Vec<Seq>>());
    }
}

#[tokio::test(start_paused = true)]
async fn messages_both_ways_raise_both_rows_once() {
    let world = World::new();
    world.seq(Say::to("a", "b", "one")).await;
    world.store.plan(What::Append, [Fault::Slow(Duration::from_secs(1))]);
    let first = world.submit(Say::to("a", "b", "two"));
    tokio::time::sleep(Duration::from_millis(10)).await;
    world.trace();
    let others = world.submit_all((3..=6).map(|seq: u64| {
        let (from, to) = if seq.is_multiple_of(2) { ("a", "b") } else { ("b", "a") };
        Say::to(from, to, "more")
    }));
    assert_eq!(first.await.unwrap().unwrap().seq, 2);
    for (seq, answer) in (3..).zip(others) {
        assert_eq!(answer.await.unwrap().unwrap().seq, seq);
    }
    let raises: Vec<_> =
        world.trace().into_iter().filter(|line| line.starts_with("raise")).collect();
    assert_eq!(raises, ["raise a 6", "raise b 6"]);
}

#[tokio::test(start_paused = true)]
async fn a_note_to_oneself_has_one_row() {
    let world = World::new();
    world.seq(Say::to("a", "a", "one")).await;
    assert_eq!(world.trace(), ["log newest", "raise a 1", "put 1", "stored", "handed 1"]);
    world.seq(Say::to("a", "a", "two")).await;
    assert_eq!(world.trace(), ["raise a 2", "put 2", "stored", "handed 2"]);
}

#[tokio::test(start_paused = true)]
async fn a_raise_that_fails_is_repeated_before_the_put() {
    let world = World::new();
    let faults = [Fault::Fail, Fault::Lose, Fault::Mute, Fault::Late(Duration::from_secs(9))];
    world.store.plan(What::Raise, faults);
    assert_eq!(world.seq(Say::to("a", "b", "Hi")).await, 1);
    let trace = world.trace();
    let raises: Vec<_> = trace.iter().filter(|line| line.starts_with("raise")).collect();
    let expected = [vec!["raise a 1"; 5], vec!["raise b 1"]].concat();
    assert_eq!(raises, expected.iter().collect::<Vec<_>>());
    assert_eq!(trace.last().map(String::as_str), Some("handed 1"));

    world.store.always(What::Raise, Fault::Lose);
    let began = tokio::time::Instant::now();
    assert_eq!(world.code(Say::to("a", "b", "two")).await, "unavailable");
    assert!((2..=4).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    assert!(!world.trace().iter().any(|line| line.starts_with("put")), "nothing is put");
    world.store.always(What::Raise, Fault::Pass);
    assert_eq!(world.seq(Say::to("a", "b", "three")).await, 2);
}

#[tokio::test(start_paused = true)]
async fn a_cursor_beyond_the_tail_waits_for_the_tail() {
    let (world, socket) = (World::new(), socket("default"));
    let phone = DeviceId::parse("phone").unwrap();
    world.say_by(&socket, Say::to("a", "b", "one")).await;
    world.say_by(&socket, Say::to("a", "b", "two")).await;
    world.lanes.note_received(&dm(), &user("b"), &phone, 3);
    world.trace();
    world.say_by(&socket, Say::to("a", "b", "three")).await;
    // Another server's entry 3 may be where this device has started: 2 would be before that.
    assert_eq!(world.trace()[0], "raise b 3");
    world.say_by(&socket, Say::to("a", "b", "four")).await;
    assert_eq!(world.trace()[0], "raise b 4 phone=3");
}

#[tokio::test(start_paused = true)]
async fn cursors_ride_on_the_next_raise() {
    let (world, socket) = (World::new(), socket("default"));
    let phone = DeviceId::parse("phone").unwrap();
    let desk = DeviceId::parse("desk").unwrap();
    let tablet = DeviceId::parse("tablet").unwrap();
    world.say_by(&socket, Say::to("a", "b", "one")).await;
    world.say_by(&socket, Say::to("a", "b", "two")).await;
    for (device, seq) in [(&phone, 2), (&tablet, 7), (&phone, 1), (&desk, 1), (&desk, 0)] {
        world.lanes.note_received(&dm(), &user("b"), device, seq);
    }
    world.lanes.note_received(&dm(), &user("a"), &phone, 2);
    world.trace();
    world.say_by(&socket, Say::to("a", "b", "three")).await;
    assert_eq!(world.trace()[0], "raise b 3 phone=2 desk=1", "nobody has what is not there yet");
    let row_b = row(&world, "b").await.unwrap();
    assert_eq!((row_b.last, row_b.delivered), (3, 2));
    world.say_by(&socket, Say::to("a", "b", "four")).await;
    assert_eq!(world.trace()[0], "raise b 4", "each is carried once");
    world.lanes.note_received(&dm(), &user("b"), &phone, 4);
    tokio::time::sleep(Duration::from_secs(28)).await;
    world.trace();
    world.say_by(&socket, Say::to("a", "b", "four and a half")).await;
    assert_eq!(world.trace()[0], "raise b 5 phone=4", "its session counts on it");
    // The other one's cursor waits for a raise of that row, or gets too old.
    world.submit(Say::to("b", "a", "five")).await.unwrap().unwrap();
    assert_eq!(world.trace()[0], "raise a 6 phone=2");
    world.lanes.note_received(&dm(), &user("b"), &phone, 5);
    tokio::time::sleep(Duration::from_secs(31)).await;
    world.trace();
    world.submit(Say::to("b", "a", "six")).await.unwrap().unwrap();
    world.say_by(&socket, Say::to("a", "b", "seven")).await;
    let trace = world.trace();
    assert!(!trace.iter().any(|line| line.contains("phone")), "its session did it: {trace:?}");
    assert!(!trace.iter().any(|line| line.contains("tablet")), "too old: {trace:?}");
}

#[tokio::test(start_paused = true)]
async fn cursors_without_a_lane_or_of_a_room_are_left_to_the_session() {
    let world = World::new();
    let phone = DeviceId::parse("phone").unwrap();
    world.lanes.note_received(&dm(), &user("b"), &phone, 7);
    world.lanes.note_received(&ConversationId::parse("room:r").unwrap(), &user("b"), &phone, 7);
    world.seq(Say::to("a", "b", "one")).await;
    world.seq(Say::to("a", "b", "two")).await;
    assert!(row(&world, "b").await.unwrap().cursors.is_empty());
}
