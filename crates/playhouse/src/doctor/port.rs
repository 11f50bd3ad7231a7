//! Is the port free? If not, who answers there?

use std::io;
use std::time::Duration;

use serde_json::Value;
use tokio::net::TcpListener;

use super::Check;
use crate::client::{Client, ClientError, Target};

/// Longest wait for an answer of whoever has the port.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// Longest answer that is read.
const ANSWER_BYTES_MAX: usize = 1 << 20;

const NAME: &str = "port";

/// Tries to listen on `host:port`; if somebody else does, asks who.
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

/// A wildcard address is one to listen on, not one to ask.
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
        // It wants a key, so the path exists.
        Err(ClientError::Status { status, .. }) if status.as_u16() == 401 => {
            "an OpenAI server that wants an API key".to_owned()
        }
        Err(error) => return Err(error),
    };
    let version = version(&client).await.map(|version| format!(", version {version}"));
    Ok(model + &version.unwrap_or_default())
}

/// The version, in the shape of vLLM's `/version`; not every server tells.
async fn version(client: &Client) -> Option<String> {
    let response = client.get("/version").await.ok()?.success().await.ok()?;
    let body = response.whole(ANSWER_BYTES_MAX).await.ok()?;
    let json: Value = serde_json::from_slice(&body).ok()?;
    json.get("version")?.as_str().map(str::to_owned)
}
