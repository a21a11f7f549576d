//! People who come into rooms and go: the guest of each room, again and again.

use std::sync::Arc;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use tokio::time::{sleep, timeout};

use super::journal::locked;
use super::plan::Conversation;
use super::world::{Stage, World};
use crate::checker::history::{Outcome, What};

/// Between two changes, on average.
const PAUSE_MS: u64 = 1_000;
const CALL_LIMIT: Duration = Duration::from_secs(6);
/// What is open is tried again so often; then nobody knows whether the guest is in.
const TRIES: u32 = 10;
const RETRY: Duration = Duration::from_millis(300);

/// Changes members until no more load is made.
pub(super) async fn run(world: Arc<World>, seed: u64) {
    let mut random = SmallRng::seed_from_u64(seed ^ 0x6D65_6D62);
    let rooms: Vec<(usize, &Conversation)> =
        world.plan.conversations.iter().enumerate().filter(|(_, c)| c.guest.is_some()).collect();
    while *world.stage.borrow() == Stage::Load {
        sleep(Duration::from_millis(random.random_range(0..PAUSE_MS * 2))).await;
        let Some((number, room)) = rooms.choose(&mut random) else { return };
        // Nobody comes or goes there either: that is an entry like any other.
        if world.is_silent(*number) {
            continue;
        }
        let is_in = locked(&world.guests).get(&room.id).copied();
        change(&world, room, !is_in.unwrap_or(true)).await;
    }
}

async fn change(world: &World, room: &Conversation, joins: bool) {
    let Some(guest) = room.guest else { return };
    let (creator, user) = (&world.plan.users[room.members[0]], &world.plan.users[guest]);
    let name = room.id.strip_prefix("room:").unwrap_or(&room.id);
    let path = format!("/v1/rooms/{name}/members/{user}?userId={creator}");
    let method = if joins { "PUT" } else { "DELETE" };
    let line = |outcome| What::Member {
        conversation: room.id.clone(),
        user: user.clone(),
        joins,
        outcome,
    };
    locked(&world.guests).remove(&room.id);
    for tries in 0..TRIES {
        world.journal.note(line(None));
        let called = timeout(CALL_LIMIT, world.api.call(method, &path, None, &[])).await;
        let outcome = match called {
            Ok(Ok(answer)) => match answer.status {
                200..=299 => Outcome::Done,
                400..=428 if tries == 0 => Outcome::Refused,
                _ => Outcome::Open,
            },
            _ => Outcome::Open,
        };
        world.journal.note(line(Some(outcome)));
        match outcome {
            Outcome::Done => {
                locked(&world.guests).insert(room.id.clone(), joins);
                return;
            }
            Outcome::Refused => return,
            Outcome::Open => sleep(RETRY).await,
        }
    }
}
