//! The admin API: what the cluster looks like, and tokens that let nodes join it.
//!
//! - **ADM-1** every path but `/admin/v1/livez` asks for the token, unknown paths too; it is compared
//!   in constant time.
//! - **ADM-2** every answer of ours is JSON, and every error has the shape [`view::ErrorBody`],
//!   whatever the client sends. (What is not HTTP gets hyper's bare 400 or 431.)
//! - **ADM-3** a client costs one connection of [`CONNECTIONS_MAX`] for at most [`CONNECTION_MAX`],
//!   and bounded memory, however slow it is and however much it sends.
//! - **ADM-4** `GET /admin/v1/openapi.json` describes every path and every field, and nothing else.
//!
//! | Path | |
//! |---|---|
//! | `GET /admin/v1/cluster` | [`view::Cluster`] |
//! | `POST /admin/v1/tokens` | [`view::TokenRequest`] → [`view::Token`] |
//! | `GET /admin/v1/openapi.json` | this table for programs |
//! | `GET /admin/v1/livez` | 200 while the process runs; no token |
//!
//! Not here: where the port and the token come from (the CLI), TLS (a proxy's work).
#![forbid(unsafe_code)]

mod accept;
mod auth;
mod error;
mod operations;
mod routes;
pub mod view;

pub use accept::{CONNECTION_MAX, CONNECTIONS_MAX, serve};
pub use operations::Operations;
pub use routes::{AdminConfig, BODY_BYTES_MAX, TTL_SECONDS_MAX};
