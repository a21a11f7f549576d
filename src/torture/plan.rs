//! Who talks with whom: the load of a round, made from its seed.

use rand::rngs::SmallRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{RngExt, SeedableRng};

/// Direct conversations that are not hot.
const DIRECT: usize = 10;
/// Rooms that are not hot, of 3 to 8 people.
const ROOMS: usize = 15;
/// Hot direct conversations; and as many hot rooms as make 5.
const HOT_DIRECT: usize = 3;
const HOT_ROOMS: usize = 2;
const HOT_ROOM_MEMBERS: usize = 8;

/// How much is said in a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heat {
    /// So little that its whole history is read entry by entry.
    Quiet,
    /// Now and then.
    Warm,
    /// All the time.
    Hot,
}

impl Heat {
    /// How often it is chosen among others.
    pub fn weight(self) -> usize {
        match self {
            Self::Quiet => 1,
            Self::Warm => 8,
            Self::Hot => 40,
        }
    }

    /// The most messages at once.
    pub fn burst(self) -> usize {
        match self {
            Self::Quiet => 1,
            Self::Warm | Self::Hot => 8,
        }
    }
}

/// A conversation of the load.
#[derive(Debug, Clone)]
pub(super) struct Conversation {
    /// Its id.
    pub id: String,
    /// Who is in it at the start, the creator first; numbers of users.
    pub members: Vec<usize>,
    /// Who comes and goes; nobody in direct conversations.
    pub guest: Option<usize>,
    /// Stands in all bodies of it, and nowhere else.
    pub canary: String,
    /// How much is said.
    pub heat: Heat,
}

#[cfg(test)]
impl Conversation {
    /// Whether it is a room.
    pub fn is_room(&self) -> bool {
        self.id.starts_with("room:")
    }
}

/// The load.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    /// Names of the users.
    pub users: Vec<String>,
    /// What they talk in.
    pub conversations: Vec<Conversation>,
}

impl Plan {
    /// The load of a seed.
    pub fn new(seed: u64, users: usize) -> Self {
        let mut random = SmallRng::seed_from_u64(seed);
        let names: Vec<String> = (0..users).map(|n| format!("user{n:02}")).collect();
        let mut conversations: Vec<Conversation> = Vec::new();
        while conversations.len() < DIRECT + HOT_DIRECT {
            let pair = some(&mut random, users, 2);
            let mut ids = [&names[pair[0]], &names[pair[1]]];
            ids.sort();
            let id = format!("dm:{}:{}", ids[0], ids[1]);
            if conversations.iter().any(|conversation| conversation.id == id) {
                continue;
            }
            let heat = match conversations.len() {
                0..HOT_DIRECT => Heat::Hot,
                number if number < HOT_DIRECT + 2 => Heat::Quiet,
                _ => Heat::Warm,
            };
            conversations.push(conversation(&mut random, id, pair, None, heat));
        }
        for number in 0..ROOMS + HOT_ROOMS {
            let (size, heat) = match number {
                0..HOT_ROOMS => (HOT_ROOM_MEMBERS, Heat::Hot),
                HOT_ROOMS => (random.random_range(3..=8), Heat::Quiet),
                _ => (random.random_range(3..=8), Heat::Warm),
            };
            let mut members = some(&mut random, users, size + 1);
            let guest = members.pop();
            let id = format!("room:r{number:02}");
            conversations.push(conversation(&mut random, id, members, guest, heat));
        }
        Self { users: names, conversations }
    }

    /// The conversations that this user may say something in, guests included.
    pub fn of(&self, user: usize) -> Vec<usize> {
        let has = |c: &Conversation| c.members.contains(&user) || c.guest == Some(user);
        let numbered = self.conversations.iter().enumerate();
        numbered.filter(|(_, conversation)| has(conversation)).map(|(number, _)| number).collect()
    }
}

fn conversation(
    random: &mut SmallRng,
    id: String,
    members: Vec<usize>,
    guest: Option<usize>,
    heat: Heat,
) -> Conversation {
    let canary = format!("canary{:016x}", random.random::<u64>());
    Conversation { id, members, guest, canary, heat }
}

/// So many different users.
fn some(random: &mut SmallRng, users: usize, count: usize) -> Vec<usize> {
    let all: Vec<usize> = (0..users).collect();
    let mut some: Vec<usize> = all.sample(random, count).copied().collect();
    some.shuffle(random);
    some
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_makes_the_load_that_the_issue_asks_for() {
        let plan = Plan::new(7, 40);
        let count = |wanted: fn(&Conversation) -> bool| {
            plan.conversations.iter().filter(|conversation| wanted(conversation)).count()
        };
        assert_eq!((plan.users.len(), plan.conversations.len()), (40, 30));
        assert_eq!(count(|c| c.heat == Heat::Hot), 5);
        assert_eq!(count(|c| !c.is_room() && c.heat != Heat::Hot), 10);
        assert_eq!(count(|c| c.is_room() && c.heat != Heat::Hot), 15);
        assert!(count(|c| c.heat == Heat::Quiet) >= 3);
        for conversation in plan.conversations.iter().filter(|c| c.is_room()) {
            assert!((3..=8).contains(&conversation.members.len()));
            assert!(!conversation.members.contains(&conversation.guest.unwrap()));
        }
        let again = Plan::new(7, 40);
        assert_eq!(format!("{plan:?}"), format!("{again:?}"));
        assert_ne!(format!("{plan:?}"), format!("{:?}", Plan::new(8, 40)));
    }
}
