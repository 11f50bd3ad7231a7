//! The reload on SIGHUP of the files with API keys and certificates, without a pause.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use playhouse_gateway::KeyRing;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{error, warn};

use super::keys;
use super::tls::Certificate;
use crate::error::CliError;

/// The files, and the signal to reload them.
pub(super) struct Reload {
    keys: Option<PathBuf>,
    certificate: Option<Arc<Certificate>>,
    hangups: Signal,
}

// === impl Reload ===

impl Reload {
    /// Handles SIGHUP, which would otherwise end the process, if there is a file to reload.
    ///
    /// # Errors
    /// Returns an error when the handler cannot be installed.
    pub(super) fn install(
        keys: Option<PathBuf>,
        certificate: Option<Arc<Certificate>>,
    ) -> io::Result<Option<Self>> {
        if keys.is_none() && certificate.is_none() {
            return Ok(None);
        }
        Ok(Some(Self { keys, certificate, hangups: signal(SignalKind::hangup())? }))
    }

    /// Reloads the files at each signal. A file with an error changes nothing.
    pub(super) async fn serve(mut self, ring: KeyRing) {
        while self.hangups.recv().await.is_some() {
            match self.keys(&ring) {
                Ok(None) => {}
                Ok(Some(count)) => warn!("{count} API keys were read anew"),
                Err(why) => error!("the API keys stay as they were: {}", why.message),
            }
            match self.certificate.as_ref().map(|certificate| certificate.renew()) {
                None => {}
                Some(Ok(())) => warn!("the TLS certificate was read anew"),
                Some(Err(why)) => error!("the TLS certificate stays as it was: {}", why.message),
            }
        }
    }

    fn keys(&self, ring: &KeyRing) -> Result<Option<usize>, CliError> {
        let Some(file) = &self.keys else { return Ok(None) };
        let keys = keys::read(file)?;
        ring.replace(&keys).map_err(|why| CliError::usage(why.to_string()))?;
        Ok(Some(keys.len()))
    }
}
