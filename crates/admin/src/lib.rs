//! The admin API: the state of the cluster, changes of it, and tokens that let nodes join.
//!
//! - **ADM-1** every path but `/admin/v1/livez` requires the token, unknown paths too; the token is
//!   compared in constant time.
//! - **ADM-2** every answer of ours is JSON, or a stream of events for a client that asks for one, and
//!   every error has the form of [`view::ErrorBody`], whatever the client sends.
//! - **ADM-3** a client occupies one connection of [`CONNECTIONS_MAX`] for at most [`CONNECTION_MAX`],
//!   and bounded memory, however slow the client is and however much it sends; over HTTP/2 with at most
//!   [`REQUESTS_MAX`] concurrent requests. A client that follows an operation occupies one of
//!   [`STREAMS_MAX`] streams and may stay for [`STREAM_MAX`] more.
//! - **ADM-4** `GET /admin/v1/openapi.json` describes every path and every field, and nothing else.
//! - **ADM-5** clients without the token cannot keep out clients that have it: when all connections are
//!   taken, the oldest connection that has not shown the token is closed.
//! - **ADM-6** a stream of events has every step of its operation once and in order, also across
//!   reconnections with `Last-Event-ID`, and then its end.
//! - **ADM-7** no web page of another site is answered, whatever it sends: not by its `Origin`, and on
//!   loopback not by the name by which it calls the server.
//!
//! | Path | |
//! |---|---|
//! | `GET /admin/v1/cluster` | [`view::Cluster`] |
//! | `GET /admin/v1/deployment` | [`view::Deployment`] |
//! | `PATCH /admin/v1/deployment` | [`view::DeploymentPatch`] → 202 [`view::Operation`] |
//! | `POST /admin/v1/replicas/{id}/drain`, `.../restart`, `DELETE /admin/v1/replicas/{id}` | 202 |
//! | `POST`, `DELETE /admin/v1/nodes/{name}/drain`, `DELETE /admin/v1/nodes/{name}` | 202 |
//! | `GET /admin/v1/operations` | [`view::OperationList`] |
//! | `GET /admin/v1/operations/{id}` | [`view::Operation`], or a stream of events |
//! | `DELETE /admin/v1/operations/{id}` | aborts it: 202 |
//! | `POST /admin/v1/tokens` | [`view::TokenRequest`] → [`view::Token`] |
//! | `GET /admin/v1/openapi.json` | this table for programs |
//! | `GET /admin/v1/livez` | 200 while the process runs; no token |
//!
//! Not here: the source of the port, the token and the files (the CLI), the execution of changes (the
//! cluster), the protocols HTTP/1.1, HTTP/2 and TLS (`playhouse-listener`).
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
