//! The admin API as commands use it: its address, the token, and errors for people.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use hyper::header::{ACCEPT, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, StatusCode};
use playhouse_admin::view::{
    Cluster, ErrorBody, ErrorDetail, Operation, OperationList, Plan, Revoked, Token, TokenRequest,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::client::completion::error_message;
use crate::client::{Client, ClientError, Response, Target, Trust};
use crate::error::CliError;
use crate::secret;
use crate::terminal::visible;

/// The maximum silence of the head, which answers from memory.
const QUIET_MAX: Duration = Duration::from_secs(5);
/// The maximum number of bytes read of an answer: thousands of ranks.
const BODY_MAX: usize = 16 << 20;
/// The maximum number of bytes read of a refusal.
const ERROR_BODY_MAX: usize = 64 << 10;

const NOT_THERE: &str =
    "is that the address of the admin API? `playhouse serve` prints it when it starts";
const TOKEN_WANTED: &str = "give the token that `playhouse serve` has or prints, with --admin-token, \
     --admin-token-file or PLAYHOUSE_ADMIN_TOKEN";

const CA_WANTED: &str = "give the authority.der of the head's --cluster-dir with --admin-ca or \
     PLAYHOUSE_ADMIN_CA, or, if the head has an --ssl-certfile, whom to trust in SSL_CERT_FILE";

/// The address of the admin API and its token.
#[derive(clap::Args)]
pub(crate) struct AdminArgs {
    /// Base URL of the head's admin API
    #[arg(
        long = "admin",
        env = "PLAYHOUSE_ADMIN",
        value_name = "URL",
        default_value = "http://127.0.0.1:8001"
    )]
    url: String,
    /// The authority.der of the head's --cluster-dir: only the head of this cluster is accepted, at any
    /// address. Without it, an https:// URL is trusted as the machine trusts certificates
    #[arg(long, env = "PLAYHOUSE_ADMIN_CA", value_name = "FILE")]
    admin_ca: Option<PathBuf>,
    /// Token of the admin API; better given by the environment, which `ps` does not show
    #[arg(long, value_name = "TOKEN", env = "PLAYHOUSE_ADMIN_TOKEN", hide_env_values = true)]
    admin_token: Option<String>,
    /// File with the token, in place of --admin-token and its variable
    #[arg(long, env = "PLAYHOUSE_ADMIN_TOKEN_FILE", value_name = "FILE")]
    admin_token_file: Option<PathBuf>,
}

/// A client of one head's admin API.
pub(crate) struct Admin(Client);

/// A request that changes the cluster.
pub(crate) struct Request {
    method: Method,
    path: String,
    headers: HeaderMap,
    body: Bytes,
}

/// The answer to an accepted change.
pub(crate) enum Accepted {
    /// The plan of a change that was not made.
    Plan(Plan),
    /// The operation that makes the change.
    Operation(Box<Operation>),
}

// === impl AdminArgs ===

impl AdminArgs {
    /// Resolves the address and reads the token; no request is sent yet.
    ///
    /// # Errors
    /// Returns an error if the address or the token cannot be used.
    pub(crate) async fn open(&self) -> Result<Admin, CliError> {
        let target = Target::parse(&self.url)?;
        let trust = self.admin_ca.as_deref().map_or(Trust::Machine, Trust::Head);
        if self.admin_ca.is_some() && !target.is_tls() {
            return Err(CliError::usage(format!(
                "--admin {}: plain HTTP proves nobody, and --admin-ca is given",
                self.url
            ))
            .hint("write https:// as `playhouse serve` prints it, or leave --admin-ca out"));
        }
        let (given, file) = (self.admin_token.as_deref(), self.admin_token_file.as_deref());
        let token = secret::either("--admin-token", given, file)?;
        let client = Client::trusting(trust, target, token.as_deref(), QUIET_MAX).await;
        client.map(Admin).map_err(told)
    }
}

// === impl Admin ===

impl Admin {
    /// Returns the current state of the cluster.
    ///
    /// # Errors
    /// Returns an error for a missing answer or a refusal.
    pub(crate) async fn cluster(&self) -> Result<Cluster, CliError> {
        read(self.0.get("/admin/v1/cluster").await).await
    }

    /// Requests a token that lets one node join.
    ///
    /// # Errors
    /// Returns an error for a missing answer or a refusal.
    pub(crate) async fn create_token(&self, request: TokenRequest) -> Result<Token, CliError> {
        let body = serde_json::to_vec(&request).expect("a number is JSON");
        read(self.0.post("/admin/v1/tokens", Bytes::from(body)).await).await
    }

    /// Disconnects a node and revokes its certificate.
    ///
    /// # Errors
    /// Returns an error for a missing answer or a refusal.
    pub(crate) async fn revoke(&self, request: Request) -> Result<Revoked, CliError> {
        let Request { method, path, headers, body } = request;
        read(self.0.ask(method, &path, headers, body).await).await
    }

    /// Returns all known operations.
    ///
    /// # Errors
    /// Returns an error for a missing answer or a refusal.
    pub(crate) async fn operations(&self) -> Result<OperationList, CliError> {
        read(self.0.get("/admin/v1/operations").await).await
    }

    /// Returns one operation.
    ///
    /// # Errors
    /// Returns an error for a missing answer or a refusal.
    pub(crate) async fn operation(&self, id: u64) -> Result<Operation, CliError> {
        read(self.0.get(&format!("/admin/v1/operations/{id}")).await).await
    }

    /// Returns the stream of an operation's events after the one with the id `seen`.
    ///
    /// # Errors
    /// Returns an error for a missing answer or a refusal.
    pub(crate) async fn follow(&self, id: u64, seen: u64) -> Result<Response, CliError> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
        if seen > 0 {
            headers.insert(HeaderName::from_static("last-event-id"), HeaderValue::from(seen));
        }
        let path = format!("/admin/v1/operations/{id}");
        let response = self.0.ask(Method::GET, &path, headers, Bytes::new()).await;
        good(response).await
    }

    /// Makes a change, or asks for its plan.
    ///
    /// # Errors
    /// Returns an error for a missing answer or a refusal.
    pub(crate) async fn change(&self, request: Request) -> Result<Accepted, CliError> {
        let Request { method, path, headers, body } = request;
        let response = good(self.0.ask(method, &path, headers, body).await).await?;
        if response.status() == StatusCode::ACCEPTED {
            return read(Ok(response)).await.map(Accepted::Operation);
        }
        read(Ok(response)).await.map(Accepted::Plan)
    }
}

// === impl Request ===

impl Request {
    fn new(method: Method, path: String) -> Self {
        Self { method, path, headers: HeaderMap::new(), body: Bytes::new() }
    }

    pub(crate) fn post(path: String) -> Self {
        Self::new(Method::POST, path)
    }

    pub(crate) fn delete(path: String) -> Self {
        Self::new(Method::DELETE, path)
    }

    pub(crate) fn patch(path: String, body: &impl Serialize) -> Self {
        let body = serde_json::to_vec(body).expect("names and numbers are JSON").into();
        Self { body, ..Self::new(Method::PATCH, path) }
    }

    /// Adds a parameter that needs no escaping.
    pub(crate) fn parameter(&mut self, name: &str, value: &impl std::fmt::Display) {
        let sign = if self.path.contains('?') { '&' } else { '?' };
        self.path += &format!("{sign}{name}={value}");
    }

    /// Sets the idempotency key of the change, so that it is not made twice.
    ///
    /// # Errors
    /// Returns an error if a header cannot carry the key.
    pub(crate) fn key(&mut self, key: Option<&str>) -> Result<(), CliError> {
        let Some(key) = key else { return Ok(()) };
        let value = HeaderValue::try_from(key).map_err(|_| {
            CliError::usage("--key has characters which an HTTP header cannot carry")
        })?;
        self.headers.insert(HeaderName::from_static("idempotency-key"), value);
        Ok(())
    }
}

async fn read<T: DeserializeOwned>(response: Result<Response, ClientError>) -> Result<T, CliError> {
    let body = good(response).await?.whole(BODY_MAX).await.map_err(told)?;
    serde_json::from_slice(&body).map_err(|why| {
        let why = visible(&why.to_string());
        CliError::failure(format!("the answer is not the admin API's: {why}")).hint(NOT_THERE)
    })
}

/// Returns a response that is no refusal.
async fn good(response: Result<Response, ClientError>) -> Result<Response, CliError> {
    let response = response.map_err(told)?;
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    match response.whole(ERROR_BODY_MAX).await {
        Ok(body) => Err(refusal(status, &body)),
        Err(why) => Err(CliError::failure(format!("{status}: {why}"))),
    }
}

/// Returns the error of a refusal, with a hint what to do about it.
fn refusal(status: StatusCode, body: &[u8]) -> CliError {
    let refused = CliError::failure(format!("{status}: {}", visible(&error_message(body))));
    let detail: Option<ErrorDetail> =
        serde_json::from_slice::<ErrorBody>(body).ok().map(|body| body.error);
    let code = detail.as_ref().map_or("", |detail| &detail.code);
    match (status, code) {
        (StatusCode::UNAUTHORIZED, _) => refused.hint(TOKEN_WANTED),
        (_, "no_replica" | "no_node") => refused.hint("`playhouse status` lists what there is"),
        (_, "no_operation") => refused.hint("`playhouse operations` lists what there is"),
        (StatusCode::NOT_FOUND, _) => refused.hint(NOT_THERE),
        (_, "too_many_streams") => refused.unreached(),
        (_, "needs_force") => refused.hint("`--force` does it all the same"),
        (_, "busy") => {
            let id = detail.and_then(|detail| detail.operation).unwrap_or_default();
            refused.hint(format!(
                "`playhouse operations {id} --watch` follows it, `playhouse abort {id}` ends it"
            ))
        }
        _ => refused,
    }
}

/// Converts an error of the client; the hints for OpenAI endpoints would mislead here.
fn told(error: ClientError) -> CliError {
    match error {
        ClientError::BadApiKey => {
            CliError::usage("the admin token has characters which an HTTP header cannot carry")
        }
        ClientError::BadUrl { .. } => error.into(),
        _ if error.is_distrust() => CliError::from(error).hint(CA_WANTED),
        ClientError::TooSlow { .. } => CliError::from(error).unreached(),
        _ => CliError::from(error).hint(NOT_THERE).unreached(),
    }
}
