//! What is paid to DynamoDB (design §3), read from `/metrics` alone, as an operator would, and what
//! is asked of Redis, as it counts itself.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::admin::{metrics, start, sum};
use crate::harness::{Parts, Person, Process, Redis, Stack, command, dynamodb, eventually};

/// What a process pays whether people talk or not.
const IDLE: [&str; 4] = ["beat", "board", "put_hints", "hints"];

type Samples = BTreeMap<String, f64>;

/// A family by its label `operation`, without what is paid while idle.
fn by_operation(samples: &Samples, family: &str) -> BTreeMap<String, f64> {
    let mut sums = BTreeMap::new();
    for (name, value) in samples {
        let labels = name.strip_prefix(family).and_then(|rest| rest.strip_prefix('{'));
        let operation = labels.and_then(|labels| labels.split("operation=\"").nth(1));
        let Some(operation) = operation.and_then(|rest| rest.split('"').next()) else { continue };
        if !IDLE.contains(&operation) {
            *sums.entry(operation.to_owned()).or_default() += value;
        }
    }
    sums
}

/// How a family has moved, by operation; only what has.
fn moved(before: &Samples, after: &Samples, family: &str) -> BTreeMap<String, f64> {
    let (before, mut after) = (by_operation(before, family), by_operation(after, family));
    after.iter_mut().for_each(|(name, value)| *value -= before.get(name).unwrap_or(&0.0));
    after.retain(|_, value| *value != 0.0);
    after
}

/// Write units for each message that was stored meanwhile.
fn units_per_message(before: &Samples, after: &Samples) -> f64 {
    let units: f64 = moved(before, after, "parlor_store_write_units_total").values().sum();
    let stored = |samples| sum(samples, "parlor_messages_total", &["outcome=\"stored\""]);
    units / (stored(after) - stored(before))
}

async fn two_who_talk(stack: &Stack) -> (Person, Person) {
    let mut a = stack.at("ws1", "userA").await;
    let mut b = stack.at("ws3", "userB").await;
    a.catch_up().await;
    b.catch_up().await;
    (a, b)
}

#[tokio::test]
async fn a_message_to_somebody_online_costs_two_units() {
    let Some((stack, admin)) = start(Parts::Real).await else { return };
    let (mut a, mut b) = two_who_talk(&stack).await;
    let before = metrics(&admin).await;
    for _ in 0..12 {
        for turn in [true, false] {
            let (from, to) = if turn { (&mut a, &mut b) } else { (&mut b, &mut a) };
            let seq = from.say(&to.user, "x".repeat(400).as_str()).await;
            to.hear().await;
            tokio::join!(from.told_delivered(seq), to.hears_nothing(50));
        }
    }
    let units = units_per_message(&before, &metrics(&admin).await);
    println!("{units:.3} write units a message, one at a time");
    assert!((2.0..=2.2).contains(&units), "{units}");
    stack.stop().await;
}

#[tokio::test]
async fn a_burst_of_sixteen_costs_little_more_than_its_puts() {
    let Some((stack, admin)) = start(Parts::Real).await else { return };
    let (mut a, mut b) = two_who_talk(&stack).await;
    let before = metrics(&admin).await;
    for round in 0..10 {
        for turn in [true, false] {
            let (from, to) = if turn { (&mut a, &mut b) } else { (&mut b, &mut a) };
            let frame = |number: u64| {
                let reference = format!("{}-{round}-{number}", from.user);
                json!({"type": "message", "to": to.user, "message": "Hi", "ref": reference})
                    .to_string()
            };
            from.write_all((0..16).map(frame).collect()).await;
            let newest = to.hear_all(16).await.last().unwrap().0;
            tokio::join!(from.told_delivered(newest), to.hears_nothing(50));
        }
    }
    let units = units_per_message(&before, &metrics(&admin).await);
    println!("{units:.3} write units a message, in bursts of 16");
    assert!((1.0..=1.2).contains(&units), "{units}");
    stack.stop().await;
}

#[tokio::test]
async fn a_reconnect_with_nothing_waiting_is_one_query() {
    let Some((stack, admin)) = start(Parts::Real).await else { return };
    let (mut a, mut b) = two_who_talk(&stack).await;
    let seq = a.say("userB", "Hi").await;
    b.hear().await;
    tokio::join!(a.told_delivered(seq), b.hears_nothing(100));
    b.leave().await;
    let closed = async || {
        let now = metrics(&admin).await;
        (sum(&now, "parlor_sockets_closed_total", &[]) == 1.0).then_some(())
    };
    eventually("b has gone", closed).await;
    let rests = async || {
        let one = metrics(&admin).await;
        tokio::time::sleep(Duration::from_millis(700)).await;
        let two = metrics(&admin).await;
        moved(&one, &two, "parlor_store_calls_total").is_empty().then_some(two)
    };
    let before = eventually("its cursor and device are written", rests).await;
    let mut b = stack.at("ws2", "userB").await;
    let said = b.catch_up().await;
    assert_eq!(crate::harness::texts(&said), []);
    tokio::time::sleep(Duration::from_millis(700)).await;
    let after = metrics(&admin).await;
    let calls = moved(&before, &after, "parlor_store_calls_total");
    assert_eq!(calls, BTreeMap::from([("mailbox".to_owned(), 1.0)]), "one Query and no more");
    let units = moved(&before, &after, "parlor_store_write_units_total");
    assert!(units.is_empty(), "{units:?}");
    stack.stop().await;
}

/// How often Redis has carried out this command.
fn calls(redis: &Redis, command: &str) -> f64 {
    let stats = redis.cli(&["INFO", "commandstats"]);
    let name = format!("cmdstat_{command}:calls=");
    let count = stats.lines().find_map(|line| line.strip_prefix(&name)?.split(',').next());
    count.map_or(0.0, |count| count.parse().unwrap())
}

/// Two thirds of the messages go to another server, and their receipts back: 1.3 PUBLISHes of each
/// if each left alone. No store slows them.
#[tokio::test]
async fn under_load_messages_share_publishes() {
    let Some(dynamodb) = dynamodb() else { return };
    let redis = Redis::start(dynamodb);
    let url = redis.url();
    let ports = ["--balancer-port", "0", "--server-port", "0", "--api-port", "0"];
    let arguments = [&["up", "--memory", "--redis", &url][..], &ports].concat();
    let arguments: Vec<_> = arguments.into_iter().map(str::to_owned).collect();
    let up = Process::start("up", &arguments);
    let ready = up.ready().await;
    let door = format!("ws://{}/ws", ready["balancer"].as_str().unwrap());
    let api = format!("http://{}", ready["api"].as_str().unwrap());
    let before = ["publish", "get"].map(|command| calls(&redis, command));
    let mut bench = command();
    bench.args(["bench", "pairs", "--pairs", "100", "--window", "4", "--seconds", "4"]);
    bench.args(["--url", &door, "--api", &api, "--json"]);
    let output = tokio::task::spawn_blocking(move || bench.output().unwrap()).await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{said}"));
    assert_eq!((&report["good"], &report["missing"]), (&true.into(), &0.into()), "{report}");
    let messages = report["messages"].as_f64().unwrap();
    let after = ["publish", "get"].map(|command| calls(&redis, command));
    let [publishes, gets] = [0, 1].map(|at| (after[at] - before[at]) / messages);
    println!(
        "{publishes:.3} PUBLISHes and {gets:.3} GETs a message, {:.0} a second",
        messages / 4.0
    );
    assert!((0.005..0.6).contains(&publishes), "{publishes}");
    up.stop().await;
}
