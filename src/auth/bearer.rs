//! Where a request carries its token: a header, or for browsers the pair of subprotocols
//! `parlor, bearer.TOKEN` (page scripts can't set headers of a WebSocket). Never in the URL: those
//! are logged by everything on the way.

use super::Refusal;
use crate::protocol::Token;

/// The subprotocol that is agreed to.
pub const PROTOCOL: &str = "parlor";
/// What precedes the token in the other one.
pub const BEARER_PROTOCOL: &str = "bearer.";

/// The token of a request, by the values of its `Authorization` and of the header that offers
/// subprotocols.
pub fn bearer(headers: &[&[u8]], protocols: &[&[u8]]) -> Result<Option<Token>, Refusal> {
    let of_headers = headers.iter().map(|value| {
        // Another scheme is no token of ours, and none at all is what is missing; what is no text
        // is none either, and does not hide another.
        let (scheme, token) = str::from_utf8(value).ok()?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("Bearer").then(|| token.trim())
    });
    let names = protocols.iter().flat_map(|value| value.split(|b| *b == b','));
    let of_protocols = names.filter_map(|name| {
        let token = name.trim_ascii().strip_prefix(BEARER_PROTOCOL.as_bytes())?;
        Some(str::from_utf8(token).ok())
    });
    let mut all = of_headers.chain(of_protocols);
    match (all.next(), all.next()) {
        (None, _) => Ok(None),
        (Some(_), Some(_)) => Err(Refusal::Ambiguous),
        (Some(None | Some("")), None) => Err(Refusal::Missing),
        (Some(Some(token)), None) => Ok(Some(Token::new(token))),
    }
}

/// The `WWW-Authenticate` of a 401 (RFC 6750 §3).
pub fn challenge(refusal: &Refusal) -> String {
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
        let bytes = |texts: &[&'static str]| texts.iter().map(|t| t.as_bytes()).collect::<Vec<_>>();
        let token = bearer(&bytes(headers), &bytes(protocols))?;
        token.map(|token| token.reveal().to_owned()).ok_or(Refusal::Missing)
    }

    #[test]
    fn one_token_in_one_place() {
        assert_eq!(found(&["Bearer a.b.c"], &[]).as_deref(), Ok("a.b.c"));
        assert_eq!(found(&["bEARER  a.b.c "], &["parlor"]).as_deref(), Ok("a.b.c"));
        assert_eq!(found(&[], &["parlor", "bearer.a.b.c"]).as_deref(), Ok("a.b.c"));
        assert_eq!(found(&[], &["parlor, bearer.a.b.c"]).as_deref(), Ok("a.b.c"));
        for none in [&[][..], &["Basic dTpw"], &["Bearer"], &["Bearer "], &["a.b.c"]] {
            assert_eq!(found(none, &["parlor"]), Err(Refusal::Missing), "{none:?}");
        }
        assert_eq!(found(&["Bearer a", "Bearer a"], &[]), Err(Refusal::Ambiguous));
        assert_eq!(found(&["Bearer a"], &["bearer.a"]), Err(Refusal::Ambiguous));
        assert_eq!(found(&["Basic x", "Bearer a"], &[]), Err(Refusal::Ambiguous));
        assert_eq!(found(&[], &["bearer.a", "bearer.b"]), Err(Refusal::Ambiguous));
        assert_eq!(found(&[], &["bearer.a, bearer.b"]), Err(Refusal::Ambiguous));
        assert_eq!(found(&[], &["parlor, bearer."]), Err(Refusal::Missing));
    }

    #[test]
    fn what_is_no_text_hides_no_token() {
        assert_eq!(bearer(&[b"Bearer \xff"], &[]), Err(Refusal::Missing));
        assert_eq!(bearer(&[b"\xff", b"Bearer a"], &[]), Err(Refusal::Ambiguous));
        assert_eq!(bearer(&[b"Bearer a"], &[b"bearer.\xff"]), Err(Refusal::Ambiguous));
    }

    #[test]
    fn a_challenge_is_a_header() {
        for refusal in [Refusal::Missing, Refusal::User, Refusal::Ended, Refusal::Signature] {
            let text = challenge(&refusal);
            assert!(text.is_ascii() && text.matches('"').count().is_multiple_of(2), "{text}");
        }
        assert!(challenge(&Refusal::Ended).contains("error=\"invalid_token\""));
    }
}
