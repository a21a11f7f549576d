//! History, conversations, presence and servers.

use serde_json::{Value, json};

use super::switched::Trouble;
use super::world::{World, user};
use crate::directory::{Directory, SocketEntry};
use crate::protocol::{ConversationId, DeviceId, Epoch, Kind, ProcessId, SocketId};
use crate::store::{Device, Raise, Record, Store};

fn seqs(page: &Value) -> Vec<u64> {
    page["messages"].as_array().unwrap().iter().map(|m| m["seq"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn history_pages_both_ways() {
    let world = World::new().await;
    for round in 1..=7 {
        world.put("userA", "userB", &format!("text {round}")).await;
    }
    let base = "/v1/conversations/dm:userA:userB/messages?userId=userA";
    for (query, expected, more) in [
        ("", vec![1, 2, 3, 4, 5, 6, 7], false),
        ("&limit=3", vec![5, 6, 7], true),
        ("&limit=3&before=5", vec![2, 3, 4], true),
        ("&limit=1&before=2", vec![1], false),
        ("&limit=3&before=1", vec![], false),
        ("&before=0", vec![], false),
        ("&limit=3&after=0", vec![1, 2, 3], true),
        ("&limit=3&after=4", vec![5, 6, 7], false),
        ("&after=7", vec![], false),
        ("&after=18446744073709551615", vec![], false),
        ("&before=18446744073709551615&limit=2", vec![6, 7], true),
        ("&unknown=1&unknown=2&limit=1", vec![7], true),
    ] {
        let answer = world.get(&format!("{base}{query}")).await;
        assert_eq!(answer.status, 200, "{query} {}", answer.json);
        assert_eq!(seqs(&answer.json), expected, "{query}");
        assert_eq!(answer.json["hasMore"], more, "{query}");
    }
}

#[tokio::test]
async fn a_message_shows_its_status_and_its_ref_to_its_sender() {
    let world = World::new().await;
    for _ in 0..3 {
        world.put("userA", "userB", "Hi").await;
    }
    let conversation = ConversationId::direct(&user("userA"), &user("userB"));
    let raise = Raise { delivered: Some(2), read: Some((1, 1)), ..Raise::default() };
    world.store.raise(&user("userB"), &conversation, &raise).await.unwrap();
    let page = |caller| format!("/v1/conversations/dm:userA:userB/messages?userId={caller}");
    let own = world.get(&page("userA")).await.json;
    let expected = json!({"type": "message", "id": "dm:userA:userB/1",
        "conversation": "dm:userA:userB", "seq": 1, "from": "userA", "to": "userB",
        "message": "Hi", "ref": "ref-userA-1", "timestamp": 1_790_000_000_000u64,
        "status": "read"});
    assert_eq!(own["messages"][0], expected);
    let status = |page: &Value| -> Vec<String> {
        let status = |m: &Value| m["status"].as_str().unwrap().to_owned();
        page["messages"].as_array().unwrap().iter().map(status).collect()
    };
    assert_eq!(status(&own), ["read", "delivered", "sent"]);
    let theirs = world.get(&page("userB")).await.json;
    assert_eq!(status(&theirs), ["read", "delivered", "sent"]);
    assert!(theirs["messages"][0].get("ref").is_none());
    world.put("userC", "userC", "a note").await;
    let note = world.get("/v1/conversations/dm:userC:userC/messages?userId=userC").await.json;
    assert_eq!(status(&note), ["read"]);
}

/// P9 and the rows E4 and E5.
#[tokio::test]
async fn only_participants_read_and_former_ones_their_part() {
    let world = World::new().await;
    world.put("userA", "userB", "secret").await;
    let ask = async |conversation: &str, caller: &str| {
        world.get(&format!("/v1/conversations/{conversation}/messages?userId={caller}")).await
    };
    let foreign = ask("dm:userA:userB", "userC").await;
    let unknown = ask("dm:userX:userY", "userC").await;
    foreign.problem(404, "not_found");
    assert_eq!(foreign.bytes, unknown.bytes);
    assert_eq!(ask("room:nowhere", "userC").await.bytes, unknown.bytes);
    let own = ask("dm:userC:userD", "userC").await;
    assert_eq!(own.json, json!({"messages": [], "hasMore": false, "floor": 0}));

    world.put_room("r", "owner", Kind::Joined, Some("owner")).await;
    for _ in 0..3 {
        world.put_room("r", "owner", Kind::Message, None).await;
    }
    world.put_room("r", "owner", Kind::Joined, Some("guest")).await;
    world.put_room("r", "guest", Kind::Message, None).await;
    world.put_room("r", "owner", Kind::Left, Some("guest")).await;
    world.put_room("r", "owner", Kind::Message, None).await;
    assert_eq!(ask("room:r", "userC").await.bytes, unknown.bytes);
    let guest = ask("room:r", "guest").await.json;
    assert_eq!(seqs(&guest), [5, 6, 7]);
    assert_eq!(guest["hasMore"], false);
    assert_eq!(guest["messages"][0]["type"], "joined");
    assert_eq!(guest["messages"][0]["to"], "guest");
    assert_eq!(guest["messages"][1]["status"], "sent");
    assert_eq!(guest["messages"][2]["type"], "left");
    let owner = ask("room:r", "owner").await.json;
    assert_eq!(seqs(&owner), [1, 2, 3, 4, 5, 6, 7, 8]);
}

#[tokio::test]
async fn conversations_are_listed_newest_first_page_by_page() {
    let world = World::new().await;
    for other in ["b", "c", "d", "e"] {
        world.put(other, "me", "one").await;
        world.put(other, "me", "two").await;
    }
    world.put("me", "c", "three").await;
    world.put_room("r", "b", Kind::Joined, Some("b")).await;
    world.put_room("r", "b", Kind::Message, None).await;
    world.put_room("r", "b", Kind::Joined, Some("me")).await;
    world.put_room("r", "b", Kind::Message, None).await;
    let with_b = ConversationId::direct(&user("b"), &user("me"));
    let raise = Raise { delivered: Some(2), read: Some((1, 1)), ..Raise::default() };
    world.store.raise(&user("me"), &with_b, &raise).await.unwrap();
    // A raise whose put never came: nothing to show.
    let empty = ConversationId::direct(&user("me"), &user("z"));
    let raise = Raise { last: Some(1), ..Raise::default() };
    world.store.raise(&user("me"), &empty, &raise).await.unwrap();

    let base = "/v1/users/me/conversations?userId=me";
    let all = world.get(base).await.json;
    let names = |page: &Value| -> Vec<String> {
        let name = |c: &Value| c["conversation"].as_str().unwrap().to_owned();
        page["conversations"].as_array().unwrap().iter().map(name).collect()
    };
    assert_eq!(names(&all), ["room:r", "dm:c:me", "dm:e:me", "dm:d:me", "dm:b:me"]);
    assert_eq!(all["next"], Value::Null);
    let unread: Vec<u64> = all["conversations"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["unread"].as_u64().unwrap())
        .collect();
    assert_eq!(unread, [1, 3, 2, 2, 1]);
    assert_eq!(all["unreadTotal"], 9);
    let direct = &all["conversations"][4];
    assert_eq!((&direct["kind"], &direct["with"]), (&json!("direct"), &json!("b")));
    assert_eq!((&direct["delivered"], &direct["read"]), (&json!(2), &json!(1)));
    assert_eq!(direct["last"]["message"], "two");
    assert_eq!(direct["last"]["status"], "delivered");
    assert_eq!(all["conversations"][0]["kind"], "room");
    assert!(all["conversations"][0].get("with").is_none());

    let (mut paged, mut after) = (Vec::new(), String::new());
    loop {
        let page = world.get(&format!("{base}&limit=2{after}")).await.json;
        assert_eq!(page["unreadTotal"], 9);
        paged.extend(names(&page));
        let Some(next) = page["next"].as_str() else { break };
        after = format!("&after={next}");
    }
    assert_eq!(paged, names(&all));
}

/// The rows E1 and E2.
#[tokio::test]
async fn a_damaged_or_foreign_cursor_is_refused() {
    let world = World::new().await;
    for other in ["b", "c", "d"] {
        world.put(other, "me", "one").await;
        world.put(other, "you", "one").await;
    }
    let next = |page: Value| page["next"].as_str().unwrap().to_owned();
    let mine = next(world.get("/v1/users/me/conversations?userId=me&limit=1").await.json);
    let yours = next(world.get("/v1/users/you/conversations?userId=you&limit=1").await.json);
    let ask = async |cursor: &str| {
        world.get(&format!("/v1/users/me/conversations?userId=me&after={cursor}")).await
    };
    assert_eq!(ask(&mine).await.status, 200);
    ask(&yours).await.problem(400, "bad_request");
    for bad in ["", "x", "%F0%9F%98%80zz", &mine[..mine.len() - 2], &"ab".repeat(5_000)] {
        ask(bad).await.problem(400, "bad_request");
    }
    for at in 0..mine.len() {
        let mut flipped = mine.clone().into_bytes();
        flipped[at] = if flipped[at] == b'0' { b'1' } else { b'0' };
        ask(std::str::from_utf8(&flipped).unwrap()).await.problem(400, "bad_request");
    }
    let foreign = world.get("/v1/users/you/conversations?userId=me").await;
    foreign.problem(404, "not_found");
    let unknown = world.get("/v1/users/nobody/conversations?userId=me").await;
    assert_eq!(foreign.bytes, unknown.bytes);
}

#[tokio::test]
async fn presence_believes_living_servers_alone() {
    let world = World::new().await;
    let ask = async || world.get("/v1/users/userB/presence?userId=userA").await;
    let never = json!({"userId": "userB", "online": false, "lastSeen": null});
    assert_eq!(ask().await.json, never);
    let entry = |server: &str, epoch, claim| SocketEntry {
        socket_id: SocketId(1),
        server: ProcessId::parse(server).unwrap(),
        epoch: Epoch(epoch),
        device: DeviceId::plain(),
        claim,
    };
    let device = Device { device: DeviceId::plain(), first_seen: 5, last_seen: 9 };
    world.store.write(Record::Device(user("userB"), device)).await.unwrap();
    let mut claim = 0;
    for (server, epoch, online) in [("ws9", 7, false), ("ws1", 8, false), ("ws1", 7, true)] {
        claim += 1;
        let entry = entry(server, epoch, claim);
        world.directory.claim(&user("userB"), &entry, &[]).await.unwrap();
        let expected = json!({"userId": "userB", "online": online, "lastSeen": 9});
        assert_eq!(ask().await.json, expected, "{server} {epoch}");
    }
    world.directory.switch.set(Trouble::Down);
    ask().await.problem(503, "unavailable");
}

#[tokio::test]
async fn the_living_servers_are_listed() {
    let world = World::new().await;
    let servers = world.get("/v1/servers").await.json;
    let servers = servers["servers"].as_array().unwrap();
    assert_eq!(servers[0]["id"], "api-1");
    assert_eq!(servers[0]["role"], "api");
    let ws1 = json!({"id": "ws1", "role": "server", "address": "127.0.0.1:3001",
        "publicUrl": "wss://ws1.example.com/ws", "sockets": 0, "accepting": true,
        "deaf": false, "alive": true});
    assert_eq!(servers[1], ws1);
}

/// The row E5 with the real lanes: who is removed gets nothing said after it, and says nothing.
#[tokio::test]
async fn who_is_removed_reads_up_to_it_and_no_further() {
    let world = World::new().await;
    let say = async |caller: &str, text: &str| {
        let body = json!({"conversation": "room:r", "message": text, "data": {"of": caller}});
        world.post(&format!("/v1/messages?userId={caller}"), None, &body).await
    };
    let read = async |caller: &str| {
        let target = format!("/v1/conversations/room:r/messages?userId={caller}");
        let page = world.get(&target).await.json;
        let text = |m: &Value| match m["message"].as_str() {
            Some(text) => text.to_owned(),
            None => format!("{} {}", m["type"].as_str().unwrap(), m["to"].as_str().unwrap()),
        };
        page["messages"].as_array().unwrap().iter().map(text).collect::<Vec<_>>()
    };
    let room = json!({"room": "r", "members": ["b"]});
    assert_eq!(world.post("/v1/rooms?userId=a", None, &room).await.status, 201);
    assert_eq!(say("a", "before c").await.status, 201);
    assert_eq!(world.ask("PUT", "/v1/rooms/r/members/c?userId=a").await.status, 201);
    assert_eq!(say("c", "hello").await.status, 201);
    assert_eq!(world.ask("DELETE", "/v1/rooms/r/members/c?userId=a").await.status, 200);
    assert_eq!(say("b", "without c").await.status, 201);
    let refused = say("c", "still here?").await;
    assert!(refused.status == 403 || refused.status == 404, "{}", refused.json);
    assert_eq!(read("c").await, ["joined c", "hello", "left c"]);
    let all = ["joined a", "joined b", "before c", "joined c", "hello", "left c", "without c"];
    assert_eq!(read("a").await, all);
    assert_eq!(read("b").await, all[1..]);
    let list = world.get("/v1/users/c/conversations?userId=c").await.json;
    assert_eq!(list["conversations"][0]["last"]["type"], "left");
    assert_eq!(list["unreadTotal"], 1);
    let list = world.get("/v1/users/b/conversations?userId=b").await.json;
    assert_eq!(list["conversations"][0]["last"]["data"], json!({"of": "b"}));
    assert_eq!(world.ask("PUT", "/v1/rooms/r/members/c?userId=a").await.status, 201);
    assert_eq!(read("c").await, ["joined c", "hello", "left c", "joined c"]);
}

/// Were the member record read first, somebody who is removed in between would see too much.
#[tokio::test]
async fn the_member_record_is_read_after_the_entries() {
    let world = World::new().await;
    world.put_room("r", "a", Kind::Joined, Some("a")).await;
    world.store.reads.lock().unwrap().clear();
    let page = world.get("/v1/conversations/room:r/messages?userId=a").await;
    assert_eq!(seqs(&page.json), [1]);
    // Its head and the member.
    assert_eq!(*world.store.reads.lock().unwrap(), ["log", "records", "records"]);
}
