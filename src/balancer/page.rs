//! The page, from the binary.

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Response, StatusCode, header};

/// No script but our own files, and sockets to wherever `/v1/connect` points.
const POLICY: &str = "default-src 'self'; connect-src 'self' ws: wss:; img-src 'self' data:; \
                      base-uri 'none'; frame-ancestors 'none'";

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
/// nothing to climb out of.
pub fn serve(path: &str) -> Option<Response<Full<Bytes>>> {
    let (kind, bytes) = file(path)?;
    let mut response = Response::new(Full::new(Bytes::from_static(bytes)));
    *response.status_mut() = StatusCode::OK;
    for (name, value) in [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
    ] {
        response.headers_mut().insert(name, header::HeaderValue::from_static(value));
    }
    Some(response)
}
