//! The first message, the second, and one that stays on its server; as `redis-cli`, DynamoDB and
//! the two people see them.

use serde_json::{Value, json};

use crate::harness::{Listening, Person, Redis, Stack, eventually, on_both};

on_both!(first_message, second_message, same_server);

const HI: &str = r#"{"type":"message","to":"userB","message":"Hi"}"#;

/// What `redis-cli` sees of a stack's Redis.
struct Seen {
    monitor: Listening,
    channels: Listening,
}

impl Seen {
    fn start(redis: &Redis) -> Self {
        let channels = ["SUBSCRIBE", "messages:ws1", "messages:ws2", "messages:ws3", "done"];
        Self { monitor: redis.listen(&["MONITOR"]), channels: redis.listen(&channels) }
    }

    fn settle(&self, redis: &Redis) {
        redis.settle(&self.monitor);
        redis.settle(&self.channels);
    }

    /// Commands that clients sent themselves: not those inside of scripts, nor probes.
    fn commands(&self, command: &str, first: &str) -> usize {
        let all = self.monitor.with(&[&format!(r#""{command}" "{first}"#)]);
        all.iter().filter(|line| !line.contains(" lua]") && !line.contains("probe")).count()
    }

    /// The payloads of one channel, but for probes.
    fn payloads(&self, channel: &str) -> Vec<Value> {
        let lines = self.channels.lines();
        let named = lines.windows(3).filter(|of| of[0] == "message" && of[1] == channel);
        let payloads = named.map(|of| serde_json::from_str(&of[2]).unwrap());
        payloads.filter(|payload: &Value| payload["type"] != "probe").collect()
    }
}

async fn frame(person: &mut Person) -> Value {
    serde_json::from_str(&person.text().await).unwrap()
}

/// Says it as a plain client does: the `sent` and the `delivered`, each without its timestamp.
async fn told(a: &mut Person) -> Vec<Value> {
    a.write(HI).await;
    let mut told = Vec::new();
    while told.last().is_none_or(|frame: &Value| frame["type"] != "delivered") {
        let mut frame = frame(a).await;
        frame.as_object_mut().unwrap().remove("timestamp");
        told.push(frame);
    }
    told
}

fn as_told(seq: u64) -> [Value; 2] {
    let id = format!("dm:userA:userB/{seq}");
    [
        json!({"type": "sent", "id": id, "conversation": "dm:userA:userB", "seq": seq}),
        json!({"type": "delivered", "conversation": "dm:userA:userB", "seq": seq,
               "userId": "userB"}),
    ]
}

/// ws1 looks userB up, tells ws3 once, and the message stands in the table.
async fn first_message(stack: Stack) {
    let mut people = Vec::new();
    for (user, server) in [("userA", "ws1"), ("userX", "ws2"), ("userB", "ws3")] {
        let mut person = stack.person(user).await;
        assert_eq!(person.server, server);
        person.catch_up().await;
        people.push(person);
    }
    let seen = stack.redis.as_ref().map(Seen::start);
    assert_eq!(told(&mut people[0]).await, as_told(1));
    let mut heard = frame(&mut people[2]).await;
    let timestamp = heard.as_object_mut().unwrap().remove("timestamp").unwrap();
    assert!(timestamp.as_u64().is_some_and(|ms| ms > 1_700_000_000_000), "{timestamp}");
    assert_eq!(
        heard,
        json!({"type": "message", "id": "dm:userA:userB/1", "conversation": "dm:userA:userB",
               "seq": 1, "from": "userA", "to": "userB", "message": "Hi"})
    );
    people[1].hears_nothing(100).await;
    if let Some((redis, seen)) = stack.redis.as_ref().zip(seen) {
        seen.settle(redis);
        assert_eq!(seen.commands("GET", r#"user:userB""#), 1, "{:#?}", seen.monitor.lines());
        assert_eq!(seen.commands("PUBLISH", r#"messages:ws3""#), 1, "{:#?}", seen.monitor.lines());
        let payloads = seen.payloads("messages:ws3");
        let [payload] = &payloads[..] else { panic!("{payloads:?}") };
        let shown = ["to", "message", "from"].map(|field| payload[field].as_str().unwrap());
        assert_eq!(shown, ["userB", "Hi", "userA"]);
    }
    stands_in_the_table(&stack, timestamp.as_u64().unwrap()).await;
    stack.stop().await;
}

async fn stands_in_the_table(stack: &Stack, timestamp: u64) {
    let shown = stack.shown("dm:userA:userB").await;
    assert_eq!(shown.len(), 1, "{shown:?}");
    assert!(shown[0].starts_with("1 userA → userB ") && shown[0].ends_with("Z Hi"), "{shown:?}");
    let Some(items) = stack.items("C#dm:userA:userB").await else { return };
    let [item] = &items[..] else { panic!("{items:?}") };
    let text = |name: &str| item[name].as_s().unwrap().as_str();
    assert_eq!(
        ["sk", "kind", "from", "to", "message", "device"].map(text),
        ["M#00000000000000000001", "message", "userA", "userB", "Hi", "default"]
    );
    assert_eq!(item["timestamp"].as_n().unwrap(), &timestamp.to_string());
    let rows = stack.items("U#userB").await.unwrap();
    let row = rows.iter().find(|row| row["sk"].as_s().unwrap() == "C#dm:userA:userB").unwrap();
    assert_eq!(row["last"].as_n().unwrap(), "1", "raised before the put");
}

/// The second message looks up and publishes again; nothing of the map is written, and nobody opens
/// a socket for it.
async fn second_message(stack: Stack) {
    let mut a = stack.at("ws1", "userA").await;
    let mut b = stack.at("ws3", "userB").await;
    a.catch_up().await;
    b.catch_up().await;
    assert_eq!(told(&mut a).await, as_told(1));
    let connections = |redis: &Redis| {
        let info = redis.cli(&["INFO", "clients"]);
        info.lines().find(|line| line.starts_with("connected_clients")).unwrap().to_owned()
    };
    let before = stack.redis.as_ref().map(|redis| {
        let (entry, connections) = (redis.entry("userB"), connections(redis));
        (redis, Seen::start(redis), entry, connections)
    });
    assert_eq!(told(&mut a).await, as_told(2));
    assert_eq!(b.hear_all(2).await, [(1, "Hi".to_owned()), (2, "Hi".to_owned())]);
    if let Some((redis, seen, entry, connected)) = before {
        seen.settle(redis);
        let monitor = seen.monitor.lines();
        assert_eq!(seen.commands("GET", r#"user:userB""#), 1, "{monitor:#?}");
        assert_eq!(seen.commands("PUBLISH", r#"messages:ws3""#), 1, "{monitor:#?}");
        for write in [r#""SET" "user:"#, r#""DEL" "user:"#] {
            assert!(seen.monitor.with(&[write]).is_empty(), "{monitor:#?}");
        }
        assert_eq!(redis.entry("userB"), entry, "the same socket under the same claim");
        drop(seen);
        let as_before = async || (connections(redis) == connected).then_some(());
        eventually("no further connection", as_before).await;
    }
    stack.stop().await;
}

/// Two on one server: nothing is published, by nobody.
async fn same_server(stack: Stack) {
    let mut a = stack.at("ws1", "userA").await;
    let mut b = stack.at("ws1", "userB").await;
    a.catch_up().await;
    b.catch_up().await;
    let seen = stack.redis.as_ref().map(Seen::start);
    assert_eq!(told(&mut a).await, as_told(1));
    assert_eq!(b.hear().await, (1, "Hi".to_owned()));
    if let Some((redis, seen)) = stack.redis.as_ref().zip(seen) {
        seen.settle(redis);
        assert_eq!(seen.commands("PUBLISH", "messages:"), 0, "{:#?}", seen.monitor.lines());
        let channels = ["messages:ws1", "messages:ws2", "messages:ws3"];
        assert!(channels.iter().all(|channel| seen.payloads(channel).is_empty()));
    }
    // The sending socket gets no copy.
    a.hears_nothing(100).await;
    stack.stop().await;
}
