//! What a request says: path, query and body, checked in one place.
//!
//! Unknown query parameters are ignored, known ones that stand there twice are refused. `+` in a
//! query is a plus sign (RFC 3986): user ids may hold one, and nothing here holds a space.

use axum::body::{Body, to_bytes};
use axum::extract::{FromRequest, FromRequestParts, RawPathParams, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};

use super::asker::{Asker, on_behalf_of};
use super::error::Problem;
use crate::auth::Refusal;
use crate::chat::history::parse_limit;
use crate::protocol::{BadId, ErrorCode, Sizes, UserId};

/// The path parameters and the query of a request.
#[derive(Debug)]
pub(super) struct Input {
    path: Vec<(String, String)>,
    query: Vec<(String, String)>,
    asker: Asker,
    on_behalf_of: Option<UserId>,
}

impl<S: Send + Sync> FromRequestParts<S> for Input {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        // What can't be decoded was refused before routing; no parameters is none, too.
        let path = RawPathParams::from_request_parts(parts, state).await;
        let path = path.iter().flatten().map(|(key, value)| (key.to_owned(), value.to_owned()));
        // Without the guard nobody would be asked who they are.
        let asker = parts.extensions.get::<Asker>().cloned().ok_or_else(unguarded)?;
        let on_behalf_of = match asker {
            Asker::Token(_) => on_behalf_of(&parts.headers)?,
            Asker::Development | Asker::Anybody => None,
        };
        let query = pairs(parts.uri.query().unwrap_or(""))?;
        Ok(Self { path: path.collect(), query, asker, on_behalf_of })
    }
}

impl Input {
    /// What a query says, without the route that it is for.
    #[cfg(any(test, fuzzing))]
    pub(super) fn of_query(query: &str) -> Result<Self, Problem> {
        let (path, asker) = (Vec::new(), Asker::Development);
        Ok(Self { path, query: pairs(query)?, asker, on_behalf_of: None })
    }

    /// An id in the path.
    pub(super) fn path<T: std::str::FromStr<Err = BadId>>(&self, name: &str) -> Result<T, Problem> {
        let value = self.path.iter().find(|(key, _)| key == name);
        Ok(value.map_or("", |(_, value)| value).parse::<T>()?)
    }

    /// A query parameter, at most once.
    pub(super) fn query(&self, name: &str) -> Result<Option<&str>, Problem> {
        let mut values = self.query.iter().filter(|(key, _)| key == name);
        let first = values.next().map(|(_, value)| value.as_str());
        match values.next() {
            None => Ok(first),
            Some(_) => Err(Problem::bad(format!("\"{name}\" stands in the query twice"))),
        }
    }

    /// A place in a log.
    pub(super) fn seq(&self, name: &str) -> Result<Option<u64>, Problem> {
        let parse = |text: &str| text.parse().ok().filter(|_| !text.starts_with('+'));
        let bad = || Problem::bad(format!("\"{name}\" is a seq: a whole number, 0 or more"));
        self.query(name)?.map(|text| parse(text).ok_or_else(bad)).transpose()
    }

    /// How much of a list.
    pub(super) fn limit(&self, default: usize) -> Result<usize, Problem> {
        Ok(self.query("limit")?.map(parse_limit).transpose()?.unwrap_or(default))
    }

    /// Who asks: the token's user, whom a service names, or `?userId=` in development mode.
    pub(super) fn caller(&self) -> Result<UserId, Problem> {
        self.caller_or(None)
    }

    /// The same; a service that names nobody else asks for `named`.
    pub(super) fn caller_or(&self, named: Option<&UserId>) -> Result<UserId, Problem> {
        let what_to_do = "say who you are: add ?userId= to the URL";
        let of_query = self.query("userId")?.map(UserId::parse).transpose();
        let of_query =
            of_query.map_err(|bad| Problem::bad(format!("\"userId\": {bad}, {what_to_do}")))?;
        match &self.asker {
            Asker::Development => {
                of_query.ok_or_else(|| Problem::bad(format!("\"userId\" is missing, {what_to_do}")))
            }
            Asker::Token(identity) => {
                let mut all: Vec<_> =
                    of_query.into_iter().chain(self.on_behalf_of.clone()).collect();
                if all.is_empty() && identity.scopes.service {
                    all.extend(named.cloned());
                }
                Asker::acting(identity, &all)
            }
            Asker::Anybody => Err(Refusal::Missing.into()),
        }
    }

    /// Who asks, for what is not done for anybody.
    pub(super) fn asked_by(&self) -> &Asker {
        &self.asker
    }

    /// Whether a service asks.
    pub(super) fn of_service(&self) -> bool {
        matches!(&self.asker, Asker::Token(identity) if identity.scopes.service)
    }
}

fn unguarded() -> Problem {
    tracing::error!("a route stands without its guard");
    let status = StatusCode::INTERNAL_SERVER_ERROR;
    Problem::with_status(ErrorCode::Unavailable, status, "internal error: ask again")
}

fn pairs(query: &str) -> Result<Vec<(String, String)>, Problem> {
    let decode = |text: &str| percent_decode(text).ok_or_else(bad_percent);
    let pair = |pair: &str| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        Ok((decode(key)?, decode(value)?))
    };
    query.split('&').filter(|pair| !pair.is_empty()).map(pair).collect()
}

/// The refusal of a URL that can't be decoded.
pub(super) fn bad_percent() -> Problem {
    Problem::bad("the URL holds a bad percent encoding: it must be %XX of UTF-8, and not %00")
}

/// Decodes `%XX`; `None` if that is not UTF-8, or holds a NUL.
pub(super) fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digit = |byte: u8| char::from(byte).to_digit(16);
                let (high, low) = (digit(rest.next()?)?, digit(rest.next()?)?);
                u8::try_from(high * 16 + low).ok().filter(|byte| *byte != 0)?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

/// A body of JSON, as text.
#[derive(Debug)]
pub(super) struct JsonText(pub(super) String);

impl<S: Send + Sync> FromRequest<S> for JsonText {
    type Rejection = Problem;

    async fn from_request(request: Request, _state: &S) -> Result<Self, Problem> {
        check_media(request.headers())?;
        // Whoever guards the routes has held it to what is set.
        let bytes = read_body(request.into_body(), Sizes::MOST.frame).await?;
        let text = String::from_utf8(bytes.into());
        text.map(Self).map_err(|_| Problem::bad("the body must be UTF-8"))
    }
}

fn check_media(headers: &HeaderMap) -> Result<(), Problem> {
    let refuse = |detail| {
        Problem::with_status(ErrorCode::BadRequest, StatusCode::UNSUPPORTED_MEDIA_TYPE, detail)
    };
    let value = |name| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let media = value(header::CONTENT_TYPE).unwrap_or_default();
    let media = media.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if media != "application/json" {
        return Err(refuse("send Content-Type: application/json"));
    }
    match value(header::CONTENT_ENCODING) {
        None | Some("identity") => Ok(()),
        Some(_) => Err(refuse("send the body as it is, without Content-Encoding")),
    }
}

/// What a longer body is answered with.
pub(super) fn too_large(bytes_max: u32) -> Problem {
    Problem::new(ErrorCode::TooLarge, format!("the body is over {bytes_max} bytes"))
}

/// Reads a whole body, within its limit.
pub(super) async fn read_body(body: Body, bytes_max: u32) -> Result<bytes::Bytes, Problem> {
    to_bytes(body, bytes_max as usize).await.map_err(|error| {
        let limit = std::error::Error::source(&error);
        match limit.is_some_and(|source| source.is::<http_body_util::LengthLimitError>()) {
            true => too_large(bytes_max),
            false => Problem::bad("the body ended too early"),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_encoding_is_strict() {
        assert_eq!(percent_decode("a%2Bb+%7c").as_deref(), Some("a+b+|"));
        for bad in ["%", "%4", "%zz", "%+1", "%00", "%ff", "%C0%80"] {
            assert_eq!(percent_decode(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_known_parameter_stands_once() {
        let query = pairs("a=1&x&limit=3&limit=3&a").unwrap();
        let (path, asker, on_behalf_of) = (Vec::new(), Asker::Development, None);
        let input = Input { path, query, asker, on_behalf_of };
        assert!(input.query("limit").is_err());
        assert_eq!(input.query("x").unwrap(), Some(""));
        assert_eq!(input.query("nope").unwrap(), None);
    }

    #[tokio::test]
    async fn a_route_without_the_guard_believes_nobody() {
        let request = Request::get("/v1/servers?userId=userA").body(Body::empty()).unwrap();
        let refused = Input::from_request_parts(&mut request.into_parts().0, &()).await;
        assert!(format!("{:?}", refused.unwrap_err()).contains("status: 500"));
    }
}
