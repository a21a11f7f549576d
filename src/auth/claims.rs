//! What a token says once its signature holds: whom it names, what it may do, until when.

use serde_json::{Map, Value};

use super::key::Rules;
use super::{LEEWAY_SECONDS, LIFE_SECONDS_MAX, Refusal};
use crate::protocol::{Timestamp, UserId};

/// What a token may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Scopes {
    /// Act for the user that it names.
    pub user: bool,
    /// Act for anybody, and open direct conversations where `--dm existing` holds.
    pub service: bool,
    /// Use the routes of administration.
    pub admin: bool,
}

impl Scopes {
    /// What a token may do that says nothing of it.
    pub(super) const USER: Self = Self { user: true, service: false, admin: false };

    /// Of a claim: names with spaces between them (RFC 8693 §4.2), or an array. One that names
    /// nothing of ours, like `openid profile`, is a user's: the issuer's own words mean nothing
    /// here.
    fn of(claim: Option<&Value>) -> Option<Self> {
        let names: Vec<&str> = match claim {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::String(names)) => names.split(' ').collect(),
            Some(Value::Array(names)) => {
                names.iter().map(Value::as_str).collect::<Option<Vec<_>>>()?
            }
            Some(_) => return None,
        };
        let has = |name| names.contains(&name);
        let scopes = Self { user: has("user"), service: has("service"), admin: has("admin") };
        Some(if scopes == Self::default() { Self::USER } else { scopes })
    }
}

/// Whom a token names. Times are seconds since 1970, as in tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The user.
    pub user: UserId,
    /// What the token may do.
    pub scopes: Scopes,
    /// When it was made; 0 where it does not say so.
    pub issued: u64,
    /// `exp`: when it ends, but for the leeway.
    pub expires: u64,
}

impl Identity {
    /// When it ends, in milliseconds, for `authed`.
    pub fn expires_at(&self) -> Timestamp {
        self.expires.saturating_mul(1_000)
    }

    /// When its leeway is over, in seconds.
    pub fn ends(&self) -> u64 {
        self.expires.saturating_add(LEEWAY_SECONDS)
    }

    /// Of claims whose signature, times, audience and issuer hold.
    pub(super) fn of(
        claims: &Map<String, Value>,
        rules: &Rules,
        now: u64,
    ) -> Result<Self, Refusal> {
        well_formed(claims, rules)?;
        let expires = claims.get("exp").and_then(seconds).ok_or(Refusal::Endless)?;
        if expires > now.saturating_add(LIFE_SECONDS_MAX) {
            return Err(Refusal::Endless);
        }
        let issued = match claims.get("iat") {
            None | Some(Value::Null) => 0,
            Some(issued) => seconds(issued).ok_or(Refusal::Malformed)?,
        };
        if issued > now.saturating_add(LEEWAY_SECONDS) {
            return Err(Refusal::NotYet);
        }
        let user = match claims.get(&rules.user_claim) {
            Some(Value::String(user)) => UserId::parse(user).ok(),
            // Frameworks that count their users put the number there.
            Some(Value::Number(number)) => {
                number.as_u64().and_then(|number| UserId::parse(&number.to_string()).ok())
            }
            _ => None,
        };
        let user = user.ok_or(Refusal::User)?;
        let scopes = Scopes::of(claims.get("scope")).ok_or(Refusal::Malformed)?;
        Ok(Self { user, scopes, issued, expires })
    }
}

/// Whom a token is for, and whose it is, in the forms of RFC 7519 §4.1: what is in another one was
/// compared with nothing.
fn well_formed(claims: &Map<String, Value>, rules: &Rules) -> Result<(), Refusal> {
    match claims.get("aud") {
        None | Some(Value::Null | Value::String(_)) => {}
        Some(Value::Array(names)) if names.iter().all(Value::is_string) => {}
        Some(_) => return Err(Refusal::Audience),
    }
    let issuer = rules.issuer.is_empty() || claims.get("iss").is_some_and(Value::is_string);
    issuer.then_some(()).ok_or(Refusal::Issuer)
}

/// A time of a token (RFC 7519 §2): a number, with a fraction if it likes.
fn seconds(claim: &Value) -> Option<u64> {
    let whole = claim.as_u64();
    // A cast to an integer is clamped to its range.
    whole.or_else(|| claim.as_f64().filter(|time| *time >= 0.0).map(|time| time as u64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const NOW: u64 = 1_790_000_000;

    fn identity(claims: Value) -> Result<Identity, Refusal> {
        let rules = Rules { user_claim: "sub".to_owned(), ..Rules::default() };
        Identity::of(claims.as_object().unwrap(), &rules, NOW)
    }

    fn of_user(sub: Value) -> Result<Identity, Refusal> {
        identity(json!({"sub": sub, "exp": NOW + 60}))
    }

    #[test]
    fn a_user_passes_the_check_that_the_url_passes() {
        assert_eq!(of_user(json!("auth0|5f-7")).unwrap().user.as_str(), "auth0|5f-7");
        assert_eq!(of_user(json!(17)).unwrap().user.as_str(), "17");
        let long = "a".repeat(129);
        let four_kib = "a".repeat(4_096);
        for bad in [
            json!(""),
            json!("a#b"),
            json!("a b"),
            json!("usérA"),
            json!("use\u{301}rA"),
            json!("userА"), // the last letter is Cyrillic
            json!("user\u{200b}A"),
            json!("ｕserA"),
            json!(long),
            json!(four_kib),
            json!(null),
            json!(1.5),
            json!(-1),
            json!(["userA"]),
            json!({"id": "userA"}),
        ] {
            assert_eq!(of_user(bad.clone()), Err(Refusal::User), "{bad}");
        }
        assert_eq!(identity(json!({"exp": NOW})), Err(Refusal::User));
        let (upper, lower) = (of_user(json!("UserA")).unwrap(), of_user(json!("usera")).unwrap());
        assert_ne!(upper.user, lower.user, "case is kept: these are two people");
    }

    #[test]
    fn scopes_are_words_or_a_list() {
        let scopes = |scope: Value| {
            identity(json!({"sub": "a", "exp": NOW, "scope": scope})).map(|id| id.scopes)
        };
        let (user, none) = (Scopes { user: true, ..Scopes::default() }, Scopes::default());
        for plain in [json!(null), json!(""), json!("user"), json!("openid profile"), json!([])] {
            assert_eq!(scopes(plain.clone()), Ok(user), "{plain}");
        }
        let service = Scopes { service: true, ..none };
        assert_eq!(scopes(json!("openid service")), Ok(service));
        assert_eq!(scopes(json!(["service"])), Ok(service));
        assert_eq!(scopes(json!("user admin")), Ok(Scopes { admin: true, ..user }));
        // Neither a word within a word nor another case gives a right.
        for near in ["Admin", "admin,service", "read:admin", "administrator", "admin\tservice"] {
            assert_eq!(scopes(json!(near)), Ok(user), "{near}");
        }
        for bad in [json!(1), json!(true), json!({"admin": true}), json!(["admin", 1])] {
            assert_eq!(scopes(bad.clone()), Err(Refusal::Malformed), "{bad}");
        }
    }

    #[test]
    fn times_are_numbers_and_tokens_end() {
        let times = |exp: Value, iat: Value| {
            identity(json!({"sub": "a", "exp": exp, "iat": iat})).map(|id| (id.expires, id.issued))
        };
        assert_eq!(times(json!(NOW + 5), json!(null)), Ok((NOW + 5, 0)));
        assert_eq!(times(json!(NOW as f64 + 5.9), json!(NOW as f64 + 0.9)), Ok((NOW + 5, NOW)));
        for endless in [json!(null), json!("9999999999"), json!(-1), json!(NOW + 10 * 365 * 86_400)]
        {
            assert_eq!(times(endless.clone(), json!(1)), Err(Refusal::Endless), "{endless}");
        }
        assert_eq!(times(json!(1e300), json!(1)), Err(Refusal::Endless));
        assert_eq!(times(json!(NOW), json!("now")), Err(Refusal::Malformed));
        assert_eq!(times(json!(NOW + 99), json!(NOW + LEEWAY_SECONDS)).unwrap().1, NOW + 60);
        assert_eq!(times(json!(NOW + 99), json!(NOW + 61)), Err(Refusal::NotYet));
    }
}
