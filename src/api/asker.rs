//! Who asks: by a token, or in development mode by what the query says.
//!
//! The guard checks the token before anything else of a request is looked at, its body included;
//! what a handler asks of whoever asks stands here. **A token of a user acts for that user alone**;
//! a service's may act for anybody whom the request names.

use std::sync::Arc;

use axum::http::{HeaderMap, HeaderName};

use super::error::Problem;
use crate::auth::{self, Identity, Refusal, Verifier, bearer};
use crate::chat::Chat;
use crate::edge::Headers;
use crate::protocol::{ErrorCode, UserId};

/// Names the user for whom a service asks.
pub(super) const ON_BEHALF_OF: HeaderName = HeaderName::from_static("on-behalf-of");

/// Who asks, as far as is known before the request is read.
#[derive(Debug, Clone)]
pub(super) enum Asker {
    /// Nobody was asked for a token: `?userId=` is believed.
    Development,
    /// Whom a token names.
    Token(Arc<Identity>),
    /// Nobody with a token that holds, at a path that asks for none.
    Anybody,
}

/// What stands before the routes.
#[derive(Clone)]
pub(super) struct Tokens {
    verifier: Option<Verifier>,
    /// Knows which tokens were taken back; a balancer has no store.
    chat: Option<Arc<Chat>>,
    paths: Paths,
}

/// Paths that need no token.
#[derive(Debug, Clone, Copy)]
pub(super) struct Paths {
    /// Those that answer everybody alike: no token is looked at.
    pub(super) open: &'static [&'static str],
    /// Those that tell more to some.
    pub(super) telling: &'static [&'static str],
}

impl Tokens {
    pub(super) fn new(verifier: Option<Verifier>, chat: Option<Arc<Chat>>, paths: Paths) -> Self {
        Self { verifier, chat, paths }
    }

    /// Checks the token of a request.
    pub(super) async fn admit(&self, path: &str, headers: &HeaderMap) -> Result<Asker, Problem> {
        let Some(verifier) = &self.verifier else { return Ok(Asker::Development) };
        if self.paths.open.contains(&path) {
            return Ok(Asker::Anybody);
        }
        let named = self.named(verifier, headers).await;
        if self.paths.telling.contains(&path) { Ok(named.unwrap_or(Asker::Anybody)) } else { named }
    }

    /// Whether the token still holds: a body may take long to arrive, and what is taken back
    /// meanwhile is known or read by now.
    pub(super) async fn hold(&self, asker: &Asker) -> Result<(), Problem> {
        match (asker, &self.chat) {
            (Asker::Token(identity), Some(chat)) => not_revoked(chat, identity).await,
            _ => Ok(()),
        }
    }

    async fn named(&self, verifier: &Verifier, headers: &HeaderMap) -> Result<Asker, Problem> {
        let token = bearer(&headers.all("authorization"), &[])?.ok_or(Refusal::Missing)?;
        let identity = verifier.verify(&token).await?;
        if let Some(chat) = &self.chat {
            not_revoked(chat, &identity).await?;
        }
        Ok(Asker::Token(Arc::new(identity)))
    }
}

async fn not_revoked(chat: &Chat, identity: &Identity) -> Result<(), Problem> {
    match chat.is_revoked(&identity.user, identity.issued).await? {
        true => Err(Refusal::Revoked.into()),
        false => Ok(()),
    }
}

impl Asker {
    /// For whom a token acts, where the request names these.
    pub(super) fn acting(identity: &Identity, named: &[UserId]) -> Result<UserId, Problem> {
        let scopes = identity.scopes;
        if !scopes.user && !scopes.service {
            return Err(out_of_scope("user"));
        }
        let Some(user) = named.first() else { return Ok(identity.user.clone()) };
        if named.iter().any(|other| other != user) {
            return Err(Problem::bad("the request names two users: name one"));
        }
        if *user != identity.user && !scopes.service {
            let detail = "the token is not of the user that the request names: leave the name out";
            return Err(Problem::new(ErrorCode::Forbidden, detail));
        }
        Ok(user.clone())
    }

    /// Whether this is whoever runs the process: an admin, or in development mode everybody.
    pub(super) fn runs_it(&self) -> bool {
        match self {
            Self::Development => true,
            Self::Token(identity) => identity.scopes.admin,
            Self::Anybody => false,
        }
    }

    /// Refuses who may not administer. Without tokens nobody may what only tokens are about.
    pub(super) fn administers(&self) -> Result<(), Problem> {
        match self {
            Self::Token(identity) if identity.scopes.admin => Ok(()),
            Self::Token(_) | Self::Anybody => Err(out_of_scope("admin")),
            Self::Development => {
                let detail = "tokens are not in use here, there is nothing to administer";
                Err(Problem::new(ErrorCode::Forbidden, detail))
            }
        }
    }

    /// Refuses who may not see how the fleet is built.
    pub(super) fn operates(&self) -> Result<(), Problem> {
        match self {
            Self::Token(identity) if identity.scopes.admin || identity.scopes.service => Ok(()),
            Self::Token(_) | Self::Anybody => Err(out_of_scope("service")),
            Self::Development => Ok(()),
        }
    }
}

/// The user in `On-Behalf-Of`.
pub(super) fn on_behalf_of(headers: &HeaderMap) -> Result<Option<UserId>, Problem> {
    let mut values = headers.get_all(ON_BEHALF_OF).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let user = value.to_str().ok().and_then(|text| UserId::parse(text).ok());
    match (user, values.next()) {
        (Some(user), None) => Ok(Some(user)),
        _ => Err(Problem::bad("On-Behalf-Of must be one user id")),
    }
}

fn out_of_scope(needed: &'static str) -> Problem {
    let detail = format!("the token's scope does not allow it: {needed} is needed");
    Problem::new(ErrorCode::Forbidden, detail).challenging(auth::out_of_scope(needed))
}
