//! The page, from the binary.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};

/// No script but our own files, no markup from strings, nobody's frame.
macro_rules! policy {
    ($sockets:literal) => {
        concat!(
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; ",
            "connect-src 'self'",
            $sockets,
            "; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; ",
            "require-trusted-types-for 'script'; trusted-types 'none'"
        )
    };
}

/// Where the page has its sockets here.
const POLICY: &str = policy!("");
/// Where servers are dialled themselves: they come and go, so that none can be named.
const POLICY_OF_SERVERS: &str = policy!(" ws: wss:");

const HEADERS: [(HeaderName, &str); 7] = [
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-cache"),
    (
        HeaderName::from_static("permissions-policy"),
        "camera=(), microphone=(), geolocation=(), payment=(), usb=(), display-capture=()",
    ),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

fn file(path: &str) -> Option<(&'static str, &'static [u8])> {
    Some(match path {
        "/" | "/index.html" => {
            ("text/html; charset=utf-8", include_bytes!("../../web/index.html").as_slice())
        }
        "/style.css" => ("text/css; charset=utf-8", include_bytes!("../../web/style.css")),
        "/app.js" => ("text/javascript; charset=utf-8", include_bytes!("../../web/app.js")),
        "/log.js" => ("text/javascript; charset=utf-8", include_bytes!("../../web/log.js")),
        "/parlor.js" => ("text/javascript; charset=utf-8", include_bytes!("../../web/parlor.js")),
        "/icon.svg" => ("image/svg+xml", include_bytes!("../../web/icon.svg")),
        _ => return None,
    })
}

/// A file of the page; `None` where there is none of that name. Paths are names here, so there is
/// nothing to climb out of. `named`: some servers are dialled by their own names.
pub fn serve(path: &str, named: bool) -> Option<Response<Full<Bytes>>> {
    let (kind, bytes) = file(path)?;
    let mut response = Response::new(Full::new(Bytes::from_static(bytes)));
    *response.status_mut() = StatusCode::OK;
    let policy = if named { POLICY_OF_SERVERS } else { POLICY };
    let own = [(header::CONTENT_TYPE, kind), (header::CONTENT_SECURITY_POLICY, policy)];
    for (name, value) in own.into_iter().chain(HEADERS) {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    Some(response)
}
