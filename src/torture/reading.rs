//! What is read when everything is still: all histories, the store, the socket map.
//!
//! The store is read beside the service, by requests of its own: a mistake in the servers' reading
//! would show as a difference.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout};

use super::fleet::{Fleet, TABLE};
use super::journal::locked;
use super::plan::Conversation;
use super::world::World;
use crate::bench::resp::{self, Reply};
use crate::checker::history::{Direction, Listed, Outcome, Status, What};
use crate::client::Api;

/// Walks at a time.
const AT_ONCE: usize = 6;
const CALL_LIMIT: Duration = Duration::from_secs(10);
/// Up to so many entries a history is read one by one, or in sevens.
const ONE_BY_ONE_MAX: u64 = 250;
const BY_SEVEN_MAX: u64 = 1_500;
/// Beyond so many one reads both ways, the others one way, and in the largest pages.
const BOTH_WAYS_MAX: u64 = 4_000;
const PAGE: u32 = 100;
const PAGE_MAX: u32 = 500;

/// How long the socket map may take to show what is.
const MAP_LIMIT: Duration = Duration::from_secs(15);
/// DynamoDB Local wants a signature, and looks at none.
const SIGNATURE: &str = "AWS4-HMAC-SHA256 Credential=torture/20260101/local/dynamodb/aws4_request, \
                         SignedHeaders=host, Signature=0";

/// A walk that is to be done.
#[derive(Debug, Clone)]
struct Walk {
    user: String,
    conversation: String,
    limit: u32,
    direction: Direction,
}

/// Reads all histories as everybody sees them.
pub(super) async fn histories(world: &World, api: &str) {
    let (api, highest) = (Api::new(api), world.journal.highest_acked());
    let number = AtomicU64::new(0);
    let mut walks = Vec::new();
    for conversation in &world.plan.conversations {
        let length = highest.get(&conversation.id).copied().unwrap_or(0);
        walks.extend(walks_of(world, conversation, length));
    }
    let all = stream::iter(walks).for_each_concurrent(AT_ONCE, |walk| {
        let name = format!("w{}", number.fetch_add(1, Ordering::Relaxed));
        one(world, &api, name, walk)
    });
    all.await;
}

/// Reads direct conversations while their sockets are open: what is stored of the receipts.
pub(super) async fn statuses(world: &World, api: &str) {
    let api = Api::new(api);
    let direct = world.plan.conversations.iter().filter(|c| c.guest.is_none()).enumerate();
    let all = stream::iter(direct).for_each_concurrent(AT_ONCE, |(number, conversation)| {
        let user = conversation.members[number % conversation.members.len()];
        let (user, conversation) = (world.plan.users[user].clone(), conversation.id.clone());
        let walk = Walk { user, conversation, limit: PAGE_MAX, direction: Direction::Forward };
        one(world, &api, format!("s{number}"), walk)
    });
    all.await;
}

fn walks_of(world: &World, conversation: &Conversation, length: u64) -> Vec<Walk> {
    let mut walks = Vec::new();
    let people = conversation.members.iter().chain(&conversation.guest);
    for (number, user) in people.enumerate() {
        let mut add = |limit| {
            for direction in [Direction::Forward, Direction::Backward] {
                if length <= BOTH_WAYS_MAX || number == 0 || direction == Direction::Forward {
                    let user = world.plan.users[*user].clone();
                    let conversation = conversation.id.clone();
                    walks.push(Walk { user, conversation, limit, direction });
                }
            }
        };
        add(if length > BOTH_WAYS_MAX { PAGE_MAX } else { PAGE });
        if number == 0 && length <= BY_SEVEN_MAX {
            add(7);
        }
        if number == 0 && length <= ONE_BY_ONE_MAX {
            add(1);
        }
    }
    walks
}

/// A walk in the middle of the load, by a user of the conversation.
pub(super) async fn in_passing(world: &World, conversation: &Conversation, number: usize) {
    let Some(user) = conversation.members.get(number % conversation.members.len()) else { return };
    let (user, conversation) = (world.plan.users[*user].clone(), conversation.id.clone());
    let walk = Walk { user, conversation, limit: PAGE_MAX, direction: Direction::Forward };
    one(world, &world.api, format!("p{number}"), walk).await;
}

async fn one(world: &World, api: &Api, name: String, walk: Walk) {
    world.journal.note(What::Walk {
        walk: name.clone(),
        user: walk.user.clone(),
        conversation: walk.conversation.clone(),
        limit: walk.limit,
        direction: walk.direction,
    });
    let (outcome, entries) = pages(api, &walk).await;
    world.journal.note(What::Walked { walk: name, outcome, entries });
}

async fn pages(api: &Api, walk: &Walk) -> (Outcome, Vec<Listed>) {
    let base = format!(
        "/v1/conversations/{}/messages?userId={}&limit={}",
        walk.conversation, walk.user, walk.limit
    );
    let (mut pages, mut edge): (Vec<Vec<Listed>>, Option<u64>) = (Vec::new(), None);
    loop {
        let path = match (walk.direction, edge) {
            (Direction::Forward, edge) => format!("{base}&after={}", edge.unwrap_or(0)),
            (Direction::Backward, None) => base.clone(),
            (Direction::Backward, Some(edge)) => format!("{base}&before={edge}"),
        };
        let answer = match timeout(CALL_LIMIT, api.get(&path)).await {
            Ok(Ok(answer)) => answer,
            _ => return (Outcome::Open, Vec::new()),
        };
        match answer.status {
            200 => {}
            404 => return (Outcome::Refused, Vec::new()),
            _ => return (Outcome::Open, Vec::new()),
        }
        let page: Vec<Listed> =
            answer.body["messages"].as_array().into_iter().flatten().filter_map(listed).collect();
        edge = match walk.direction {
            Direction::Forward => page.last().map(|entry| entry.seq),
            Direction::Backward => page.first().map(|entry| entry.seq),
        };
        let is_end = answer.body["hasMore"] != json!(true) || edge.is_none();
        pages.push(page);
        if is_end {
            break;
        }
    }
    if walk.direction == Direction::Backward {
        pages.reverse();
    }
    (Outcome::Done, pages.into_iter().flatten().collect())
}

fn listed(message: &Value) -> Option<Listed> {
    let kind = message["type"].as_str()?.to_owned();
    let status = match message["status"].as_str() {
        Some("sent") => Some(Status::Sent),
        Some("delivered") => Some(Status::Delivered),
        Some("read") => Some(Status::Read),
        _ => None,
    };
    Some(Listed {
        seq: message["seq"].as_u64()?,
        from: message["from"].as_str()?.to_owned(),
        body: message["message"].as_str().unwrap_or_default().to_owned(),
        to: message["to"].as_str().filter(|_| kind != "message").map(str::to_owned),
        kind,
        status,
    })
}

/// Dumps the log of every conversation.
pub(super) async fn store(world: &World, fleet: &Fleet) -> anyhow::Result<()> {
    for conversation in &world.plan.conversations {
        let conversation = conversation.id.clone();
        let entries = match (&fleet.dynamodb, &fleet.data) {
            (Some(address), _) => query(*address, &conversation).await?,
            (None, Some(data)) => show(data, &conversation).await?,
            (None, None) => continue,
        };
        world.journal.note(What::Stored { conversation, entries });
    }
    Ok(())
}

async fn query(address: SocketAddr, conversation: &str) -> anyhow::Result<Vec<Listed>> {
    let mut entries = Vec::new();
    for item in items(address, &format!("C#{conversation}"), Some("M#")).await? {
        let text = |name: &str| item[name]["S"].as_str();
        let kind = text("kind").context("an entry without a kind")?.to_owned();
        let seq = text("sk").and_then(|sk| sk.strip_prefix("M#")?.parse().ok());
        entries.push(Listed {
            seq: seq.context("an entry without a seq")?,
            from: text("from").unwrap_or_default().to_owned(),
            body: text("message").unwrap_or_default().to_owned(),
            to: text("to").filter(|_| kind != "message").map(str::to_owned),
            kind,
            status: None,
        });
    }
    Ok(entries)
}

/// All items of a partition, or those whose sort key begins so.
async fn items(address: SocketAddr, pk: &str, sk: Option<&str>) -> anyhow::Result<Vec<Value>> {
    let api = Api::new(format!("http://{address}"));
    let headers = [("x-amz-target", "DynamoDB_20120810.Query"), ("authorization", SIGNATURE)];
    let mut request = json!({
        "TableName": TABLE,
        "ConsistentRead": true,
        "KeyConditionExpression": "pk = :pk",
        "ExpressionAttributeValues": {":pk": {"S": pk}},
    });
    if let Some(sk) = sk {
        request["KeyConditionExpression"] = json!("pk = :pk AND begins_with(sk, :sk)");
        request["ExpressionAttributeValues"][":sk"] = json!({"S": sk});
    }
    let mut items = Vec::new();
    loop {
        let mut answer = api.call("POST", "/", Some(&request), &headers).await?.good()?;
        match answer["Items"].take() {
            Value::Array(page) => items.extend(page),
            _ => anyhow::bail!("DynamoDB sent no items"),
        }
        match answer["LastEvaluatedKey"].take() {
            Value::Null => return Ok(items),
            key => request["ExclusiveStartKey"] = key,
        }
    }
}

/// The embedded store's log, as `parlor table show` prints it.
async fn show(data: &Path, conversation: &str) -> anyhow::Result<Vec<Listed>> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["table", "show", conversation, "--data"]).arg(data).kill_on_drop(true);
    let shown = command.output().await?;
    let said = String::from_utf8_lossy(&shown.stderr).into_owned();
    anyhow::ensure!(shown.status.success(), "parlor table show: {said}");
    let text = String::from_utf8(shown.stdout)?;
    Ok(text.lines().filter_map(shown_line).collect())
}

/// `7  userA → userB  delivered  2026-11-24 13:00:00Z  Hi`, padded.
fn shown_line(line: &str) -> Option<Listed> {
    let (seq, rest) = line.trim_start().split_once("  ")?;
    let (from, rest) = rest.split_once(" → ")?;
    let (_, text) = rest.split_once("Z  ")?;
    let change = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')?.split_once(' '));
    let (kind, to) = change.map_or(("message", None), |(kind, to)| (kind, Some(to.to_owned())));
    Some(Listed {
        seq: seq.parse().ok()?,
        kind: kind.to_owned(),
        from: from.trim_start().to_owned(),
        body: if change.is_some() { String::new() } else { text.to_owned() },
        to,
        status: None,
    })
}

/// Dumps the socket map, beside what devices hold, once they agree, or have not for too long:
/// everybody has just connected anew, and a release may be repeated a moment later.
pub(super) async fn map(world: &World, fleet: &Fleet) -> anyhow::Result<()> {
    let (Some(redis), Some(dynamodb)) = (fleet.redis, fleet.dynamodb) else { return Ok(()) };
    let limit = Instant::now() + MAP_LIMIT;
    loop {
        let (mut claimed, mut open) = (claimed(fleet, redis, dynamodb).await?, open(world));
        claimed.sort();
        open.sort();
        if claimed == open || Instant::now() > limit {
            for (user, server) in claimed.iter().filter(|pair| !open.contains(pair)) {
                // The whole entry, for who looks for the reason.
                let entry = resp::once(redis, &["GET", &format!("user:{user}")]).await?;
                tracing::warn!(%user, %server, ?entry, "in the socket map only");
            }
            world.journal.note(What::Map { claimed, open });
            return Ok(());
        }
        sleep(Duration::from_millis(500)).await;
    }
}

fn open(world: &World) -> Vec<(String, String)> {
    let presence = locked(&world.presence);
    let held = presence.iter().filter_map(|((user, _), p)| Some((*user, p.server.clone()?)));
    held.map(|(user, server)| (world.plan.users[user].clone(), server)).collect()
}

/// What stands in the map. An entry counts only while its server lives with the same epoch: what a
/// killed one left is void, and nobody has to delete it.
async fn claimed(
    fleet: &Fleet,
    redis: SocketAddr,
    dynamodb: SocketAddr,
) -> anyhow::Result<Vec<(String, String)>> {
    let rows = items(dynamodb, "BOARD", None).await?;
    // A killed one's row stands there still, and does not move: who moves is told by the API.
    let moving = Api::new(fleet.api.as_str()).get("/v1/servers").await?.good()?;
    let moves = |server: &str| {
        let mut servers = moving["servers"].as_array().into_iter().flatten();
        servers.any(|row| row["id"] == *server)
    };
    let lives = |server: &str, epoch: &Value| {
        let is_it = |row: &Value| row["sk"]["S"] == *server && row["epoch"]["S"] == *epoch;
        moves(server) && rows.iter().any(is_it)
    };
    let Reply::Array(keys) = resp::once(redis, &["KEYS", "user:*"]).await? else {
        anyhow::bail!("not a list of keys");
    };
    let mut claimed = Vec::new();
    for key in keys {
        let Reply::Text(key) = key else { continue };
        let Ok(Reply::Text(entry)) = resp::once(redis, &["GET", &key]).await else { continue };
        let Ok(entry) = serde_json::from_str::<Value>(&entry) else { continue };
        let user = key.strip_prefix("user:").unwrap_or(&key);
        let others = entry["others"].as_array().into_iter().flatten();
        for socket in std::iter::once(&entry).chain(others) {
            if let Some(server) = socket["server"].as_str().filter(|s| lives(s, &socket["epoch"])) {
                claimed.push((user.to_owned(), server.to_owned()));
            }
        }
    }
    Ok(claimed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_parlor_table_shows_is_read() {
        let entry =
            shown_line(" 7  u1 → u2  delivered  2026-11-24 13:00:00Z  canary0 a b").unwrap();
        assert_eq!((entry.seq, entry.kind.as_str(), entry.from.as_str()), (7, "message", "u1"));
        assert_eq!((entry.body.as_str(), entry.to), ("canary0 a b", None));
        let line = "12  user01 → room:r01  sent       2026-11-24 13:00:00Z  [joined user02]";
        let entry = shown_line(line).unwrap();
        assert_eq!((entry.seq, entry.kind.as_str()), (12, "joined"));
        assert_eq!((entry.body.as_str(), entry.to.as_deref()), ("", Some("user02")));
        assert_eq!(shown_line("no messages in dm:a:b"), None);
    }
}
