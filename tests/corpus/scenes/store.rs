//! A store that is away, and items that are not what they should be.

use std::collections::HashMap;
use std::time::Duration;

use aws_config::{BehaviorVersion, Region};
use aws_credential_types::Credentials;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::AttributeValue;
use serde_json::json;

use super::{new_user, say};
use crate::case::{get, post};
use crate::fleet::Fleet;
use crate::harness::{Proxy, Way};
use crate::raw::{Raw, request};

/// Row E10: 503 with a time to come back, never an empty page for what is there.
pub async fn away_from_the_store(fleet: &Fleet) {
    let ((mut a, one), (_b, two)) = (new_user(fleet, "a").await, new_user(fleet, "b").await);
    assert_eq!(say(&mut a, &two, "kept").await, 1);
    let store = fleet.redis.as_ref().unwrap().dynamodb().trim_start_matches("http://").to_owned();
    let proxy = Proxy::start(&store).await;
    let behind = format!("http://{}", proxy.address());
    let parts = fleet.parts();
    let parts = parts.iter().map(|part| if part.contains(&store) { &behind } else { part });
    let parts: Vec<&str> = parts.map(String::as_str).collect();
    let (process, ready) =
        fleet.spare(&[&["api", "--listen", "127.0.0.1:0"][..], &parts].concat()).await;
    let api = ready["api"].as_str().unwrap().to_owned();
    let page = format!("/v1/conversations/dm:{one}:{two}/messages?userId={one}");
    let list = format!("/v1/users/{one}/conversations?userId={one}");
    assert_eq!(request(&api, get(&page, "")).await.unwrap().status, 200);
    for way in [Way::Cut, Way::Stalled] {
        proxy.set(way);
        for target in [&page, &list] {
            request(&api, get(target, "")).await.unwrap().is_problem(503);
        }
        let body = json!({"to": two, "message": "BAD"}).to_string();
        let send = post(
            &format!("/v1/messages?userId={one}"),
            "Content-Type: application/json\r\n",
            &body,
        );
        request(&api, send).await.unwrap().is_problem(503);
    }
    proxy.set(Way::Open);
    let until = std::time::Instant::now() + Duration::from_secs(20);
    while request(&api, get(&page, "")).await.unwrap().status != 200 {
        assert!(std::time::Instant::now() < until, "it comes back");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(process.stop().await.success());
}

type Item = HashMap<String, AttributeValue>;

struct Table<'a> {
    client: Client,
    fleet: &'a Fleet,
}

impl<'a> Table<'a> {
    async fn open(fleet: &'a Fleet) -> Self {
        let config = aws_config::defaults(BehaviorVersion::latest())
            .endpoint_url(fleet.redis.as_ref().unwrap().dynamodb())
            .http_client(aws_smithy_http_client::Builder::new().build_http())
            .credentials_provider(Credentials::new("local", "local", None, None, "tests"))
            .region(Region::new("us-east-1"));
        Self { client: Client::new(&config.load().await), fleet }
    }

    async fn read(&self, pk: &str, sk: &str) -> Item {
        let get = self.client.get_item().table_name(&self.fleet.table).consistent_read(true);
        let text = |text: &str| AttributeValue::S(text.to_owned());
        get.key("pk", text(pk)).key("sk", text(sk)).send().await.unwrap().item.expect("an item")
    }

    async fn put(&self, item: Item) {
        let put = self.client.put_item().table_name(&self.fleet.table);
        put.set_item(Some(item)).send().await.unwrap();
    }

    async fn delete(&self, pk: &str, sk: &str) {
        let delete = self.client.delete_item().table_name(&self.fleet.table);
        let text = |text: &str| AttributeValue::S(text.to_owned());
        delete.key("pk", text(pk)).key("sk", text(sk)).send().await.unwrap();
    }
}

/// What the logs say of damaged items.
fn told(fleet: &Fleet, key: &str) -> usize {
    let logs = fleet.logs();
    let logs = String::from_utf8_lossy(&logs);
    let told = |line: &&str| line.contains(" WARN ") && line.contains("a damaged item");
    logs.lines().filter(told).filter(|line| line.contains(key)).count()
}

/// Row H1: what a later version has added is skipped; what is damaged is told as such in the log,
/// and costs nobody but its own conversation: who comes back hears all others, and it once it is
/// mended.
pub async fn wrong_items(fleet: &Fleet) {
    let table = Table::open(fleet).await;
    let text = |text: &str| AttributeValue::S(text.to_owned());
    for (case, status) in [
        ("unknown attribute", 200),
        ("newer version", 200),
        ("no sender", 503),
        ("a number for a text", 503),
        ("no json", 503),
    ] {
        let (mut a, one) = new_user(fleet, "a").await;
        let (two_is_there, two) = new_user(fleet, "b").await;
        // A second device of his has not heard a thing yet.
        let away = format!("userId={two}&device=away");
        drop(Raw::ready(&fleet.balancer, &away).await);
        for seq in 1..=3 {
            assert_eq!(say(&mut a, &two, "kept").await, seq);
        }
        let good = table.read(&format!("C#dm:{one}:{two}"), &format!("M#{:020}", 2)).await;
        let mut item = good.clone();
        match case {
            "unknown attribute" => drop(item.insert("later".to_owned(), text("x"))),
            "newer version" => drop(item.insert("v".to_owned(), AttributeValue::N("2".to_owned()))),
            "no sender" => drop(item.remove("from")),
            "a number for a text" => {
                item.insert("message".to_owned(), AttributeValue::N("7".to_owned()));
            }
            _ => drop(item.insert("data".to_owned(), text("{not json"))),
        }
        table.put(item).await;
        drop(two_is_there);
        let mut third = new_user(fleet, "c").await.0;
        assert_eq!(say(&mut third, &two, "from another").await, 1);
        let page = format!("/v1/conversations/dm:{one}:{two}/messages?userId={one}");
        let answer = request(&fleet.api, get(&page, "")).await.unwrap();
        assert_eq!(answer.status, status, "{case}: {}", answer.text());
        let key = format!("dm:{one}:{two}");
        assert_eq!(told(fleet, &key) > 0, status == 503, "{case}: the log says which");
        let told_before = told(fleet, &key);
        let (texts, mut back) = caught_up(fleet, &away).await;
        let kept = texts.iter().filter(|text| *text == "kept").count();
        assert_eq!((kept == 3, kept == 0), (status == 200, status == 503), "{case}: {texts:?}");
        assert!(texts.contains(&"from another".to_owned()), "{case}: {texts:?}");
        assert!(back.is_open().await, "{case}");
        assert_eq!(told(fleet, &key) > told_before, status == 503, "{case}: the log says it");
        drop(back);
        // The list of all others is not held up.
        let list = format!("/v1/users/{one}/conversations?userId={one}");
        assert_eq!(request(&fleet.api, get(&list, "")).await.unwrap().status, 200, "{case}");
        assert_eq!(say(&mut a, &one, "a note beside it").await, 1, "{case}");
        table.put(good).await;
        assert_eq!(request(&fleet.api, get(&page, "")).await.unwrap().status, 200, "{case}");
        let texts = caught_up(fleet, &away).await.0;
        let kept = texts.iter().filter(|text| *text == "kept").count();
        assert!(kept == 3 || status == 200, "{case}: nothing is lost: {texts:?}");
    }
}

/// What else is damaged: which item, which attribute of it, and which conversation can't be read
/// then.
const RECORDS: [(&str, &str, &[&str]); 5] = [
    ("row", "last", &["dm"]),
    ("device", "lastSeen", &[]),
    ("member", "spans", &["room"]),
    ("head", "public", &["room"]),
    ("board", "beat", &[]),
];

/// Row H1: whatever else is damaged costs its own conversation at most; all else is sent, heard and
/// listed, and nothing is lost once it is mended.
pub async fn wrong_records(fleet: &Fleet) {
    let table = Table::open(fleet).await;
    for (case, name, rests) in RECORDS {
        let (mut a, one) = new_user(fleet, "a").await;
        let (two_is_there, two) = new_user(fleet, "b").await;
        let away = format!("userId={two}&device=away");
        drop(Raw::ready(&fleet.balancer, &away).await);
        let (dm, room) = (format!("dm:{one}:{two}"), room_of_two(fleet, &one, &two).await);
        assert_eq!(say(&mut a, &two, "kept").await, 1);
        let (pk, sk) = match case {
            "row" => (format!("U#{two}"), format!("C#{dm}")),
            "device" => (format!("U#{two}"), "D#away".to_owned()),
            "member" => (format!("C#{room}"), format!("U#{two}")),
            "head" => (format!("C#{room}"), "HEAD".to_owned()),
            // Not that of a process that lives: its next beat would find another's in its place.
            _ => ("BOARD".to_owned(), "api".to_owned()),
        };
        let good = table.read(&pk, &sk).await;
        let mut damaged = good.clone();
        damaged.insert(name.to_owned(), AttributeValue::S("FORGED\nline".to_owned()));
        if case == "board" {
            damaged.insert("sk".to_owned(), AttributeValue::S("ws98".to_owned()));
        }
        table.put(damaged).await;
        drop(two_is_there);
        let mut third = new_user(fleet, "c").await.0;
        assert_eq!(say(&mut third, &two, "from another").await, 1, "{case}");
        let (texts, mut back) = caught_up(fleet, &away).await;
        assert!(texts.contains(&"from another".to_owned()), "{case}: {texts:?}");
        assert_eq!(texts.contains(&"kept".to_owned()), !rests.contains(&"dm"), "{case}: {texts:?}");
        assert!(back.is_open().await, "{case}");
        drop(back);
        for user in [&one, &two] {
            let list = format!("/v1/users/{user}/conversations?userId={user}");
            let answer = request(&fleet.api, get(&list, "")).await.unwrap();
            assert_eq!(answer.status, 200, "{case}: {}", answer.text());
        }
        for (what, conversation) in [("dm", &dm), ("room", &room)] {
            let page = format!("/v1/conversations/{conversation}/messages?userId={two}");
            let status = request(&fleet.api, get(&page, "")).await.unwrap().status;
            assert_eq!(status == 503, rests.contains(&what), "{case}: {what} answers {status}");
            assert!([200, 503].contains(&status), "{case}: {what} answers {status}");
        }
        match case {
            "board" => table.delete("BOARD", "ws98").await,
            _ => table.put(good).await,
        }
        assert_eq!(say(&mut a, &two, "and on").await, 2, "{case}");
        let after = caught_up(fleet, &away).await.0;
        let all: Vec<&String> = texts.iter().chain(&after).collect();
        for text in ["kept", "and on"] {
            assert!(all.iter().any(|heard| *heard == text), "{case}: {text} is lost: {all:?}");
        }
    }
}

async fn room_of_two(fleet: &Fleet, maker: &str, member: &str) -> String {
    let body = json!({"members": [member]}).to_string();
    let made =
        post(&format!("/v1/rooms?userId={maker}"), "Content-Type: application/json\r\n", &body);
    let answer = request(&fleet.api, made).await.unwrap();
    assert_eq!(answer.status, 201, "{}", answer.text());
    answer.json()["conversation"].as_str().unwrap().to_owned()
}

/// What a device hears on coming back, up to `caughtup`.
async fn caught_up(fleet: &Fleet, query: &str) -> (Vec<String>, Raw) {
    let (mut socket, mut texts) = (Raw::open(&fleet.balancer, query).await, Vec::new());
    loop {
        let said = socket.json().await.expect("the socket stays open");
        match said["type"].as_str() {
            Some("message") => texts.push(said["message"].as_str().unwrap().to_owned()),
            Some("caughtup") => return (texts, socket),
            _ => {}
        }
    }
}
