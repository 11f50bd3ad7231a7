//! The listener of the admin API and its token.

use std::net::SocketAddr;

use playhouse_admin::AdminConfig;
use playhouse_cluster::Overview;
use ring::rand::{SecureRandom, SystemRandom};
use tokio::net::TcpListener;

use super::ServeArgs;
use crate::error::CliError;

/// The admin API before there is anything to show.
pub(crate) struct AdminListener {
    listener: TcpListener,
    token: String,
    /// Where it is and how to get in, for people.
    pub(crate) text: String,
}

// === impl AdminListener ===

impl AdminListener {
    /// Takes the port, and makes a token unless one was given.
    ///
    /// # Errors
    /// When the port is taken, or the token is empty.
    pub(crate) async fn bind(args: &ServeArgs) -> Result<Self, CliError> {
        // A free port for one listener asks for a free port for the other.
        let next = args.port.checked_add(1).filter(|_| args.port != 0).unwrap_or(0);
        let address = SocketAddr::new(args.admin_host, args.admin_port.unwrap_or(next));
        let bound = TcpListener::bind(address).await.and_then(|it| Ok((it.local_addr()?, it)));
        let (address, listener) = bound.map_err(|why| {
            CliError::failure(format!("cannot listen on {address}: {why}"))
                .hint("this is the port of the admin API; choose a free one with --admin-port")
        })?;
        let (token, how) = match &args.admin_token {
            Some(token) if token.is_empty() => {
                return Err(CliError::usage("--admin-token is empty"));
            }
            Some(token) => (token.clone(), "token as given".to_owned()),
            None => {
                let token = random_token()?;
                let how = format!("token {token}");
                (token, how)
            }
        };
        let text = format!("http://{address}/admin/v1 ({how})");
        Ok(Self { listener, token, text })
    }

    /// Serves the API until the runtime ends.
    pub(crate) fn serve(self, overview: Overview) {
        let config = AdminConfig { token: self.token };
        let for_ever = std::future::pending();
        tokio::spawn(playhouse_admin::serve(self.listener, config, overview, for_ever));
    }
}

fn random_token() -> Result<String, CliError> {
    let mut bytes = [0; 16];
    let filled = SystemRandom::new().fill(&mut bytes);
    filled.map_err(|_| CliError::failure("the system gives no randomness for a token"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
