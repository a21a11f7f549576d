//! The edge of each listener of a process, from the command line.

use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::config::{Common, EdgeOptions};
use crate::edge::{Edge, Entry, Gate, Names, Origins, Tls, Trusted};
use crate::node::NodeError;

/// What the listeners of a process have in common.
pub(super) struct Entrance {
    gate: Gate,
    entry: Entry,
}

fn usage(error: impl std::fmt::Display) -> NodeError {
    NodeError::Usage(error.to_string())
}

impl Entrance {
    /// Reads the options, and the certificate.
    pub fn new(options: &EdgeOptions, common: &Common) -> Result<Self, NodeError> {
        // Development mode alone needs it: who must show a token is not fooled by a name. Where
        // everybody on the network can be anybody it would keep nobody out.
        let names = match common.insecure_dev {
            true => Names::Any,
            false => Names::Loopback(options.allow_host.clone()),
        };
        let origins = Origins::new(&options.allow_origin).map_err(usage)?;
        let trusted = Trusted::new(&options.trusted_proxy).map_err(usage)?;
        let tls = match (&options.tls_cert, &options.tls_key) {
            (Some(certificate), Some(key)) => Some(Tls::load(certificate, key).map_err(usage)?),
            _ => None,
        };
        let gate = Gate { origins, names, trusted };
        Ok(Self { gate, entry: Entry { proxy_protocol: options.proxy_protocol, tls } })
    }

    /// Whether TLS is spoken.
    pub fn is_secure(&self) -> bool {
        self.entry.tls.is_some()
    }

    /// The edge of a listener.
    pub fn at(&self, listener: &TcpListener) -> Arc<Edge> {
        Arc::new(Edge { gate: self.gate_at(listener), entry: self.entry.clone() })
    }

    /// The edge of the admin's listener: on loopback as it is, else with TLS where there is any.
    pub fn of_admin(&self, listener: &TcpListener) -> Arc<Edge> {
        let tls = self.entry.tls.clone().filter(|_| !is_loopback(listener));
        let entry = Entry { proxy_protocol: false, tls };
        Arc::new(Edge { gate: self.gate_at(listener), entry })
    }

    /// Only on loopback a name of somebody else's must have been pointed at us.
    fn gate_at(&self, listener: &TcpListener) -> Gate {
        let names = match is_loopback(listener) {
            true => self.gate.names.clone(),
            false => Names::Any,
        };
        Gate { names, ..self.gate.clone() }
    }

    /// Takes renewed certificates, until `stop`: on SIGHUP at once.
    pub fn follow(
        &self,
        stop: CancellationToken,
    ) -> Result<impl Future<Output = ()> + use<>, NodeError> {
        let tls = self.entry.tls.clone();
        let failed = |error: std::io::Error| NodeError::Failed(error.to_string());
        // Without a certificate SIGHUP keeps its meaning: the terminal has gone.
        let asked = tls.is_some().then(|| signal(SignalKind::hangup()));
        let asked = asked.transpose().map_err(failed)?;
        Ok(async move {
            if let (Some(tls), Some(asked)) = (tls, asked) {
                stop.run_until_cancelled(tls.follow(asked)).await;
            }
        })
    }
}

fn is_loopback(listener: &TcpListener) -> bool {
    listener.local_addr().is_ok_and(|address| address.ip().is_loopback())
}
