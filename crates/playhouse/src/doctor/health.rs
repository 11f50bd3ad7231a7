//! Health checks for containers: of the head on its port, or of the node of a folder.

use std::path::Path;
use std::time::Duration;

use tokio::time::timeout;

use super::Check;
use crate::client::{Client, ClientError, Target, Trust};
use crate::node::health;

/// The maximum wait for an answer.
const ANSWER_MAX: Duration = Duration::from_secs(3);

const NAME: &str = "health";

/// Asks the node that keeps its certificate in `dir`.
pub(super) async fn of_node(dir: &Path) -> Check {
    let hint = "its log says why; `playhouse status` on the head shows it as lost";
    let nobody = |why: &dyn std::fmt::Display| {
        let dir = dir.display();
        Check::fail(NAME, format!("no node answers in {dir}: {why}"), "is it still joining?")
    };
    match timeout(ANSWER_MAX, health::ask(dir)).await {
        Ok(Ok(Ok(head))) => Check::ok(NAME, format!("joined the head at {head}")),
        Ok(Ok(Err(head))) => Check::fail(NAME, format!("looks for the head at {head}"), hint),
        Ok(Err(why)) => nobody(&why),
        Err(late) => nobody(&late),
    }
}

/// Asks the head whether a request would be taken.
pub(super) async fn of_head(host: &str, port: u16) -> Check {
    let hint = "its log says why, and `playhouse status` shows what it waits for";
    match ready(super::port::reachable(host), port).await {
        Ok(()) => Check::ok(NAME, format!("requests are taken on port {port}")),
        Err(why) => Check::fail(NAME, format!("no request is taken on port {port}: {why}"), hint),
    }
}

/// Asks over TLS if the server does not understand plain HTTP (**D-4**).
async fn ready(host: &str, port: u16) -> Result<(), ClientError> {
    let plain = ask(&format!("http://{host}:{port}")).await;
    if !matches!(plain, Err(ClientError::Http(_))) {
        return plain;
    }
    match ask(&format!("https://{host}:{port}")).await {
        // The server does not understand TLS either.
        Err(ClientError::Connect { .. }) => plain,
        answer => answer,
    }
}

async fn ask(url: &str) -> Result<(), ClientError> {
    let target = Target::parse(url)?;
    let client = Client::trusting(Trust::Anybody, target, None, ANSWER_MAX).await?;
    client.get("/readyz").await?.success().await.map(drop)
}
