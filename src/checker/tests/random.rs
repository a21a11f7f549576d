//! Random histories of a service that keeps its promises: a log for each conversation, and for each
//! device a cursor that may trail. `spoil` changes one line of them, and the checker must find it.

#![cfg(test)]

use std::collections::{BTreeMap, BTreeSet, HashMap};

use proptest::prelude::*;

use super::super::history::*;
use super::super::report::Verdict;
use super::spoil::WAYS;
use super::story::Story;

const DMS: [&str; 2] = ["dm:a:b", "dm:a:c"];
const ROOM: &str = "room:r";
const DEVICES: [&str; 6] = ["a1", "a2", "b1", "b2", "c1", "c2"];

/// SplitMix64: what happens next.
pub struct Dice(u64);

impl Dice {
    pub fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n as u64) as usize
    }

    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn of<'a>(&mut self, list: &[&'a str]) -> &'a str {
        list[self.below(list.len())]
    }
}

/// A service that is right.
struct Service {
    story: Story,
    dice: Dice,
    /// What the service believes that a device has, by (device, conversation).
    cursors: HashMap<(String, String), u64>,
    /// Where a device's connection stands; it has one where it is connected.
    sent: HashMap<(String, String), u64>,
    connected: BTreeMap<String, String>,
    /// Seqs that a connection sent itself, and got a `sent` for.
    own: BTreeSet<(String, String, u64)>,
    /// Who is in the room, and the spans that each may see.
    spans: HashMap<String, Vec<(u64, u64)>>,
    numbers: u64,
}

fn conversations(user: &str) -> Vec<&'static str> {
    let dms = DMS.into_iter().filter(|dm| dm.contains(user));
    dms.chain([ROOM]).collect()
}

impl Service {
    fn new(seed: u64) -> Self {
        let mut story = Story::new();
        story.phase(Phase::Quiet);
        for dm in DMS {
            story.conversation(dm, &[&dm[3..4], &dm[5..6]]);
        }
        story.conversation(ROOM, &["a", "b"]);
        story.stands_change(ROOM, 1, "joined", "a", "a");
        story.stands_change(ROOM, 2, "joined", "a", "b");
        let spans =
            [("a", 1), ("b", 2)].map(|(user, from)| (user.to_owned(), vec![(from, u64::MAX)]));
        let mut service = Self {
            story,
            dice: Dice(seed),
            cursors: HashMap::new(),
            sent: HashMap::new(),
            connected: BTreeMap::new(),
            own: BTreeSet::new(),
            spans: spans.into_iter().collect(),
            numbers: 0,
        };
        DEVICES.iter().for_each(|device| service.connect(device));
        service.story.phase(Phase::Faults);
        service
    }

    fn tail(&self, conversation: &str) -> u64 {
        self.story.logs.get(conversation).and_then(|log| log.keys().last()).copied().unwrap_or(0)
    }

    fn sees(&self, user: &str, conversation: &str, seq: u64) -> bool {
        let spans = self.spans.get(user).into_iter().flatten();
        conversation != ROOM || spans.into_iter().any(|(from, to)| (*from..=*to).contains(&seq))
    }

    fn in_room(&self, user: &str) -> bool {
        self.spans
            .get(user)
            .is_some_and(|spans| spans.last().is_some_and(|(_, to)| *to == u64::MAX))
    }

    fn connect(&mut self, device: &str) {
        self.numbers += 1;
        let connection = format!("{device}{}", self.numbers);
        self.story.begin(&connection).welcome(&connection);
        self.connected.insert(device.to_owned(), connection);
        for conversation in conversations(&device[..1]) {
            let key = (device.to_owned(), conversation.to_owned());
            let cursor = self.cursors.get(&key).copied().unwrap_or(0);
            self.sent.insert(key, cursor);
            self.catch_up(device, conversation, true);
        }
        let connection = self.connected[device].clone();
        self.story.caughtup(&connection);
    }

    /// Gives a device what follows, and lets it give receipts, mostly.
    fn catch_up(&mut self, device: &str, conversation: &str, offline: bool) {
        let Some(connection) = self.connected.get(device).cloned() else { return };
        let key = (device.to_owned(), conversation.to_owned());
        let from = self.sent.get(&key).copied().unwrap_or(0);
        let tail = self.tail(conversation);
        let mut last = None;
        for seq in from + 1..=tail {
            let own = self.own.contains(&(connection.clone(), conversation.to_owned(), seq));
            if !own && self.sees(&device[..1], conversation, seq) {
                match offline {
                    true => self.story.got_offline(&connection, conversation, seq),
                    false => self.story.got(&connection, conversation, seq),
                };
                last = Some(seq);
            }
        }
        self.sent.insert(key.clone(), tail.max(from));
        if let Some(seq) = last.filter(|_| !self.dice.one_in(6)) {
            self.story.ack(&connection, conversation, seq);
            // The stored cursor may trail.
            if !self.dice.one_in(4) {
                self.cursors.insert(key, seq);
            }
            self.tell(device, conversation, seq);
        }
    }

    fn tell(&mut self, device: &str, conversation: &str, seq: u64) {
        let by = device[..1].to_owned();
        let other = conversation.split(':').skip(1).find(|user| **user != by).unwrap_or("");
        if conversation == ROOM || self.dice.one_in(3) {
            return;
        }
        let to = self.connected.iter().find(|(device, _)| device.starts_with(other));
        if let Some((_, connection)) = to {
            self.story.push(What::Status {
                connection: connection.clone(),
                conversation: conversation.into(),
                seq,
                user: by,
                status: Status::Delivered,
            });
        }
    }

    fn spread(&mut self, conversation: &str) {
        for device in DEVICES {
            let slow = self.dice.one_in(5);
            if !slow && conversations(&device[..1]).contains(&conversation) {
                self.catch_up(device, conversation, false);
            }
        }
    }

    fn send(&mut self) {
        let device = self.dice.of(&DEVICES);
        let choice = conversations(&device[..1]);
        let conversation = choice[self.dice.below(choice.len())];
        let Some(connection) = self.connected.get(device).cloned() else { return };
        self.numbers += 1;
        let reference = format!("m{}", self.numbers);
        self.story.send_in(&connection, conversation, &reference);
        if conversation == ROOM && !self.in_room(&device[..1]) {
            self.story.answer(&reference, Outcome::Refused, None);
            return;
        }
        let seq = self.tail(conversation) + 1;
        match self.dice.below(10) {
            // The connection broke: it happened, or not, or will be said again.
            0 => {
                self.disconnect(device);
            }
            1 => {
                self.story.stands(&reference, seq);
                self.disconnect(device);
            }
            2 => {
                self.story.stands(&reference, seq).answer(&reference, Outcome::Open, None);
                self.disconnect(device);
                self.connect(device);
                let connection = self.connected[device].clone();
                self.story.send_in(&connection, conversation, &reference).acked(&reference, seq);
            }
            _ => {
                self.story.acked(&reference, seq);
                self.own.insert((connection, conversation.into(), seq));
            }
        }
        self.spread(conversation);
    }

    fn disconnect(&mut self, device: &str) {
        if let Some(connection) = self.connected.remove(device) {
            self.story.close(&connection);
        }
    }

    fn change(&mut self) {
        let user = self.dice.of(&["b", "c"]);
        let joins = !self.in_room(user);
        let seq = self.tail(ROOM) + 1;
        self.story.member(user, joins);
        self.story.stands_change(ROOM, seq, if joins { "joined" } else { "left" }, "a", user);
        let spans = self.spans.entry(user.to_owned()).or_default();
        match spans.last_mut() {
            Some(span) if !joins => span.1 = seq,
            _ => spans.push((seq, u64::MAX)),
        }
        self.spread(ROOM);
    }

    fn walk(&mut self, user: &str, conversation: &str, direction: Direction) {
        let log = self.story.logs.get(conversation).cloned().unwrap_or_default();
        let seen = log.into_values().filter(|l| self.sees(user, conversation, l.seq)).collect();
        let never = conversation == ROOM && !self.spans.contains_key(user);
        let outcome = if never { Outcome::Refused } else { Outcome::Done };
        self.story.walk_with(user, conversation, outcome, seen, direction);
    }

    fn step(&mut self) {
        match self.dice.below(20) {
            0 | 1 => {
                let device = self.dice.of(&DEVICES);
                self.disconnect(device);
            }
            2..4 => {
                let device = self.dice.of(&DEVICES);
                if !self.connected.contains_key(device) {
                    self.connect(device);
                }
            }
            4 => self.change(),
            5 => {
                let device = self.dice.of(&DEVICES);
                self.disconnect(device);
                let (user, device) = (device[..1].to_owned(), device[1..].to_owned());
                self.story.push(What::Forget { user, device });
            }
            6 => {
                let user = self.dice.of(&["a", "b", "c"]);
                let choice = conversations(user);
                let conversation = choice[self.dice.below(choice.len())];
                self.walk(user, conversation, Direction::Forward);
            }
            _ => self.send(),
        }
    }

    fn end(&mut self) {
        self.story.phase(Phase::Drain);
        for device in DEVICES {
            if !self.connected.contains_key(device) {
                self.connect(device);
            }
            for conversation in conversations(&device[..1]) {
                self.catch_up(device, conversation, false);
            }
        }
        self.story.phase(Phase::Read);
        for user in ["a", "b", "c"] {
            for conversation in conversations(user) {
                self.walk(user, conversation, Direction::Forward);
                self.walk(user, conversation, Direction::Backward);
            }
        }
        self.story.store();
    }
}

fn history(seed: u64, steps: usize) -> (Story, Dice) {
    let mut service = Service::new(seed);
    (0..steps).for_each(|_| service.step());
    service.end();
    (service.story, service.dice)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(250))]

    #[test]
    fn a_service_that_is_right_passes(seed: u64, steps in 1usize..120) {
        let report = history(seed, steps).0.report();
        prop_assert_eq!(report.verdict, Verdict::Pass, "{}", report);
        prop_assert_eq!(report.counts.strays, 0);
        prop_assert_eq!(report.counts.drained, 6);
    }

    #[test]
    fn one_changed_line_is_found(seed: u64, steps in 20usize..120, way in 0..WAYS.len()) {
        let (mut story, mut dice) = history(seed, steps);
        let (what, spoil) = WAYS[way];
        if spoil(&mut story, &mut dice).is_some() {
            prop_assert_eq!(story.report().verdict, Verdict::Fail, "{}", what);
        }
    }
}

#[test]
fn each_way_to_spoil_a_history_is_possible_and_found() {
    for (what, spoil) in WAYS {
        let mut times = 0;
        for seed in 0..20 {
            let (mut story, mut dice) = history(seed, 60);
            if spoil(&mut story, &mut dice).is_some() {
                times += 1;
                assert_eq!(story.report().verdict, Verdict::Fail, "{what}, seed {seed}");
            }
        }
        assert!(times >= 10, "{what}: {times} times");
    }
}
