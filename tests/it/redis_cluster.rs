//! A fleet on a Redis cluster of three masters: servers whose channels lie on different masters
//! talk to each other, and slots that move or a master that dies lose nothing (P10).

use std::collections::BTreeSet;
use std::time::Duration;

use crate::acl;
use crate::harness::{Cluster, Lasting, MASTERS, Person, Stack, eventually, live_again, within};

const SERVERS: [&str; 3] = ["ws1", "ws2", "ws3"];
/// Their entries lie on all masters, but for one in 100,000 of random names; these are fixed.
const USERS: usize = 30;
/// What each says to each other one at most, so that a conversation is one page of history.
const ROUNDS_MAX: usize = 200;
const ROUND_PAUSE: Duration = Duration::from_millis(50);
/// An election, the slow way meanwhile, and mailboxes that are read again.
const BACK: Duration = Duration::from_secs(60);

/// The user of `deploy/redis-acl.conf`.
const USER: &str = "parlor";
const RULE: &str = "# user parlor ";
const PASSWORD: &str = "of-a-user-with-few-rights";
/// What Redis refuses from 7.2 on, and nobody misses.
const NOT_MISSED: &str = "client|setinfo";

/// A fleet with just the rights that are given out for a cluster; `None` without real parts.
async fn start() -> Option<Stack> {
    Stack::start_on_cluster(USER, PASSWORD, &acl::rule(RULE, PASSWORD)).await
}

/// Nothing else was wanted in all that has happened.
fn nothing_was_refused(stack: &Stack) {
    let mut refused = cluster(stack).refused();
    refused.remove(NOT_MISSED);
    assert_eq!(refused, BTreeSet::new(), "rights that are missing in deploy/redis-acl.conf");
}

fn cluster(stack: &Stack) -> &Cluster {
    stack.cluster.as_ref().unwrap()
}

fn channel(server: &str) -> String {
    format!("messages:{server}")
}

/// The masters that own the servers' channels.
fn channels_owners(stack: &Stack) -> BTreeSet<String> {
    SERVERS.iter().map(|server| cluster(stack).owner(&channel(server))).collect()
}

#[tokio::test]
async fn servers_on_different_masters_chat() {
    let Some(stack) = start().await else { return };
    assert_eq!(channels_owners(&stack).len(), MASTERS, "each server's channel on another master");
    let mut people = Vec::new();
    for number in 0..USERS {
        let mut person = stack.at(SERVERS[number % 3], &format!("user{number}")).await;
        person.catch_up().await;
        people.push(person);
    }
    let keys: Vec<String> = people.iter().map(|person| format!("user:{}", person.user)).collect();
    let mut slots = BTreeSet::new();
    for (key, person) in keys.iter().zip(&people) {
        let entry: serde_json::Value = serde_json::from_str(&cluster(&stack).get(key)).unwrap();
        assert_eq!(entry["server"], person.server.as_str(), "{key}");
        slots.insert(cluster(&stack).slot(key));
    }
    assert_eq!(cluster(&stack).holders(&keys).len(), MASTERS, "entries on all masters");
    assert!(slots.len() > USERS / 2, "a person has a slot of the own name: {slots:?}");
    for number in 0..USERS {
        // The next one is on another server, the first of them in turn.
        let to = (number + 1) % USERS;
        let name = people[to].user.clone();
        let seq = people[number].say(&name, &format!("from {number}")).await;
        assert_eq!(people[to].hear().await, (seq, format!("from {number}")));
        people[number].told_delivered(seq).await;
    }
    for server in SERVERS {
        let hints = stack.items(&format!("B#{server}")).await.unwrap();
        assert!(hints.is_empty(), "nothing went the slow way: {hints:?}");
        assert_eq!(cluster(&stack).listeners(&channel(server)), 1, "{server}, at the owner");
    }
    nothing_was_refused(&stack);
    stack.stop().await;
}

/// One person at each server, all of whom talk to each other.
struct Talk {
    people: Vec<(String, Lasting)>,
    rounds: usize,
}

impl Talk {
    async fn start(stack: &Stack) -> Self {
        let mut people = Vec::new();
        for server in SERVERS {
            let user = format!("at-{server}");
            let person = Lasting::start(&stack.ws_at(server), &user).await;
            people.push((user, person));
        }
        Self { people, rounds: 0 }
    }

    /// Everybody says something to each other one.
    async fn round(&mut self) {
        for (from, person) in &self.people {
            for (to, _) in self.people.iter().filter(|(to, _)| to != from) {
                person.say(to, &format!("round {}", self.rounds)).await;
            }
        }
        self.rounds += 1;
        tokio::time::sleep(ROUND_PAUSE).await;
    }

    async fn rounds(&mut self, count: usize) {
        for _ in 0..count {
            self.round().await;
        }
    }

    /// Each text is acked, and has come to whom it is for once and in the order of the log, on the
    /// socket that was there before.
    async fn all_is_heard(&self, stack: &Stack) {
        let texts = self.rounds * (self.people.len() - 1);
        for (user, person) in &self.people {
            let all = async || {
                let log = person.log();
                (log.sent.len() == texts && log.heard.len() >= texts).then_some(())
            };
            within(BACK, &format!("all for {user} and of {user}"), all).await;
            let log = person.log();
            assert!(log.failed.is_empty() && log.servers.len() == 1, "{:?}", log.failed);
        }
        for (user, person) in &self.people {
            for (from, _) in self.people.iter().filter(|(from, _)| from != user) {
                let mut pair = [user.as_str(), from.as_str()];
                pair.sort();
                let history = stack.history(user, &format!("dm:{}:{}", pair[0], pair[1])).await;
                let theirs = history.iter().filter(|message| message["from"] == from.as_str());
                let stored: Vec<_> = theirs
                    .map(|m| (m["seq"].as_u64().unwrap(), m["message"].as_str().unwrap()))
                    .collect();
                let log = person.log();
                let heard = log.heard.iter().filter(|entry| entry.from == *from);
                let heard: Vec<_> =
                    heard.map(|entry| (entry.seq, entry.message.as_str())).collect();
                assert_eq!(heard, stored, "{user} from {from}");
                assert_eq!(stored.len(), self.rounds, "{user} from {from}");
            }
        }
    }
}

/// Over the bus, and not the slow way, between each two servers.
async fn all_are_live(stack: &Stack) {
    for (number, server) in SERVERS.iter().enumerate() {
        let next = SERVERS[(number + 1) % 3];
        let mut a: Person = stack.at(server, &format!("after-{server}")).await;
        let mut b = stack.at(next, &format!("behind-{server}")).await;
        a.catch_up().await;
        b.catch_up().await;
        live_again(&mut a, &mut b).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slots_that_move_lose_nothing() {
    let Some(stack) = start().await else { return };
    assert_eq!(channels_owners(&stack).len(), MASTERS);
    let mut talk = Talk::start(&stack).await;
    talk.rounds(10).await;
    // A channel and a third of the map, all of what one master has.
    let from = cluster(&stack).owner(&channel("ws1"));
    let to = cluster(&stack).owner(&channel("ws2"));
    let mut moving = cluster(&stack).empty(&from, &to);
    let before = talk.rounds;
    while moving.is_under_way() && talk.rounds < ROUNDS_MAX {
        talk.round().await;
    }
    assert!(talk.rounds > before + 5, "{before} before, {} meanwhile", talk.rounds - before);
    moving.ended();
    // Before anything later is said, from which a gap would show.
    talk.all_is_heard(&stack).await;
    talk.rounds(10).await;
    talk.all_is_heard(&stack).await;
    assert_eq!(cluster(&stack).owner(&channel("ws1")), to);
    let listens = async || (cluster(&stack).listeners(&channel("ws1")) == 1).then_some(());
    eventually("ws1 listens at the new owner", listens).await;
    // A key that has gone before its slot does.
    let come = cluster(&stack).half_moved("user:at-ws2");
    talk.rounds(10).await;
    talk.all_is_heard(&stack).await;
    come();
    talk.rounds(10).await;
    talk.all_is_heard(&stack).await;
    all_are_live(&stack).await;
    nothing_was_refused(&stack);
    // Entries are extended by EXPIRE every 20 minutes (`it::acl`).
    let allowed = acl::allowed(RULE).into_iter().filter(|name| name != "expire");
    let allowed: BTreeSet<String> = allowed.collect();
    let used = async || cluster(&stack).commands().is_superset(&allowed).then_some(());
    let unused = || allowed.difference(&cluster(&stack).commands()).cloned().collect::<Vec<_>>();
    within(BACK, &format!("each right is used, and not {:?}", unused()), used).await;
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_dies_loses_nothing() {
    let Some(mut stack) = start().await else { return };
    assert_eq!(channels_owners(&stack).len(), MASTERS);
    let mut talk = Talk::start(&stack).await;
    talk.rounds(10).await;
    let dead = stack.cluster.as_mut().unwrap().kill_owner(&channel("ws1"));
    talk.rounds(40).await;
    // Before anything later is said, from which a gap would show.
    talk.all_is_heard(&stack).await;
    let heir = cluster(&stack).owned_anew(&channel("ws1"), &dead);
    talk.rounds(10).await;
    talk.all_is_heard(&stack).await;
    assert_ne!(heir, dead);
    let listens = async || (cluster(&stack).listeners(&channel("ws1")) == 1).then_some(());
    within(BACK, "ws1 listens at the heir", listens).await;
    all_are_live(&stack).await;
    nothing_was_refused(&stack);
    stack.stop().await;
}
