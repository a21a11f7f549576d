//! How many requests somebody has had, and its bytes.
//!
//! Services and admins are not counted: they are trusted, and ask for many. Whose token does not
//! hold is counted by address, with the handshakes of sockets, so that nobody tries on and on; a
//! token that holds is served from there as ever. So is whoever reads what asks for no token.

use std::net::IpAddr;
use std::sync::Arc;

use tokio::time::Instant;

use super::asker::Asker;
use super::error::{Cost, Problem};
use super::input::percent_decode;
use crate::chat::{Chat, ChatError};
use crate::edge::{Edge, Trusted};
use crate::gateway::{Porch, counted, note_crowded};
use crate::limits::{Address, Key, Limit, Limits, Over};
use crate::protocol::{ErrorCode, UserId};
use crate::telemetry::Metrics;

/// See the module.
#[derive(Clone)]
pub(super) struct Quota {
    limits: Arc<Limits>,
    metrics: Arc<Metrics>,
    trusted: Trusted,
}

impl Quota {
    /// Of a part, at a listener with this edge.
    pub(super) fn of(chat: &Chat, edge: &Edge) -> Self {
        let (limits, metrics) = (chat.limits.clone(), chat.metrics.clone());
        Self { limits, metrics, trusted: edge.gate.trusted.clone() }
    }

    fn over(&self, over: Over) -> Problem {
        self.metrics.count_limited(over.limit.as_str());
        ChatError::limited(over).into()
    }

    fn crowded(&self, client: IpAddr, over: Over) -> Problem {
        note_crowded(client, &over);
        self.over(over)
    }

    fn address(&self, client: IpAddr) -> Option<Address> {
        counted(client, &self.trusted)
    }

    /// The places before a listener with this edge.
    pub(super) fn porch(&self, edge: &Arc<Edge>) -> Arc<Porch> {
        Porch::new(self.limits.clone(), self.metrics.clone(), edge.clone())
    }

    /// No connection can be accepted: the process has no file left.
    pub(super) fn out_of_files(&self) {
        self.metrics.count_limited(Limit::Files.as_str());
    }

    /// Whether tokens from this address are still looked at: not where those that did not hold were
    /// far too many.
    pub(super) fn may_try(&self, client: IpAddr) -> Result<(), Problem> {
        self.limits.tries_left(self.address(client)).map_err(|over| self.crowded(client, over))
    }

    /// What is answered where a token did not hold: one too many is told so.
    pub(super) fn failed(&self, client: IpAddr, problem: Problem) -> Problem {
        if !problem.counts() {
            return problem;
        }
        match self.limits.failed(self.address(client)) {
            Ok(()) => problem,
            Err(over) => self.crowded(client, over),
        }
    }

    /// For whom a request is counted; in development mode for whom the query names.
    pub(super) fn whose(&self, asker: &Asker, query: Option<&str>) -> Option<Key> {
        match asker {
            Asker::Token(identity) if identity.scopes.service || identity.scopes.admin => None,
            Asker::Token(identity) => Some(self.limits.key(&identity.user)),
            Asker::Anybody => None,
            Asker::Development => {
                let named = |pair: &str| percent_decode(pair.strip_prefix("userId=")?);
                let named = query.and_then(|query| query.split('&').find_map(named));
                // The same as for the user's sockets; who names nobody is one of them.
                let user = named.and_then(|named| UserId::parse(&named).ok());
                Some(user.map_or_else(|| self.limits.key(&""), |user| self.limits.key(&user)))
            }
        }
    }

    /// A request; of whoever need not say who asks, one of the address.
    pub(super) fn one(
        &self,
        client: IpAddr,
        asker: &Asker,
        whose: Option<Key>,
    ) -> Result<(), Problem> {
        match asker {
            Asker::Anybody => {
                let read = self.limits.handshake(self.address(client));
                read.map_err(|over| self.crowded(client, over))
            }
            _ => self.take(Limit::Requests, whose, 1),
        }
    }

    /// A request has turned out to cost so much more: the next ones wait for it.
    pub(super) fn costs(&self, whose: Option<Key>, cost: Cost) {
        if let Some(whose) = whose {
            self.limits.owe(Limit::Requests, whose, cost.0);
        }
    }

    /// A body of so many bytes.
    pub(super) fn bytes(&self, whose: Option<Key>, bytes: usize) -> Result<(), Problem> {
        match bytes {
            0 => Ok(()),
            bytes => self.take(Limit::Bytes, whose, bytes as u64),
        }
    }

    fn take(&self, limit: Limit, whose: Option<Key>, units: u64) -> Result<(), Problem> {
        let Some(whose) = whose else { return Ok(()) };
        let taken = self.limits.take(limit, whose, units, Instant::now());
        taken.map_err(|over| self.over(over))
    }

    /// Counts an answer that refuses.
    pub(super) fn refused(&self, code: ErrorCode) {
        Metrics::count(&self.metrics.refused, code.as_str());
    }
}
