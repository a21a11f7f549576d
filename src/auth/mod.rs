//! Who somebody is: tokens, checked by the keys that the command line names.
//!
//! `options` says which keys there are, `key` reads one, `jwks` fetches those of an identity
//! provider, `verifier` checks a token by them, `claims` says whom it names, `bearer` finds it in a
//! request, `mint` makes one for trying things. Gateway and API share one [`Verifier`].
//!
//! **Invariants.** Which algorithms are allowed follows from the key, never from the token. A token
//! is a [`Token`] from the moment it is read: nothing shows one. Whether its user was revoked is
//! not known here but where the store is read (`chat::revocation`).

mod bearer;
mod claims;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzed;
mod jwks;
mod key;
pub mod mint;
mod options;
#[cfg(test)]
pub(crate) mod testing;
mod verifier;

pub use bearer::{BEARER_PROTOCOL, PROTOCOL, bearer, challenge, out_of_scope};
pub use claims::{Identity, Scopes};
pub use options::{Carried, Options, is_on_command_line};
pub use verifier::Verifier;

pub use crate::protocol::LEEWAY_SECONDS;
use crate::protocol::answer::RETRY_MS;
use crate::protocol::{ErrorCode, TOKEN_REVOKED};

/// A token that ends later than this from now is refused: nothing but a revocation would end it.
pub const LIFE_SECONDS_MAX: u64 = 366 * 24 * 3_600;
/// How much of a key's name is shown.
const KEY_NAME_CHARS_MAX: usize = 64;

/// Why a token is refused, in words that tell its owner what to do and a stranger nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is none.
    #[error("a token is required: Authorization: Bearer …")]
    Missing,
    /// The request carries more than one, or one that can't be a header.
    #[error("give one token, in one place")]
    Ambiguous,
    /// Over the limit.
    #[error("the token is over 8 KiB")]
    TooLong,
    /// No JWT, of another algorithm, or with a header that is not allowed.
    #[error("this is no token that is taken here: its form or its header is not allowed")]
    Malformed,
    /// No key fits, or the signature is not the key's.
    #[error("the token's signature does not hold")]
    Signature,
    /// `exp` has passed.
    #[error("the token has ended, get a new one")]
    Ended,
    /// `exp` is missing, is no number or lies more than a year ahead.
    #[error("the token must end (exp, a number), and within a year")]
    Endless,
    /// `nbf` or `iat` is yet to come.
    #[error("the token is not valid yet: whose clock is wrong?")]
    NotYet,
    /// It is for somebody else.
    #[error("the token's audience (aud) is not this service")]
    Audience,
    /// It is of somebody else.
    #[error("the token's issuer (iss) is not known here")]
    Issuer,
    /// The claim that names the user is missing, or no user id.
    #[error("the token names no user: the claim must match [A-Za-z0-9_.@|+=~-]{{1,128}}")]
    User,
    /// The user's tokens of that time were revoked.
    #[error("{}", TOKEN_REVOKED)]
    Revoked,
    /// Another user's, where a socket's own is to be renewed.
    #[error("the token is another user's")]
    OtherUser,
    /// The keys could not be had yet.
    #[error("the keys of the identity provider can't be had now, try again")]
    NoKeys,
    /// The key that it names is not among them, and they are as new as they get.
    #[error("no key named {0} is known: the identity provider has none, or had none a minute ago")]
    UnknownKey(KeyName),
    /// The same, and they may be others by now.
    #[error(
        "no key named {name} is known yet; keys are asked for at most once a minute, try again \
         in {} s",
        .after_ms.div_ceil(1_000)
    )]
    KeyToCome {
        /// What the token calls it.
        name: KeyName,
        /// When they are asked for again, at the earliest.
        after_ms: u64,
    },
}

impl Refusal {
    /// The code to answer with.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::NoKeys | Self::KeyToCome { .. } => ErrorCode::Unavailable,
            Self::Ambiguous => ErrorCode::BadRequest,
            _ => ErrorCode::Unauthorized,
        }
    }

    /// When to come back, where that may help.
    pub fn retry_ms(&self) -> u64 {
        match self {
            Self::KeyToCome { after_ms, .. } => *after_ms,
            _ => RETRY_MS,
        }
    }

    /// Whether it counts as a try of whoever has no good token: names of keys are made up as easily
    /// as signatures.
    pub fn counts(&self) -> bool {
        self.code() == ErrorCode::Unauthorized || matches!(self, Self::KeyToCome { .. })
    }
}

/// What a token calls its key, fit to be shown: whoever sends one chooses it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyName(Box<str>);

impl KeyName {
    fn new(kid: &str) -> Self {
        let harmless = |c: &char| c.is_ascii_graphic() && !matches!(c, '"' | '\\');
        Self(kid.chars().filter(harmless).take(KEY_NAME_CHARS_MAX).collect())
    }
}

impl std::fmt::Display for KeyName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// The command line names keys that can't be used; the text says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadKeys(pub String);
