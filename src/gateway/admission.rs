//! Who may open a socket, and for how long: by a token, or in development mode by what the query
//! says.
//!
//! A token is checked before the 101. Whether it was taken back shows in the mailbox, which is read
//! anyway: until then nothing is taken from the client (`chat::session`).

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt;

use super::Gateway;
use super::handshake::{self, Hello, Refusal};
use crate::auth::{self, Identity, Verifier};
use crate::chat::{Chat, ChatError};
use crate::edge::Stream;
use crate::hub::{Acting, Outbox};
use crate::limits::{Address, Limit};
use crate::protocol::{ErrorCode, Ref, SocketId, TOKEN_REVOKED, Timestamp, Token, UserId, answer};
use crate::telemetry::Metrics;

/// How many tokens are being renewed at a time, each for another socket; each reads the store.
const RENEWALS_MAX: usize = 256;
/// For how long a token is believed that was looked at once, in seconds: its key may be withdrawn
/// meanwhile. Those who came together come again apart.
const STAY_SECONDS: std::ops::Range<u64> = 23 * 3_600..24 * 3_600;

/// What a server needs to look at tokens.
#[derive(Debug)]
pub struct Guard {
    verifier: Verifier,
    /// The sockets for which one is.
    renewals: Mutex<HashSet<SocketId>>,
}

/// A token is being renewed for this socket, until this is dropped.
struct Renewal {
    guard: Arc<Guard>,
    socket: SocketId,
}

impl Drop for Renewal {
    fn drop(&mut self) {
        self.guard.renewals().remove(&self.socket);
    }
}

impl Guard {
    /// By these keys.
    pub fn new(verifier: Verifier) -> Arc<Self> {
        Arc::new(Self { verifier, renewals: Mutex::default() })
    }

    /// The token of a socket was looked at just now. Keys of files change by a restart alone.
    pub(super) fn looked_at(&self, outbox: &Outbox, clock: Timestamp) {
        if self.verifier.has_provider() {
            looked_at(outbox, clock);
        }
    }

    fn renewals(&self) -> MutexGuard<'_, HashSet<SocketId>> {
        self.renewals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leave to renew a token of a socket: one at a time, so that nobody has all the places.
    fn renewal(self: &Arc<Self>, socket: SocketId) -> Option<Renewal> {
        let mut renewals = self.renewals();
        let may = renewals.len() < RENEWALS_MAX && renewals.insert(socket);
        may.then(|| Renewal { guard: self.clone(), socket })
    }
}

/// Whose the socket is.
pub(super) struct Admitted {
    pub user: UserId,
    /// When the token was made and when its leeway ends, in seconds; `None` without one.
    pub holds: Option<(u64, u64)>,
    /// The service that acts for the user.
    pub acting: Option<Box<Acting>>,
    /// It may take the place of an older socket of the person: its token is known not to have been
    /// taken back.
    pub pushes: bool,
}

impl Admitted {
    fn by(user: UserId, holds: Option<(u64, u64)>) -> Self {
        Self { user, holds, acting: None, pushes: holds.is_none() }
    }
}

/// The token of a socket was looked at just now, by a key that may be withdrawn meanwhile.
pub(super) fn looked_at(outbox: &Outbox, clock: Timestamp) {
    outbox.pass.stay(clock / 1_000 + crate::chance::within(STAY_SECONDS));
}

impl Gateway {
    /// With tokens in use `userId` is not believed: it must be the token's user, or the token a
    /// service's, which may act for anybody.
    pub(super) async fn admit(&self, hello: &Hello) -> Result<Admitted, Refusal> {
        let Some(guard) = &self.guard else {
            let missing = || Refusal::new(400, "userId is missing: /ws?userId=userA");
            return Ok(Admitted::by(hello.user.clone().ok_or_else(missing)?, None));
        };
        let token = hello.token.as_ref().map_err(|refusal| Refusal::from(refusal.clone()))?;
        let token = token.as_ref().ok_or(auth::Refusal::Missing)?;
        let identity = guard.verifier.verify(token).await?;
        // So that one who tries again and again pushes no socket of the person's out.
        if self.chat.is_known_dead(&identity.user, identity.issued) {
            return Err(auth::Refusal::Revoked.into());
        }
        let ends = identity.ends();
        match &hello.user {
            Some(named) if *named != identity.user => {
                if !identity.scopes.service {
                    let own = &identity.user;
                    let detail = format!("userId is not the token's user, {own}: leave it out");
                    return Err(Refusal::new(403, detail));
                }
                let issued = service(&self.chat, &identity).await?;
                let acting = Some(acting(identity));
                let by = Admitted::by(named.clone(), Some((issued, ends)));
                Ok(Admitted { acting, pushes: true, ..by })
            }
            _ if !identity.scopes.user && !identity.scopes.service => {
                let refusal = "the token's scope opens no socket: it needs user";
                Err(Refusal::new(403, refusal).challenging(&auth::out_of_scope("user")))
            }
            _ => {
                let pushes = self.has_all_its_sockets(&identity.user);
                if pushes {
                    not_revoked(&self.chat, &identity).await?;
                }
                let by = Admitted::by(identity.user, Some((identity.issued, ends)));
                Ok(Admitted { pushes, ..by })
            }
        }
    }

    /// Whether one more socket of a person takes the place of another one here.
    fn has_all_its_sockets(&self, user: &UserId) -> bool {
        let hub = &self.chat.hub;
        hub.of(user).len() >= usize::from(hub.sockets_per_user())
    }

    /// Tells a client why it gets no socket: a browser on one, others by the status.
    pub(super) async fn turn_back(&self, stream: Stream, hello: &Hello, refusal: &Refusal) {
        let code = match refusal.status {
            401 => ErrorCode::Unauthorized,
            403 => ErrorCode::Forbidden,
            // With tokens in use two of them are all that is bad by now.
            400 if self.guard.is_some() => ErrorCode::BadRequest,
            // No place for a socket, not even one to be told on.
            _ => {
                Metrics::count(&self.chat.metrics.refused, refusal.code().as_str());
                return handshake::refuse(stream, refusal).await;
            }
        };
        Metrics::count(&self.chat.metrics.refused, code.as_str());
        if hello.browser {
            let server = &self.chat.me.id;
            return handshake::dismiss(stream, hello, server, code, &refusal.detail).await;
        }
        handshake::refuse(stream, refusal).await;
    }
}

/// A service acts for somebody, whose mailbox says nothing of the service's own token: that is
/// looked up here. What is taken back of the person's counts from now on.
async fn service(chat: &Chat, identity: &Identity) -> Result<u64, Refusal> {
    not_revoked(chat, identity).await?;
    Ok((chat.clock)() / 1_000)
}

async fn not_revoked(chat: &Chat, identity: &Identity) -> Result<(), Refusal> {
    match chat.is_revoked(&identity.user, identity.issued).await {
        Ok(false) => Ok(()),
        Ok(true) => Err(auth::Refusal::Revoked.into()),
        Err(error) => Err(Refusal::new(503, error.detail)),
    }
}

fn acting(identity: Identity) -> Box<Acting> {
    Box::new(Acting { user: identity.user, issued: identity.issued })
}

/// Checks a fresh token for an open socket, and answers with `authed`. One that is refused changes
/// nothing but what its client's address may still try, as at the Message API: the socket goes on
/// with the token that it has.
pub(super) fn renew(
    guard: Option<(&Arc<Guard>, Option<Address>)>,
    chat: &Arc<Chat>,
    outbox: &Arc<Outbox>,
    token: Token,
    reference: Option<Ref>,
) {
    let refuse = {
        let (chat, outbox) = (chat.clone(), outbox.clone());
        move |error: &ChatError| {
            Metrics::count(&chat.metrics.refused, error.code.as_str());
            let (detail, retry) = (&error.detail, error.retry_after_ms);
            outbox.answer(answer::error(error.code, detail, reference.as_ref(), retry));
        }
    };
    let Some((guard, address)) = guard else {
        let detail = "tokens are not in use: userId in the URL names you";
        return refuse(&ChatError::new(ErrorCode::BadRequest, detail));
    };
    if let Err(over) = chat.limits.tries_left(address) {
        return refuse(&chat.over(over));
    }
    let Some(renewal) = guard.renewal(outbox.who.socket) else {
        chat.metrics.count_limited(Limit::Renewals.as_str());
        let detail = "a token is being renewed, or too many of others are: send it again";
        return refuse(&ChatError::new(ErrorCode::RateLimited, detail));
    };
    let (guard, chat, outbox) = (guard.clone(), chat.clone(), outbox.clone());
    let mut renewing = Box::pin(async move {
        let _renewal = renewal;
        match try_renew(&guard, &chat, &outbox, &token).await {
            Ok(expires_at) => outbox.answer(answer::authed(expires_at)),
            Err(Unrenewed { error, counts: true }) => {
                let told = chat.limits.failed(address).map_err(|over| chat.over(over));
                refuse(told.as_ref().err().unwrap_or(&error));
            }
            Err(Unrenewed { error, counts: false }) => refuse(&error),
        }
    });
    if (&mut renewing).now_or_never().is_none() {
        tokio::spawn(renewing);
    }
}

/// Why a token renews nothing, and whether that counts for its client's address.
struct Unrenewed {
    error: ChatError,
    counts: bool,
}

impl From<auth::Refusal> for Unrenewed {
    fn from(refusal: auth::Refusal) -> Self {
        let error = ChatError::new(refusal.code(), refusal.to_string());
        let retry_after_ms = error.retry_after_ms.map(|_| refusal.retry_ms());
        Self { error: ChatError { retry_after_ms, ..error }, counts: refusal.counts() }
    }
}

impl From<ChatError> for Unrenewed {
    fn from(error: ChatError) -> Self {
        Self { error, counts: false }
    }
}

async fn try_renew(
    guard: &Guard,
    chat: &Chat,
    outbox: &Outbox,
    token: &Token,
) -> Result<u64, Unrenewed> {
    let identity = guard.verifier.verify(token).await?;
    let own = identity.user == outbox.who.user;
    if !(own && identity.scopes.user || identity.scopes.service) {
        return Err(auth::Refusal::OtherUser.into());
    }
    if chat.is_revoked(&identity.user, identity.issued).await? {
        return Err(auth::Refusal::Revoked.into());
    }
    let (user, issued) = (identity.user.clone(), identity.issued);
    let (ends, expires_at) = (identity.ends(), identity.expires_at());
    // What is taken back of the person's while this is under way ends the socket by the one time or
    // the other; who ended the sockets of this token meanwhile has not found this one.
    match own {
        true => outbox.renew(issued, ends, None),
        false => outbox.renew((chat.clock)() / 1_000, ends, Some(acting(identity))),
    }
    guard.looked_at(outbox, (chat.clock)());
    if chat.is_known_dead(&user, issued) {
        chat.turn_away(outbox, TOKEN_REVOKED);
        return Err(auth::Refusal::Revoked.into());
    }
    Ok(expires_at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_renews_one_token_at_a_time_and_all_have_an_end() {
        let guard = Guard::new(crate::auth::testing::by_secret().await);
        let one = guard.renewal(SocketId(1));
        for _ in 0..1_000 {
            assert!(one.is_some() && guard.renewal(SocketId(1)).is_none());
        }
        let others: Vec<_> = (2..1_000).filter_map(|n| guard.renewal(SocketId(n))).collect();
        assert_eq!(others.len(), RENEWALS_MAX - 1);
        drop(one);
        assert!(guard.renewal(SocketId(1_001)).is_some(), "a place is free again");
        drop(others);
        assert!(guard.renewals().is_empty());
    }
}
