//! The sender's server: permit, put, answer, hand on; the hint's record until it is confirmed; and
//! what the bus brings to the recipient's servers.

use super::{Action, Bad, Delivery, Health, Message, RECIPIENTS, Reading, Record, SENDER, Seq};
use super::{Stage, State};

impl Delivery {
    pub(super) fn sending(&self, s: &State, actions: &mut Vec<Action>) {
        if s.late_put > 0 {
            actions.extend([Action::LatePut, Action::LatePutVanishes]);
        }
        if !s.is_up(SENDER) {
            return;
        }
        let goes_on = match s.stage {
            Stage::Idle => false,
            Stage::Raised => !s.servers[SENDER].stale || self.is(Bad::NoPermit),
            Stage::Permitted => true,
            Stage::Stored => self.may_answer(s),
        };
        if goes_on {
            actions.push(Action::Step);
        } else if s.stage == Stage::Stored {
            actions.push(Action::Refuse);
        }
        if let Some(record) = s.record {
            // 2 s are long for the bus: what could be answered is answered by then.
            let under_way = |m: &Message| {
                record.servers[m.to].is_some() && s.servers[m.to].health != Health::Paused
            };
            if !s.bus.iter().any(under_way) {
                actions.push(Action::Overdue);
            }
        }
        if s.slow > 0 {
            actions.push(Action::WriteBoard);
        }
    }

    /// Whether `sent` may leave: the permit is asked for again, since the put may have taken long.
    pub(super) fn may_answer(&self, s: &State) -> bool {
        self.is(Bad::AnsweredWithoutBeat) || !s.servers[SENDER].stale
    }

    pub(super) fn send(&self, s: &mut State, action: Action) {
        match action {
            Action::Send => {
                s.sends -= 1;
                self.raise(s);
                if self.is(Bad::CachedLocate) && !s.servers[SENDER].cut {
                    s.cached = Some(s.located());
                }
            }
            Action::Step => self.step(s),
            Action::Refuse => {
                s.stage = Stage::Idle;
                self.hand_on(s);
            }
            Action::Overdue => self.overdue(s),
            Action::WriteBoard => s.hints = s.hints.max(std::mem::take(&mut s.slow)),
            Action::LatePut => {
                if std::mem::take(&mut s.late_put) == s.log + 1 {
                    self.windows.hit(3);
                    s.log += 1;
                }
            }
            _ => s.late_put = 0,
        }
    }

    fn raise(&self, s: &mut State) {
        s.target = s.log + 1;
        s.last = s.last.max(s.target);
        s.stage = Stage::Raised;
    }

    fn step(&self, s: &mut State) {
        match s.stage {
            Stage::Idle => {}
            Stage::Raised => s.stage = Stage::Permitted,
            // An earlier life's put came first.
            Stage::Permitted if s.log >= s.target => self.raise(s),
            Stage::Permitted => {
                s.log = s.target;
                s.stage = Stage::Stored;
                if s.servers[SENDER].stale {
                    self.windows.hit(4);
                }
                let row = s.servers[SENDER].row;
                let done_with = |at: usize| {
                    let server = s.servers[at];
                    let over = server.seen.dead && server.seen.row == row && !server.second;
                    over && server.health == Health::Up
                };
                s.void_put |= RECIPIENTS.into_iter().any(done_with);
            }
            Stage::Stored => {
                s.acked = s.log;
                s.stage = Stage::Idle;
                self.hand_on(s);
            }
        }
    }

    /// `chat/route.rs`, `hand_on`.
    fn hand_on(&self, s: &mut State) {
        let seq = s.log;
        let deaf = |at: usize| s.view[at].deaf && !s.view[at].dead;
        let any = s.view_is_old || RECIPIENTS.into_iter().any(deaf);
        if any && !self.is(Bad::DeafUnseen) {
            self.windows.hit(15);
            s.slow = s.slow.max(seq);
        }
        if s.servers[SENDER].cut {
            return self.give_up(s, seq, 14);
        }
        let fresh = Record { last: seq, servers: [None; 3], gone: [false; 3], tries: 0 };
        let record = s.record.get_or_insert(fresh);
        if seq > record.last {
            (record.last, record.gone) = (seq, [false; 3]);
        }
        let located = s.cached.take().unwrap_or_else(|| s.located());
        let Some(record) = &mut s.record else { return };
        for at in RECIPIENTS.into_iter().filter(|at| located[*at]) {
            let has = *record.servers[at].get_or_insert(0);
            s.bus.push(Message { to: at, seq, hint: false });
            if has < seq {
                s.owed[at] = seq;
            }
        }
        if record.servers == [None; 3] {
            self.windows.hit(22);
            s.record = None;
        }
        if self.is(Bad::HintForgotten) {
            s.record = None;
        }
    }

    fn give_up(&self, s: &mut State, seq: Seq, window: u32) {
        s.record = None;
        if !self.is(Bad::NoBoard) {
            self.windows.hit(window);
            s.slow = s.slow.max(seq);
        }
    }

    /// What a server that says deaf has not confirmed goes to the board at once.
    pub(super) fn waits_for_the_deaf(&self, s: &mut State, at: usize) {
        let Some(record) = s.record else { return };
        let waits = record.servers[at].is_some_and(|has| has < record.last);
        if waits && !self.is(Bad::DeafUnseen) {
            self.give_up(s, record.last, 15);
        }
    }

    fn overdue(&self, s: &mut State) {
        let Some(record) = &mut s.record else { return };
        record.tries += 1;
        let last = record.last;
        if record.tries > self.tries {
            return self.give_up(s, last, 13);
        }
        self.windows.hit(12);
        self.again(s);
    }

    /// `chat/again.rs`: located anew, and asked again by a bare hint.
    fn again(&self, s: &mut State) {
        let Some(mut record) = s.record else { return };
        if s.servers[SENDER].cut {
            return self.give_up(s, record.last, 14);
        }
        let mut located = s.located();
        for at in RECIPIENTS {
            // Judged by a view that is newer than the put.
            let dead = s.view[at].dead && s.view[at].row == s.servers[at].row;
            if located[at] && dead {
                self.windows.hit(20);
            }
            located[at] &= !dead && !record.gone[at];
            record.servers[at] = located[at].then(|| record.servers[at].unwrap_or(0));
            if !located[at] {
                s.owed[at] = 0;
            }
        }
        let open = |has: &Option<Seq>| has.is_some_and(|has| has < record.last);
        if !record.servers.iter().any(open) {
            s.record = None;
            return;
        }
        for at in RECIPIENTS.into_iter().filter(|at| located[*at]) {
            s.bus.push(Message { to: at, seq: record.last, hint: true });
            if record.servers[at].is_some_and(|has| has < record.last) {
                s.owed[at] = record.last;
            }
        }
        s.record = Some(record);
    }

    pub(super) fn listening(&self, s: &State, actions: &mut Vec<Action>) {
        for to in RECIPIENTS.into_iter().filter(|at| s.is_up(*at)) {
            // In the order of publishing.
            if let Some(at) = s.bus.iter().position(|message| message.to == to) {
                actions.push(Action::Deliver { at, receipt_lost: false });
            }
        }
    }

    pub(super) fn losses(&self, s: &State, actions: &mut Vec<Action>) {
        for to in RECIPIENTS {
            if let Some(at) = s.bus.iter().position(|message| message.to == to) {
                actions.push(Action::Lose(at));
                if s.is_up(to) {
                    actions.push(Action::Deliver { at, receipt_lost: true });
                }
            }
        }
        let claims = |i: &usize| self.may_claim(s, *i);
        actions.extend((0..s.sockets.len()).filter(claims).map(Action::ClaimFails));
    }

    /// `chat/receive.rs`, `chat/inbox.rs`.
    pub(super) fn deliver(&self, s: &mut State, at: usize, receipt_lost: bool) {
        s.losses -= u8::from(receipt_lost);
        let Message { to, seq, hint } = s.bus.remove(at);
        if s.servers[to].cut {
            return;
        }
        let open = s.open_at(to);
        if open.is_empty() {
            for (i, socket) in s.sockets.iter().enumerate() {
                s.map[i] &= socket.server != to;
            }
            if !receipt_lost {
                self.gone(s, to, seq);
            }
            return;
        }
        let (mut have, mut received) = (false, false);
        for i in open {
            let socket = &mut s.sockets[i];
            if socket.half_open {
                have |= hint;
                continue;
            }
            match &mut socket.reading {
                _ if seq <= s.got => received = true,
                Reading::New => (socket.via, have) = (true, have || hint),
                Reading::Under { again, .. } => {
                    *again |= !self.is(Bad::MarksIgnored);
                    (socket.via, have) = (true, have || hint);
                }
                Reading::Live if !hint && seq == s.got + 1 => {
                    s.got = seq;
                    received = true;
                }
                reading @ Reading::Live => {
                    *reading = Reading::Under { snapshot: s.log, again: false };
                    (socket.via, have) = (true, have || hint);
                }
            }
        }
        if have && !received {
            self.windows.hit(11);
        }
        if (have || received) && !receipt_lost {
            self.confirm(s, to, seq);
        }
    }

    /// A receipt comes to the sender's server, if it can.
    pub(super) fn confirm(&self, s: &mut State, from: usize, seq: Seq) {
        if !self.receipts_pass(s, from) {
            return;
        }
        if seq >= s.owed[from] {
            s.owed[from] = 0;
        }
        let Some(record) = &mut s.record else { return };
        if let Some(has) = &mut record.servers[from]
            && seq > *has
        {
            *has = seq;
            record.tries = 0;
        }
        if record.servers.iter().flatten().all(|has| *has >= record.last) {
            s.record = None;
        }
    }

    fn gone(&self, s: &mut State, from: usize, seq: Seq) {
        if !self.receipts_pass(s, from) {
            return;
        }
        if seq >= s.owed[from] {
            s.owed[from] = 0;
        }
        let Some(record) = s.record.as_mut().filter(|record| seq >= record.last) else { return };
        (record.servers[from], record.gone[from]) = (None, true);
        if record.servers == [None; 3] {
            self.again(s);
            self.windows.hit(if s.record.is_some() { 9 } else { 10 });
        }
    }

    fn receipts_pass(&self, s: &State, from: usize) -> bool {
        s.is_up(SENDER) && !s.servers[SENDER].cut && !s.servers[from].cut
    }
}

impl State {
    /// Which servers the map names for the recipient.
    fn located(&self) -> [bool; 3] {
        let mut located = [false; 3];
        for (socket, stands) in self.sockets.iter().zip(self.map) {
            located[socket.server] |= stands;
        }
        located
    }
}
