//! The edge of each listener of a process, from the command line.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::signal::unix::Signal;
use tokio_util::sync::CancellationToken;

use crate::api::health::{Admin, Health};
use crate::auth::Verifier;
use crate::chat::Chat;
use crate::config::{Common, EdgeOptions, tell_if_readable};
use crate::edge::{Edge, Entry, Gate, Names, Origins, Tls, Trusted};
use crate::node::NodeError;

/// What the listeners of a process have in common.
pub(super) struct Entrance {
    gate: Gate,
    entry: Entry,
    /// Other machines may reach the listeners, and nobody has to show a token.
    open: bool,
    /// A listener on loopback is called by a name of this machine.
    named: bool,
}

fn usage(error: impl std::fmt::Display) -> NodeError {
    NodeError::Usage(error.to_string())
}

impl Entrance {
    /// Reads the options, and the certificate.
    pub fn new(options: &EdgeOptions, common: &Common) -> Result<Self, NodeError> {
        let names = Names::Loopback(options.allow_host.clone());
        let origins = Origins::new(&options.allow_origin).map_err(usage)?;
        if origins == Origins::All && !common.anywhere() {
            return Err(usage(
                "with --allow-origin * any page in a browser of this machine could read and write \
                 as anybody, since no token is asked for: name the origins, give \
                 --jwt-secret-file FILE, or --insecure-dev where that is meant",
            ));
        }
        let trusted = Trusted::new(&options.trusted_proxy).map_err(usage)?;
        let tls = match (&options.tls_cert, &options.tls_key) {
            (Some(certificate), Some(key)) => {
                tell_if_readable("--tls-key", key);
                let given =
                    format!("--tls-cert {} and --tls-key {}", certificate.display(), key.display());
                let loaded = Tls::load(certificate, key);
                Some(loaded.map_err(|error| usage(format!("{given}: {error}")))?)
            }
            _ => None,
        };
        let tokens = common.tokens.has_keys();
        // A page that came by a wrong name is fooled by it, and has no token. Where everybody on
        // the network can be anybody it would keep nobody out.
        let named = !tokens && !common.insecure_dev;
        let gate = Gate { origins, names, trusted, tokens };
        let entry = Entry { proxy_protocol: options.proxy_protocol, tls };
        Ok(Self { gate, entry, open: common.insecure_dev && !tokens, named })
    }

    /// What is to be said where whoever reaches this address can be anybody.
    pub fn warning(&self, address: SocketAddr) -> Option<String> {
        let open = self.open && !address.ip().is_loopback();
        open.then(|| {
            format!(
                "anybody who can reach {address} can be anybody here, since --insecure-dev asks \
                 for no token: keep strangers out of this network, or give --jwt-secret-file FILE"
            )
        })
    }

    /// The same where whoever stands between can read along. A proxy that is named ends TLS, or is
    /// a balancer in a network of its own.
    fn readable(&self, address: SocketAddr) -> Option<String> {
        let readable =
            !address.ip().is_loopback() && !self.is_secure() && self.gate.trusted.is_empty();
        readable.then(|| {
            format!(
                "tokens and texts cross the network readable on their way to {address}: give \
                 --tls-cert and --tls-key, or name what ends TLS before it with --trusted-proxy"
            )
        })
    }

    /// Logs both of a listener, and what else is easily forgotten there.
    pub fn warn(&self, listener: &TcpListener) {
        let Ok(at) = listener.local_addr() else { return };
        for warning in [self.warning(at), self.readable(at)].into_iter().flatten() {
            tracing::warn!("{warning}");
        }
        if self.may_lack_a_proxy(at) {
            tracing::info!(
                "clients are told apart by where they dial from: if a load balancer stands before \
                 this listener, name it by --trusted-proxy, or all behind it share one's limits"
            );
        }
    }

    /// Other machines reach this address, and none of them is named as a proxy.
    fn may_lack_a_proxy(&self, address: SocketAddr) -> bool {
        self.gate.tokens && self.gate.trusted.is_empty() && !address.ip().is_loopback()
    }

    /// Whether TLS is spoken.
    pub fn is_secure(&self) -> bool {
        self.entry.tls.is_some()
    }

    /// The edge of a listener.
    pub fn at(&self, listener: &TcpListener) -> Arc<Edge> {
        let named = is_loopback(listener) && self.named;
        Arc::new(Edge { gate: self.gate(named), entry: self.entry.clone() })
    }

    /// Who may ask at the admin's listener: on loopback whoever reaches it by a name of this
    /// machine, else only tokens, by TLS where there is any.
    pub fn admin(
        &self,
        listener: &TcpListener,
        auth: Option<&Verifier>,
        chat: Option<Arc<Chat>>,
    ) -> Admin {
        let local = is_loopback(listener);
        if let Some(warning) = listener.local_addr().ok().and_then(|at| self.readable(at)) {
            tracing::warn!("{warning}");
        }
        let entry = Entry { proxy_protocol: false, tls: self.entry.tls.clone().filter(|_| !local) };
        // No proxy stands before it: who says so is a page, or somebody who wants to be another.
        // Nobody is anybody there, so it has no part in the rules of those who lack tokens.
        let gate = Gate { trusted: Trusted::default(), tokens: true, ..self.gate(local) };
        let edge = Arc::new(Edge { gate, entry });
        Admin { edge, auth: auth.cloned().filter(|_| !local), chat }
    }

    /// Only on loopback a name of somebody else's must have been pointed at us.
    fn gate(&self, named: bool) -> Gate {
        let names = if named { self.gate.names.clone() } else { Names::Any };
        Gate { names, ..self.gate.clone() }
    }

    /// Takes renewed certificates, until `stop`: at once when `asked` comes. Files that can't be
    /// taken are told by `/readyz`; what is served meanwhile is as good as it was.
    pub fn follow(
        &self,
        health: &Health,
        stop: CancellationToken,
        asked: Option<Signal>,
    ) -> impl Future<Output = ()> + use<> {
        let tls = self.entry.tls.clone();
        if let Some(tls) = tls.clone() {
            let of_metrics = tls.clone();
            health.watch("certificate", move || tls.trouble());
            health.measure(move |metrics| {
                let ends = of_metrics.ends().unwrap_or(u64::MAX);
                metrics.certificate_ends.set(i64::try_from(ends).unwrap_or(i64::MAX));
            });
        }
        async move {
            if let (Some(tls), Some(asked)) = (tls, asked) {
                stop.run_until_cancelled(tls.follow(asked)).await;
            }
        }
    }
}

fn is_loopback(listener: &TcpListener) -> bool {
    listener.local_addr().is_ok_and(|address| address.ip().is_loopback())
}
