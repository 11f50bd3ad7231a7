//! A small HTTP/1.1 client for OpenAI endpoints, made to load them: few allocations, kept-alive
//! connections, no hidden retries.
//!
//! - **C-1** a connection is used again only after its answer was read to the end; an answer
//!   dropped before its end closes the connection, which is how a generation is cancelled.
//! - **C-2** every wait is limited: connecting, the head of the answer and each gap between two pieces of
//!   its body.
//! - **C-3** bodies are bounded: the reader bounds whole ones, [`sse::EVENT_BYTES_MAX`] bounds events.
//! - **C-4** a request is sent again only if none of its bytes were sent.
//!
//! `https` URLs use TLS. The client does not bound its connections: the caller decides how many requests
//! run at once, and each has at most one.

pub(crate) mod completion;
pub(crate) mod sse;
mod target;
mod tls;

use std::error::Error as _;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, HeaderValue};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

pub(crate) use self::target::Target;
use self::tls::Tls;
pub(crate) use self::tls::{Trust, trusting};
use crate::error::CliError;

/// The maximum time to open a connection.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// The read buffer per connection; a large one only helps when events come faster than they are read.
const READ_BUFFER_BYTES: usize = 64 << 10;
/// The maximum number of bytes read of the body of a failed request.
const ERROR_BODY_MAX: usize = 64 << 10;
/// The maximum number of bytes read of a list of models.
const MODELS_BODY_MAX: usize = 4 << 20;

/// A client of one server.
pub(crate) struct Client {
    target: Target,
    addresses: Vec<SocketAddr>,
    headers: HeaderMap,
    quiet_max: Duration,
    tls: Option<Tls>,
    idle: Arc<Idle>,
}

/// A response whose body is still to be read.
pub(crate) struct Response {
    status: StatusCode,
    body: Incoming,
    quiet_max: Duration,
    /// The connection, which returns to the idle ones when the body has ended (**C-1**).
    connection: Option<Connection>,
    idle: Arc<Idle>,
}

type Connection = SendRequest<Full<Bytes>>;

/// The idle connections, the most recently used last, because that is the least likely to have been
/// closed by the server.
#[derive(Default)]
struct Idle(Mutex<Vec<Connection>>);

/// The reason why a request has no answer, or not a good one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// The address cannot be used.
    #[error("{url:?} is not an address to connect to: {why}")]
    BadUrl {
        /// The given address.
        url: String,
        /// The problem of the address.
        why: &'static str,
    },
    /// The API key cannot be sent.
    #[error("the API key has characters which an HTTP header cannot carry")]
    BadApiKey,
    /// The trusted certificates cannot be determined.
    #[error("cannot read which certificates to trust: {0}")]
    Trust(String),
    /// No connection could be opened.
    #[error("cannot connect to {authority}: {source}")]
    Connect {
        /// Host and port.
        authority: String,
        /// The error of the system.
        source: io::Error,
    },
    /// The connection failed before the end of the answer.
    #[error("{}", chain(.0))]
    Http(#[from] hyper::Error),
    /// The server was silent for too long.
    #[error("waited {} s for {what}", limit.as_secs_f64())]
    TooSlow {
        /// The input that was waited for.
        what: &'static str,
        /// The limit of the wait.
        limit: Duration,
    },
    /// The server refused the request.
    #[error("{status}: {message}")]
    Status {
        /// The HTTP status.
        status: StatusCode,
        /// The message of the server.
        message: String,
    },
    /// The server reported an error after the answer had begun.
    #[error("the server broke off: {0}")]
    BrokeOff(String),
    /// The answer does not conform to the API.
    #[error("the answer is not an OpenAI answer: {0}")]
    Malformed(String),
}

// === impl Client ===

impl Client {
    /// Resolves the address of `target`; no connection is made yet. `quiet_max` limits how long the
    /// server may be silent while an answer is awaited.
    ///
    /// # Errors
    /// Returns an error if the name cannot be resolved, or the key cannot be sent.
    pub(crate) async fn new(
        target: Target,
        api_key: Option<&str>,
        quiet_max: Duration,
    ) -> Result<Self, ClientError> {
        Self::trusting(Trust::Machine, target, api_key, quiet_max).await
    }

    /// Does the same as [`Client::new`]; over TLS, the server must have a certificate that `trust`
    /// accepts.
    ///
    /// # Errors
    /// Returns the errors of [`Client::new`], and an error if the trusted certificates cannot be read.
    pub(crate) async fn trusting(
        trust: Trust<'_>,
        target: Target,
        api_key: Option<&str>,
        quiet_max: Duration,
    ) -> Result<Self, ClientError> {
        let lookup = tokio::net::lookup_host((target.host(), target.port()));
        let addresses = within(CONNECT_MAX, "the address of the server", lookup)
            .await?
            .map_err(|source| ClientError::Connect { authority: target.authority(), source })?
            .collect();
        let headers = headers(&target, api_key)?;
        let tls = target.is_tls().then(|| Tls::new(&target, trust)).transpose()?;
        Ok(Self { target, addresses, headers, quiet_max, tls, idle: Arc::default() })
    }

    /// Sends a JSON body to an endpoint, such as `/v1/completions`.
    ///
    /// # Errors
    /// Returns an error if no answer came. An answer of any status is `Ok`; see [`Response::success`].
    pub(crate) async fn post(&self, endpoint: &str, json: Bytes) -> Result<Response, ClientError> {
        self.ask(Method::POST, endpoint, HeaderMap::new(), json).await
    }

    /// Sends a GET request to an endpoint.
    ///
    /// # Errors
    /// Returns the errors of [`Client::post`].
    pub(crate) async fn get(&self, endpoint: &str) -> Result<Response, ClientError> {
        self.ask(Method::GET, endpoint, HeaderMap::new(), Bytes::new()).await
    }

    /// Returns the id of the first model that the server lists.
    ///
    /// # Errors
    /// Returns an error if there is no list, or an empty one.
    pub(crate) async fn first_model(&self) -> Result<String, ClientError> {
        #[derive(Deserialize)]
        struct Models {
            data: Vec<ListedModel>,
        }
        #[derive(Deserialize)]
        struct ListedModel {
            id: String,
        }
        let body = self.get("/v1/models").await?.success().await?.whole(MODELS_BODY_MAX).await?;
        let models: Models = serde_json::from_slice(&body)
            .map_err(|error| ClientError::Malformed(format!("list of models: {error}")))?;
        let first = models.data.into_iter().next();
        first.map(|model| model.id).ok_or_else(|| {
            ClientError::Malformed("the list of models is empty; name one with --model".to_owned())
        })
    }

    /// Sends a request with `headers` in place of the usual ones.
    ///
    /// # Errors
    /// Returns the errors of [`Client::post`].
    pub(crate) async fn ask(
        &self,
        method: Method,
        endpoint: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Response, ClientError> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = self.target.path(endpoint).parse().map_err(|_| {
            let why = "its path has characters that a URL cannot have";
            ClientError::BadUrl { url: self.target.path(endpoint), why }
        })?;
        request.headers_mut().clone_from(&self.headers);
        for (name, value) in &headers {
            request.headers_mut().insert(name, value.clone());
        }

        while let Some(mut connection) = self.idle.take() {
            let ready = within(self.quiet_max, "a connection", connection.ready());
            if ready.await?.is_err() {
                continue; // The server closed it while it was idle.
            }
            match self.answer(&mut connection, request).await? {
                Ok(answer) => return Ok(self.response(answer, connection)),
                Err(unsent) => request = unsent,
            }
        }
        let mut connection = self.connect().await?;
        match self.answer(&mut connection, request).await? {
            Ok(answer) => Ok(self.response(answer, connection)),
            Err(_) => Err(ClientError::Connect {
                authority: self.target.authority(),
                source: io::ErrorKind::ConnectionReset.into(),
            }),
        }
    }

    /// Returns the head of the answer, or the request if nothing of it was sent (**C-4**).
    async fn answer(
        &self,
        connection: &mut Connection,
        request: Request<Full<Bytes>>,
    ) -> Result<Result<hyper::Response<Incoming>, Request<Full<Bytes>>>, ClientError> {
        let answer = connection.try_send_request(request);
        match within(self.quiet_max, "the answer to begin", answer).await? {
            Ok(answer) => Ok(Ok(answer)),
            Err(mut error) => match error.take_message() {
                Some(unsent) => Ok(Err(unsent)),
                None => Err(error.into_error().into()),
            },
        }
    }

    fn response(&self, answer: hyper::Response<Incoming>, connection: Connection) -> Response {
        let (head, body) = answer.into_parts();
        Response {
            status: head.status,
            body,
            quiet_max: self.quiet_max,
            connection: Some(connection),
            idle: Arc::clone(&self.idle),
        }
    }

    async fn connect(&self) -> Result<Connection, ClientError> {
        let failed = |source| ClientError::Connect { authority: self.target.authority(), source };
        let connect = TcpStream::connect(&self.addresses[..]);
        let stream = within(CONNECT_MAX, "the connection", connect).await?.map_err(failed)?;
        // A request is one write, so waiting for more data would only delay it.
        stream.set_nodelay(true).map_err(failed)?;
        let Some(Tls { connector, name }) = &self.tls else { return speak(stream).await };
        let greeted = connector.connect(name.clone(), stream);
        let stream = within(CONNECT_MAX, "the TLS handshake", greeted).await?.map_err(failed)?;
        speak(stream).await
    }
}

/// Begins HTTP on a connection.
async fn speak(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
) -> Result<Connection, ClientError> {
    let builder = http1::Builder::new().max_buf_size(READ_BUFFER_BYTES).clone();
    let (connection, driver) = builder.handshake(TokioIo::new(stream)).await?;
    // The task ends when `connection` is dropped; its error reaches the request that meets it.
    tokio::spawn(driver);
    Ok(connection)
}

fn headers(target: &Target, api_key: Option<&str>) -> Result<HeaderMap, ClientError> {
    let mut headers = HeaderMap::new();
    let host = HeaderValue::try_from(target.authority());
    headers.insert(HOST, host.expect("a host that was read from a URL is a header value"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
    if let Some(key) = api_key {
        let bearer = HeaderValue::try_from(format!("Bearer {key}"));
        let mut bearer = bearer.map_err(|_| ClientError::BadApiKey)?;
        bearer.set_sensitive(true);
        headers.insert(AUTHORIZATION, bearer);
    }
    Ok(headers)
}

async fn within<F: Future>(
    limit: Duration,
    what: &'static str,
    work: F,
) -> Result<F::Output, ClientError> {
    timeout(limit, work).await.map_err(|_| ClientError::TooSlow { what, limit })
}

// === impl Response ===

impl Response {
    /// Returns the status, of any kind.
    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    /// Returns the answer, if its status is a success.
    ///
    /// # Errors
    /// Returns [`ClientError::Status`] with the message in the body.
    pub(crate) async fn success(self) -> Result<Self, ClientError> {
        if self.status.is_success() {
            return Ok(self);
        }
        let status = self.status;
        let message = match self.whole(ERROR_BODY_MAX).await {
            Ok(body) => completion::error_message(&body),
            Err(error) => error.to_string(),
        };
        Err(ClientError::Status { status, message })
    }

    /// Returns the next piece of the body; `None` after the last.
    ///
    /// # Errors
    /// Returns an error if the connection failed or was silent for too long.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, ClientError> {
        loop {
            let frame = within(self.quiet_max, "the next piece of the answer", self.body.frame());
            let Some(frame) = frame.await? else {
                if let Some(connection) = self.connection.take() {
                    self.idle.put(connection);
                }
                return Ok(None);
            };
            if let Ok(data) = frame?.into_data() {
                return Ok(Some(data));
            }
        }
    }

    /// Returns the whole body.
    ///
    /// # Errors
    /// Returns the errors of [`Response::chunk`], and an error if the body is longer than `limit` bytes.
    pub(crate) async fn whole(mut self, limit: usize) -> Result<Bytes, ClientError> {
        let mut body = Bytes::new();
        while let Some(chunk) = self.chunk().await? {
            if body.len() + chunk.len() > limit {
                return Err(ClientError::Malformed(format!("longer than {limit} bytes")));
            }
            // Most bodies are one piece, which then is not copied.
            body = if body.is_empty() { chunk } else { [body, chunk].concat().into() };
        }
        Ok(body)
    }
}

// === impl Idle ===

impl Idle {
    fn take(&self) -> Option<Connection> {
        self.0.lock().pop()
    }

    fn put(&self, connection: Connection) {
        self.0.lock().push(connection);
    }
}

// === impl ClientError ===

impl ClientError {
    /// Returns whether the server's certificate is not trusted, or the trusted ones cannot be read.
    pub(crate) fn is_distrust(&self) -> bool {
        let Self::Connect { source, .. } = self else { return matches!(self, Self::Trust(_)) };
        let why = source.get_ref().and_then(|why| why.downcast_ref());
        matches!(why, Some(rustls::Error::InvalidCertificate(_)))
    }
}

impl From<ClientError> for CliError {
    fn from(error: ClientError) -> Self {
        let told = match &error {
            ClientError::BadUrl { .. } | ClientError::BadApiKey => Self::usage(error.to_string()),
            _ => Self::failure(error.to_string()),
        };
        match &error {
            ClientError::Connect { source, .. }
                if source.kind() == io::ErrorKind::ConnectionRefused =>
            {
                told.hint("is a server running there? `playhouse serve` starts one")
            }
            ClientError::Status { status, .. }
                if [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN].contains(status) =>
            {
                told.hint("pass the server's key with --api-key or PLAYHOUSE_API_KEY")
            }
            ClientError::Malformed(_) => {
                told.hint("does an OpenAI-compatible server answer there?")
            }
            _ => told,
        }
    }
}

/// Returns the error with its causes, such as `Connection reset by peer`, which hyper's own text omits.
fn chain(error: &hyper::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
