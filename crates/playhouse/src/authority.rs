//! `playhouse cluster init`: the certificate authority of a cluster, in a folder of the head.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use playhouse_cluster::HEAD;
use playhouse_link::{Authority, KeepRevocations, Revocations};
use playhouse_wire::{PeerId, Role};

use crate::error::CliError;
use crate::output::print;

/// The default folder of the authority.
pub(crate) const DEFAULT_DIR: &str = "playhouse-cluster";

const CERTIFICATE: &str = "authority.der";
const KEY: &str = "authority.key";
const REVOKED: &str = "revoked";
/// The name under which a new list is written before it replaces the old one.
const REVOKED_NEW: &str = "revoked.new";

/// The trust of a head: its authority, and the revoked certificates.
pub(crate) struct ClusterTrust {
    pub(crate) authority: Authority,
    pub(crate) revocations: Revocations,
    pub(crate) keep_revocations: KeepRevocations,
}

/// Set a cluster up.
#[derive(Args)]
pub(crate) struct ClusterArgs {
    #[command(subcommand)]
    command: ClusterCommand,
}

#[derive(Subcommand)]
enum ClusterCommand {
    /// Make the certificate authority that the head signs its nodes' certificates with
    Init {
        /// Folder to make; only its owner can read it
        #[arg(long, env = "PLAYHOUSE_CLUSTER_DIR", default_value = DEFAULT_DIR)]
        dir: PathBuf,
    },
}

/// Makes an authority and writes it to its folder.
///
/// # Errors
/// Returns an error when there is an authority already, or it cannot be written.
pub(crate) fn run(args: &ClusterArgs) -> Result<ExitCode, CliError> {
    let ClusterCommand::Init { dir } = &args.command;
    let authority = Authority::new().map_err(|why| CliError::failure(why.to_string()))?;
    if dir.join(CERTIFICATE).exists() || dir.join(KEY).exists() {
        return Err(CliError::failure(format!("{} holds an authority already", dir.display()))
            .hint("nodes trust the one they joined: remove the folder only with the cluster"));
    }
    let written = DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .and_then(|()| write(&dir.join(CERTIFICATE), authority.certificate()))
        .and_then(|()| write(&dir.join(KEY), authority.key()));
    let show = dir.display();
    written.map_err(|why| CliError::failure(format!("cannot write to {show}: {why}")))?;
    print(&format!(
        "made the cluster's certificate authority in {show}\n\
         start the head with: playhouse serve --cluster-listen 0.0.0.0:7100 --cluster-dir {show}\n"
    ))?;
    Ok(ExitCode::SUCCESS)
}

// === impl ClusterTrust ===

impl ClusterTrust {
    /// Returns the trust of an authority that ends with this process.
    pub(crate) fn passing(authority: Authority) -> Self {
        let revocations = Revocations::default();
        Self { authority, revocations, keep_revocations: Box::new(|_| Ok(())) }
    }
}

/// Reads the trust that is kept in a folder.
///
/// # Errors
/// Returns an error when there is no authority, with how to make one; or when the list of revoked
/// certificates cannot be read.
pub(crate) fn read(dir: &Path) -> Result<ClusterTrust, CliError> {
    let authority = read_authority(dir)?;
    let list = dir.join(REVOKED);
    let failed =
        |why: &dyn std::fmt::Display| CliError::failure(format!("{}: {why}", list.display()));
    let revocations = match fs::read_to_string(&list) {
        Ok(text) => text.parse().map_err(|why| failed(&why))?,
        Err(why) if why.kind() == io::ErrorKind::NotFound => Revocations::default(),
        // Without the list, revoked nodes would be admitted.
        Err(why) => return Err(failed(&why)),
    };
    let dir = dir.to_owned();
    let keep_revocations = Box::new(move |list: &Revocations| replace_list(&dir, list));
    Ok(ClusterTrust { authority, revocations, keep_revocations })
}

/// Replaces the list so that there is always a whole one.
fn replace_list(dir: &Path, list: &Revocations) -> io::Result<()> {
    let new = dir.join(REVOKED_NEW);
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(list.to_string().as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, dir.join(REVOKED))?;
    File::open(dir)?.sync_all()
}

/// Returns the path of the authority's certificate in a folder, for clients that verify the head.
pub(crate) fn certificate(dir: &Path) -> PathBuf {
    dir.join(CERTIFICATE)
}

/// Reads the authority in a folder.
///
/// # Errors
/// Returns an error when there is none, with how to make one.
pub(crate) fn read_authority(dir: &Path) -> Result<Authority, CliError> {
    let show = dir.display();
    let read = |name: &str| {
        fs::read(dir.join(name)).map_err(|why| {
            CliError::failure(format!("cannot read {}: {why}", dir.join(name).display())).hint(
                format!("`playhouse cluster init --dir {show}` makes a certificate authority"),
            )
        })
    };
    let (certificate, key) = (read(CERTIFICATE)?, read(KEY)?);
    Authority::from_der(&certificate, &key)
        .map_err(|why| CliError::failure(format!("the authority in {show}: {why}")))
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Returns the head's identity, which is the same in all clusters.
pub(crate) fn head() -> PeerId {
    PeerId::new(Role::Head, HEAD).expect("the name of the head is one that peers may have")
}

/// Creates a file that only the owner may read.
pub(crate) fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}
