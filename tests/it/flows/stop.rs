//! SIGTERM: every client is told to reconnect and closed with 1012, entries are released, exit 0.

use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use parlor::client::{ClientError, Send, ServerFrame, To};

use crate::harness::{Lasting, Parts, Person, Process, SOON, Stack, eventually, on_both};

on_both!(a_clean_stop);

/// `reconnect`, then 1012; what came before is given back.
async fn sent_away(person: &mut Person) -> Vec<ServerFrame> {
    let (mut before, mut told) = (Vec::new(), false);
    loop {
        match person.text_within(SOON).await {
            Ok(text) => match ServerFrame::parse(&text).unwrap() {
                ServerFrame::Reconnect { after_ms } => {
                    assert!(after_ms < 10_000, "{after_ms}");
                    told = true;
                }
                frame => before.push(frame),
            },
            Err(ClientError::Closed { code, .. }) => {
                assert!(told, "{}: `reconnect` comes before the close", person.user);
                assert_eq!(code, Some(1012), "{}", person.user);
                return before;
            }
            Err(error) => panic!("{}: {error}", person.user),
        }
    }
}

/// In the middle of a burst: each send has its answer or none, and what was acked stands.
async fn a_clean_stop(mut stack: Stack) {
    let mut a = stack.at("ws1", "userA").await;
    let mut b = stack.at("ws2", "userB").await;
    let mut idle = Vec::new();
    for number in 0..20 {
        idle.push(stack.person(&format!("idle{number}")).await);
    }
    a.catch_up().await;
    b.catch_up().await;
    let send = |n: u64| Send::new(To::User("userB".into()), format!("message {n}")).frame();
    a.write_all((1..=100).map(send).collect()).await;
    stack.process("up").signal("TERM");
    let answers = sent_away(&mut a).await;
    let sent = answers.iter().filter(|frame| matches!(frame, ServerFrame::Sent { .. })).count();
    let heard = crate::harness::texts(&sent_away(&mut b).await);
    for person in &mut idle {
        sent_away(person).await;
    }
    let status = stack.process("up").exited().await;
    assert_eq!(status.code(), Some(0), "{status}");
    if let Some(redis) = &stack.redis {
        assert_eq!(redis.cli(&["KEYS", "user:*"]), "", "entries are released");
        let rows = stack.items("BOARD").await.unwrap();
        assert!(rows.is_empty(), "board rows are removed: {rows:?}");
    }
    stack.start_up().await;
    let log = stack.history("userA", "dm:userA:userB").await;
    assert!(log.len() >= sent, "{sent} acked, {} stand", log.len());
    let mut b = stack.at("ws3", "userB").await;
    let mut all = heard;
    all.extend(crate::harness::texts(&b.catch_up().await));
    // A text whose receipt was still on its way comes again (P3); a client drops it by its seq.
    let mut shown = 0;
    all.retain(|(seq, _)| {
        let new = *seq > shown;
        shown = shown.max(*seq);
        new
    });
    let stored = log.iter().map(|entry| {
        (entry["seq"].as_u64().unwrap(), entry["message"].as_str().unwrap().to_owned())
    });
    assert_eq!(all, stored.collect::<Vec<_>>(), "what was not heard before comes after");
    stack.stop().await;
}

/// One server of a fleet: its clients come back elsewhere at once, the others notice nothing.
#[tokio::test]
async fn one_server_of_a_fleet() {
    let Some(mut stack) = Stack::start(Parts::Fleet).await else { return };
    let mut on_1 = stack.person("u1").await;
    let moving = Lasting::start(&stack.ws(), "userB").await;
    assert_eq!(moving.log().servers, ["ws2"]);
    on_1.catch_up().await;
    let status = stack.stop_one("ws2").await;
    assert_eq!(status.code(), Some(0), "{status}");
    moving.until("it is back", |log| log.servers.len() > 1).await;
    assert_ne!(moving.log().servers[1], "ws2");
    assert_eq!(on_1.say("userB", "Hi").await, 1);
    moving.until("heard", |log| log.texts() == [(1, "Hi".to_owned())]).await;
    on_1.told_delivered(1).await;
    let gone = async || {
        let servers = stack.http().get("/v1/servers?userId=u1").await.unwrap().body.to_string();
        (!servers.contains("ws2") && servers.contains("ws3")).then_some(())
    };
    eventually("the board shows ws1 and ws3", gone).await;
    stack.stop().await;
}

/// Before it takes sockets: it ends with 0, and nothing of it stays on the board.
#[tokio::test]
async fn in_the_middle_of_a_start() {
    let Some(stack) = Stack::start(Parts::Fleet).await else { return };
    let own = ["server", "--listen", "127.0.0.1:0", "--id", "ws4"].map(str::to_owned);
    let mut server = Process::start("ws4", &[&own[..], &stack.real_parts()].concat());
    let stands = async || {
        let rows = stack.items("BOARD").await.unwrap();
        rows.iter().any(|row| row["sk"].as_s().unwrap() == "ws4")
    };
    // The others get 3 s to read its row before it takes sockets.
    eventually("its row stands", async || stands().await.then_some(())).await;
    server.signal("TERM");
    let status = server.exited().await;
    assert_eq!(status.code(), Some(0), "{status}");
    assert!(!stands().await, "its row is removed");
    stack.stop().await;
}

const MANY: usize = 2_000;
const DRAIN_SECONDS: u64 = 8;

/// When it was told, once, until the socket ended.
async fn told(mut person: Person) -> Instant {
    let mut told = Vec::new();
    loop {
        match person.text_within(SOON * 3).await {
            Ok(text) => {
                let frame = ServerFrame::parse(&text).unwrap();
                told.extend(matches!(frame, ServerFrame::Reconnect { .. }).then(Instant::now));
            }
            Err(ClientError::Closed { code, .. }) => {
                assert_eq!((code, told.len()), (Some(1012), 1), "{}", person.user);
                return told[0];
            }
            Err(error) => panic!("{}: {error}", person.user),
        }
    }
}

/// Sockets ÷ seconds a second: those who come back elsewhere come evenly. (How evenly the server
/// keeps it is measured where no other process has a say: `gateway::tests`.)
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_are_sent_away_evenly() {
    let seconds = DRAIN_SECONDS.to_string();
    let options = ["--drain-seconds", &seconds];
    let mut stack = Stack::start_with(Parts::Embedded, &options).await.unwrap();
    let open = (0..MANY).map(|number| {
        let (url, name) = (stack.ws(), format!("user{number}"));
        async move { Person::connect(&url, &name).await }
    });
    let people: Vec<Person> = stream::iter(open).buffer_unordered(64).collect().await;
    let waiting: Vec<_> = people.into_iter().map(|person| tokio::spawn(told(person))).collect();
    let begun = Instant::now();
    stack.process("up").signal("TERM");
    let status = stack.process("up").exited().await;
    assert_eq!(status.code(), Some(0), "{status}");
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(DRAIN_SECONDS + 5), "{took:?}");
    let mut all = Vec::with_capacity(MANY);
    for told in waiting {
        all.push(told.await.unwrap());
    }
    let first = *all.iter().min().unwrap();
    // Nobody is told long before the turn, and a machine that stands still for a moment may delay
    // some; second by second the tests of `gateway` count, on a clock of their own.
    let rate = MANY / DRAIN_SECONDS as usize;
    let by = |second: usize| {
        let until = Duration::from_secs(second as u64);
        all.iter().filter(|told| told.duration_since(first) < until).count()
    };
    let counts: Vec<_> = (1..DRAIN_SECONDS as usize).map(by).collect();
    for (second, told) in (1..).zip(&counts) {
        let due = rate * second;
        let even = due - rate / 2..=due + rate / 4;
        assert!(even.contains(told), "{told} of {due} by second {second}: {counts:?}");
    }
    let last = all.iter().max().unwrap().duration_since(first).as_secs_f64();
    assert!((0.95..1.1).contains(&(last / DRAIN_SECONDS as f64)), "{last} s");
    eprintln!("told by each second: {counts:?}, exit after {took:?}");
}
