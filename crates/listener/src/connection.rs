//! One connection, from its TLS handshake to its last answer.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;

use axum::body::Body;
use hyper::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;
use tracing::debug;

use crate::body::Guarded;
use crate::client::Client;
use crate::limits::{Limits, Stay};
use crate::phase::Phase;
use crate::refusal::{FIELDS_MAX, Refusal};
use crate::service::Service;
use crate::socket::Socket;
use crate::streams::{RESETS_MAX, SEND_BYTES, Spawn, Streams};
use crate::turn::Turn;

/// HTTP/2: how many times the size of a valid head a head may be to be read, and refused by us. A larger one
/// gets a 431 without a body, or the end of its connection.
const HEADS_READ: usize = 4;

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The connection ended by itself, or with nothing left to send.
    Closed,
    /// The connection ended in the middle of an answer.
    CutOff,
}

/// Serves a connected client, behind TLS or not.
pub(crate) async fn enter(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    service: Arc<Service>,
    client: Client,
) -> End {
    // Answers come in small pieces that must not wait for the next ones; a failure costs only latency.
    let _ = stream.set_nodelay(true);
    let Some(tls) = tls else { return service.attend(stream, client).await };
    let handshake = timeout(service.limits.handshake_timeout, tls.accept(stream));
    let accepted = tokio::select! {
        accepted = handshake => accepted,
        () = service.phases.reached(Phase::CutOff) => return End::Closed,
    };
    match accepted {
        Ok(Ok(stream)) => return service.attend(stream, client).await,
        Ok(Err(error)) => debug!(listener = service.name, %error, "TLS handshake failed"),
        Err(_) => debug!(listener = service.name, "TLS handshake too slow"),
    }
    End::Closed
}

// === impl Service ===

impl Service {
    /// Serves one client over `stream` until the client leaves, misbehaves, has stayed for too long or is
    /// drained.
    pub async fn attend(
        &self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        client: Client,
    ) -> End {
        let answers = self.answer(stream, client.clone());
        let Stay::OneRequest { connection, stream } = self.limits.stay else {
            return answers.await;
        };
        let mut answers = pin!(answers);
        let mut ended = timeout(connection, &mut answers).await;
        if ended.is_err() && client.stays() {
            ended = timeout(stream, answers).await;
        }
        ended.unwrap_or_else(|_| {
            debug!(listener = self.name, "client too slow");
            End::CutOff
        })
    }

    /// Answers one client until it leaves, misbehaves or is drained.
    async fn answer(
        &self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        client: Client,
    ) -> End {
        let turn = Turn::default();
        let socket = TokioIo::new(Socket::new(stream, self, turn.clone()));
        let streams = Streams::new(self.limits.write_timeout);
        let builder = builder(&self.limits, streams.spawn());
        let (router, answers) = (self.router.clone(), turn.clone());
        let (head_bytes, explain) = (self.limits.head_bytes, self.explain);
        let service = service_fn(move |request: Request<Incoming>| {
            let busy = answers.busy(request.version());
            let guard = move |body| Guarded::new(body, busy);
            let answer = match Refusal::of_head(&request, head_bytes) {
                Some(refusal) => Err(refusal.http2_response(explain)),
                None => {
                    let mut request = request.map(Body::new);
                    request.extensions_mut().insert(client.clone());
                    Ok(router.clone().oneshot(request))
                }
            };
            async move {
                let response = match answer {
                    Ok(answer) => answer.await?,
                    Err(refused) => refused,
                };
                Ok::<_, Infallible>(response.map(guard))
            }
        });
        let end = {
            let mut connection = pin!(builder.serve_connection(socket, service));
            let ended = tokio::select! {
                biased;
                ended = connection.as_mut() => Some(ended),
                () = self.parting(&turn) => {
                    connection.as_mut().graceful_shutdown();
                    tokio::select! {
                        biased;
                        ended = connection => Some(ended),
                        () = self.phases.reached(Phase::CutOff) => None,
                    }
                }
            };
            match ended {
                None if turn.is_unfinished() => End::CutOff,
                None | Some(Ok(())) => End::Closed,
                Some(Err(error)) => {
                    debug!(listener = self.name, %error, "connection ended early");
                    End::Closed
                }
            }
        };
        streams.end().await;
        end
    }

    /// Completes when the connection should close as soon as it has nothing to answer.
    async fn parting(&self, turn: &Turn) {
        let closing = async {
            self.phases.reached(Phase::Closing).await;
            // The first request may be on its way, from a client that could not know of the end.
            drop(timeout(self.limits.farewell_timeout, turn.asked(|_| true)).await);
        };
        tokio::select! {
            () = closing => {}
            () = turn.left(self.limits.stay != Stay::Requests, &self.phases) => {}
        }
    }
}

/// Returns hyper's connection builder with the limits that hyper enforces itself.
fn builder(limits: &Limits, spawn: Spawn) -> auto::Builder<Spawn> {
    let mut builder = auto::Builder::new(spawn);
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        .keep_alive(limits.stay == Stay::Requests)
        .max_buf_size(limits.head_bytes)
        .max_headers(FIELDS_MAX);
    let head_bytes = limits.head_bytes.saturating_mul(HEADS_READ);
    let head_bytes = u32::try_from(head_bytes).unwrap_or(u32::MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(limits.ping_interval)
        .keep_alive_timeout(limits.ping_timeout)
        .max_header_list_size(head_bytes)
        .max_concurrent_streams(limits.streams)
        .max_pending_accept_reset_streams(RESETS_MAX)
        .max_local_error_reset_streams(RESETS_MAX)
        .initial_stream_window_size(limits.window_bytes)
        .initial_connection_window_size(limits.window_bytes)
        .max_send_buf_size(SEND_BYTES);
    builder
}
