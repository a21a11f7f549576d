//! The log and the mailbox rows together: two lanes on one direct conversation, two people who send
//! to each other, a store whose answers may be lost and whose writes may come late, one crash.
//!
//! What a lane does is that of `chat/lane/`: look up, raise, put, answer, hand on, and the walk. A
//! step is one store call, or one thing that the process does between two, so a crash can come
//! between any two of them.

use stateright::{Model, Property};

use super::run::{Modelled, Windows};

/// How many entries a lane that opens remembers: 32 in the code. One here, so that the way back to
/// `after` is walked too.
const WINDOW: u8 = 1;
/// Sends are numbered `person * 2 + number`.
const SENDS: u8 = 2;

/// A design that is known to be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bad {
    PutBeforeRaise,
    HitAnsweredAtOnce,
    LastLowered,
    ReReadOnlyOnce,
    AckBeforePut,
    UnknownTakenForFailed,
    UnknownTakenForDone,
    AfterMoved,
    PutUnconditional,
    RaiseToTheTail,
}

/// What a run explores.
#[derive(Debug)]
pub struct Log {
    pub bad: Option<Bad>,
    /// A write of a crashed server comes before the second re-read after its death, or never: the
    /// time limits of store calls see to that. Otherwise it comes whenever it likes.
    pub late_bounded: bool,
    /// How many sends each of the two has.
    pub sends: [u8; 2],
    /// How many of them may be tried again though nothing is known to be wrong.
    pub retries: u8,
    /// How many store calls lose their answer.
    pub unknowns: u8,
    pub crashes: u8,
    pub windows: Windows,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            bad: None,
            late_bounded: true,
            sends: [2, 2],
            retries: 0,
            unknowns: 0,
            crashes: 1,
            windows: Windows::default(),
        }
    }
}

impl Log {
    /// Each of the two sends one thing again though nothing is wrong, and an answer is lost.
    pub fn eager(self, sends: [u8; 2]) -> Self {
        Self { sends, retries: 1, unknowns: 1, ..self }
    }
}

const WINDOWS: [&str; 15] = [
    "a crash between raise and put",
    "a crash between put and answer",
    "a crash between answer and hand-over",
    "a write under way at the crash came later",
    "a put came later than the other lane's at its seq, and gave way",
    "a raise came late",
    "a walk found the own put of unknown outcome",
    "a walk found the other lane's put of the same send",
    "a hit in the window",
    "a hit between `after` and the window",
    "a batch of two senders, one raise for both",
    "the same send twice in a batch",
    "a lane gave up, and decided the put later",
    "a hit raised the row again",
    "a send of a lane that gave up gave way to another",
];

/// One of the four sends: `person * 2 + number`.
type Send = u8;
type Seq = u8;

fn sender(send: Send) -> usize {
    usize::from(send / SENDS)
}

fn recipient(send: Send) -> usize {
    1 - sender(send)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Fate {
    New,
    Stored { seq: Seq, repeated: bool },
    Echo,
}

/// An append in a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Item {
    send: Send,
    after: Seq,
    fate: Fate,
    /// The sender has its answer, `sent` or `unavailable`.
    answered: bool,
    /// That answer was `unavailable`: only what becomes of the put is of interest yet.
    refused: bool,
}

/// What a lane knows of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Known {
    tail: Seq,
    first: Seq,
    /// What the two rows say at least.
    raised: [Seq; 2],
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Lane {
    down: bool,
    known: Option<Known>,
    undecided: bool,
    must_walk: bool,
    queue: Vec<Item>,
    batch: Vec<Item>,
}

/// A store call that was made, and has not come to the store yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Write {
    Raise { user: usize, last: Seq },
    Put { send: Send, seq: Seq },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Late {
    write: Write,
    lane: usize,
}

/// A send that waits for its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Waiting {
    /// What the client knew at its first try.
    after: Seq,
    /// The connection was lost, or the answer was `unavailable`.
    lost: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Person {
    /// How many sends were answered.
    done: u8,
    waiting: Option<Waiting>,
    /// The person's connected device has received everything up to here.
    cursor: Seq,
    /// The highest seq that an answer told.
    told: Seq,
    retries: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    log: Vec<Option<Send>>,
    /// What the mailbox rows say.
    last: [Seq; 2],
    lanes: [Lane; 2],
    late: Vec<Late>,
    people: [Person; 2],
    /// Where each send stands, as `sent` said.
    sent: [Option<Seq>; 4],
    /// Two answers to one send named two seqs.
    two_answers: bool,
    /// An entry was written over.
    overwritten: bool,
    unknowns: u8,
    crashes: u8,
    rereads: u8,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Send(usize, usize),
    SendAgain(usize, usize),
    Step(usize),
    /// The answer to a store call is lost; it was carried out at once, or comes later.
    Unknown {
        lane: usize,
        applied: bool,
    },
    GiveUp(usize),
    Crash(usize, Point),
    Arrive(Late),
    Vanish(Late),
    ReRead,
}

/// Where a crash comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// Before the next step.
    Between,
    /// The write of the next step is under way.
    UnderWay,
    /// After the next step, before what it leads to is answered.
    BeforeAnswer,
    /// Answered, and not handed on.
    BeforeHandOn,
}

/// What a lane does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Nothing,
    Take,
    Walk,
    Write(Write),
    Answer,
    HandOn,
}

impl State {
    fn new(model: &Log) -> Self {
        let person = Person { done: 0, waiting: None, cursor: 0, told: 0, retries: model.retries };
        Self {
            log: Vec::new(),
            last: [0; 2],
            lanes: Default::default(),
            late: Vec::new(),
            people: [person.clone(), person],
            sent: [None; 4],
            two_answers: false,
            overwritten: false,
            unknowns: model.unknowns,
            crashes: model.crashes,
            rereads: 0,
        }
    }

    fn end(&self) -> Seq {
        self.log.len() as Seq
    }

    fn find(&self, send: Send, after: Seq, until: Seq) -> Option<Seq> {
        (after + 1..=until)
            .rev()
            .find(|seq| self.log.get(usize::from(seq - 1)) == Some(&Some(send)))
    }

    /// A device hears of an entry: the next one is shown, before a higher one the gap is read.
    fn hear(&mut self, user: usize, seq: Seq) {
        let end = self.end();
        let cursor = &mut self.people[user].cursor;
        if seq == *cursor + 1 {
            *cursor = seq;
        } else if seq > *cursor {
            *cursor = end;
        }
    }

    fn all_done(&self, model: &Log) -> bool {
        self.people.iter().zip(model.sends).all(|(person, sends)| person.done == sends)
    }

    fn has_crashed(&self) -> bool {
        self.lanes.iter().any(|lane| lane.down)
    }

    fn late_of_the_dead(&self) -> bool {
        self.late.iter().any(|late| self.lanes[late.lane].down)
    }

    fn tell_unavailable(&mut self, send: Send) {
        let person = &mut self.people[sender(send)];
        if let (true, Some(waiting)) = (send % SENDS == person.done, &mut person.waiting) {
            waiting.lost = true;
        }
    }
}

impl Log {
    fn is(&self, bad: Bad) -> bool {
        self.bad == Some(bad)
    }

    /// `chat/lane/round.rs`: the next step of a lane.
    fn next(&self, lane: &Lane) -> Next {
        if lane.down {
            return Next::Nothing;
        }
        let (Some(front), Some(known)) = (lane.batch.first(), lane.known) else {
            return if lane.queue.is_empty() { Next::Nothing } else { Next::Take };
        };
        if lane.must_walk {
            return Next::Walk;
        }
        let news = lane.batch.iter().filter(|item| item.fate == Fate::New).count() as Seq;
        let bound = if self.is(Bad::RaiseToTheTail) { known.tail } else { known.tail + news };
        match front.fate {
            Fate::Stored { seq, repeated } => {
                let user = recipient(front.send);
                let at_once = repeated && self.is(Bad::HitAnsweredAtOnce);
                if known.raised[user] < seq && !at_once {
                    Next::Write(Write::Raise { user, last: seq.max(bound) })
                } else if !front.answered {
                    Next::Answer
                } else {
                    Next::HandOn
                }
            }
            // The first try of it leaves before it does, and takes it along.
            Fate::Echo => Next::HandOn,
            Fate::New => {
                let for_user = |user: usize| {
                    let new = |item: &Item| item.fate == Fate::New && recipient(item.send) == user;
                    known.tail == 0 || lane.batch.iter().any(new)
                };
                let low = (0..2).find(|u| known.raised[*u] < bound && for_user(*u));
                match low.filter(|_| !self.is(Bad::PutBeforeRaise)) {
                    Some(user) => Next::Write(Write::Raise { user, last: bound }),
                    None if self.is(Bad::AckBeforePut) && !front.answered => Next::Answer,
                    None => Next::Write(Write::Put { send: front.send, seq: known.tail + 1 }),
                }
            }
        }
    }

    /// Where writes may come at any time, the second re-read is for nothing: what was answered
    /// must be found without it.
    fn rereads(&self) -> u8 {
        if self.late_bounded && !self.is(Bad::ReReadOnlyOnce) { 2 } else { 1 }
    }

    fn quiet(&self, s: &State) -> bool {
        s.lanes.iter().all(|lane| self.next(lane) == Next::Nothing)
            && (!s.has_crashed() || s.rereads == self.rereads())
            && !(self.late_bounded && s.late_of_the_dead())
    }

    /// Opens the log or goes on from what is known of it; `chat/lane/walk.rs`, `look_up`.
    fn take(&self, s: &mut State, at: usize) {
        let end = s.end();
        let mut lane = std::mem::take(&mut s.lanes[at]);
        let opened = Known { tail: end, first: end.saturating_sub(WINDOW) + 1, raised: [0; 2] };
        let known = *lane.known.get_or_insert(opened);
        let mut batch: Vec<Item> = Vec::new();
        for mut item in std::mem::take(&mut lane.queue) {
            let after = item.after.min(known.tail.saturating_sub(WINDOW));
            if let Some(seq) = s.find(item.send, after, known.tail) {
                self.windows.hit(if seq < known.first { 9 } else { 8 });
                item.fate = Fate::Stored { seq, repeated: true };
            } else if batch.iter().any(|b| b.send == item.send && b.fate == Fate::New) {
                self.windows.hit(11);
                item.fate = Fate::Echo;
            }
            batch.push(item);
        }
        lane.batch = batch;
        s.lanes[at] = lane;
    }

    /// Reads from the tail to the end and compares every entry; `chat/lane/walk.rs`, `walk`.
    fn walk(&self, s: &mut State, at: usize) {
        let end = s.end();
        let lane = &mut s.lanes[at];
        let Some(known) = &mut lane.known else { return };
        for seq in known.tail + 1..=end {
            let stored = s.log[usize::from(seq - 1)];
            let fits = |i: &&mut Item| i.fate == Fate::New && Some(i.send) == stored;
            if let Some(item) = lane.batch.iter_mut().find(fits) {
                self.windows.hit(if lane.undecided { 6 } else { 7 });
                item.fate = Fate::Stored { seq, repeated: true };
            }
            lane.undecided = false;
        }
        known.tail = end;
        lane.must_walk = false;
        if !lane.undecided {
            let before = lane.batch.len();
            lane.batch.retain(|item| !(item.refused && item.fate == Fate::New));
            if lane.batch.len() < before {
                self.windows.hit(14);
            }
        }
    }

    /// Whether the store took it; it comes from a lane, or late.
    fn carry_out(&self, s: &mut State, write: Write) -> bool {
        match write {
            Write::Raise { user, last } => {
                s.last[user] =
                    if self.is(Bad::LastLowered) { last } else { last.max(s.last[user]) };
                true
            }
            Write::Put { send, seq } => {
                let at = usize::from(seq - 1);
                if s.log.get(at).is_some_and(Option::is_some) {
                    if !self.is(Bad::PutUnconditional) {
                        return false;
                    }
                    s.overwritten |= s.log[at] != Some(send);
                }
                while s.log.len() <= at {
                    s.log.push(None);
                }
                s.log[at] = Some(send);
                true
            }
        }
    }

    fn write(&self, s: &mut State, at: usize, write: Write) {
        let took = self.carry_out(s, write);
        let lane = &mut s.lanes[at];
        let Some(known) = &mut lane.known else { return };
        match write {
            Write::Raise { user, last } => {
                known.raised[user] = last;
                if matches!(lane.batch[0].fate, Fate::Stored { .. }) {
                    self.windows.hit(13);
                }
                let new = |user| lane.batch.iter().any(|i| recipient(i.send) == user);
                if new(0) && new(1) {
                    self.windows.hit(10);
                }
            }
            Write::Put { seq, .. } if took => {
                if lane.batch[0].refused {
                    self.windows.hit(12);
                }
                (known.tail, lane.undecided) = (seq, false);
                lane.batch[0].fate = Fate::Stored { seq, repeated: false };
            }
            Write::Put { .. } => lane.must_walk = true,
        }
    }

    /// The front item is answered: the sender's client has it from here on.
    fn answer(&self, s: &mut State, at: usize) {
        let tail = s.lanes[at].known.map_or(0, |known| known.tail);
        let item = &mut s.lanes[at].batch[0];
        item.answered = true;
        let send = item.send;
        let seq = match item.fate {
            Fate::Stored { seq, .. } => seq,
            _ => tail + 1,
        };
        let slot = &mut s.sent[usize::from(send)];
        s.two_answers |= slot.is_some_and(|known| known != seq);
        *slot = Some(seq);
        let person = &mut s.people[sender(send)];
        if send % SENDS == person.done {
            person.done += 1;
            person.waiting = None;
        }
        person.told = person.told.max(seq);
        s.hear(sender(send), seq);
    }

    /// The front item leaves: who waits for it hears of it; `chat/lane/batch.rs`, `pop`.
    fn hand_on(&self, s: &mut State, at: usize) {
        let item = s.lanes[at].batch.remove(0);
        let Fate::Stored { seq, repeated } = item.fate else { return };
        for other in &mut s.lanes[at].batch {
            if other.fate == Fate::Echo && other.send == item.send {
                other.fate = Fate::Stored { seq, repeated: true };
            }
        }
        if !(repeated && self.is(Bad::HitAnsweredAtOnce)) {
            s.hear(recipient(item.send), seq);
        }
    }

    fn unknown(&self, s: &mut State, at: usize, write: Write, applied: bool) {
        s.unknowns -= 1;
        if applied {
            self.carry_out(s, write);
        } else {
            s.late.push(Late { write, lane: at });
            s.late.sort_unstable();
        }
        if let Write::Raise { .. } = write {
            // Tried again, since it may be repeated.
            return;
        }
        if self.is(Bad::UnknownTakenForFailed) {
            let item = s.lanes[at].batch.remove(0);
            s.tell_unavailable(item.send);
            return;
        }
        let lane = &mut s.lanes[at];
        if let (true, Write::Put { seq, .. }, Some(known)) =
            (self.bad == Some(Bad::UnknownTakenForDone), write, &mut lane.known)
        {
            known.tail = seq;
            lane.batch[0].fate = Fate::Stored { seq, repeated: false };
        } else {
            (lane.undecided, lane.must_walk) = (true, true);
        }
        self.follow(s, at, None, &mut Next::Nothing);
    }

    /// Patience is spent: all that waits is refused, the lane stays blocked until the put is
    /// decided; `chat/lane/round.rs`, `give_up`.
    fn give_up(&self, s: &mut State, at: usize) {
        let lane = &mut s.lanes[at];
        let refused: Vec<Item> = lane.batch.drain(1..).chain(lane.queue.drain(..)).collect();
        let front = &mut lane.batch[0];
        (front.answered, front.refused) = (true, true);
        let front = *front;
        for item in refused.into_iter().chain([front]) {
            s.tell_unavailable(item.send);
        }
    }

    /// One step of a lane: a read that takes in what waits, or a write; and what follows from it
    /// without a further write. Nothing of that depends on what others do meanwhile, but for a
    /// crash: `until` says at which point it comes.
    fn step(&self, s: &mut State, at: usize, until: Option<Next>) -> bool {
        let mut next = self.next(&s.lanes[at]);
        match next {
            Next::Take => self.take(s, at),
            Next::Write(write) => self.write(s, at, write),
            _ => return false,
        }
        self.follow(s, at, until, &mut next);
        until.is_none_or(|until| next == until)
    }

    fn follow(&self, s: &mut State, at: usize, until: Option<Next>, next: &mut Next) {
        loop {
            *next = self.next(&s.lanes[at]);
            if until == Some(*next) {
                return;
            }
            match *next {
                Next::Walk => self.walk(s, at),
                Next::Answer => self.answer(s, at),
                Next::HandOn => self.hand_on(s, at),
                Next::Nothing | Next::Take | Next::Write(_) => return,
            }
        }
    }

    fn crash(&self, s: &mut State, at: usize, point: Point) -> bool {
        let next = self.next(&s.lanes[at]);
        let reached = match (point, next) {
            (Point::Between, _) => true,
            (Point::UnderWay, Next::Write(write)) => {
                s.late.push(Late { write, lane: at });
                s.late.sort_unstable();
                true
            }
            (Point::UnderWay, _) => false,
            (Point::BeforeAnswer, _) => self.step(s, at, Some(Next::Answer)),
            (Point::BeforeHandOn, _) => self.step(s, at, Some(Next::HandOn)),
        };
        match (point, next) {
            (Point::Between, Next::Write(Write::Put { .. })) => self.windows.hit(0),
            (Point::BeforeAnswer, _) if reached => self.windows.hit(1),
            (Point::BeforeHandOn, _) if reached => self.windows.hit(2),
            _ => {}
        }
        s.crashes -= 1;
        let lane = std::mem::replace(&mut s.lanes[at], Lane { down: true, ..Lane::default() });
        for item in lane.batch.iter().chain(&lane.queue) {
            s.tell_unavailable(item.send);
        }
        reached
    }

    fn arrive(&self, s: &mut State, late: Late) {
        s.late.retain(|other| *other != late);
        self.carry_out(s, late.write);
        match late.write {
            Write::Put { .. } if s.lanes[late.lane].down => self.windows.hit(3),
            Write::Raise { .. } => self.windows.hit(5),
            Write::Put { .. } => {}
        }
    }

    /// Writes under way that can do nothing any more are as good as arrived.
    fn forget_spent(&self, s: &mut State) {
        let spent = |late: &Late| match late.write {
            Write::Put { seq, .. } => s.end() >= seq && !self.is(Bad::PutUnconditional),
            Write::Raise { user, last } => s.last[user] >= last && !self.is(Bad::LastLowered),
        };
        let puts = |late: &&Late| matches!(late.write, Write::Put { .. });
        if s.late.iter().filter(puts).any(spent) {
            self.windows.hit(4);
        }
        let left = s.late.iter().copied().filter(|late| !spent(late)).collect();
        s.late = left;
    }

    fn submit(&self, s: &mut State, user: usize, at: usize, after: Seq) {
        let send = user as u8 * SENDS + s.people[user].done;
        let item = Item { send, after, fate: Fate::New, answered: false, refused: false };
        s.lanes[at].queue.push(item);
    }

    fn knows(&self, s: &State, user: usize) -> Seq {
        s.people[user].cursor.max(s.people[user].told)
    }
}

impl Model for Log {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::new(self)]
    }

    fn actions(&self, s: &State, actions: &mut Vec<Action>) {
        if s.people.iter().all(|person| person.done == 0 && person.waiting.is_none()) {
            // The lanes are alike, and so are the people.
            return actions.push(Action::Send(0, 0));
        }
        let takes = |at: usize| {
            let lane = &s.lanes[at];
            !lane.down && !lane.batch.first().is_some_and(|item| item.refused)
        };
        for (user, person) in s.people.iter().enumerate() {
            for at in (0..2).filter(|at| takes(*at)) {
                match person.waiting {
                    None if person.done < self.sends[user] => actions.push(Action::Send(user, at)),
                    Some(waiting) if waiting.lost || person.retries > 0 => {
                        actions.push(Action::SendAgain(user, at));
                    }
                    _ => {}
                }
            }
        }
        for (at, lane) in s.lanes.iter().enumerate() {
            let next = self.next(lane);
            if next == Next::Nothing {
                continue;
            }
            actions.push(Action::Step(at));
            if let (Next::Write(_), true) = (next, s.unknowns > 0) {
                actions.push(Action::Unknown { lane: at, applied: true });
                actions.push(Action::Unknown { lane: at, applied: false });
            }
            if lane.undecided && !lane.batch.first().is_some_and(|item| item.answered) {
                actions.push(Action::GiveUp(at));
            }
            if s.crashes > 0 {
                let points =
                    [Point::Between, Point::UnderWay, Point::BeforeAnswer, Point::BeforeHandOn];
                actions.extend(points.map(|point| Action::Crash(at, point)));
            }
        }
        for late in &s.late {
            actions.push(Action::Arrive(*late));
            if self.late_bounded {
                actions.push(Action::Vanish(*late));
            }
        }
        let early = s.rereads > 0 && s.late_of_the_dead();
        if s.has_crashed() && s.rereads < self.rereads() && !early {
            actions.push(Action::ReRead);
        }
    }

    fn next_state(&self, before: &State, action: Action) -> Option<State> {
        let mut s = before.clone();
        match action {
            Action::Send(user, at) => {
                let after = self.knows(&s, user);
                s.people[user].waiting = Some(Waiting { after, lost: false });
                self.submit(&mut s, user, at, after);
            }
            Action::SendAgain(user, at) => {
                let knows = self.knows(&s, user);
                let person = &mut s.people[user];
                let waiting = person.waiting.as_mut()?;
                if !std::mem::take(&mut waiting.lost) {
                    person.retries -= 1;
                }
                let after = if self.is(Bad::AfterMoved) { knows } else { waiting.after };
                self.submit(&mut s, user, at, after);
            }
            Action::Step(at) => {
                if !self.step(&mut s, at, None) {
                    return None;
                }
            }
            Action::Unknown { lane, applied } => match self.next(&s.lanes[lane]) {
                Next::Write(write) => self.unknown(&mut s, lane, write, applied),
                _ => return None,
            },
            Action::GiveUp(at) => self.give_up(&mut s, at),
            Action::Crash(at, point) => {
                if !self.crash(&mut s, at, point) {
                    return None;
                }
            }
            Action::Arrive(late) => self.arrive(&mut s, late),
            Action::Vanish(late) => s.late.retain(|other| *other != late),
            Action::ReRead => {
                s.rereads += 1;
                for user in 0..2 {
                    if s.last[user] > s.people[user].cursor {
                        s.people[user].cursor = s.people[user].cursor.max(s.end());
                    }
                }
            }
        }
        if !s.late.is_empty() {
            self.forget_spent(&mut s);
        }
        Some(s)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always("I1 acked means durable", |_, s: &State| {
                (0..).zip(s.sent).all(|(send, seq)| {
                    seq.is_none_or(|q| s.log.get(usize::from(q - 1)) == Some(&Some(send)))
                })
            }),
            Property::always("I2 raise, then put", |_, s: &State| {
                let raised = |(seq, entry): (Seq, &Option<Send>)| {
                    entry.is_none_or(|send| s.last[recipient(send)] >= seq)
                };
                (1..).zip(&s.log).all(raised)
            }),
            Property::always("I3 dense", |_, s: &State| s.log.iter().all(Option::is_some)),
            Property::always("P2 idempotent", |_, s: &State| {
                let once = |send| s.log.iter().filter(|e| **e == Some(send)).count() <= 1;
                !s.two_answers && (0..4).all(once)
            }),
            Property::always("P4 one order", |_, s: &State| !s.overwritten),
            Property::always("P3 nothing lost", |model: &Log, s: &State| {
                let received = |(send, seq): (Send, Option<Seq>)| {
                    seq.is_none_or(|seq| s.people[recipient(send)].cursor >= seq)
                };
                (0..).zip(s.sent).all(received) || !model.quiet(s)
            }),
            Property::sometimes("everything is answered and received", |model: &Log, s: &State| {
                let end = s.end();
                let all = s.all_done(model) && s.people.iter().all(|p| p.cursor == end);
                all && model.quiet(s)
            }),
            Property::sometimes("the same, after all crashes", |model: &Log, s: &State| {
                s.crashes == 0 && s.all_done(model) && model.quiet(s)
            }),
        ];
        if self.late_bounded {
            // Without an answer nothing is promised, but what stands is offered to everybody.
            properties.push(Property::always(
                "P3 what is stored is offered",
                |model: &Log, s: &State| {
                    let offered = |(seq, entry): (Seq, &Option<Send>)| {
                        entry.is_none_or(|send| s.people[recipient(send)].cursor >= seq)
                    };
                    (1..).zip(&s.log).all(offered) || !model.quiet(s)
                },
            ));
        }
        properties
    }
}

impl Modelled for Log {
    const WINDOWS: &'static [&'static str] = &WINDOWS;

    fn windows(&self) -> &Windows {
        &self.windows
    }
}
