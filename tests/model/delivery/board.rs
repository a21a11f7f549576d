//! What a server does in the background: reads the board, notices deaths and Redis, starts over.

use super::{Action, Bad, Delivery, Health, RECIPIENTS, Reading, SENDER, Seen, Server, State};

impl Delivery {
    pub(super) fn keeping(&self, s: &State, at: usize, actions: &mut Vec<Action>) {
        let server = s.servers[at];
        match server.health {
            Health::Paused => return actions.push(Action::Wake(at)),
            Health::Down => return,
            Health::Up => {}
        }
        if server.stale {
            actions.push(Action::Revive(at));
        }
        if self.board_has_news(s, at) {
            actions.push(Action::ReadBoard(at));
        }
        if server.second && (self.long_pause || !s.put_is_late()) {
            actions.push(Action::SecondReRead(at));
        }
        if at == SENDER {
            return;
        }
        if server.start_over {
            actions.push(Action::StartOver(at));
        }
        match (server.cut, server.deaf) {
            (true, false) => actions.push(Action::NoticeCut(at)),
            (false, true) => actions.push(Action::NoticeBack(at)),
            (true, true) if self.must_read_deaf(s, at) => actions.push(Action::ReReadDeaf(at)),
            _ => {}
        }
    }

    /// 3 s after its row said so, by when the others have read it, and then on and on.
    fn must_read_deaf(&self, s: &State, at: usize) -> bool {
        let known = !s.is_up(SENDER) || s.view[at].deaf || s.view[at].dead;
        let misses = |i: usize| !s.sockets[i].holds && self.misses(s, i);
        known && (s.servers[at].deaf_reread || s.open_at(at).into_iter().any(misses))
    }

    fn misses(&self, s: &State, i: usize) -> bool {
        s.sockets[i].reading == Reading::Live && s.log > s.got
    }

    pub(super) fn keep(&self, s: &mut State, at: usize, action: Action) {
        match action {
            Action::ReadBoard(_) if at == SENDER => {
                for other in RECIPIENTS {
                    s.view[other] = self.judged(s, SENDER, other, s.view[other]).0;
                }
            }
            Action::ReadBoard(_) => self.read_board(s, at),
            Action::SecondReRead(_) => {
                s.servers[at].second = false;
                self.read_all_again(s, at, 5);
            }
            Action::StartOver(_) => {
                s.servers[at].start_over = false;
                for i in s.open_at(at) {
                    if s.sockets[i].claim_tried {
                        self.claim(s, i);
                    }
                }
                self.read_all_again(s, at, 19);
            }
            Action::ReReadDeaf(_) => {
                let all = std::mem::take(&mut s.servers[at].deaf_reread);
                for i in s.open_at(at) {
                    if (all || !s.sockets[i].holds) && self.read_again(s, i) {
                        self.windows.hit(17);
                    }
                }
            }
            Action::NoticeCut(_) => {
                s.servers[at].deaf = true;
                s.servers[at].deaf_reread = !self.is(Bad::UnclaimedAloneWhileDeaf);
            }
            Action::NoticeBack(_) => {
                s.servers[at].deaf = false;
                s.servers[at].start_over = !self.is(Bad::NothingStartsOver);
            }
            Action::Wake(_) => {
                let dead = match at {
                    SENDER => RECIPIENTS.into_iter().any(|by| s.servers[by].seen.dead),
                    _ => s.view[at].dead,
                };
                let server = &mut s.servers[at];
                (server.health, server.stale) = (Health::Up, dead);
            }
            _ => {
                let server = &mut s.servers[at];
                server.stale = false;
                server.row += 1;
                server.start_over |= at != SENDER && !self.is(Bad::WokenAsIfNothing);
            }
        }
    }

    fn board_has_news(&self, s: &State, at: usize) -> bool {
        if at == SENDER {
            let news = |of: usize| self.judged(s, SENDER, of, s.view[of]) != (s.view[of], false);
            return RECIPIENTS.into_iter().any(news);
        }
        let seen = s.servers[at].seen;
        self.judged(s, at, SENDER, seen) != (seen, false) || s.hints > s.servers[at].hint
    }

    /// What a server takes from the row of another, and whether a life has ended;
    /// `chat/liveness/watched.rs`.
    fn judged(&self, s: &State, by: usize, of: usize, seen: Seen) -> (Seen, bool) {
        let Server { health, stale, row, cut, deaf, .. } = s.servers[of];
        let mut still = health != Health::Up || stale;
        if self.is(Bad::LivenessInRedis) {
            if s.servers[by].cut {
                // Nothing is heard of anybody: what was known stays.
                return (Seen { deaf, ..seen }, false);
            }
            still |= cut;
        }
        let another_life = row / 10 != seen.row / 10;
        let moved = row != seen.row;
        let died = another_life && !(seen.dead && self.is(Bad::LifeOfTheDeadIgnored));
        let dead = still || seen.dead && !moved && !self.is(Bad::LivenessInRedis);
        let ended = died || dead && !(seen.dead && !moved);
        (Seen { row, dead, deaf }, ended)
    }

    fn read_board(&self, s: &mut State, at: usize) {
        let before = s.servers[at].seen;
        let (seen, ended) = self.judged(s, at, SENDER, before);
        s.servers[at].seen = seen;
        if ended {
            if seen.row / 10 != before.row / 10 {
                self.windows.hit(7);
            }
            s.servers[at].second = !self.is(Bad::ReReadOnlyOnce);
            self.read_all_again(s, at, 6);
        }
        if s.hints > s.servers[at].hint {
            s.servers[at].hint = s.hints;
            let hints = s.hints;
            for i in s.open_at(at) {
                if hints > s.got && self.read_again(s, i) {
                    self.windows.hit(16);
                }
            }
        }
    }

    /// A server without sockets does at once what it has to do: whatever it does later, for a socket
    /// that came meanwhile, is one read more.
    pub(super) fn rest(&self, s: &mut State) {
        for at in RECIPIENTS {
            if !s.is_up(at) || !s.open_at(at).is_empty() {
                continue;
            }
            if self.board_has_news(s, at) {
                self.read_board(s, at);
            }
            let late = s.put_is_late();
            let server = &mut s.servers[at];
            server.second &= late;
            (server.start_over, server.deaf_reread) = (false, false);
        }
    }

    fn read_all_again(&self, s: &mut State, at: usize, window: u32) {
        for i in s.open_at(at) {
            if self.read_again(s, i) {
                self.windows.hit(window);
            }
        }
    }

    pub(super) fn restart(&self, s: &mut State, at: usize) {
        let row = (s.servers[at].row / 10 + 1) * 10;
        let seen = Seen { row: s.servers[SENDER].row, dead: false, deaf: false };
        let server = &mut s.servers[at];
        (server.health, server.row) = (Health::Up, row);
        if at == SENDER {
            s.view = s.view.map(|seen| Seen { dead: false, ..seen });
        } else {
            (server.seen, server.hint) = (seen, s.hints);
        }
    }
}
