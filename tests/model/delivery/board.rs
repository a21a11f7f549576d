//! What a server does in the background: reads the board, notices deaths and Redis, starts over.

use super::{Action, Bad, Delivery, Health, RECIPIENTS, SENDER, Seen, Server, State};

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

    /// Once who lives has read its row: the second of the two re-reads waits so long.
    fn must_read_deaf(&self, s: &State, at: usize) -> bool {
        let view = s.view[at];
        s.servers[at].deaf_reread && (!s.is_up(SENDER) || view.deaf && !view.dead)
    }

    /// Who sleeps meanwhile does not trust his view of the board when he wakes up.
    fn has_read_deaf(&self, s: &mut State, at: usize) {
        s.servers[at].deaf_reread = false;
        s.view_is_old |= s.servers[SENDER].health == Health::Paused;
    }

    pub(super) fn keep(&self, s: &mut State, at: usize, action: Action) {
        match action {
            Action::ReadBoard(_) if at == SENDER => {
                s.view_is_old = false;
                for other in RECIPIENTS {
                    let before = s.view[other];
                    s.view[other] = self.judged(s, SENDER, other, before).0;
                    if s.view[other].deaf && !before.deaf {
                        self.waits_for_the_deaf(s, other);
                    }
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
                self.has_read_deaf(s, at);
                let unclaimed = self.is(Bad::UnclaimedAloneWhileDeaf);
                for i in s.open_at(at) {
                    if !(unclaimed && s.sockets[i].holds) && self.read_again(s, i) {
                        self.windows.hit(17);
                    }
                }
            }
            Action::NoticeCut(_) => {
                s.servers[at].deaf = true;
                s.servers[at].deaf_reread = true;
            }
            Action::NoticeBack(_) => {
                s.servers[at].deaf = false;
                s.servers[at].deaf_reread = false;
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
                server.deaf_reread |= server.deaf && !self.is(Bad::RevivedWhileDeaf);
                server.start_over |= at != SENDER && !self.is(Bad::WokenAsIfNothing);
            }
        }
    }

    fn board_has_news(&self, s: &State, at: usize) -> bool {
        if at == SENDER {
            let news = |of: usize| self.judged(s, SENDER, of, s.view[of]) != (s.view[of], false);
            return s.view_is_old || RECIPIENTS.into_iter().any(news);
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
        let ended = died || dead && (moved || !seen.dead);
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

    /// A server without sockets does at once what it has to do: whatever it does later, for a
    /// socket that came meanwhile, is one read more.
    pub(super) fn rest(&self, s: &mut State) {
        for at in RECIPIENTS {
            if !s.is_up(at) || !s.open_at(at).is_empty() {
                continue;
            }
            if self.board_has_news(s, at) {
                self.read_board(s, at);
            }
            if self.must_read_deaf(s, at) {
                self.has_read_deaf(s, at);
            }
            let late = s.put_is_late();
            let server = &mut s.servers[at];
            server.second &= late;
            server.start_over = false;
        }
    }

    fn read_all_again(&self, s: &mut State, at: usize, window: u32) {
        for i in s.open_at(at) {
            if self.read_again(s, i) {
                self.windows.hit(window);
            }
        }
    }

    /// Another life reads the board before it does anything.
    pub(super) fn restart(&self, s: &mut State, at: usize) {
        let first = |server: Server| Seen { row: server.row, dead: false, deaf: server.deaf };
        let row = (s.servers[at].row / 10 + 1) * 10;
        (s.servers[at].health, s.servers[at].row) = (Health::Up, row);
        if at == SENDER {
            s.view = s.servers.map(first);
            s.view[SENDER] = Seen::default();
        } else {
            s.servers[at].seen = first(s.servers[SENDER]);
            s.servers[at].hint = s.hints;
        }
    }
}
