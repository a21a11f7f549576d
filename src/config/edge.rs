//! Options of whoever listens: other origins, other names, proxies, TLS.

use std::path::PathBuf;

use clap::Args;

/// What all roles that listen take.
#[derive(Debug, Clone, Default, Args)]
pub struct EdgeOptions {
    /// Let pages of this origin in, beside one's own; several times, or `*` for those of all. In a
    /// fleet: the same for balancer, servers and API
    #[arg(long, value_name = "https://HOST", value_delimiter = ',', env = "PARLOR_ALLOW_ORIGIN")]
    pub allow_origin: Vec<String>,
    /// On loopback in development mode: be called by this name, beside localhost
    #[arg(long, value_name = "NAME", value_delimiter = ',', env = "PARLOR_ALLOW_HOST")]
    pub allow_host: Vec<String>,
    /// Believe what this proxy says of a client (X-Forwarded-For, -Host, -Proto): an address or a
    /// network, several times. Servers and the API of a fleet name their balancers here
    #[arg(long, value_name = "CIDR", value_delimiter = ',', env = "PARLOR_TRUSTED_PROXY")]
    pub trusted_proxy: Vec<String>,
    /// Trusted proxies begin every connection with the PROXY protocol, version 2
    #[arg(long, requires = "trusted_proxy", env = "PARLOR_PROXY_PROTOCOL")]
    pub proxy_protocol: bool,
    /// Speak TLS with this certificate and its chain, in PEM; read again when it changes
    #[arg(long, value_name = "FILE", requires = "tls_key", env = "PARLOR_TLS_CERT")]
    pub tls_cert: Option<PathBuf>,
    /// The certificate's private key, in PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert", env = "PARLOR_TLS_KEY")]
    pub tls_key: Option<PathBuf>,
}
