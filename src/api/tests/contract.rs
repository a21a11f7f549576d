//! `/openapi.json` held against the answers: every documented path, method and status is provoked,
//! every body has the documented shape, no field more, and every documented field is seen once.

use std::collections::BTreeSet;

use axum::body::Body;
use axum::http::Request;
use futures_util::stream::{FuturesUnordered, StreamExt};
use serde_json::{Value, json};

use super::switched::Trouble;
use super::world::{Answer, World};
use crate::auth::testing::{SECRET, hs256};
use crate::protocol::{ConversationId, DeviceId, Entry, Kind, REF_REACH_ENTRIES, Token, UserId};
use crate::store::Store;

/// What the document uses of JSON Schema; anything else would go unchecked.
const KEYWORDS: [&str; 9] = [
    "$ref",
    "default",
    "description",
    "format",
    "items",
    "minimum",
    "properties",
    "required",
    "type",
];

/// Fields of named schemas, like `Message.seq`.
type Fields = BTreeSet<String>;

/// Checks `value` against a schema, and notes the fields that it has.
fn check(document: &Value, schema: &Value, value: &Value, at: &str, seen: &mut Fields) {
    if let Some(name) = schema["$ref"].as_str() {
        let found = document.pointer(name.trim_start_matches('#')).expect(name);
        let name = name.rsplit('/').next().unwrap();
        for field in value.as_object().into_iter().flat_map(|object| object.keys()) {
            seen.insert(format!("{name}.{field}"));
        }
        return check(document, found, value, at, seen);
    }
    for keyword in schema.as_object().expect(at).keys() {
        assert!(KEYWORDS.contains(&keyword.as_str()), "{at}: {keyword} is not checked here");
    }
    let types: Vec<&str> = match &schema["type"] {
        Value::String(kind) => vec![kind],
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
        other => panic!("{at}: a schema without a type: {other} {schema}"),
    };
    let is = |kind: &&str| match *kind {
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        "null" => value.is_null(),
        other => panic!("{at}: the type {other} is not known here"),
    };
    assert!(types.iter().any(is), "{at}: {value} is not {types:?}");
    if let Some(minimum) = schema["minimum"].as_f64() {
        assert!(value.as_f64().is_none_or(|number| number >= minimum), "{at}: {value}");
    }
    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
        check(document, &schema["items"], item, &format!("{at}[{index}]"), seen);
    }
    let (Some(object), Some(known)) = (value.as_object(), schema["properties"].as_object()) else {
        return;
    };
    for name in schema["required"].as_array().into_iter().flatten() {
        let name = name.as_str().unwrap();
        assert!(object.contains_key(name), "{at}.{name} is required: {value}");
    }
    for (name, value) in object {
        let schema = known.get(name).unwrap_or_else(|| panic!("{at}.{name} is not documented"));
        check(document, schema, value, &format!("{at}.{name}"), seen);
    }
}

type Triple = (String, String, String);

struct Contract {
    document: Value,
    seen: BTreeSet<Triple>,
    fields: Fields,
}

impl Contract {
    fn documented(&self) -> BTreeSet<Triple> {
        let mut all = BTreeSet::new();
        for (path, methods) in self.document["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap() {
                for status in operation["responses"].as_object().unwrap().keys() {
                    all.insert((path.clone(), method.clone(), status.clone()));
                }
            }
        }
        all
    }

    /// All fields of all schemas.
    fn documented_fields(&self) -> Fields {
        let schemas = self.document["components"]["schemas"].as_object().unwrap();
        let fields = schemas.iter().flat_map(|(name, schema)| {
            let fields = schema["properties"].as_object().into_iter().flatten();
            fields.map(move |(field, _)| format!("{name}.{field}"))
        });
        fields.collect()
    }

    /// A body that the API takes is one that the document describes.
    #[track_caller]
    fn hold_body(&mut self, path: &str, body: &Value) {
        let media = &self.document["paths"][path]["post"]["requestBody"]["content"];
        let schema = &media["application/json"]["schema"];
        check(&self.document, schema, body, path, &mut self.fields);
    }

    #[track_caller]
    fn hold(&mut self, method: &str, path: &str, status: u16, answer: &Answer) {
        let at = format!("{method} {path} {status}");
        assert_eq!(answer.status, status, "{at}: {}", answer.json);
        let response = &self.document["paths"][path][method]["responses"][status.to_string()];
        let content = response["content"].as_object().unwrap_or_else(|| panic!("{at}: {response}"));
        let media = answer.headers["content-type"].to_str().unwrap();
        let schema = content.get(media).unwrap_or_else(|| panic!("{at}: {media} in {content:?}"));
        check(&self.document, &schema["schema"], &answer.json, &at, &mut self.fields);
        if media == "application/problem+json" {
            assert_eq!(answer.json["status"], status);
        }
        self.seen.insert((path.into(), method.into(), status.to_string()));
    }
}

const LIST: &str = "/v1/users/{user}/conversations";
const PRESENCE: &str = "/v1/users/{user}/presence";
const HISTORY: &str = "/v1/conversations/{conversation}/messages";
const MESSAGES: &str = "/v1/messages";
const REVOKE: &str = "/v1/users/{user}/revoke";
const ROOMS: &str = "/v1/rooms";
const MEMBERS: &str = "/v1/rooms/{room}/members/{user}";

async fn reading(world: &World, contract: &mut Contract) {
    let servers = world.get("/v1/servers").await;
    contract.hold("get", "/v1/servers", 200, &servers);
    for (path, good) in [
        (LIST, "/v1/users/userA/conversations?userId=userA"),
        (PRESENCE, "/v1/users/userB/presence?userId=userA"),
        (HISTORY, "/v1/conversations/dm:userA:userB/messages?userId=userA"),
        (HISTORY, "/v1/conversations/room:r/messages?userId=userA"),
    ] {
        contract.hold("get", path, 200, &world.get(good).await);
        let (without, _) = good.split_once('?').unwrap();
        contract.hold("get", path, 400, &world.get(without).await);
        world.store.switch.set(Trouble::Down);
        contract.hold("get", path, 503, &world.get(good).await);
        world.store.switch.set(Trouble::None);
    }
    let foreign = world.get("/v1/users/userB/conversations?userId=userA").await;
    contract.hold("get", LIST, 404, &foreign);
    let foreign = world.get("/v1/conversations/dm:x:y/messages?userId=userA").await;
    contract.hold("get", HISTORY, 404, &foreign);
}

async fn sending(world: &World, contract: &mut Contract) {
    let target = "/v1/messages?userId=userA";
    let hi = json!({"from": "userA", "to": "userB", "message": "Hi", "data": {"a": [1]},
        "after": 0});
    contract.hold_body(MESSAGES, &hi);
    let first = world.post(target, Some("k1"), &hi).await;
    contract.hold("post", MESSAGES, 201, &first);
    assert_eq!(first.json["ref"], "k1");
    assert_eq!(first.json["seq"], 1);
    assert_eq!(first.json["id"], "dm:userA:userB/1");
    let again = world.post(target, Some("\"k1\""), &hi).await;
    contract.hold("post", MESSAGES, 200, &again);
    assert_eq!(again.json, first.json);
    let other = json!({"to": "userB", "message": "Ho"});
    contract.hold("post", MESSAGES, 409, &world.post(target, Some("k1"), &other).await);
    let without = world.post(target, None, &other).await;
    contract.hold("post", MESSAGES, 201, &without);
    assert!(without.json.get("ref").is_none());
    contract.hold("post", MESSAGES, 400, &world.post(MESSAGES, None, &hi).await);
    let foreign = json!({"from": "userB", "to": "userA", "message": "Hi"});
    contract.hold("post", MESSAGES, 403, &world.post(target, None, &foreign).await);
    for conversation in ["dm:x:y", "room:nowhere"] {
        let body = json!({"conversation": conversation, "message": "Hi"});
        contract.hold_body(MESSAGES, &body);
        contract.hold("post", MESSAGES, 404, &world.post(target, None, &body).await);
    }
    let long = json!({"to": "userB", "message": "x".repeat(20_000)});
    contract.hold("post", MESSAGES, 413, &world.post(target, None, &long).await);
    let plain = Request::post(target).header("content-type", "text/plain").body(Body::from("Hi"));
    contract.hold("post", MESSAGES, 415, &world.call(plain.unwrap()).await);
    world.store.switch.set(Trouble::Down);
    contract.hold("post", MESSAGES, 503, &world.post(target, Some("k9"), &hi).await);
    world.store.switch.set(Trouble::None);
}

/// The first try may lie further back than refs are looked for.
async fn expired(world: &World, contract: &mut Contract) {
    let from = UserId::parse("userA").unwrap();
    let conversation = ConversationId::direct(&from, &UserId::parse("userZ").unwrap());
    let entry = |seq| Entry {
        seq,
        kind: Kind::Message,
        from: from.clone(),
        to: UserId::parse("userZ").ok(),
        message: Some("x".into()),
        data: None,
        reference: None,
        device: DeviceId::plain(),
        timestamp: seq,
        n: seq,
    };
    let entries: Vec<Entry> = (1..=REF_REACH_ENTRIES + 100).map(entry).collect();
    world.store.append(&conversation, &entries).await.unwrap();
    let late = json!({"to": "userZ", "message": "Hi", "after": 1});
    let answer = world.post("/v1/messages?userId=userA", Some("late"), &late).await;
    contract.hold("post", MESSAGES, 410, &answer);
}

async fn rooms(world: &World, contract: &mut Contract) {
    let target = "/v1/rooms?userId=userA";
    let body = json!({"room": "r", "title": "Room", "members": ["userB", "userB"],
        "public": false});
    contract.hold_body(ROOMS, &body);
    contract.hold_body(ROOMS, &json!({}));
    let made = world.post(target, None, &body).await;
    contract.hold("post", ROOMS, 201, &made);
    assert_eq!(made.json["conversation"], "room:r");
    assert_eq!(made.json["creator"], "userA");
    contract.hold("post", ROOMS, 201, &world.post(target, None, &json!({})).await);
    let taken = world.post("/v1/rooms?userId=userC", None, &body).await;
    contract.hold("post", ROOMS, 400, &taken);
    let long = json!({"title": "x".repeat(300)});
    contract.hold("post", ROOMS, 413, &world.post(target, None, &long).await);
    let plain = Request::post(target).body(Body::from("{}"));
    contract.hold("post", ROOMS, 415, &world.call(plain.unwrap()).await);
    let member = |room: &str, user: &str, caller: &str| {
        format!("/v1/rooms/{room}/members/{user}?userId={caller}")
    };
    let add = async |room: &str, user: &str, caller: &str| {
        world.ask("PUT", &member(room, user, caller)).await
    };
    contract.hold("put", MEMBERS, 201, &add("r", "userC", "userA").await);
    contract.hold("put", MEMBERS, 200, &add("r", "userC", "userA").await);
    contract.hold("put", MEMBERS, 400, &add("r", "a%20b", "userA").await);
    contract.hold("put", MEMBERS, 403, &add("r", "userD", "userB").await);
    contract.hold("put", MEMBERS, 404, &add("r", "userD", "userD").await);
    contract.hold("put", MEMBERS, 404, &add("nowhere", "userD", "userD").await);
    let remove = async |room: &str, user: &str, caller: &str| {
        world.ask("DELETE", &member(room, user, caller)).await
    };
    contract.hold("delete", MEMBERS, 400, &remove("r", "a%20b", "userA").await);
    contract.hold("delete", MEMBERS, 403, &remove("r", "userC", "userB").await);
    contract.hold("delete", MEMBERS, 404, &remove("r", "userC", "userX").await);
    let left = remove("r", "userC", "userA").await;
    contract.hold("delete", MEMBERS, 200, &left);
    let again = remove("r", "userC", "userA").await;
    contract.hold("delete", MEMBERS, 200, &again);
    assert_eq!(left.json, again.json);
    world.store.switch.set(Trouble::Down);
    let down = json!({"room": "down"});
    contract.hold("post", ROOMS, 503, &world.post(target, None, &down).await);
    contract.hold("put", MEMBERS, 503, &add("r", "userD", "userA").await);
    contract.hold("delete", MEMBERS, 503, &remove("r", "userB", "userA").await);
    world.store.switch.set(Trouble::None);
}

/// What only tokens are about.
async fn guarded(contract: &mut Contract) {
    let world = World::guarded().await;
    let (admin, user) = (hs256(SECRET, json!({"scope": "admin"})), hs256(SECRET, json!({})));
    let ask = async |method: &str, target: &str, token: &Token| {
        let bearer = format!("Bearer {}", token.reveal());
        world.with_headers(method, target, &[("authorization", &bearer)], None).await
    };
    contract.hold("get", "/v1/servers", 403, &ask("GET", "/v1/servers", &user).await);
    contract.hold("get", "/v1/servers", 200, &ask("GET", "/v1/servers", &admin).await);
    let target = "/v1/users/userB/revoke";
    contract.hold("post", REVOKE, 200, &ask("POST", target, &admin).await);
    contract.hold("post", REVOKE, 403, &ask("POST", target, &user).await);
    let bad = ask("POST", "/v1/users/a%20b/revoke", &admin).await;
    contract.hold("post", REVOKE, 400, &bad);
    let bad = ask("POST", &format!("{target}?margin=900"), &admin).await;
    contract.hold("post", REVOKE, 400, &bad);
    world.store.switch.set(Trouble::Down);
    contract.hold("post", REVOKE, 503, &ask("POST", target, &admin).await);
}

/// A store that does not answer, and senders that don't stop: the lane's bound says so.
async fn crowded(world: &World, contract: &mut Contract) {
    world.store.switch.set(Trouble::Hang);
    let body = json!({"to": "crowd", "message": "Hi"});
    let sends = (0..5_000).map(|_| world.post("/v1/messages?userId=userA", None, &body));
    let mut sends: FuturesUnordered<_> = sends.collect();
    let refused = sends.next().await.unwrap();
    contract.hold("post", MESSAGES, 429, &refused);
}

#[tokio::test]
async fn every_documented_answer_is_given_and_has_its_shape() {
    let world = World::new().await;
    let document = world.get("/openapi.json").await.json;
    assert_eq!(document["openapi"].as_str().map(|version| &version[..3]), Some("3.1"));
    let mut contract = Contract { document, seen: BTreeSet::new(), fields: Fields::new() };
    sending(&world, &mut contract).await;
    expired(&world, &mut contract).await;
    rooms(&world, &mut contract).await;
    reading(&world, &mut contract).await;
    guarded(&mut contract).await;
    crowded(&world, &mut contract).await;
    assert_eq!(contract.seen, contract.documented());
    assert_eq!(contract.fields, contract.documented_fields());
}

/// What is documented is routed, and what is routed is documented.
#[tokio::test]
async fn every_documented_path_takes_exactly_its_methods() {
    let world = World::new().await;
    let document = world.get("/openapi.json").await.json;
    for (path, operations) in document["paths"].as_object().unwrap() {
        let target = path.replace("{conversation}", "room:x").replace(['{', '}'], "");
        let refused = world.ask("BREW", &target).await;
        refused.problem(405, "bad_request");
        let allowed = refused.headers["allow"].to_str().unwrap().to_ascii_lowercase();
        let routed: BTreeSet<&str> =
            allowed.split(',').filter(|method| *method != "head").collect();
        let documented: BTreeSet<&str> =
            operations.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(routed, documented, "{path}");
    }
}
