//! `parlor token`: tokens for trying things, and the secret that signs them.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, get_current_timestamp};
use serde_json::json;

use super::key::read_secret;
use super::{BadKeys, LIFE_SECONDS_MAX};
use crate::protocol::{Token, UserId};

/// How many random bytes a new secret has; the file holds twice as many hexadecimal digits.
const SECRET_BYTES: usize = 32;

/// `parlor token`
#[derive(Debug, Clone, Args)]
pub struct Mint {
    /// Whom the token names
    #[arg(
        long,
        value_name = "USER",
        required_unless_present = "new_secret",
        env = "PARLOR_TOKEN_SUB"
    )]
    pub sub: Option<UserId>,
    /// How long it holds: a number and s, m, h or d
    #[arg(
        long,
        value_name = "TIME",
        default_value = "1h",
        value_parser = time,
        env = "PARLOR_TOKEN_TTL"
    )]
    pub ttl: Duration,
    /// What it may do: user, service or admin, several with commas between them
    #[arg(
        long,
        value_delimiter = ',',
        value_parser = ["user", "service", "admin"],
        env = "PARLOR_TOKEN_SCOPE"
    )]
    pub scope: Vec<String>,
    /// The audience (`aud`) to put into it
    #[arg(long, value_name = "NAME", env = "PARLOR_TOKEN_AUDIENCE")]
    pub audience: Option<String>,
    /// The issuer (`iss`) to put into it
    #[arg(long, value_name = "NAME", env = "PARLOR_TOKEN_ISSUER")]
    pub issuer: Option<String>,
    /// Which claim names the user, as the servers have it
    #[arg(long, value_name = "CLAIM", default_value = "sub", env = "PARLOR_USER_CLAIM")]
    pub user_claim: String,
    /// Sign with the secret in this file
    #[arg(
        long,
        value_name = "FILE",
        required_unless_present = "new_secret",
        value_delimiter = ',',
        env = "PARLOR_JWT_SECRET_FILE"
    )]
    pub jwt_secret_file: Vec<PathBuf>,
    /// Make a new secret in this file first, readable by you alone; an old one is not overwritten
    #[arg(long, value_name = "FILE", env = "PARLOR_TOKEN_NEW_SECRET")]
    pub new_secret: Option<PathBuf>,
}

/// Makes a secret, a token, or both.
pub fn run(options: &Mint) -> Result<ExitCode, BadKeys> {
    if let Some(path) = &options.new_secret {
        new_secret(path)?;
        let name = path.display();
        eprintln!("{name} holds a new secret; keep it safe: whoever has it can pose as anybody");
    }
    if let Some(sub) = &options.sub {
        let signing = options.new_secret.as_ref().or(options.jwt_secret_file.first());
        let Some(path) = signing else {
            return Err(BadKeys("give --jwt-secret-file FILE, which signs".to_owned()));
        };
        println!("{}", mint(path, sub, options)?.reveal());
    }
    Ok(ExitCode::SUCCESS)
}

fn mint(secret: &Path, sub: &UserId, options: &Mint) -> Result<Token, BadKeys> {
    let now = get_current_timestamp();
    let mut claims = json!({});
    claims[&options.user_claim] = json!(sub);
    // Afterwards: no user's name is a time.
    (claims["iat"], claims["exp"]) = (json!(now), json!(now + options.ttl.as_secs()));
    if !options.scope.is_empty() {
        claims["scope"] = json!(options.scope.join(" "));
    }
    for (name, value) in [("aud", &options.audience), ("iss", &options.issuer)] {
        if let Some(value) = value {
            claims[name] = json!(value);
        }
    }
    signed(&read_secret(secret)?, &claims)
}

/// A token of HS256 with these claims.
pub fn signed(secret: &[u8], claims: &serde_json::Value) -> Result<Token, BadKeys> {
    let key = EncodingKey::from_secret(secret);
    let token = encode(&Header::new(Algorithm::HS256), claims, &key);
    token.map(Token::new).map_err(|error| BadKeys(format!("can't sign: {error}")))
}

/// A token for the next hour, signed with the secret of a file.
pub fn for_an_hour(secret: &Path, sub: &str, scope: &str) -> Result<Token, BadKeys> {
    let now = get_current_timestamp();
    let claims = json!({"sub": sub, "iat": now, "exp": now + 3_600, "scope": scope});
    signed(&read_secret(secret)?, &claims)
}

/// Makes a file with a strong secret, of which only its owner may know.
pub fn new_secret(path: &Path) -> Result<(), BadKeys> {
    let bad = |error: std::io::Error| {
        let said = match error.kind() {
            std::io::ErrorKind::AlreadyExists => {
                "is there already, and is not overwritten: go on with the secret in it by \
                 --jwt-secret-file, name another file, or remove this one if nobody \
                 uses it"
                    .to_owned()
            }
            _ => format!("can't be written: {error}"),
        };
        BadKeys(format!("--new-secret {} {said}", path.display()))
    };
    let mut digits = zeroize::Zeroizing::new(String::with_capacity(2 * SECRET_BYTES + 1));
    for byte in *zeroize::Zeroizing::new(rand::random::<[u8; SECRET_BYTES]>()) {
        digits.push_str(&format!("{byte:02x}"));
    }
    digits.push('\n');
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(path).map_err(bad)?;
    file.write_all(digits.as_bytes()).and_then(|()| file.sync_all()).map_err(bad)
}

fn time(text: &str) -> Result<Duration, String> {
    let form = || format!("{text:?} is no time: like 90s, 15m, 1h or 7d, at most 366d");
    let unit = text.chars().last().ok_or_else(form)?;
    let count = text.strip_suffix(unit).unwrap_or_default().parse::<u64>().map_err(|_| form())?;
    let seconds = match unit {
        's' => Some(1),
        'm' => Some(60),
        'h' => Some(3_600),
        'd' => Some(86_400),
        _ => None,
    };
    let seconds = seconds.and_then(|unit: u64| unit.checked_mul(count)).ok_or_else(form)?;
    if seconds == 0 || seconds > LIFE_SECONDS_MAX {
        return Err(form());
    }
    Ok(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn times_are_a_number_and_a_unit() {
        for (text, seconds) in [("90s", 90), ("15m", 900), ("1h", 3_600), ("366d", 31_622_400)] {
            assert_eq!(time(text), Ok(Duration::from_secs(seconds)));
        }
        for bad in ["", "h", "0s", "1", "1w", "-1h", "367d", "1.5h", "1 h", "99999999999999999d"] {
            assert!(time(bad).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn a_token_names_its_user_where_the_servers_look_for_that() {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            mint: Mint,
        }
        use clap::Parser;
        let folder = tempfile::tempdir().unwrap();
        let secret = folder.path().join("secret");
        new_secret(&secret).unwrap();
        let path = secret.to_str().unwrap();
        for (more, claim) in
            [(&[][..], "sub"), (&["--user-claim", "https://a.test/uid"], "https://a.test/uid")]
        {
            let own = ["token", "--sub", "userA", "--jwt-secret-file", path];
            let mint = Line::parse_from([&own[..], more].concat()).mint;
            let token = super::mint(&secret, mint.sub.as_ref().unwrap(), &mint).unwrap();
            for looked_for in ["sub", "https://a.test/uid"] {
                let options = crate::auth::Options {
                    jwt_secret_file: vec![secret.clone()],
                    user_claim: looked_for.to_owned(),
                    ..Default::default()
                };
                let verifier = crate::auth::Verifier::start(&options).await.unwrap().unwrap();
                let user = verifier.verify(&token).await.map(|identity| identity.user.to_string());
                let expected = (looked_for == claim).then(|| "userA".to_owned());
                assert_eq!(user.ok(), expected, "{claim}, {looked_for}");
            }
        }
    }

    #[test]
    fn a_new_secret_is_its_owners_and_never_replaces_one() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (folder.path().join("one"), folder.path().join("two"));
        new_secret(&one).unwrap();
        new_secret(&two).unwrap();
        let mode = std::fs::metadata(&one).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let (first, second) = (read_secret(&one).unwrap(), read_secret(&two).unwrap());
        assert_eq!(first.len(), 64);
        assert_ne!(first, second);
        assert!(new_secret(&one).is_err());
        assert_eq!(read_secret(&one).unwrap(), first);
    }
}
