//! A [`Listener`] accepts connections and serves HTTP/1.1 and HTTP/2 on them, behind TLS or not, within
//! [`Limits`]. The gateway and the admin API each are a [`Service`] on a listener.
//!
//! A client of a TLS listener chooses the protocol by ALPN (`h2`, `http/1.1`); on a cleartext listener
//! it speaks HTTP/2 if it begins with the preface of HTTP/2 (prior knowledge), and HTTP/1.1 otherwise.
//!
//! The guarantees are those of its modules: **ACC** (the accept loop), **SOC** (a socket), **H2** (what
//! HTTP/2 adds).
//!
//! Not here: the content of answers, the policy of a shutdown (the gateway's **END**), the source of
//! addresses and certificates, `Upgrade: h2c`, server push, HTTP/3.
#![forbid(unsafe_code)]

mod body;
mod client;
mod connection;
mod limits;
mod listener;
mod phase;
mod piece;
mod refusal;
mod service;
mod socket;
mod streams;
mod turn;
mod web_page;

pub use client::Client;
pub use connection::End;
pub use limits::{Limits, Stay};
pub use listener::{Connections, Listener};
pub use phase::{Phase, Phases};
pub use refusal::Refusal;
pub use service::Service;
pub use web_page::{WebPage, host_of};
