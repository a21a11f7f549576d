//! Where a request carries its token: a header, or for browsers the pair of subprotocols
//! `parlor, bearer.TOKEN` (page scripts can't set headers of a WebSocket). Never in the URL: those
//! are logged by everything on the way.

use super::Refusal;
use crate::protocol::Token;

/// The subprotocol that is agreed to.
pub const PROTOCOL: &str = "parlor";
/// What precedes the token in the other one.
pub const BEARER_PROTOCOL: &str = "bearer.";

/// The token of a request: `headers` are the values of its `Authorization`, `protocols` the
/// subprotocols that it offers.
pub fn bearer<'a>(
    headers: impl Iterator<Item = &'a str>,
    protocols: impl Iterator<Item = &'a str>,
) -> Result<Option<Token>, Refusal> {
    let of_headers = headers.map(|value| {
        let (scheme, token) = value.split_once(' ').unwrap_or((value, ""));
        // Another scheme is no token of ours, and none at all is what is missing.
        scheme.eq_ignore_ascii_case("Bearer").then(|| token.trim()).ok_or(Refusal::Missing)
    });
    let of_protocols = protocols.filter_map(|name| name.strip_prefix(BEARER_PROTOCOL)).map(Ok);
    let mut all = of_headers.chain(of_protocols);
    match (all.next(), all.next()) {
        (None, _) => Ok(None),
        (Some(_), Some(_)) => Err(Refusal::Ambiguous),
        (Some(Ok("")), None) => Err(Refusal::Missing),
        (Some(token), None) => token.map(|token| Some(Token::new(token))),
    }
}

/// The `WWW-Authenticate` of a 401 (RFC 6750 §3).
pub fn challenge(refusal: Refusal) -> String {
    match refusal {
        Refusal::Missing => "Bearer realm=\"parlor\"".to_owned(),
        // The sentences hold no quotes.
        other => format!(
            "Bearer realm=\"parlor\", error=\"invalid_token\", error_description=\"{}\"",
            other.to_string().replace(|c: char| !c.is_ascii() || c == '"', "")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(headers: &[&'static str], protocols: &[&'static str]) -> Result<String, Refusal> {
        let token = bearer(headers.iter().copied(), protocols.iter().copied())?;
        token.map(|token| token.reveal().to_owned()).ok_or(Refusal::Missing)
    }

    #[test]
    fn one_token_in_one_place() {
        assert_eq!(found(&["Bearer a.b.c"], &[]).as_deref(), Ok("a.b.c"));
        assert_eq!(found(&["bEARER  a.b.c "], &["parlor"]).as_deref(), Ok("a.b.c"));
        assert_eq!(found(&[], &["parlor", "bearer.a.b.c"]).as_deref(), Ok("a.b.c"));
        for none in [&[][..], &["Basic dTpw"], &["Bearer"], &["Bearer "], &["a.b.c"]] {
            assert_eq!(found(none, &["parlor"]), Err(Refusal::Missing), "{none:?}");
        }
        assert_eq!(found(&["Bearer a", "Bearer a"], &[]), Err(Refusal::Ambiguous));
        assert_eq!(found(&["Bearer a"], &["bearer.a"]), Err(Refusal::Ambiguous));
        assert_eq!(found(&["Basic x", "Bearer a"], &[]), Err(Refusal::Ambiguous));
        assert_eq!(found(&[], &["bearer.a", "bearer.b"]), Err(Refusal::Ambiguous));
    }

    #[test]
    fn a_challenge_is_a_header() {
        for refusal in [Refusal::Missing, Refusal::User, Refusal::Ended, Refusal::Signature] {
            let text = challenge(refusal);
            assert!(text.is_ascii() && text.matches('"').count().is_multiple_of(2), "{text}");
        }
        assert!(challenge(Refusal::Ended).contains("error=\"invalid_token\""));
    }
}
