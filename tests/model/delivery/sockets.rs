//! The recipient's sockets: claim, catch-up, read again, release.

use super::{Action, Bad, Delivery, Reading, Socket, State};

impl Delivery {
    pub(super) fn connecting(&self, s: &State, actions: &mut Vec<Action>) {
        for (i, socket) in s.sockets.iter().enumerate() {
            let server = s.servers[socket.server];
            if !s.is_up(socket.server) {
                continue;
            }
            if socket.releasing && !server.cut {
                actions.push(Action::Release(i));
            }
            if !socket.open {
                continue;
            }
            if self.may_claim(s, i) {
                actions.push(Action::Claim(i));
            }
            let again = socket.claim_tried && !socket.holds && !server.cut && !server.deaf;
            if again && !self.is(Bad::ClaimNotRepeated) {
                actions.push(Action::ClaimAgain(i));
            }
            let first = socket.claim_tried || self.is(Bad::CatchUpBeforeClaim);
            match socket.reading {
                Reading::New if first => actions.push(Action::ReadMailbox(i)),
                Reading::Under { .. } => actions.push(Action::ReadDone(i)),
                _ => {}
            }
        }
    }

    pub(super) fn may_claim(&self, s: &State, i: usize) -> bool {
        let socket = &s.sockets[i];
        let due = match socket.reading {
            Reading::New => !self.is(Bad::CatchUpBeforeClaim),
            Reading::Under { .. } => false,
            Reading::Live => true,
        };
        due && socket.open && !socket.claim_tried && s.is_up(socket.server)
    }

    pub(super) fn connect(&self, s: &mut State, i: usize, action: Action) {
        match action {
            Action::Release(_) => self.release(s, i),
            Action::Claim(_) => self.claim(s, i),
            Action::ClaimFails(_) => {
                s.losses -= 1;
                s.sockets[i].claim_tried = true;
            }
            Action::ClaimAgain(_) => {
                self.claim(s, i);
                if self.read_again(s, i) {
                    self.windows.hit(18);
                }
            }
            Action::ReadMailbox(_) => {
                s.sockets[i].reading = Reading::Live;
                self.read_again(s, i);
            }
            _ => self.read_done(s, i),
        }
    }

    pub(super) fn claim(&self, s: &mut State, i: usize) {
        let socket = &mut s.sockets[i];
        socket.claim_tried = true;
        socket.holds = !s.servers[socket.server].cut;
        if socket.holds {
            socket.lost = false;
            s.map[i] = true;
        }
    }

    fn release(&self, s: &mut State, i: usize) {
        s.sockets[i].releasing = false;
        s.map[i] = false;
        if s.map != [false; 2] {
            self.windows.hit(21);
        }
        if self.is(Bad::ReleaseOfAnothers) {
            s.map = [false; 2];
        }
    }

    /// Reads the row, and the log if the row says that something is there. Says whether something
    /// is.
    pub(super) fn read_again(&self, s: &mut State, i: usize) -> bool {
        let socket = &mut s.sockets[i];
        match &mut socket.reading {
            Reading::New => return false,
            Reading::Under { again, .. } => *again = true,
            reading @ Reading::Live if s.last > s.got => {
                *reading = Reading::Under { snapshot: s.log, again: false };
            }
            Reading::Live => return false,
        }
        s.log > s.got && !socket.half_open
    }

    fn read_done(&self, s: &mut State, i: usize) {
        let socket = &mut s.sockets[i];
        let Reading::Under { snapshot, again } = socket.reading else { return };
        if !socket.half_open {
            s.got = s.got.max(snapshot);
        }
        if again {
            self.windows.hit(8);
            socket.reading = Reading::Under { snapshot: s.log, again: false };
            return;
        }
        socket.reading = Reading::Live;
        if std::mem::take(&mut socket.via) && !socket.half_open {
            let (server, got) = (socket.server, s.got);
            self.confirm(s, server, got);
        }
    }
}

impl Socket {
    pub(super) fn new(server: usize) -> Self {
        Self {
            server,
            open: true,
            half_open: false,
            claim_tried: false,
            holds: false,
            reading: Reading::New,
            via: false,
            releasing: false,
            lost: false,
        }
    }

    pub(super) fn close(&mut self) {
        let releasing = self.claim_tried;
        *self = Self { open: false, releasing, ..Self::new(self.server) };
    }
}
