//! Origins of pages (RFC 6454), and which of them may use a listener.

use std::fmt;

/// Scheme, host and port of a page's site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    scheme: String,
    host: String,
    port: Option<u16>,
}

/// The port that a scheme means where none is given.
fn usual_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" | "ws" => Some(80),
        "https" | "wss" => Some(443),
        _ => None,
    }
}

/// Host and port of an authority, in lower case. No user, no path, no empty host.
fn host_and_port(authority: &str) -> Option<(String, Option<u16>)> {
    let good = |b: u8| b.is_ascii_alphanumeric() || b"-._~[]:".contains(&b);
    let (host, port) = match authority.rsplit_once(':') {
        // The colons of an IPv6 address stand in brackets.
        Some((host, port)) if !port.ends_with(']') => (host, Some(port.parse().ok()?)),
        _ => (authority, None),
    };
    let bracketed = host.starts_with('[') && host.ends_with(']');
    if host.is_empty() || !host.bytes().all(good) || (host.contains(':') && !bracketed) {
        return None;
    }
    Some((host.to_ascii_lowercase(), port))
}

impl Origin {
    /// Reads `https://chat.example.com` or the like; `None` where it is none, as with `null`.
    pub fn parse(text: &str) -> Option<Self> {
        let (scheme, authority) = text.split_once("://")?;
        let good = |b: u8| b.is_ascii_alphanumeric() || b"+.-".contains(&b);
        if !scheme.starts_with(|c: char| c.is_ascii_alphabetic()) || !scheme.bytes().all(good) {
            return None;
        }
        let scheme = scheme.to_ascii_lowercase();
        let (host, port) = host_and_port(authority)?;
        let port = port.or(usual_port(&scheme));
        Some(Self { scheme, host, port })
    }

    /// Whether a page of this origin came from the listener that is called `host`. Where the
    /// listener is known to be reached by TLS only pages that came by TLS are its own: one that
    /// did not may be anybody's on the network between.
    pub fn is_of(&self, host: &str, secure: bool) -> bool {
        let schemes: &[&str] = if secure { &["https"] } else { &["http", "https"] };
        let Some((host, port)) = host_and_port(host) else { return false };
        schemes.contains(&self.scheme.as_str())
            && self.host == host
            && self.port == port.or(usual_port(&self.scheme))
    }
}

/// The host of a `Host` header, in lower case and without its port.
pub(super) fn host_of(authority: &str) -> Option<String> {
    host_and_port(authority).map(|(host, _)| host.trim_end_matches('.').to_owned())
}

/// `--allow-origin`: whose pages may use a listener beside its own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Origins {
    /// Nobody else's.
    #[default]
    Own,
    /// Those of these origins.
    Also(Vec<Origin>),
    /// Everybody's: `*`.
    All,
}

/// A value of `--allow-origin` that can't be meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("--allow-origin must be like https://app.example.com (no path, no wildcard), or *: {0:?}")]
pub struct BadOrigin(String);

impl Origins {
    /// Takes the values as they were given.
    pub fn new(texts: &[String]) -> Result<Self, BadOrigin> {
        if texts.iter().any(|text| text.trim() == "*") {
            return Ok(Self::All);
        }
        let origin = |text: &String| {
            Origin::parse(text.trim()).ok_or_else(|| BadOrigin(text.chars().take(200).collect()))
        };
        let origins = texts.iter().map(origin).collect::<Result<Vec<_>, _>>()?;
        Ok(if origins.is_empty() { Self::Own } else { Self::Also(origins) })
    }

    /// Whether pages of this origin are on the list.
    pub fn lists(&self, origin: Option<&Origin>) -> bool {
        match self {
            Self::Own => false,
            Self::Also(listed) => origin.is_some_and(|origin| listed.contains(origin)),
            Self::All => true,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.host)?;
        match self.port.filter(|port| Some(*port) != usual_port(&self.scheme)) {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_of(origin: &str, host: &str, secure: bool) -> bool {
        Origin::parse(origin).is_some_and(|origin| origin.is_of(host, secure))
    }

    #[test]
    fn an_origin_is_scheme_host_and_port_and_nothing_else() {
        for (text, shown) in [
            ("https://app.example.com", "https://app.example.com"),
            ("HTTPS://App.Example.com:443", "https://app.example.com"),
            ("http://[::1]:8080", "http://[::1]:8080"),
            ("http://[::1]", "http://[::1]"),
            ("capacitor://localhost", "capacitor://localhost"),
        ] {
            assert_eq!(Origin::parse(text).map(|o| o.to_string()).as_deref(), Some(shown));
        }
        for bad in [
            "null",
            "",
            "*",
            "https://",
            "://a",
            "1s://a",
            "https://a/",
            "https://u@a",
            "https://a b",
            "https://a:x",
            "https://*.a",
            "https://a::1",
            "https://a?b",
            "https://a\u{e9}",
        ] {
            assert_eq!(Origin::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_pages_own_site_has_the_same_authority() {
        assert!(is_of("http://localhost:8080", "localhost:8080", false));
        assert!(is_of("https://chat.example.com", "Chat.Example.com", false));
        assert!(is_of("https://chat.example.com", "chat.example.com:443", true));
        assert!(is_of("http://chat.example.com", "chat.example.com", false));
        for (origin, host, secure) in [
            ("http://chat.example.com", "chat.example.com", true),
            ("http://chat.example.com", "chat.example.com:443", false),
            ("https://chat.example.com:8443", "chat.example.com", false),
            ("http://localhost:8080", "localhost:4000", false),
            ("https://chat.example.com.evil.tld", "chat.example.com", false),
            ("https://evilchat.example.com", "chat.example.com", false),
            ("capacitor://localhost", "localhost", false),
            ("http://localhost", "", false),
        ] {
            assert!(!is_of(origin, host, secure), "{origin} {host}");
        }
    }

    #[test]
    fn the_list_is_exact() {
        let list = |texts: &[&str]| {
            Origins::new(&texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>())
        };
        let lists = |origins: &Origins, text: &str| origins.lists(Origin::parse(text).as_ref());
        let two = list(&["https://a.example.com", "http://b.example.com:81"]).unwrap();
        assert!(lists(&two, "https://A.example.com:443") && lists(&two, "http://b.example.com:81"));
        for other in [
            "http://a.example.com",
            "https://a.example.com:8443",
            "https://a.example.com.evil.tld",
            "https://evila.example.com",
            "http://b.example.com",
            "null",
        ] {
            assert!(!lists(&two, other), "{other}");
        }
        assert!(!lists(&list(&[]).unwrap(), "https://a.example.com"));
        assert!(lists(&list(&["https://a.example.com", "*"]).unwrap(), "null"));
        for bad in ["null", "https://*.example.com", "example.com", "https://a/b", ""] {
            assert!(list(&[bad]).is_err(), "{bad}");
        }
    }
}
