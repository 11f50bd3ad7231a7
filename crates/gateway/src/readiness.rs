//! Whether a new request would be accepted, and what is missing if not.

use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::response::{IntoResponse, Response};
use playhouse_cluster::{Awaited, FrontDoor, ReplicaState, ReplicaStatus};
use serde_json::{Value, json};

use crate::error::{ApiError, Result};

/// How much a probe is told.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Detail {
    /// Only whether the gateway is ready.
    Verdict,
    /// Also the state of each replica.
    States,
    /// Also the reasons, which may name files and machines.
    Reasons,
}

/// Returns the answer to a probe: 200 while a replica can make progress and nothing is draining, else
/// 503.
///
/// # Errors
/// Returns why the gateway is not ready, unless details are wanted.
pub(crate) fn answer(door: &FrontDoor, detail: Detail) -> Result<Response> {
    let missing = match door.is_draining() {
        true => Some(Missing::draining()),
        false => door.awaited().map(Missing::from),
    };
    match (missing, detail) {
        (None, Detail::Verdict) => Ok(json_with(StatusCode::OK, &json!({ "status": "ready" }))),
        (Some(Missing { code, text, .. }), Detail::Verdict) => {
            Err(ApiError::unavailable(code, format!("not ready: {text}")))
        }
        (None, _) => Ok(json_with(StatusCode::OK, &checks(door, None, detail))),
        (missing, _) => {
            Ok(json_with(StatusCode::SERVICE_UNAVAILABLE, &checks(door, missing, detail)))
        }
    }
}

/// What keeps the gateway from being ready.
struct Missing {
    code: &'static str,
    /// A phrase for everyone.
    text: String,
    /// The details, for trusted clients.
    reason: Option<String>,
}

// === impl Missing ===

impl Missing {
    fn draining() -> Self {
        let text = "the server is shutting down".to_owned();
        Self { code: "draining", text, reason: None }
    }
}

impl From<Awaited> for Missing {
    fn from(awaited: Awaited) -> Self {
        let reason = awaited.reason().map(str::to_owned);
        Self { code: "unavailable", text: awaited.to_string(), reason }
    }
}

fn checks(door: &FrontDoor, missing: Option<Missing>, detail: Detail) -> Value {
    let replicas = door.replicas();
    let progress = if replicas.iter().any(ReplicaStatus::is_healthy) { "ok" } else { "none" };
    let draining = if door.is_draining() { "yes" } else { "no" };
    let reason = missing.as_ref().and_then(|it| it.reason.as_ref());
    json!({
        "status": if missing.is_some() { "not ready" } else { "ready" },
        "missing": missing.as_ref().map(|it| &it.text),
        "reason": reason.filter(|_| detail == Detail::Reasons),
        "checks": { "replica": progress, "draining": draining },
        "replicas": replicas.iter().map(|replica| show(replica, detail)).collect::<Vec<_>>(),
    })
}

fn show(replica: &ReplicaStatus, detail: Detail) -> Value {
    let (state, reason) = match &replica.state {
        ReplicaState::Serving if replica.is_stalled() => ("stalled", None),
        ReplicaState::Serving => ("serving", None),
        ReplicaState::Starting => ("starting", None),
        ReplicaState::Restarting { reason } => ("restarting", Some(reason)),
        ReplicaState::Failed { reason } => ("failed", Some(reason)),
        ReplicaState::Draining => ("draining", None),
        ReplicaState::Drained => ("drained", None),
        ReplicaState::Stopped => ("stopped", None),
    };
    json!({
        "id": replica.id.0,
        "state": state,
        "epoch": replica.epoch.0,
        "reason": reason.filter(|_| detail == Detail::Reasons),
        "seconds_without_progress": replica.progress.waited().map(|waited| waited.as_secs()),
    })
}

fn json_with(status: StatusCode, body: &Value) -> Response {
    let mut response =
        (status, [(CONTENT_TYPE, "application/json")], body.to_string()).into_response();
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(RETRY_AFTER, 1.into());
    }
    response
}

#[cfg(test)]
mod tests {
    use playhouse_cluster::Progress;
    use playhouse_types::{Epoch, ReplicaId};
    use tokio::time::Instant;

    use super::*;

    fn replica(state: ReplicaState) -> ReplicaStatus {
        ReplicaStatus {
            id: ReplicaId(3),
            state,
            waits_for: None,
            progress: Progress { waits_since: Some(Instant::now()), ..Progress::default() },
            epoch: Epoch(4),
            running: 1,
            waiting: 0,
            kv_blocks_held: 1,
            kv_blocks: 2,
            prefix_queried_tokens: 0,
            prefix_hit_tokens: 0,
            prefill_tokens: 0,
            generated_tokens: 0,
            stages: Vec::new(),
        }
    }

    #[test]
    fn why_a_replica_failed_is_told_to_who_is_trusted() {
        let failed = replica(ReplicaState::Failed { reason: "/srv/model is gone".to_owned() });
        let shown = show(&failed, Detail::Reasons);
        assert_eq!(shown["reason"], "/srv/model is gone");
        assert_eq!(shown["seconds_without_progress"], 0);
        let shown = show(&failed, Detail::States);
        assert_eq!((&shown["id"], &shown["epoch"]), (&json!(3), &json!(4)));
        assert_eq!((&shown["state"], &shown["reason"]), (&json!("failed"), &Value::Null));
    }

    #[test]
    fn a_replica_that_only_says_that_it_serves_is_stalled() {
        // Such a replica has no patience left.
        let shown = show(&replica(ReplicaState::Serving), Detail::States);
        assert_eq!(shown["state"], "stalled");
        let shown = show(&replica(ReplicaState::Starting), Detail::States);
        assert_eq!(shown["state"], "starting");
    }
}
