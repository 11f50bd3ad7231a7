//! Changes of the cluster: from a request to a [`Change`], and from its outcome to an answer.

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequestParts, Path, State};
use axum::http::header::LOCATION;
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use playhouse_cluster::{Answer, Change, Desired, Operation, OperationId, Refused};
use playhouse_types::{ParallelSpec, ReplicaId};

use crate::api_state::ApiState;
use crate::body::whole;
use crate::error::ApiError;
use crate::operations::Operations;
use crate::query::Query;
use crate::view::{self, DeploymentPatch, Plan, Revoked};

/// The maximum number of replicas, ranks or stages that can be asked for. The devices limit it further.
pub const PARALLEL_MAX: i64 = 65_536;

/// The maximum length of an `Idempotency-Key`, in bytes.
pub const KEY_BYTES_MAX: usize = playhouse_cluster::Ledger::KEY_BYTES_MAX;

/// The `Idempotency-Key` header: repeating a request with the same key makes no second change.
pub(crate) struct Key(pub(crate) Option<String>);

/// A name or number in a path.
pub(crate) struct Named(String);

/// Handles `PATCH /admin/v1/deployment`.
pub(crate) async fn patch_deployment<O: Operations>(
    State(shared): State<ApiState<O>>,
    query: Query,
    key: Key,
    body: Body,
) -> Result<Response, ApiError> {
    let patch = serde_json::from_slice(&whole(body).await?).map_err(|why| {
        ApiError::new(StatusCode::BAD_REQUEST, "invalid_body", format!("invalid body: {why}"))
    })?;
    let change = change_of(patch, shared.operations.deployment().await.desired, query.force()?)?;
    make(&shared.operations, change, key, query).await
}

/// Handles `POST /admin/v1/replicas/{id}/drain`.
pub(crate) async fn drain_replica<O: Operations>(
    State(shared): State<ApiState<O>>,
    name: Named,
    query: Query,
    key: Key,
    body: Body,
) -> Result<Response, ApiError> {
    let (deadline, force) = query.drain();
    let change = Change::DrainReplica { replica: name.replica()?, deadline, force };
    no_body(body).await?;
    make(&shared.operations, change, key, query).await
}

/// Handles `POST /admin/v1/replicas/{id}/restart`.
pub(crate) async fn restart_replica<O: Operations>(
    State(shared): State<ApiState<O>>,
    name: Named,
    query: Query,
    key: Key,
    body: Body,
) -> Result<Response, ApiError> {
    query.neither()?;
    no_body(body).await?;
    make(&shared.operations, Change::RestartReplica { replica: name.replica()? }, key, query).await
}

/// Handles `DELETE /admin/v1/replicas/{id}`.
pub(crate) async fn remove_replica<O: Operations>(
    State(shared): State<ApiState<O>>,
    name: Named,
    query: Query,
    key: Key,
    body: Body,
) -> Result<Response, ApiError> {
    let (deadline, force) = query.drain();
    let change = Change::RemoveReplica { replica: name.replica()?, deadline, force };
    no_body(body).await?;
    make(&shared.operations, change, key, query).await
}

/// Handles `POST /admin/v1/nodes/{name}/drain`.
pub(crate) async fn drain_node<O: Operations>(
    State(shared): State<ApiState<O>>,
    Named(node): Named,
    query: Query,
    key: Key,
    body: Body,
) -> Result<Response, ApiError> {
    let (deadline, force) = query.drain();
    no_body(body).await?;
    make(&shared.operations, Change::DrainNode { node, deadline, force }, key, query).await
}

/// Handles `DELETE /admin/v1/nodes/{name}/drain`.
pub(crate) async fn undrain_node<O: Operations>(
    State(shared): State<ApiState<O>>,
    Named(node): Named,
    query: Query,
    key: Key,
    body: Body,
) -> Result<Response, ApiError> {
    query.neither()?;
    no_body(body).await?;
    make(&shared.operations, Change::UndrainNode { node }, key, query).await
}

/// Handles `DELETE /admin/v1/nodes/{name}`.
pub(crate) async fn remove_node<O: Operations>(
    State(shared): State<ApiState<O>>,
    Named(node): Named,
    query: Query,
    key: Key,
    body: Body,
) -> Result<Response, ApiError> {
    query.neither()?;
    no_body(body).await?;
    make(&shared.operations, Change::RemoveNode { node }, key, query).await
}

/// Handles `POST /admin/v1/nodes/{name}/revoke`, which is no operation, because it must not wait for
/// another one.
pub(crate) async fn revoke_node<O: Operations>(
    State(shared): State<ApiState<O>>,
    Named(node): Named,
    body: Body,
) -> Result<Json<Revoked>, ApiError> {
    no_body(body).await?;
    let (operations, name) = (shared.operations.clone(), node.clone());
    // Revoking waits for a disk.
    let revoked = tokio::task::spawn_blocking(move || operations.revoke_node(&name)).await;
    let was_connected =
        revoked.unwrap_or_else(|why| std::panic::resume_unwind(why.into_panic()))?;
    tracing::warn!(node, was_connected, "certificate revoked");
    Ok(Json(Revoked { node, was_connected }))
}

/// Handles `DELETE /admin/v1/operations/{id}`.
pub(crate) async fn abort<O: Operations>(
    State(shared): State<ApiState<O>>,
    name: Named,
    body: Body,
) -> Result<Response, ApiError> {
    no_body(body).await?;
    Ok(accepted(shared.operations.abort(name.operation()?).await?))
}

async fn make<O: Operations>(
    operations: &O,
    change: Change,
    Key(key): Key,
    query: Query,
) -> Result<Response, ApiError> {
    Ok(match operations.change(change, key, query.dry_run).await? {
        Answer::Planned(steps) => {
            let nothing_to_do =
                steps.is_empty().then(|| "the cluster is as asked for already".to_owned());
            Json(Plan { steps, nothing_to_do }).into_response()
        }
        Answer::Accepted(operation) => accepted(*operation),
    })
}

/// Returns 202 with the operation and the path at which to follow it.
fn accepted(operation: Operation) -> Response {
    let id = operation.id;
    let body = Json(view::Operation::from(operation));
    let mut response = (StatusCode::ACCEPTED, body).into_response();
    let location = format!("/admin/v1/operations/{}", id.0);
    let location = HeaderValue::try_from(location).expect("a path with a number");
    response.headers_mut().insert(LOCATION, location);
    response.extensions_mut().insert(id);
    response
}

/// Returns the change that a patch asks for, given the desired layout.
fn change_of(patch: DeploymentPatch, desired: Desired, forced: bool) -> Result<Change, ApiError> {
    let DeploymentPatch { data_parallel, tensor_parallel, pipeline_parallel, .. } = patch;
    let replicas = data_parallel.map(|n| number("data_parallel", n, 0)).transpose()?;
    let tensor = tensor_parallel.map(|n| number("tensor_parallel", n, 1)).transpose()?;
    let pipeline = pipeline_parallel.map(|n| number("pipeline_parallel", n, 1)).transpose()?;
    let layers = |layers: Vec<i64>| -> Result<Vec<u32>, ApiError> {
        layers.into_iter().map(|n| number("pipeline_partition", n, 1)).collect()
    };
    let partition = patch.pipeline_partition.map(layers).transpose()?;
    let layout = if tensor.is_some() || pipeline.is_some() || partition.is_some() {
        let new = ParallelSpec {
            tensor: tensor.unwrap_or(desired.layout.tensor),
            pipeline: pipeline.unwrap_or(desired.layout.pipeline),
            // A partition fits only its own number of stages.
            pipeline_partition: partition
                .or(desired.layout.pipeline_partition.filter(|_| pipeline.is_none())),
            ..desired.layout
        };
        Some(whole_partition(new)?)
    } else {
        None
    };
    if replicas.is_none() && layout.is_none() {
        let message = "nothing to change: give data_parallel, tensor_parallel, pipeline_parallel or \
                       pipeline_partition";
        return Err(ApiError::new(StatusCode::BAD_REQUEST, "invalid_body", message));
    }
    Ok(Change::Deployment { replicas, layout, force: patch.force || forced })
}

fn number(field: &str, number: i64, least: i64) -> Result<u32, ApiError> {
    let wrong = || {
        ApiError::bad_field(field, format!("must be from {least} to {PARALLEL_MAX}, not {number}"))
    };
    let fits = u32::try_from(number).ok();
    fits.filter(|_| (least..=PARALLEL_MAX).contains(&number)).ok_or_else(wrong)
}

/// Checks that a partition has one number of layers for each stage.
fn whole_partition(layout: ParallelSpec) -> Result<ParallelSpec, ApiError> {
    let stages = layout.pipeline as usize;
    match &layout.pipeline_partition {
        Some(partition) if partition.len() != stages => {
            let count = partition.len();
            let message = format!("{count} numbers for {stages} stages (pipeline_parallel)");
            Err(ApiError::bad_field("pipeline_partition", message))
        }
        _ => Ok(layout),
    }
}

/// Refuses a body where none is expected: its sender expects that it has an effect.
async fn no_body(body: Body) -> Result<(), ApiError> {
    if whole(body).await?.is_empty() {
        return Ok(());
    }
    let message = "this takes no body: say ?force=true, ?dry_run=true or ?deadline_seconds=30";
    Err(ApiError::new(StatusCode::BAD_REQUEST, "invalid_body", message))
}

// === impl Key ===

impl<S: Sync> FromRequestParts<S> for Key {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        const NAME: &str = "Idempotency-Key";
        let mut given = parts.headers.get_all(NAME).iter();
        let key = match (given.next(), given.next()) {
            (None, _) => return Ok(Self(None)),
            (Some(key), None) => key.to_str().ok(),
            (Some(_), Some(_)) => return Err(ApiError::bad_field(NAME, "given twice")),
        };
        let key = key.filter(|key| (1..=KEY_BYTES_MAX).contains(&key.len()));
        let must = format!("must be 1 to {KEY_BYTES_MAX} visible ASCII characters");
        let key = key.ok_or_else(|| ApiError::bad_field(NAME, must))?;
        Ok(Self(Some(key.to_owned())))
    }
}

// === impl Named ===

impl Named {
    pub(crate) fn operation(&self) -> Result<OperationId, ApiError> {
        let id = self.0.parse().map(OperationId);
        id.map_err(|_| ApiError::not_found("no_operation", format!("no operation {}", self.0)))
    }

    fn replica(&self) -> Result<ReplicaId, ApiError> {
        let id = self.0.parse().map(ReplicaId);
        id.map_err(|_| ApiError::not_found("no_replica", format!("no replica {}", self.0)))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let name: Result<Path<String>, PathRejection> =
            Path::from_request_parts(parts, state).await;
        let Path(name) = name.map_err(|why| {
            let path = parts.uri.path();
            ApiError::not_found("not_found", format!("there is no {path}: {}", why.body_text()))
        })?;
        Ok(Self(name))
    }
}

// === impl ApiError ===

impl From<Refused> for ApiError {
    fn from(why: Refused) -> Self {
        let message = why.to_string();
        let (status, code) = match &why {
            Refused::Busy { .. } => (StatusCode::CONFLICT, "busy"),
            Refused::NoReplica(_) => (StatusCode::NOT_FOUND, "no_replica"),
            Refused::NoNode(_) => (StatusCode::NOT_FOUND, "no_node"),
            Refused::NoOperation(_) => (StatusCode::NOT_FOUND, "no_operation"),
            Refused::Ended(_) => (StatusCode::CONFLICT, "ended"),
            Refused::KeyTaken { .. } => (StatusCode::CONFLICT, "key_taken"),
            Refused::Devices(_) => (StatusCode::UNPROCESSABLE_ENTITY, "devices"),
            Refused::Invalid(_) => (StatusCode::UNPROCESSABLE_ENTITY, "invalid"),
            Refused::NeedsForce(_) => (StatusCode::CONFLICT, "needs_force"),
            Refused::Starting => (StatusCode::SERVICE_UNAVAILABLE, "starting"),
            Refused::Draining => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
            Refused::Journal(_) => (StatusCode::SERVICE_UNAVAILABLE, "journal_failed"),
        };
        let error = Self::new(status, code, message);
        match why {
            Refused::Busy { running: id }
            | Refused::Ended(id)
            | Refused::KeyTaken { operation: id, .. } => error.about(id),
            _ => error,
        }
    }
}
