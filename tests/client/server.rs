//! A real HTTP server whose answers a test writes.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

/// A server that listens until it is dropped.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    seen: Arc<Seen>,
    runtime: Runtime,
}

/// What the server has seen.
#[derive(Default)]
struct Seen {
    connections: AtomicUsize,
    requests: Mutex<Vec<Received>>,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    /// Counted from 0 over all requests that the script answers.
    pub(crate) number: usize,
    pub(crate) path: String,
    pub(crate) authorization: Option<String>,
    pub(crate) body: Value,
}

/// An answer being given: its status is fixed, its body is written piece by piece.
pub(crate) struct Answer(mpsc::Sender<io::Result<Bytes>>);

/// What a test's script is asked: how to answer this request.
pub(crate) enum Reply {
    /// A status and a whole body.
    Whole(u16, Value),
    /// Status 200 and a body which the given function writes, on a task of its own.
    Stream(Box<dyn FnOnce(Answer) -> Writing + Send>),
    /// The connection is closed without an answer.
    Close,
}

type Writing = Pin<Box<dyn Future<Output = ()> + Send>>;

struct Pieces(mpsc::Receiver<io::Result<Bytes>>);

// === impl Server ===

impl Server {
    /// Starts a server with one model, `demo`, which answers the rest as `script` says.
    pub(crate) fn start(script: impl Fn(Received) -> Reply + Send + Sync + 'static) -> Self {
        let runtime = Runtime::new().expect("a runtime starts");
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a free port");
        let address = listener.local_addr().expect("bound");
        let seen = Arc::new(Seen::default());
        let (script, noted) = (Arc::new(script), Arc::clone(&seen));
        runtime.spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("connections are accepted");
                let (script, noted) = (Arc::clone(&script), Arc::clone(&noted));
                tokio::spawn(async move {
                    stream.set_nodelay(true).expect("a socket option");
                    noted.connections.fetch_add(1, Ordering::SeqCst);
                    let answer = service_fn(|request| answer(request, &*script, &noted));
                    let served = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), answer);
                    // Fails when the script breaks the connection or the client leaves.
                    let _ = served.await;
                });
            }
        });
        Self { address, seen, runtime }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The requests so far that the script answers.
    pub(crate) fn requests(&self) -> Vec<Received> {
        self.seen.requests.lock().clone()
    }

    /// Waits for something that the script does.
    pub(crate) fn wait<T>(&self, condition: impl Future<Output = T>) -> T {
        self.runtime.block_on(condition)
    }

    pub(crate) fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::SeqCst)
    }
}

async fn answer(
    request: Request<Incoming>,
    script: &(impl Fn(Received) -> Reply + Sync),
    seen: &Seen,
) -> Result<Response<http_body_util::combinators::BoxBody<Bytes, io::Error>>, io::Error> {
    let whole = |status: u16, body: Value| {
        let body = http_body_util::Full::new(Bytes::from(body.to_string()));
        let body = body.map_err(|never| match never {}).boxed();
        Ok(Response::builder().status(status).body(body).expect("a valid answer"))
    };
    match request.uri().path() {
        "/v1/models" => return whole(200, json!({"object": "list", "data": [{"id": "demo"}]})),
        "/version" => return whole(200, json!({"version": "9.9.9"})),
        _ => {}
    }
    let path = request.uri().path().to_owned();
    let authorization = request.headers().get("authorization");
    let authorization = authorization.map(|key| key.to_str().expect("ASCII").to_owned());
    let body = request.into_body().collect().await.map_err(io::Error::other)?.to_bytes();
    let body = match &*body {
        [] => Value::Null,
        body => serde_json::from_slice(body).expect("the client sends JSON"),
    };
    let received = {
        let mut requests = seen.requests.lock();
        let received = Received { number: requests.len(), path, authorization, body };
        requests.push(received.clone());
        received
    };
    match script(received) {
        Reply::Whole(status, body) => whole(status, body),
        Reply::Close => Err(io::Error::other("closed by the script")),
        Reply::Stream(write) => {
            let (pieces, receiver) = mpsc::channel(1);
            tokio::spawn(write(Answer(pieces)));
            let body = Pieces(receiver).boxed();
            let answer = Response::builder().header("content-type", "text/event-stream");
            Ok(answer.body(body).expect("a valid answer"))
        }
    }
}

// === impl Reply ===

impl Reply {
    /// A stream written by `write`.
    pub(crate) fn stream<F>(write: impl FnOnce(Answer) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::Stream(Box::new(|answer| Box::pin(write(answer))))
    }

    /// A stream of the given bytes, cut into pieces of 1 to 7 bytes.
    pub(crate) fn crumbs(text: String) -> Self {
        Self::stream(|answer| async move {
            let mut rest = text.as_bytes();
            for size in (1..=7).cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, after) = rest.split_at(size.min(rest.len()));
                answer.send(piece).await;
                rest = after;
            }
        })
    }

    /// A chat answer of these tokens, well-formed.
    pub(crate) fn chat(tokens: &[&str]) -> Self {
        let events: Vec<String> = tokens.iter().map(|token| chat_event(token)).collect();
        let text = format!("{}{}", events.concat(), ending(5, tokens.len()));
        Self::stream(|answer| async move { answer.send(text.as_bytes()).await })
    }
}

/// An event of a streamed chat answer.
pub(crate) fn chat_event(token: &str) -> String {
    format!("data: {}\n\n", json!({"choices": [{"index": 0, "delta": {"content": token}}]}))
}

/// An event of a streamed text completion.
pub(crate) fn text_event(token: &str) -> String {
    format!("data: {}\n\n", json!({"choices": [{"index": 0, "text": token}]}))
}

/// Usage and the end of a stream.
pub(crate) fn ending(prompt_tokens: usize, completion_tokens: usize) -> String {
    let usage = json!({"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens});
    format!("data: {}\n\ndata: [DONE]\n\n", json!({"choices": [], "usage": usage}))
}

// === impl Answer ===

impl Answer {
    /// Sends a piece as an HTTP chunk of its own. If the client is gone there is nobody to tell.
    pub(crate) async fn send(&self, piece: &[u8]) {
        let _ = self.0.send(Ok(Bytes::copy_from_slice(piece))).await;
    }

    /// Breaks the connection in the midst of the answer.
    pub(crate) async fn break_off(self) {
        let _ = self.0.send(Err(io::Error::other("broken off by the script"))).await;
    }

    /// Waits until the client has gone away.
    pub(crate) async fn abandoned(&self) {
        self.0.closed().await;
    }
}

// === impl Pieces ===

impl Body for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.0.poll_recv(context).map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }
}
