//! How a node gets its certificate: kept from an earlier start, or for a token.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, SystemTime};

use playhouse_cluster::{HEAD, HeadAddress};
use playhouse_link::{Identity, JoinError, JoinToken, LinkConfig, join};
use playhouse_wire::JoinRefusal;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use super::NodeArgs;
use crate::authority;
use crate::date::Date;
use crate::error::CliError;
use crate::secret;

const IDENTITY: &str = "identity";
/// The name under which a new identity is written before it replaces the old one.
const IDENTITY_NEW: &str = "identity.new";

/// How long a node that a program starts looks for the name of the head and for a valid token: the head
/// may be starting, too, and other nodes use its token.
const PATIENCE: Duration = Duration::from_secs(15);
const AGAIN: Duration = Duration::from_millis(100);

/// A failed join.
struct Failed {
    error: CliError,
    /// The used token, if another one would help.
    spent: Option<String>,
    /// Whether waiting may help if the token comes from a file.
    passing: bool,
}

/// Returns the address of the head, as soon as its name has one.
///
/// # Errors
/// Returns an error if the name is invalid, or has no address for too long.
pub(super) async fn resolve(head: &HeadAddress) -> Result<SocketAddr, CliError> {
    let until = Instant::now() + PATIENCE;
    loop {
        match head.find().await {
            Ok(address) => return Ok(address),
            Err(why) if why.kind() == ErrorKind::InvalidInput => {
                return Err(CliError::usage(format!("--join {why}"))
                    .hint("write the host and the port of the head, such as 10.0.0.1:7100"));
            }
            Err(why) if Instant::now() >= until => {
                return Err(CliError::failure(format!("--join {why}")));
            }
            Err(_) => sleep(AGAIN).await,
        }
    }
}

/// Returns the identity kept from an earlier start, or a new one for the token if there is no valid one.
///
/// # Errors
/// Returns an error if the head does not admit the node, or the identity cannot be kept.
pub(super) async fn identity(args: &NodeArgs, head: &HeadAddress) -> Result<Identity, CliError> {
    if args.name.as_deref() == Some(HEAD) {
        return Err(CliError::usage(format!(
            "--name {HEAD}: the head's own machine has this name"
        )));
    }
    let kept = kept(args)?;
    let has_token = args.has_token();
    // Without a token the head decides, because its clock counts.
    let ended = |kept: &Identity| has_token && kept.good_until() < SystemTime::now();
    let name = match kept {
        Some(kept) if ended(&kept) => {
            let until = Date::of(kept.good_until());
            warn!("the certificate of this node ended {until}: it joins anew");
            Some(kept.peer().name().to_owned())
        }
        Some(kept) => return Ok(kept),
        None => args.name.clone(),
    };
    if !has_token {
        return Err(CliError::usage(format!("{} holds no certificate yet", args.dir.display()))
            .hint(
                "give a --token, which `playhouse token create` prints on the head, or the \
                 --token-file that the head keeps as --join-token-file",
            ));
    }
    let name = name.unwrap_or_else(host_name);
    let failed = |file: &str| {
        let file = args.dir.join(file);
        move |why: io::Error| CliError::failure(format!("{}: {why}", file.display()))
    };
    // The file is prepared before a token is used up, so that the identity can be kept.
    let file = prepare(&args.dir).map_err(failed(IDENTITY_NEW))?;
    let identity = admitted(args, head, &name).await?;
    place(file, &args.dir, &identity).map_err(failed(IDENTITY))?;
    Ok(identity)
}

/// Keeps an identity in place of the previous one.
///
/// # Errors
/// Returns an error if the folder cannot be written; the previous identity is still there then.
pub(super) fn keep(dir: &Path, identity: &Identity) -> io::Result<()> {
    place(prepare(dir)?, dir, identity)
}

/// Creates an empty file that only the owner may read.
fn prepare(dir: &Path) -> io::Result<File> {
    let new = dir.join(IDENTITY_NEW);
    fs::create_dir_all(dir)?;
    match fs::remove_file(&new) {
        Err(why) if why.kind() != ErrorKind::NotFound => return Err(why),
        _ => {}
    }
    authority::create(&new)
}

/// Writes the identity and renames the file: the previous identity is better than half of this one.
fn place(mut file: File, dir: &Path, identity: &Identity) -> io::Result<()> {
    file.write_all(&identity.to_bytes().map_err(io::Error::other)?)?;
    file.sync_all()?;
    fs::rename(dir.join(IDENTITY_NEW), dir.join(IDENTITY))?;
    File::open(dir)?.sync_all()
}

/// Returns the identity that an earlier start has kept.
fn kept(args: &NodeArgs) -> Result<Option<Identity>, CliError> {
    let file = args.dir.join(IDENTITY);
    let failed = |why: String| CliError::failure(format!("{}: {why}", file.display()));
    let kept = match fs::read(&file) {
        Ok(kept) => Identity::from_bytes(&kept).map_err(|why| failed(why.to_string()))?,
        Err(why) if why.kind() == ErrorKind::NotFound => return Ok(None),
        Err(why) => return Err(failed(why.to_string())),
    };
    match &args.name {
        Some(name) if kept.peer().name() != name => {
            Err(failed(format!("it is of the node {}", kept.peer().name()))
                .hint(format!("give another --dir for the node {name}")))
        }
        _ => Ok(Some(kept)),
    }
}

/// Joins the cluster. A token in a file is tried again when it has changed: the head that keeps the file
/// renews the token when a node has joined, and a restarted head knows no earlier token.
async fn admitted(args: &NodeArgs, head: &HeadAddress, name: &str) -> Result<Identity, CliError> {
    let until = Instant::now() + PATIENCE;
    let mut latest: Option<Failed> = None;
    loop {
        let token = secret::either("--token", args.token.as_deref(), args.token_file.as_deref());
        let spent = latest.as_ref().and_then(|failed| failed.spent.as_ref());
        match token {
            Ok(token) if token.as_ref() == spent => {}
            Ok(token) => match bring(head, token.unwrap_or_default(), name).await {
                Ok(identity) => return Ok(identity),
                Err(failed) => latest = Some(failed),
            },
            Err(error) => latest = Some(Failed { error, spent: None, passing: true }),
        }
        let waits = args.token_file.is_some() && Instant::now() < until;
        if let Some(Failed { error, .. }) = latest.take_if(|failed| !failed.passing || !waits) {
            return Err(error);
        }
        sleep(AGAIN).await;
    }
}

async fn bring(head: &HeadAddress, text: String, name: &str) -> Result<Identity, Failed> {
    let wrong = |why: String| Failed { error: CliError::usage(why), spent: None, passing: false };
    // Clap does not parse the token, because it repeats input that it cannot read, which may be most of a
    // secret.
    let token: JoinToken = text.parse().map_err(|why| wrong(format!("--token: {why}")))?;
    // A node that waits for another token may wait for another head as well.
    let found = head.find().await.map_err(|why| Failed {
        error: CliError::failure(format!("--join {why}")),
        spent: None,
        passing: true,
    })?;
    let joined = join(found, &token, &authority::head(), name, LinkConfig::default()).await;
    joined.map_err(|why| {
        use JoinRefusal::{Expired, UnknownToken, Used};
        let spent = match why {
            JoinError::Refused(UnknownToken | Used | Expired) => Some(text),
            JoinError::OtherAuthority { .. } => Some(text),
            _ => None,
        };
        let absent = matches!(why, JoinError::NoAnswer { .. } | JoinError::Lost(_));
        let passing = spent.is_some() || absent;
        Failed { error: CliError::failure(format!("cannot join: {why}")), spent, passing }
    })
}

/// Returns the host's name, as far as it is allowed as a name of a node.
fn host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().to_ascii_lowercase();
    let name = name.split('.').next().unwrap_or_default().to_owned();
    info!("this node is called {name}, after its host; --name gives it another name");
    name
}
