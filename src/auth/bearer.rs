//! Where a request carries its token: a header, or for browsers the pair of subprotocols
//! `parlor, bearer.TOKEN` (page scripts can't set headers of a WebSocket). Never in the URL: those
//! are logged by everything on the way.

use super::Refusal;
use crate::protocol::{ErrorCode, Token};

/// The subprotocol that is agreed to.
pub const PROTOCOL: &str = "parlor";
/// What precedes the token in the other one.
pub const BEARER_PROTOCOL: &str = "bearer.";

/// The token of a request, by the values of its `Authorization` and of the header that offers
/// subprotocols. Beside one of the latter other schemes are a proxy's: a browser sends what it
/// knows for the proxy (`Basic`) by itself.
pub fn bearer(headers: &[&[u8]], protocols: &[&[u8]]) -> Result<Option<Token>, Refusal> {
    let names = protocols.iter().flat_map(|value| value.split(|b| *b == b','));
    let of_protocols = names.filter_map(|name| {
        let token = name.trim_ascii().strip_prefix(BEARER_PROTOCOL.as_bytes())?;
        Some(str::from_utf8(token).ok())
    });
    let offered = of_protocols.clone().next().is_some();
    let of_headers = headers.iter().filter_map(|value| {
        // Another scheme is no token of ours, and none at all is what is missing; what is no text
        // is none either, and does not hide another.
        let scheme = value.split(|b| *b == b' ').next().unwrap_or_default();
        let ours = scheme.eq_ignore_ascii_case(b"Bearer");
        let token = str::from_utf8(value).ok().filter(|_| ours);
        let token = token.and_then(|text| Some(text.split_once(' ')?.1.trim()));
        (ours || !offered).then_some(token)
    });
    let mut all = of_headers.chain(of_protocols);
    match (all.next(), all.next()) {
        (None, _) => Ok(None),
        (Some(_), Some(_)) => Err(Refusal::Ambiguous),
        (Some(None | Some("")), None) => Err(Refusal::Missing),
        (Some(Some(token)), None) => Ok(Some(Token::new(token))),
    }
}

/// The `WWW-Authenticate` of a refusal (RFC 6750 §3); `None` where another token helps nothing.
pub fn challenge(refusal: &Refusal) -> Option<String> {
    let error = match (refusal, refusal.code()) {
        (Refusal::Missing, _) => return Some("Bearer realm=\"parlor\"".to_owned()),
        (Refusal::Ambiguous, _) => "invalid_request",
        (_, ErrorCode::Unauthorized) => "invalid_token",
        _ => return None,
    };
    // The sentences hold no quotes.
    let said = refusal.to_string().replace(|c: char| !c.is_ascii() || c == '"', "");
    Some(format!("Bearer realm=\"parlor\", error=\"{error}\", error_description=\"{said}\""))
}

/// The same of a token that holds, and may not do this: which scope may.
pub fn out_of_scope(needed: &'static str) -> String {
    format!("Bearer realm=\"parlor\", error=\"insufficient_scope\", scope=\"{needed}\"")
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
        for beside in ["Basic dTpw", "Negotiate", "Bearers x", "", "Basic dTpw, Bearer b"] {
            assert_eq!(found(&[beside], &["parlor, bearer.a"]).as_deref(), Ok("a"), "{beside}");
        }
        for second in ["Bearer", "Bearer ", "bearer b"] {
            assert_eq!(found(&[second], &["parlor, bearer.a"]), Err(Refusal::Ambiguous));
        }
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
            let text = challenge(&refusal).unwrap();
            assert!(text.is_ascii() && text.matches('"').count().is_multiple_of(2), "{text}");
        }
        let error = |refusal| challenge(&refusal).unwrap_or_default();
        assert!(error(Refusal::Ended).contains("error=\"invalid_token\""));
        assert!(error(Refusal::Ambiguous).contains("error=\"invalid_request\""));
        assert_eq!(challenge(&Refusal::NoKeys), None);
    }
}
