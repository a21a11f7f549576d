//! What comes over Redis: from a holder of the key who is wrong, and from strangers.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{hear, new_user, said_meanwhile, say};
use crate::fleet::Fleet;
use crate::raw::Raw;

const CHANNEL: &str = "messages:ws3";

/// Somebody on ws3, and who talks to him through the balancer.
struct Two {
    from: Raw,
    to: Raw,
    a: String,
    b: String,
}

impl Two {
    async fn new(fleet: &Fleet) -> Self {
        let (from, a) = new_user(fleet, "a").await;
        let b = format!("b-{}", fleet.next());
        let to = Raw::ready(&fleet.servers["ws3"], &format!("userId={b}")).await;
        Self { from, to, a, b }
    }

    fn conversation(&self) -> String {
        format!("dm:{}:{}", self.a, self.b)
    }

    /// A signal as a server would publish it.
    fn signal(&self, data: &str) -> Value {
        json!({"type": "signal", "v": 1, "conversation": self.conversation(), "from": self.a,
            "data": {"said": data}, "users": [self.b]})
    }

    /// An entry as a server would publish it.
    fn entry(&self, seq: u64, message: &str) -> Value {
        json!({"type": "entry", "v": 1, "conversation": self.conversation(), "seq": seq,
            "kind": "message", "from": self.a, "to": self.b, "message": message,
            "device": "default", "timestamp": 5, "n": seq, "users": [self.b], "via": "ws1"})
    }

    /// What is stored while nobody knows where they are: no server publishes it.
    async fn stores(&mut self, fleet: &Fleet, seq: u64, message: &str) {
        // It is looked up after it was stored, so what stands there must not be mended before.
        let nowhere = json!({"socketId": "0000000000000000000000000000002a", "server": "ws99",
            "epoch": "00000000000000aa", "device": "default", "claim": "1", "v": 1});
        let key = format!("user:{}", self.b);
        fleet.redis.as_ref().unwrap().cli(&["SET", &key, &nowhere.to_string()]);
        assert_eq!(say(&mut self.from, &self.b, message).await, seq);
    }

    /// The next message is this one, as it is stored.
    async fn hears(&mut self, seq: u64, message: &str) {
        let heard = hear(&mut self.to).await;
        assert_eq!((&heard["seq"], &heard["message"]), (&json!(seq), &json!(message)));
    }

    /// What is said really still arrives, next and once.
    async fn goes_on(&mut self, seq: u64) {
        assert_eq!(say(&mut self.from, &self.b, "really").await, seq);
        self.hears(seq, "really").await;
    }
}

fn publish(fleet: &Fleet, payload: &str) {
    let redis = fleet.redis.as_ref().unwrap();
    assert_eq!(redis.cli(&["PUBLISH", CHANNEL, payload]), "1", "ws3 listens");
}

fn signed(fleet: &Fleet, batch: &Value) {
    publish(fleet, &fleet.signing.sign(CHANNEL, &batch.to_string()));
}

async fn heard_as(fleet: &Fleet, outcome: &str) -> f64 {
    let outcome = format!("outcome=\"{outcome}\"");
    fleet.counted("ws3", "parlor_redis_calls_total", &["operation=\"hear\"", &outcome]).await
}

/// Waits until the counter has risen by so much.
async fn counts(fleet: &Fleet, outcome: &str, before: f64, more: f64) {
    let until = Instant::now() + Duration::from_secs(5);
    loop {
        let risen = heard_as(fleet, outcome).await - before;
        if risen >= more {
            return assert!(risen < more + 0.5, "{outcome}: {risen} and not {more}");
        }
        assert!(Instant::now() < until, "{outcome}: {risen} of {more}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The signals among what was said.
fn signals(said: &[Value]) -> Vec<&Value> {
    said.iter().filter(|said| said["type"] == "signal").collect()
}

/// Row G1: further fields are ignored; another version is dropped and counted, and what it told of
/// comes from the store.
pub async fn other_versions(fleet: &Fleet) {
    let mut two = Two::new(fleet).await;
    let malformed = heard_as(fleet, "malformed").await;
    let mut more = two.signal("with more");
    more["hop"] = json!({"of": [1, 2]});
    signed(fleet, &more);
    let later = [2, 0, 255].map(|version| {
        let mut later = two.signal("of another version");
        later["v"] = json!(version);
        later
    });
    for later in later {
        signed(fleet, &later);
    }
    // One that can't be read does not take its neighbours with it.
    signed(fleet, &json!([{"type": "new", "v": 9}, two.signal("beside it")]));
    counts(fleet, "malformed", malformed, 4.0).await;
    let said = said_meanwhile(&mut two.to, 50).await;
    let heard: Vec<_> = signals(&said).iter().map(|said| said["data"]["said"].clone()).collect();
    assert_eq!(heard, [json!("with more"), json!("beside it")]);
    two.goes_on(1).await;
    two.stores(fleet, 2, "stored").await;
    let mut later = two.entry(2, "BAD, of another version");
    later["v"] = json!(2);
    signed(fleet, &later);
    counts(fleet, "malformed", malformed + 4.0, 1.0).await;
    two.hears(2, "stored").await;
}

/// Row G2: counted, and nothing else; what it should have told of comes from the store.
pub async fn garbage(fleet: &Fleet) {
    let mut two = Two::new(fleet).await;
    let (malformed, unsigned) =
        (heard_as(fleet, "malformed").await, heard_as(fleet, "unsigned").await);
    let deep = format!(r#"{{"type":"probe","v":1,"x":{}{}}}"#, "[".repeat(200), "]".repeat(200));
    let twice = r#"{"type":"probe","type":"end","v":1,"number":1}"#.to_owned();
    let batches = ["nonsense".to_owned(), "{}".into(), "[".repeat(100_000), deep, twice];
    for batch in &batches {
        publish(fleet, &fleet.signing.sign(CHANNEL, batch));
    }
    for batch in ["", "nonsense", "{\"mac\":\"", "[]"] {
        publish(fleet, batch);
    }
    counts(fleet, "unsigned", unsigned, 4.0).await;
    counts(fleet, "malformed", malformed, 5.0).await;
    // Past the arguments that a command line takes: through a script of redis-cli.
    let oversized = heard_as(fleet, "oversized").await;
    let redis = fleet.redis.as_ref().unwrap();
    let script = format!("return redis.call('PUBLISH', '{CHANNEL}', string.rep('x', 1048577))");
    assert_eq!(redis.cli(&["EVAL", &script, "0"]), "1");
    counts(fleet, "oversized", oversized, 1.0).await;
    two.goes_on(1).await;
    let all = (heard_as(fleet, "malformed").await, heard_as(fleet, "unsigned").await);
    assert_eq!(all, (malformed + 5.0, unsigned + 4.0), "each once, and nothing else");
    two.stores(fleet, 2, "stored").await;
    let whole = two.entry(2, "BAD").to_string();
    publish(fleet, &fleet.signing.sign(CHANNEL, &whole[..whole.len() / 2]));
    counts(fleet, "malformed", malformed + 5.0, 1.0).await;
    two.hears(2, "stored").await;
}

/// Row G3: who holds no key says nothing; who holds one still can't make another see what two
/// say to each other. (Of a room he can: docs/threat-model.md.) `tests/it/bus_key.rs` has what was
/// altered, and what was heard before.
pub async fn forged(fleet: &Fleet) {
    let mut two = Two::new(fleet).await;
    let mallory = format!("mallory-{}", fleet.next());
    let mut spy = Raw::ready(&fleet.servers["ws3"], &format!("userId={mallory}")).await;
    let unsigned = heard_as(fleet, "unsigned").await;
    publish(fleet, &two.entry(1, "BAD").to_string());
    counts(fleet, "unsigned", unsigned, 1.0).await;
    assert!(said_meanwhile(&mut two.to, 50).await.is_empty(), "nothing of a stranger's");
    let ok = heard_as(fleet, "ok").await;
    let mut to_spy = two.entry(1, "BAD");
    to_spy["users"] = json!([mallory]);
    signed(fleet, &to_spy);
    let mut signal = two.signal("BAD");
    signal["users"] = json!([mallory]);
    signed(fleet, &signal);
    let until = Instant::now() + Duration::from_secs(5);
    while heard_as(fleet, "ok").await - ok < 2.0 {
        assert!(Instant::now() < until, "they were heard");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let said = said_meanwhile(&mut spy, 100).await;
    assert!(said.is_empty(), "no member: {said:?}");
    // Far beyond the end: the store is asked, and has nothing.
    signed(fleet, &two.entry(7, "BAD"));
    assert!(said_meanwhile(&mut two.to, 200).await.is_empty(), "not in the store");
    two.goes_on(1).await;
}

/// Row G4: what was heard is not heard again; a gap is read from the store.
pub async fn out_of_order(fleet: &Fleet) {
    let mut two = Two::new(fleet).await;
    two.goes_on(1).await;
    two.goes_on(2).await;
    for seq in [1, 2, 2, 1] {
        signed(fleet, &two.entry(seq, "BAD again"));
    }
    assert!(said_meanwhile(&mut two.to, 200).await.iter().all(|said| said["type"] != "message"));
    // What one has said oneself, on a server that has it from the lane already.
    let mut own = Raw::ready(&fleet.servers["ws3"], &format!("userId={}", two.a)).await;
    assert_eq!(say(&mut own, &two.b, "mine").await, 3);
    assert_eq!(hear(&mut two.to).await["message"], "mine");
    let mut echo = two.entry(3, "BAD echo");
    echo["users"] = json!([two.a, two.b]);
    signed(fleet, &echo);
    for socket in [&mut own, &mut two.to] {
        let said = said_meanwhile(socket, 200).await;
        assert!(said.iter().all(|said| said["type"] != "message"), "{said:?}");
    }
    // An envelope from beyond a gap that the store has not.
    signed(fleet, &two.entry(9, "BAD beyond"));
    two.goes_on(4).await;
    // And one from beyond a gap that it has: now, and not within the hour when a server looks by
    // itself.
    two.stores(fleet, 5, "between").await;
    two.stores(fleet, 6, "beyond it").await;
    let begun = Instant::now();
    signed(fleet, &two.entry(6, "beyond it"));
    two.hears(5, "between").await;
    two.hears(6, "beyond it").await;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    two.goes_on(7).await;
    assert!(said_meanwhile(&mut two.to, 200).await.iter().all(|said| said["type"] != "message"));
}

/// Row G5: what nobody knows is counted; an end of a socket that is not there ends nobody.
pub async fn unknown_kinds(fleet: &Fleet) {
    let mut two = Two::new(fleet).await;
    let malformed = heard_as(fleet, "malformed").await;
    for kind in ["kick", "shutdown", "", "END"] {
        signed(fleet, &json!({"type": kind, "v": 1, "user": two.b, "socket": "2a", "number": 1}));
    }
    counts(fleet, "malformed", malformed, 4.0).await;
    let other = "0000000000000000000000000000002a";
    signed(fleet, &json!({"type": "end", "v": 1, "user": two.b, "socket": other}));
    assert!(two.to.is_open().await, "another socket was meant");
    two.goes_on(1).await;
}

/// Row G6: whatever stands in the map, what is sent is stored and arrives, and coming back mends
/// the entry, gives it an end, and needs nobody's help for that.
pub async fn wrong_entries(fleet: &Fleet) {
    let redis = fleet.redis.as_ref().unwrap();
    let dead = concat!(
        r#"{"socketId":"0000000000000000000000000000002a","server":"ws99","#,
        r#""epoch":"00000000000000aa","device":"default","claim":"1","v":1}"#,
    );
    let newer = dead.replace(r#""v":1"#, r#""v":9,"shape":[1]"#);
    let values = [dead, &newer, "garbage", "[]", "{}", "null", "7", "\\x00"];
    let values = values.into_iter().map(Some);
    // `None`: of another type, which GET refuses. None has an end, until a server gives it one.
    for value in values.chain([None]) {
        let mut two = Two::new(fleet).await;
        let key = format!("user:{}", two.b);
        redis.cli(&["DEL", &key]);
        match value {
            Some(value) => redis.cli(&["SET", &key, value]),
            None => redis.cli(&["RPUSH", &key, "x"]),
        };
        assert_eq!(say(&mut two.from, &two.b, "really").await, 1, "{value:?}");
        let heard = hear(&mut two.to).await;
        assert_eq!(heard["message"], "really", "it arrives, the slow way at worst: {value:?}");
        let query = format!("userId={}&device=again", two.b);
        let _again = Raw::ready(&fleet.servers["ws3"], &query).await;
        let entry = redis.entry(&two.b).expect("an entry");
        assert_eq!(entry["server"], "ws3", "{value:?}: {entry}");
        let ends: i64 = redis.cli(&["TTL", &key]).parse().unwrap();
        assert!((1..=3_600).contains(&ends), "{value:?}: {ends} s");
    }
}
