//! A file that holds a valid join token, for as long as the head runs.
//!
//! A token lets one node in. Nodes that a program starts, in any number, read this file: when a node has
//! joined with the token in it, another one takes its place.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use playhouse_cluster::ControlPlane;
use playhouse_link::JoinToken;
use tokio::time::sleep;
use tracing::{info, warn};

use crate::error::CliError;

/// The lifetime of a token that is not used.
const TTL: Duration = Duration::from_secs(3600);

/// The time between two attempts to write the file.
const AGAIN: Duration = Duration::from_secs(1);

/// Writes a token, and from then on another one each time that the last one admits no node any more.
///
/// # Errors
/// Returns an error if the first token cannot be written.
pub(super) fn keep(file: &Path, control: &ControlPlane) -> Result<(), CliError> {
    let mut token = renew(file, control).map_err(|why| {
        CliError::failure(format!("cannot write --join-token-file {}: {why}", file.display()))
    })?;
    let (file, control) = (file.to_owned(), control.clone());
    tokio::spawn(async move {
        loop {
            control.until_spent(&token).await;
            token = loop {
                match renew(&file, &control) {
                    Ok(token) => break token,
                    Err(why) => {
                        let file = file.display();
                        warn!("nobody can join by {file}, which cannot be written: {why}");
                    }
                }
                sleep(AGAIN).await;
            };
            info!("another join token is in {}", file.display());
        }
    });
    Ok(())
}

/// Puts a new token into the file, for its owner alone. A reader always sees a whole token.
fn renew(file: &Path, control: &ControlPlane) -> io::Result<JoinToken> {
    let token = control.create_token(TTL).map_err(io::Error::other)?;
    let mut new = file.as_os_str().to_owned();
    new.push(".new");
    let mut written =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    writeln!(written, "{token}")?;
    fs::rename(new, file)?;
    Ok(token)
}
