//! What people do: they talk, join and leave rooms, and read histories.
#![cfg(test)]

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::sea::Sea;
use super::server::API;
use super::world::World;
use crate::chat::history::{HistoryQuery, Shown, Status as Stage};
use crate::chat::rooms::NewRoom;
use crate::chat::{Chat, ChatError};
use crate::checker::history::{Direction, Listed, Outcome, Status, What};
use crate::directory::SocketEntry;
use crate::protocol::{
    ConversationId, Entry, ErrorCode, Kind, Ref, RoomId, SendFrame, Target, UserId,
};

/// How often something is said, in a second.
const TALK_PER_SECOND: f64 = 4.0;

/// The text that stands in all that is said in a conversation.
pub fn canary(conversation: &ConversationId) -> String {
    format!("<{conversation}>")
}

/// Direct conversations of random pairs, and a room or two.
pub fn found_conversations(world: &mut World) {
    let people = world.people.clone();
    for (i, a) in people.iter().enumerate() {
        for b in &people[i..] {
            let odds = if a == b { 0.1 } else { 0.6 };
            if world.sea.chance(odds) {
                world.conversations.push(ConversationId::direct(a, b));
            }
        }
    }
    if world.conversations.is_empty() {
        world.conversations.push(ConversationId::direct(&people[0], &people[1]));
    }
    for conversation in &world.conversations {
        let members = people.iter().filter(|user| conversation.other(user).is_some());
        tell(&world.sea, conversation, members.cloned().collect());
    }
    for number in 0..world.sea.any(0..3) {
        let room = RoomId::parse(&format!("r{number}")).unwrap();
        let conversation = ConversationId::room(&room);
        let count = world.sea.any(1..people.len() as u64 + 1) as usize;
        let members: Vec<_> = people[..count].to_vec();
        let Some(chat) = world.chat() else { return };
        let (creator, others) = (people[0].clone(), members.clone());
        tell(&world.sea, &conversation, members.clone());
        world.servers[API].spawn(async move {
            let new = || NewRoom {
                room: Some(room.clone()),
                title: None,
                public: false,
                members: others.clone(),
            };
            while chat.create_room(&creator, new(), false).await.is_err() {}
        });
        let stands = |world: &World| {
            let wanted = members.len();
            world.sea.lock().store.members(&conversation).count() == wanted
        };
        world.wait(5_000, stands);
        world.conversations.push(conversation);
    }
}

fn tell(sea: &Sea, conversation: &ConversationId, members: Vec<UserId>) {
    sea.log(What::Conversation {
        conversation: conversation.to_string(),
        members: members.iter().map(UserId::to_string).collect(),
        canary: canary(conversation),
    });
}

/// What people do in one step.
pub fn talk(world: &mut World, pace: f64) {
    // A step is some 20 ms.
    let odds = pace * TALK_PER_SECOND * 0.02;
    if !world.sea.chance(odds) {
        return;
    }
    match world.sea.any(0..100) {
        0..=3 => change_room(world),
        4..=7 => {
            let user = any_person(world);
            let conversation = any_conversation(world);
            walk(world, user, conversation);
        }
        8..=13 => send_by_api(world),
        _ => {
            let count = if world.sea.chance(0.15) { world.sea.any(2..9) } else { 1 };
            say(world, count);
        }
    }
}

/// People come and go.
pub fn churn(world: &mut World, odds: f64) {
    if !world.sea.chance(odds) {
        return;
    }
    let device = world.sea.any(0..world.devices.len() as u64) as usize;
    let told = world.sea.chance(0.5);
    world.devices[device].leave(told, &mut world.sea.lock());
}

fn any_person(world: &World) -> UserId {
    world.people[world.sea.any(0..world.people.len() as u64) as usize].clone()
}

fn any_conversation(world: &World) -> ConversationId {
    let count = world.conversations.len() as u64;
    world.conversations[world.sea.any(0..count) as usize].clone()
}

fn takes_part(user: &UserId, conversation: &ConversationId) -> bool {
    conversation.is_room() || conversation.other(user).is_some()
}

fn new_message(world: &mut World, conversation: &ConversationId) -> (String, String) {
    world.messages += 1;
    let number = world.messages;
    (format!("r{number}"), format!("{} {number}", canary(conversation)))
}

fn say(world: &mut World, count: u64) {
    let device = world.sea.any(0..world.devices.len() as u64) as usize;
    let conversation = any_conversation(world);
    let device_is = |world: &World| {
        let device = &world.devices[device];
        takes_part(&device.user, &conversation) && device.queue.len() < 12
    };
    if !device_is(world) || !(world.devices[device].is_open() || world.sea.chance(0.2)) {
        return;
    }
    for _ in 0..count {
        let (reference, body) = new_message(world, &conversation);
        world.devices[device].compose(&conversation, reference, body);
    }
}

/// A send over HTTP, tried again with the same `Idempotency-Key` while the answer is "later".
fn send_by_api(world: &mut World) {
    let (user, conversation) = (any_person(world), any_conversation(world));
    let (true, Some(chat)) = (takes_part(&user, &conversation), world.chat()) else { return };
    let (reference, body) = new_message(world, &conversation);
    let sea = world.sea.clone();
    world.servers[API].spawn(async move {
        let named = Ref::parse(&reference).unwrap();
        let (name, log) = (user.to_string(), conversation.to_string());
        let frame = SendFrame {
            target: Target::Conversation(conversation),
            message: Arc::from(body.as_str()),
            data: None,
            reference: None,
            after: Some(0),
            #[cfg(debug_assertions)]
            claimed: None,
        };
        for _ in 0..20 {
            sea.log(What::Send {
                connection: "api".to_owned(),
                user: name.clone(),
                conversation: log.clone(),
                reference: reference.clone(),
                body: body.clone(),
            });
            let done = chat.send(&user, frame.clone(), Some(named.clone()), false).await;
            let outcome = outcome(&done);
            sea.log(What::Sent {
                connection: "api".to_owned(),
                user: name.clone(),
                conversation: log.clone(),
                reference: reference.clone(),
                outcome,
                seq: done.as_ref().ok().map(|sent| sent.seq),
                code: done.err().map(|error| error.code.as_str().to_owned()),
            });
            if outcome != Outcome::Open {
                return;
            }
            sleep(Duration::from_millis(sea.any(200..1_500))).await;
        }
    });
}

fn outcome<T>(done: &Result<T, ChatError>) -> Outcome {
    match done {
        Ok(_) => Outcome::Done,
        Err(error) if error.code.retryable() || error.code == ErrorCode::RefExpired => {
            Outcome::Open
        }
        Err(_) => Outcome::Refused,
    }
}

/// The creator of a room puts somebody in, or out.
fn change_room(world: &World) {
    let conversation = any_conversation(world);
    let Some(room) = conversation.as_str().strip_prefix("room:") else { return };
    let (room, Some(chat)) = (RoomId::parse(room).unwrap(), world.chat()) else { return };
    let creator = world.people[0].clone();
    let user = any_person(world);
    if user == creator {
        return;
    }
    let (joins, sea) = (world.sea.chance(0.5), world.sea.clone());
    world.servers[API].spawn(async move {
        let told = |outcome| What::Member {
            conversation: conversation.to_string(),
            user: user.to_string(),
            joins,
            outcome,
        };
        sea.log(told(None));
        for _ in 0..20 {
            let done = match joins {
                true => chat.add_member(&creator, &room, &user, false).await,
                false => chat.remove_member(&creator, &room, &user).await,
            };
            let outcome = outcome(&done);
            if outcome != Outcome::Open {
                sea.count("membership changed");
                return sea.log(told(Some(outcome)));
            }
            sleep(Duration::from_millis(sea.any(200..1_500))).await;
        }
        sea.log(told(Some(Outcome::Open)));
    });
}

/// Reads a whole history, in pages of some size.
fn walk(world: &mut World, user: UserId, conversation: ConversationId) {
    let Some(chat) = world.chat() else { return };
    let (limit, forward) = {
        let mut core = world.sea.lock();
        (core.pick(&[1u32, 3, 7, 100]), core.chance(0.5))
    };
    world.messages += 1;
    let name = format!("walk-{}", world.messages);
    let sea = world.sea.clone();
    world.servers[API].spawn(read(sea, chat, name, user, conversation, limit, forward));
}

async fn read(
    sea: Sea,
    chat: Arc<Chat>,
    name: String,
    user: UserId,
    conversation: ConversationId,
    limit: u32,
    forward: bool,
) {
    sea.log(What::Walk {
        walk: name.clone(),
        user: user.to_string(),
        conversation: conversation.to_string(),
        limit,
        direction: if forward { Direction::Forward } else { Direction::Backward },
    });
    let mut entries: Vec<Listed> = Vec::new();
    let mut edge = None;
    let done = loop {
        let (before, after) = match forward {
            true => (None, Some(edge.unwrap_or(0))),
            false => (edge, None),
        };
        let query = HistoryQuery::new(before, after, limit as usize).unwrap();
        let page = match chat.history(&user, &conversation, query).await {
            Ok(page) => page,
            Err(error) => break Err(error),
        };
        let seqs = || page.messages.iter().map(|shown| shown.entry.seq);
        edge = if forward { seqs().next_back() } else { seqs().next() }.or(edge);
        let listed = page.messages.iter().map(listed);
        if forward {
            entries.extend(listed);
        } else {
            entries.splice(0..0, listed);
        }
        if !page.has_more {
            break Ok(());
        }
    };
    let outcome = outcome(&done);
    sea.log(What::Walked { walk: name, outcome, entries });
}

fn listed(shown: &Shown) -> Listed {
    let status = match shown.status {
        Stage::Sent => Status::Sent,
        Stage::Delivered => Status::Delivered,
        Stage::Read => Status::Read,
    };
    Listed { status: Some(status), ..stored(&shown.entry) }
}

/// An entry as the store has it.
pub fn stored(entry: &Entry) -> Listed {
    Listed {
        seq: entry.seq,
        kind: entry.kind.as_str().to_owned(),
        from: entry.from.to_string(),
        to: entry.to.as_ref().filter(|_| entry.kind != Kind::Message).map(UserId::to_string),
        body: match entry.kind {
            Kind::Message => entry.message.as_deref().unwrap_or_default().to_owned(),
            _ => String::new(),
        },
        status: None,
    }
}

/// At the end: everybody reads everything, and the store is read beside the service.
pub fn read_everything(world: &mut World) {
    let before = world.sea.lock().history.len();
    let mut walks = 0;
    for conversation in world.conversations.clone() {
        for user in world.people.clone() {
            walks += 1;
            walk(world, user, conversation.clone());
        }
    }
    let walked = |world: &World| {
        let core = world.sea.lock();
        let done = core.history[before..].iter();
        done.filter(|event| matches!(event.what, What::Walked { .. })).count() >= walks
    };
    world.wait(20_000, walked);
    let mut core = world.sea.lock();
    for conversation in &world.conversations {
        let entries = core.store.logs.get(conversation).map(Vec::as_slice).unwrap_or_default();
        let entries = entries.iter().map(stored).collect();
        core.log(What::Stored { conversation: conversation.to_string(), entries });
    }
    drop(core);
    show_map(world);
}

/// The map, beside what is open. What is on its way to it gets a moment.
fn show_map(world: &mut World) {
    let before = claimed(world);
    world.pass(1_500, |_| {});
    let mut claimed = claimed(world);
    let is_here = |user: &String, entry: &SocketEntry| {
        world.devices.iter().any(|device| {
            let server = device.connection.as_ref().map(|c| World::name(c.server));
            *user == device.user.as_str() && server.as_deref() == Some(entry.server.as_str())
        })
    };
    claimed.retain(|(user, entry)| {
        is_here(user, entry) || before.iter().any(|(_, known)| known == entry)
    });
    let claimed = claimed.into_iter().map(|(user, entry)| (user, entry.server.to_string()));
    let open = world.devices.iter().filter_map(|device| {
        let connection = device.connection.as_ref()?;
        Some((device.user.to_string(), World::name(connection.server)))
    });
    world.sea.log(What::Map { claimed: claimed.collect(), open: open.collect() });
}

/// The entries that count. One does while its server's life does; that its socket is held by nobody
/// else than a server which has not yet noticed is no fault of the map.
fn claimed(world: &World) -> Vec<(String, SocketEntry)> {
    let core = world.sea.lock();
    let counts = |(user, entry): &(&UserId, &SocketEntry)| {
        let server = world.servers.iter().find(|server| server.id == entry.server);
        let Some(server) = server.filter(|server| server.lives(entry.epoch)) else { return false };
        let here = world.devices.iter().any(|device| {
            let connection = device.connection.as_ref();
            device.user == **user && connection.is_some_and(|c| c.server == server.process)
        });
        let held = server.chat().is_some_and(|chat| {
            chat.hub.of(user).iter().any(|outbox| outbox.who.socket == entry.socket_id)
        });
        here || !held
    };
    let entries = core.redis.map.iter();
    let entries = entries.flat_map(|(who, all)| all.iter().map(move |entry| (who, entry)));
    let counting = entries.filter(counts);
    counting.map(|(user, entry)| (user.to_string(), entry.clone())).collect()
}
