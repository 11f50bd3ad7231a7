//! HTTP for the exporter: one connection for each batch of spans, over TLS for `https`.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper::header::{HOST, HeaderValue};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use opentelemetry_http::{HttpClient, HttpError};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

/// Longest time for a batch, from the connection to the end of the answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Longest answer that is read.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// The HTTP client that posts batches. Remembers the last error, because the exporter only says that one
/// occurred.
#[derive(Clone, Default)]
pub(super) struct Post {
    tls: Option<TlsConnector>,
    why: Arc<Mutex<Option<String>>>,
}

// === impl Post ===

impl Post {
    /// Returns a client that uses TLS as `tls` says, or no TLS.
    pub(super) fn new(tls: Option<Arc<ClientConfig>>) -> Self {
        Self { tls: tls.map(TlsConnector::from), why: Arc::default() }
    }

    /// Returns the reason why the last batch did not arrive, if the network is to blame.
    pub(super) fn why(&self) -> Option<String> {
        self.why.lock().take()
    }
}

#[async_trait]
impl HttpClient for Post {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let sent = timeout(PATIENCE, send(request, self.tls.as_ref())).await;
        let sent = sent.unwrap_or_else(|_| Err(format!("no answer within {PATIENCE:?}").into()));
        sent.inspect_err(|why| {
            *self.why.lock() = Some(why.to_string());
        })
    }
}

impl fmt::Debug for Post {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Post").field("tls", &self.tls.is_some()).finish_non_exhaustive()
    }
}

async fn send(
    request: Request<Bytes>,
    tls: Option<&TlsConnector>,
) -> Result<Response<Bytes>, HttpError> {
    let uri = request.uri().clone();
    let host = uri.host().ok_or("the URL has no host")?.trim_matches(['[', ']']).to_owned();
    let port = uri.port_u16().unwrap_or(if tls.is_some() { 443 } else { 80 });
    let stream = TcpStream::connect((&*host, port)).await?;
    match tls {
        None => exchange(request, stream).await,
        Some(tls) => {
            let stream = tls.connect(ServerName::try_from(host)?, stream).await?;
            exchange(request, stream).await
        }
    }
}

/// Sends one request and returns its answer.
async fn exchange(
    mut request: Request<Bytes>,
    stream: impl AsyncRead + AsyncWrite + Send + Unpin,
) -> Result<Response<Bytes>, HttpError> {
    let uri = request.uri().clone();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    request.headers_mut().insert(HOST, HeaderValue::from_str(authority)?);
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    *request.uri_mut() = path.parse()?;
    let answer = async {
        let (head, body) = sender.send_request(request.map(Full::new)).await?.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await?.to_bytes();
        Ok(Response::from_parts(head, body))
    };
    tokio::select! {
        answer = answer => answer,
        // The connection ends when the answer was read, or when there will be none.
        ended = connection => Err(match ended {
            Ok(()) => "the collector closed the connection".into(),
            Err(why) => why.into(),
        }),
    }
}
