//! The admin API as commands reach it: where it is, who asks, and what went wrong for people.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use hyper::StatusCode;
use playhouse_admin::view::{Cluster, Token, TokenRequest};
use serde::de::DeserializeOwned;

use crate::client::{Client, ClientError, Response, Target};
use crate::error::CliError;
use crate::terminal::visible;

/// Longest silence of the head; it answers from memory.
const QUIET_MAX: Duration = Duration::from_secs(5);
/// Most bytes read of an answer: thousands of ranks.
const BODY_MAX: usize = 16 << 20;
/// Most bytes read of a file with a token.
const TOKEN_FILE_MAX: u64 = 4 << 10;

const NOT_THERE: &str =
    "is that the address of the admin API? `playhouse serve` prints it when it starts";
const TOKEN_WANTED: &str = "give the token that `playhouse serve` has or prints, with --admin-token, \
     --admin-token-file or PLAYHOUSE_ADMIN_TOKEN";

/// Where the admin API is and who asks.
#[derive(clap::Args)]
pub(crate) struct AdminArgs {
    /// Base URL of the head's admin API
    #[arg(long = "admin", value_name = "URL", default_value = "http://127.0.0.1:8001")]
    url: String,
    /// Token of the admin API; better given by the environment, which `ps` does not show
    #[arg(long, value_name = "TOKEN", env = "PLAYHOUSE_ADMIN_TOKEN", hide_env_values = true)]
    admin_token: Option<String>,
    /// File with the token, in place of --admin-token and its variable
    #[arg(long, value_name = "FILE")]
    admin_token_file: Option<PathBuf>,
}

/// The admin API of one head.
pub(crate) struct Admin(Client);

// === impl AdminArgs ===

impl AdminArgs {
    /// Resolves the address and reads the token; nothing is asked yet.
    ///
    /// # Errors
    /// One of them cannot be used.
    pub(crate) async fn open(&self) -> Result<Admin, CliError> {
        let target = Target::parse(&self.url)?;
        let token = match &self.admin_token_file {
            Some(file) => Some(read_token(file)?),
            None => self.admin_token.clone(),
        };
        let client = Client::new(target, token.as_deref(), QUIET_MAX).await;
        client.map(Admin).map_err(told)
    }
}

fn read_token(file: &Path) -> Result<String, CliError> {
    let failed = |why: &dyn std::fmt::Display| {
        CliError::usage(format!("cannot take the admin token from {}: {why}", file.display()))
    };
    let mut text = String::new();
    let read =
        File::open(file).and_then(|file| file.take(TOKEN_FILE_MAX).read_to_string(&mut text));
    read.map_err(|why: io::Error| failed(&why))?;
    match text.trim() {
        "" => Err(failed(&"it is empty")),
        token => Ok(token.to_owned()),
    }
}

// === impl Admin ===

impl Admin {
    /// The cluster as it is now.
    ///
    /// # Errors
    /// No answer, or a refusal.
    pub(crate) async fn cluster(&self) -> Result<Cluster, CliError> {
        read(self.0.get("/admin/v1/cluster").await).await
    }

    /// A token that lets one node join.
    ///
    /// # Errors
    /// No answer, or a refusal.
    pub(crate) async fn create_token(&self, request: TokenRequest) -> Result<Token, CliError> {
        let body = serde_json::to_vec(&request).expect("a number is JSON");
        read(self.0.post("/admin/v1/tokens", Bytes::from(body)).await).await
    }
}

async fn read<T: DeserializeOwned>(response: Result<Response, ClientError>) -> Result<T, CliError> {
    let whole = async { response?.success().await?.whole(BODY_MAX).await };
    let body = whole.await.map_err(told)?;
    serde_json::from_slice(&body).map_err(|why| {
        let why = visible(&why.to_string());
        CliError::failure(format!("the answer is not the admin API's: {why}")).hint(NOT_THERE)
    })
}

/// The hints of OpenAI endpoints would mislead here.
fn told(error: ClientError) -> CliError {
    match error {
        ClientError::Status { status, message } => {
            let told = CliError::failure(format!("{status}: {}", visible(&message)));
            match status {
                StatusCode::UNAUTHORIZED => told.hint(TOKEN_WANTED),
                StatusCode::NOT_FOUND => told.hint(NOT_THERE),
                _ => told,
            }
        }
        ClientError::BadApiKey => {
            CliError::usage("the admin token has characters which an HTTP header cannot carry")
        }
        ClientError::BadUrl { .. } | ClientError::TooSlow { .. } => error.into(),
        _ => CliError::from(error).hint(NOT_THERE),
    }
}
