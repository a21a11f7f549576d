//! The options that every role takes, and those of clients.

use std::path::PathBuf;

use clap::Args;

use super::BadKeys;
use crate::protocol::Token;

/// Which tokens are taken. With a key of any kind `?userId=` is not believed any more.
#[derive(Debug, Clone, Default, Args)]
pub struct Options {
    /// Take tokens signed with the secret in this file (HS256, at least 32 bytes; `parlor token
    /// --new-secret FILE` makes one); several, with commas between them, for a change of secret
    #[arg(
        long,
        value_name = "FILE",
        value_delimiter = ',',
        env = "PARLOR_JWT_SECRET_FILE",
        help_heading = "Tokens"
    )]
    pub jwt_secret_file: Vec<PathBuf>,
    /// Take tokens signed with the private half of the public key in this file: PEM or JWK (RS256,
    /// ES256, EdDSA and the like, as the key says); several, with commas between them
    #[arg(
        long,
        value_name = "FILE",
        value_delimiter = ',',
        env = "PARLOR_JWT_KEY_FILE",
        help_heading = "Tokens"
    )]
    pub jwt_key_file: Vec<PathBuf>,
    /// Take tokens of an identity provider: the address of its keys (JWKS)
    #[arg(
        long,
        value_name = "URL",
        hide_env_values = true,
        env = "PARLOR_JWKS_URL",
        help_heading = "Tokens"
    )]
    pub jwks_url: Option<String>,
    /// Take every token of the identity provider for a user's, whatever its scope says: services
    /// and admins sign with a key of --jwt-secret-file or --jwt-key-file
    #[arg(long, requires = "jwks_url", env = "PARLOR_JWKS_USERS_ONLY", help_heading = "Tokens")]
    pub jwks_users_only: bool,
    /// Tokens must be for this audience (`aud`); without it, those for any audience are refused
    #[arg(
        long,
        value_name = "NAME",
        value_delimiter = ',',
        env = "PARLOR_JWT_AUDIENCE",
        help_heading = "Tokens"
    )]
    pub jwt_audience: Vec<String>,
    /// Tokens must be of this issuer (`iss`)
    #[arg(
        long,
        value_name = "NAME",
        value_delimiter = ',',
        env = "PARLOR_JWT_ISSUER",
        help_heading = "Tokens"
    )]
    pub jwt_issuer: Vec<String>,
    /// Which claim names the user
    #[arg(
        long,
        value_name = "CLAIM",
        default_value = "sub",
        env = "PARLOR_USER_CLAIM",
        help_heading = "Tokens"
    )]
    pub user_claim: String,
}

impl Options {
    /// Whether any key is named.
    pub fn has_keys(&self) -> bool {
        !self.jwt_secret_file.is_empty() || !self.jwt_key_file.is_empty() || self.jwks_url.is_some()
    }
}

/// The token that a client carries.
#[derive(Debug, Clone, Default, Args)]
pub struct Carried {
    /// Your token; better by the variable or a file, since others can see a command line
    #[arg(long, value_name = "TOKEN", hide_env_values = true, env = "PARLOR_TOKEN")]
    pub token: Option<Token>,
    /// Your token, from a file
    #[arg(long, value_name = "FILE", conflicts_with = "token", env = "PARLOR_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
}

impl Carried {
    /// The token, if there is one.
    pub fn read(&self) -> Result<Option<Token>, BadKeys> {
        if self.token.as_ref().is_some_and(|token| is_on_command_line(token.reveal())) {
            tracing::warn!(
                "--token holds a secret that everybody on this machine can see: use PARLOR_TOKEN \
                 or --token-file"
            );
        }
        let Some(path) = &self.token_file else { return Ok(self.token.clone()) };
        let text = std::fs::read_to_string(path);
        let text = text.map_err(|e| BadKeys(format!("--token-file {}: {e}", path.display())))?;
        match text.trim() {
            "" => Err(BadKeys(format!("--token-file {} is empty", path.display()))),
            token => Ok(Some(Token::new(token))),
        }
    }
}

/// Whether a secret stands on the command line, where everybody on the machine can read it.
pub fn is_on_command_line(secret: &str) -> bool {
    let stands_in = |argument: std::ffi::OsString| argument.to_string_lossy().contains(secret);
    !secret.is_empty() && std::env::args_os().any(stands_in)
}
