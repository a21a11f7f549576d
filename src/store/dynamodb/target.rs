//! Which DynamoDB is meant, and whether it can be: `aws`, or a URL like that of DynamoDB Local.

use std::net::IpAddr;
use std::time::Duration;

use aws_config::{BehaviorVersion, Region};
use aws_credential_types::Credentials;
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;

/// How long an idle connection is kept. Slow answers make many connections, and a process that kept
/// them all for the client's own 90 s would run short of files.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);
/// How many are kept idle: those that an ordinary load uses again at once.
const IDLE_CONNECTIONS_MAX: usize = 64;

/// A configuration that can't work, in a sentence that says what would.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadTarget(pub String);

/// As DynamoDB wants it.
pub fn check_table_name(name: &str) -> Result<(), BadTarget> {
    let good = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
    if (3..=255).contains(&name.len()) && name.bytes().all(good) {
        return Ok(());
    }
    let form = "3 to 255 letters, digits, `_`, `-` and `.`";
    Err(BadTarget(format!("--table must be {form}, not {name:?}")))
}

/// What `--dynamodb` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// AWS, by the ordinary credential and region chain.
    Aws,
    /// Another endpoint; on the loopback it is DynamoDB Local.
    Url { url: String, loopback: bool },
}

impl Target {
    /// `aws` or a URL.
    pub fn parse(text: &str) -> Result<Self, BadTarget> {
        if text == "aws" {
            return Ok(Self::Aws);
        }
        if text.contains('@') {
            // Not said again: a password may stand before it.
            let text = "--dynamodb takes no user and no password: the credentials of AWS come by \
                        its ordinary chain, like AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY";
            return Err(BadTarget(text.to_owned()));
        }
        let bad = || {
            let form = "`aws` or a URL like http://127.0.0.1:8000";
            BadTarget(format!("--dynamodb must be {form}, not {text:?}"))
        };
        let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
        let authority = rest.and_then(|rest| rest.split('/').next()).ok_or_else(bad)?;
        let host = match authority.strip_prefix('[') {
            Some(v6) => v6.split(']').next().unwrap_or_default(),
            None => authority.split(':').next().unwrap_or_default(),
        };
        if host.is_empty() || authority.contains(char::is_whitespace) {
            return Err(bad());
        }
        let loopback =
            host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
        Ok(Self::Url { url: text.to_owned(), loopback })
    }

    /// Whether it is DynamoDB Local.
    pub fn is_loopback(&self) -> bool {
        matches!(self, Self::Url { loopback: true, .. })
    }

    /// The configuration for it.
    pub async fn load(&self) -> aws_config::SdkConfig {
        let http = aws_smithy_http_client::Builder::new()
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX);
        let plain = matches!(self, Self::Url { url, .. } if url.starts_with("http://"));
        // A plain one has no certificates to load, and no proxy between this machine and itself.
        let http = match plain {
            true => http.build_http(),
            false => http.tls_provider(Provider::Rustls(CryptoMode::AwsLc)).build_https(),
        };
        let mut loader = aws_config::defaults(BehaviorVersion::latest()).http_client(http);
        if let Self::Url { url, loopback } = self {
            loader = loader.endpoint_url(url);
            if *loopback {
                let set = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
                let (key, secret) = (set("AWS_ACCESS_KEY_ID"), set("AWS_SECRET_ACCESS_KEY"));
                let region = set("AWS_REGION").or_else(|| set("AWS_DEFAULT_REGION"));
                let (key, secret) = key.zip(secret).unwrap_or(("local".into(), "local".into()));
                let made_up = Credentials::new(key, secret, None, None, "DynamoDB Local");
                loader = loader
                    .credentials_provider(made_up)
                    .region(Region::new(region.unwrap_or_else(|| "us-east-1".to_owned())));
            }
        }
        loader.load().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_a_name_that_dynamodb_takes() {
        assert!(check_table_name("parlor-v2_a.b").is_ok());
        for bad in ["", "t1", "a b c", "tâble", &"a".repeat(256)] {
            assert!(check_table_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_target_is_aws_or_a_url() {
        let local = |text| Target::parse(text).map(|t| t.is_loopback());
        assert_eq!(Target::parse("aws"), Ok(Target::Aws));
        assert_eq!(local("http://127.0.0.1:8000"), Ok(true));
        assert_eq!(local("http://localhost:8000/"), Ok(true));
        assert_eq!(local("http://[::1]:8000"), Ok(true));
        assert_eq!(local("http://dynamodb:8000"), Ok(false));
        assert_eq!(local("https://vpce-1.dynamodb.eu-west-1.vpce.amazonaws.com"), Ok(false));
        for bad in ["", "AWS", "127.0.0.1:8000", "http://", "ftp://x", "http://a b"] {
            assert!(
                Target::parse(bad).is_err_and(|e| e.0.contains("http://127.0.0.1:8000")),
                "{bad}"
            );
        }
        for secret in ["http://u:hunter2@h", "https://hunter2@h:8000/", "u:hunter2@h"] {
            let said = Target::parse(secret).unwrap_err().0;
            assert!(said.contains("no password") && !said.contains("hunter2"), "{said}");
        }
    }
}
