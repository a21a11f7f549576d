//! Signals of a role, caught from its first line on: a stop in the middle of a start is a clean one
//! too, and who asks for a renewed certificate then ends nothing.

use std::future::pending;
use std::io::IsTerminal;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::config::EdgeOptions;
use crate::node::NodeError;

/// SIGTERM, ctrl-C, and SIGHUP.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Hangup,
}

/// What SIGHUP means.
enum Hangup {
    /// The certificate is to be read again; `None` once whoever does that has it.
    Renews(Option<Signal>),
    /// There is none, and the terminal has gone that the process was started at: nobody is left
    /// there who could press ctrl-C.
    Ends(Signal),
    /// There is none, and whoever tells all services of a machine to read again means no end.
    Nothing(Signal),
}

impl Signals {
    /// Catches them.
    pub fn new(edge: &EdgeOptions) -> Result<Self, NodeError> {
        let catch = |kind| signal(kind).map_err(|error| NodeError::Failed(error.to_string()));
        let hangup = catch(SignalKind::hangup())?;
        let hangup = match edge.tls_cert {
            Some(_) => Hangup::Renews(Some(hangup)),
            None if std::io::stdin().is_terminal() => Hangup::Ends(hangup),
            None => Hangup::Nothing(hangup),
        };
        let (terminate, interrupt) =
            (catch(SignalKind::terminate())?, catch(SignalKind::interrupt())?);
        Ok(Self { terminate, interrupt, hangup })
    }

    /// What asks for the certificate to be read again, where there is one.
    pub fn renewal(&mut self) -> Option<Signal> {
        match &mut self.hangup {
            Hangup::Renews(asked) => asked.take(),
            Hangup::Ends(_) | Hangup::Nothing(_) => None,
        }
    }

    /// Waits until the process is to stop.
    pub async fn stop(&mut self) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                ends = self.hangup.came() => if ends { return },
            }
        }
    }
}

impl Hangup {
    /// Whether it ends the process.
    async fn came(&mut self) -> bool {
        match self {
            Self::Renews(_) => pending().await,
            Self::Ends(gone) => gone.recv().await.is_some(),
            Self::Nothing(told) => {
                told.recv().await;
                tracing::info!("SIGHUP changes nothing: there is no certificate to read again");
                false
            }
        }
    }
}
