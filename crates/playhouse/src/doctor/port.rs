//! The check whether the port is free, and if not, which server has it.

use std::io;
use std::time::Duration;

use serde_json::Value;
use tokio::net::TcpListener;

use super::Check;
use crate::client::{Client, ClientError, Target};

/// The maximum wait for an answer of the server on the port.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// The maximum length of an answer that is read.
const ANSWER_BYTES_MAX: usize = 1 << 20;

const NAME: &str = "port";

/// Tries to listen on `host:port`; if the port is taken, asks the server there for its version.
pub(super) async fn check(host: &str, port: u16) -> Check {
    match TcpListener::bind((host, port)).await {
        Ok(_) => Check::ok(NAME, format!("{host}:{port} is free")),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => occupied(host, port).await,
        Err(error) => Check::fail(
            NAME,
            format!("cannot listen on {host}:{port}: {error}"),
            "choose another address with --host or --port",
        ),
    }
}

async fn occupied(host: &str, port: u16) -> Check {
    let hint = "`playhouse serve` needs a free port: stop the other server or choose with --port";
    let who = match who_answers(host, port).await {
        Ok(who) => who,
        Err(error) => format!("something that does not speak the OpenAI API ({error})"),
    };
    Check::warn(NAME, format!("{host}:{port} is taken by {who}"), hint)
}

/// Returns a host to connect to: a wildcard address is only one to listen on.
pub(super) fn reachable(host: &str) -> &str {
    match host {
        "0.0.0.0" => "127.0.0.1",
        "::" => "[::1]",
        host => host,
    }
}

async fn who_answers(host: &str, port: u16) -> Result<String, ClientError> {
    let target = Target::parse(&format!("http://{}:{port}", reachable(host)))?;
    let client = Client::new(target, None, ANSWER_MAX).await?;
    let model = match client.first_model().await {
        Ok(model) => format!("an OpenAI server with the model {model}"),
        // The server requires a key, so the path exists.
        Err(ClientError::Status { status, .. }) if status.as_u16() == 401 => {
            "an OpenAI server that wants an API key".to_owned()
        }
        Err(error) => return Err(error),
    };
    let version = version(&client).await.map(|version| format!(", version {version}"));
    Ok(model + &version.unwrap_or_default())
}

/// Returns the version from `/version`, in vLLM's form; not every server has it.
async fn version(client: &Client) -> Option<String> {
    let response = client.get("/version").await.ok()?.success().await.ok()?;
    let body = response.whole(ANSWER_BYTES_MAX).await.ok()?;
    let json: Value = serde_json::from_slice(&body).ok()?;
    json.get("version")?.as_str().map(str::to_owned)
}
