//! The admin API: what the cluster looks like, what changes it, and tokens that let nodes join it.
//!
//! - **ADM-1** every path but `/admin/v1/livez` asks for the token, unknown paths too; it is compared
//!   in constant time.
//! - **ADM-2** every answer of ours is JSON, or a stream of events for who asks for one, and every
//!   error has the shape [`view::ErrorBody`], whatever the client sends. (What is not HTTP gets
//!   hyper's bare 400 or 431, or over HTTP/2 the end of its stream.)
//! - **ADM-3** a client costs one connection of [`CONNECTIONS_MAX`] for at most [`CONNECTION_MAX`],
//!   and bounded memory, however slow it is and however much it sends; over HTTP/2 with no more than
//!   [`REQUESTS_MAX`] requests at once. One that follows an operation is one of [`STREAMS_MAX`] and may
//!   stay for [`STREAM_MAX`] more.
//! - **ADM-4** `GET /admin/v1/openapi.json` describes every path and every field, and nothing else.
//! - **ADM-5** who has not shown the token cannot keep out who does: when all connections are taken,
//!   the oldest that has not shown it is cut off.
//! - **ADM-6** a stream of events has every step of its operation once and in order, also over
//!   reconnections with `Last-Event-ID`, and then its end.
//!
//! | Path | |
//! |---|---|
//! | `GET /admin/v1/cluster` | [`view::Cluster`] |
//! | `GET /admin/v1/deployment` | [`view::Deployment`] |
//! | `PATCH /admin/v1/deployment` | [`view::DeploymentPatch`] → 202 [`view::Operation`] |
//! | `POST /admin/v1/replicas/{id}/drain`, `.../restart`, `DELETE /admin/v1/replicas/{id}` | 202 |
//! | `POST`, `DELETE /admin/v1/nodes/{name}/drain`, `DELETE /admin/v1/nodes/{name}` | 202 |
//! | `GET /admin/v1/operations` | [`view::Operations`] |
//! | `GET /admin/v1/operations/{id}` | [`view::Operation`], or a stream of events |
//! | `DELETE /admin/v1/operations/{id}` | aborts it: 202 |
//! | `POST /admin/v1/tokens` | [`view::TokenRequest`] → [`view::Token`] |
//! | `GET /admin/v1/openapi.json` | this table for programs |
//! | `GET /admin/v1/livez` | 200 while the process runs; no token |
//!
//! Not here: where the port, the token and the files come from (the CLI), what a change does (the
//! cluster), how HTTP/1.1, HTTP/2 and TLS are spoken (`playhouse-listener`).
#![forbid(unsafe_code)]

mod accept;
mod api_state;
mod audit;
mod auth;
mod body;
mod changes;
mod error;
mod follow;
mod operations;
mod query;
mod routes;
mod streams;
pub mod view;

pub use accept::{CONNECTION_MAX, CONNECTIONS_MAX, REQUESTS_MAX, STREAM_MAX, serve};
pub use audit::{AuditEntry, AuditLog, RenewalEntry, RequestEntry};
pub use body::BODY_BYTES_MAX;
pub use changes::{KEY_BYTES_MAX, PARALLEL_MAX};
pub use operations::Operations;
pub use query::{DEADLINE_SECONDS, DEADLINE_SECONDS_MAX};
pub use routes::{AdminConfig, TTL_SECONDS_MAX};
pub use streams::STREAMS_MAX;
