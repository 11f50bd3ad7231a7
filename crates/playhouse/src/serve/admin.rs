//! The listener of the admin API and its token.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;

use playhouse_admin::{AdminConfig, AuditLog};
use playhouse_cluster::Overview;
use ring::rand::{SecureRandom, SystemRandom};
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tracing::warn;

use super::ServeArgs;
use super::audit::AuditFile;
use super::tls::{self, Signed};
use crate::authority;
use crate::banner::scheme;
use crate::error::CliError;
use crate::secret;

/// The listener of the admin API before the cluster exists.
pub(super) struct AdminListener {
    listener: TcpListener,
    token: String,
    audit: Option<Arc<dyn AuditLog>>,
    tls: Option<Arc<ServerConfig>>,
    /// The address and the token of the API, for people.
    pub(super) text: String,
}

// === impl AdminListener ===

impl AdminListener {
    /// Binds the port, and makes a token unless one was given.
    ///
    /// # Errors
    /// Returns an error when the port is taken, the token or TLS is missing where it is required, or the
    /// audit log cannot be written.
    pub(super) async fn bind(
        args: &ServeArgs,
        tls: Option<Arc<ServerConfig>>,
    ) -> Result<Self, CliError> {
        // A free port for one listener means a free port for the other.
        let next = args.port.checked_add(1).filter(|_| args.port != 0).unwrap_or(0);
        let address = SocketAddr::new(args.admin_host, args.admin_port.unwrap_or(next));
        let (given, file) = (args.admin_token.as_deref(), args.admin_token_file.as_deref());
        let token = secret::asked_for("--admin-token", given, file)?;
        if token.is_none() && !address.ip().is_loopback() {
            return Err(CliError::usage(format!(
                "--admin-host {}: others than this machine can reach it, and no token is given",
                args.admin_host
            ))
            .hint(
                "give one with --admin-token-file or PLAYHOUSE_ADMIN_TOKEN, or leave --admin-host \
                 at 127.0.0.1",
            ));
        }
        let (tls, signed) = match tls {
            None if !address.ip().is_loopback() => (Some(signed(args)?), true),
            tls => (tls, false),
        };
        let mut taken = String::new();
        let bound = match TcpListener::bind(address).await {
            // Only a port that was asked for must be had.
            Err(why) if why.kind() == ErrorKind::AddrInUse && args.admin_port.is_none() => {
                let port = address.port();
                warn!("the admin API takes a free port, because {port} is in use (--admin-port)");
                taken = format!("; {port} is in use");
                TcpListener::bind(SocketAddr::new(args.admin_host, 0)).await
            }
            bound => bound,
        };
        let bound = bound.and_then(|listener| Ok((listener.local_addr()?, listener)));
        let (address, listener) = bound.map_err(|why| {
            CliError::failure(format!("cannot listen on {address}: {why}"))
                .hint("this is the port of the admin API; choose a free one with --admin-port")
        })?;
        let (token, how) = match token {
            Some(token) => (token, "token as given".to_owned()),
            None => {
                let token = random_token()?;
                let how = format!("token {token}");
                (token, how)
            }
        };
        let audit = args.audit_log.as_deref().map(AuditFile::open).transpose()?;
        let audit = audit.map(|file| Arc::new(file) as Arc<dyn AuditLog>);
        let who = if signed {
            let authority = authority::certificate(&args.cluster_dir);
            format!("; --admin-ca {}", authority.display())
        } else {
            String::new()
        };
        let text = format!("{}://{address}/admin/v1 ({how}{who}{taken})", scheme(tls.is_some()));
        Ok(Self { listener, token, audit, tls, text })
    }

    /// Returns the audit log, if there is one.
    pub(super) fn audit(&self) -> Option<Arc<dyn AuditLog>> {
        self.audit.clone()
    }

    /// Serves the API until the runtime ends.
    pub(super) fn serve(self, overview: Overview) {
        let config = AdminConfig { token: self.token, audit: self.audit, tls: self.tls };
        let for_ever = std::future::pending();
        tokio::spawn(playhouse_admin::serve(self.listener, config, overview, for_ever));
    }
}

/// Returns TLS for an address that other machines can reach, if no certificate is given: a certificate of
/// the authority that exists for nodes.
fn signed(args: &ServeArgs) -> Result<Arc<ServerConfig>, CliError> {
    if args.cluster_listen.is_none() {
        return Err(CliError::usage(format!(
            "--admin-host {}: others than this machine can reach it, and without TLS its token could \
             be read on the way",
            args.admin_host
        ))
        .hint(
            "give --ssl-certfile and --ssl-keyfile, or --cluster-listen and the folder of `playhouse \
             cluster init`, or leave --admin-host at 127.0.0.1",
        ));
    }
    let authority = authority::read_authority(&args.cluster_dir)?;
    tls::server(Arc::new(Signed { authority, peer: authority::head() }))
}

fn random_token() -> Result<String, CliError> {
    let mut bytes = [0; 16];
    let filled = SystemRandom::new().fill(&mut bytes);
    filled.map_err(|_| CliError::failure("the system gives no randomness for a token"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
