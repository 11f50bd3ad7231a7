//! A service whose answers last as long as a test likes, and clients of it.

use std::convert::Infallible;
use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::routing::{any, get};
use bytes::Bytes;
use http_body::Frame;
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use playhouse_listener::{Client, End, Limits, Listener, Phases, Refusal, Service, Stay};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, duplex};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_rustls::rustls::ServerConfig;

/// The maximum wait for an event that must happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) type Sender = SendRequest<Empty<Bytes>>;

pub(crate) type Driver = JoinHandle<hyper::Result<()>>;

/// A service that counts the requests being answered, and lets a test end them.
#[derive(Clone)]
pub(crate) struct TestRoutes {
    running: watch::Sender<usize>,
    pub(crate) release: watch::Sender<bool>,
}

/// A request that is being answered.
struct RunningRequest(TestRoutes);

/// A listener on a port of its own.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) phases: Phases,
    stop: oneshot::Sender<()>,
    served: JoinHandle<(bool, u32)>,
}

// === impl TestRoutes ===

impl TestRoutes {
    pub(crate) fn new() -> Self {
        Self { running: watch::Sender::new(0), release: watch::Sender::new(false) }
    }

    fn enter(&self) -> RunningRequest {
        self.running.send_modify(|running| *running += 1);
        RunningRequest(self.clone())
    }

    /// Waits until this number of requests is being answered.
    pub(crate) async fn runs(&self, count: usize) {
        let mut running = self.running.subscribe();
        let runs = timeout(PATIENCE, running.wait_for(|running| *running == count)).await;
        drop(runs.expect("as many as expected").expect("the routes stand"));
    }

    pub(crate) fn running(&self) -> usize {
        *self.running.borrow()
    }

    fn router(&self) -> Router {
        Router::new()
            .route("/", any(|| async { "hello" }))
            .route("/long", get(|| async { "long ".repeat(1000) }))
            .route("/held", get(held))
            .route("/quiet", get(quiet))
            .route("/endless", get(endless))
            .route("/stay", get(stay))
            .with_state(self.clone())
    }

    pub(crate) fn service(&self, limits: Limits) -> Service {
        let (router, phases) = (self.router(), Phases::default());
        Service { name: "test", router, limits, phases, explain }
    }

    /// Serves one client, which may be as slow as the clock of the test says.
    pub(crate) fn attend(&self, limits: Limits) -> (DuplexStream, JoinHandle<End>) {
        let (client, server) = duplex(64 << 10);
        let service = self.service(limits);
        let attended = async move { service.attend(server, Client::new(None)).await };
        (client, tokio::spawn(attended))
    }

    pub(crate) async fn listen(&self, limits: Limits, tls: Option<Arc<ServerConfig>>) -> Server {
        let socket = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = socket.local_addr().expect("bound");
        let service = self.service(limits);
        let phases = service.phases.clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let routes = self.clone();
        let served = tokio::spawn(async move {
            let mut listener = Listener::new(socket, tls, service);
            listener.accept_until(async { drop(stopped.await) }).await;
            let deadline = Instant::now() + Duration::from_secs(1);
            let drained = async { drop(timeout(Duration::from_secs(1), routes.runs(0)).await) };
            let mut connections = listener.close(drained).await;
            let all_ended = connections.ended_by(deadline).await;
            connections.end(Duration::from_millis(100)).await;
            assert_eq!(connections.open(), 0);
            (all_ended, connections.cut_off())
        });
        Server { address, phases, stop, served }
    }
}

impl Drop for RunningRequest {
    fn drop(&mut self) {
        self.0.running.send_modify(|running| *running -= 1);
    }
}

// === impl Server ===

impl Server {
    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("it listens")
    }

    /// Begins the shutdown.
    pub(crate) fn stop(self) -> JoinHandle<(bool, u32)> {
        drop(self.stop);
        self.served
    }
}

/// Returns the code of a refusal as the body of its response.
fn explain(refusal: Refusal) -> Bytes {
    Bytes::from_static(refusal.code().as_bytes())
}

/// Answers when the test releases it.
async fn held(State(routes): State<TestRoutes>) -> &'static str {
    let _guest = routes.enter();
    drop(routes.release.subscribe().wait_for(|free| *free).await);
    "late"
}

/// Begins to answer, and goes on when the test releases it.
async fn quiet(State(routes): State<TestRoutes>) -> Body {
    let request = routes.enter();
    let words = futures_of(vec!["early ", "late"], request);
    Body::new(StreamBody::new(words))
}

/// Never stops to answer.
async fn endless(State(routes): State<TestRoutes>) -> Body {
    let request = routes.enter();
    let piece = Bytes::from_static(&[b'x'; 1 << 10]);
    Body::new(StreamBody::new(futures_util::stream::unfold(request, move |request| {
        let frame = Ok::<_, Infallible>(Frame::data(piece.clone()));
        async move { Some((frame, request)) }
    })))
}

/// Answers as [`held`] does, to a client that may stay.
async fn stay(State(routes): State<TestRoutes>, request: axum::extract::Request) -> &'static str {
    Client::of(&request).expect("every connection says who it is").stay();
    held(State(routes)).await
}

/// Sends the first of `words` at once, and the others when the test releases them.
fn futures_of(
    words: Vec<&'static str>,
    request: RunningRequest,
) -> impl futures_util::Stream<Item = Result<Frame<Bytes>, Infallible>> {
    let begun = (words.into_iter(), true, request);
    futures_util::stream::unfold(begun, |(mut words, first, request)| async move {
        if !first {
            drop(request.0.release.subscribe().wait_for(|free| *free).await);
        }
        let frame = Frame::data(Bytes::from_static(words.next()?.as_bytes()));
        Some((Ok(frame), (words, false, request)))
    })
}

/// Limits that no test reaches.
pub(crate) fn limits() -> Limits {
    Limits {
        connections: 16,
        strangers_give_way: false,
        stay: Stay::Requests,
        handshake_timeout: PATIENCE,
        header_timeout: PATIENCE,
        idle_timeout: 10 * PATIENCE,
        write_timeout: 10 * PATIENCE,
        farewell_timeout: Duration::from_millis(100),
        head_bytes: 16 << 10,
        streams: 32,
        window_bytes: 1 << 16,
        ping_interval: 10 * PATIENCE,
        ping_timeout: PATIENCE,
    }
}

/// Connects a client that speaks HTTP/2 at once.
pub(crate) async fn http2(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> (Sender, Driver) {
    http2_with_window(stream, None).await
}

/// Connects a client that speaks HTTP/2 at once and has room for `window` bytes of each answer that it does
/// not read.
pub(crate) async fn http2_with_window(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    window: Option<u32>,
) -> (Sender, Driver) {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.timer(TokioTimer::new()).initial_stream_window_size(window);
    let connected = builder.handshake(TokioIo::new(stream)).await;
    let (sender, connection) = connected.expect("it speaks HTTP/2");
    (sender, tokio::spawn(connection))
}

pub(crate) fn request(path: &str) -> Request<Empty<Bytes>> {
    let target = format!("http://routes{path}");
    Request::get(target).body(Empty::new()).expect("a request")
}

pub(crate) async fn ask(sender: &mut Sender, path: &str) -> hyper::Result<Response<Incoming>> {
    sender.ready().await?;
    sender.send_request(request(path)).await
}

/// Reads an answer to its end.
pub(crate) async fn text(response: Response<Incoming>) -> hyper::Result<String> {
    let body = response.into_body().collect().await?.to_bytes();
    Ok(String::from_utf8(body.to_vec()).expect("UTF-8"))
}

/// Fails when an event takes too long.
pub(crate) async fn soon<T>(act: impl Future<Output = T>) -> T {
    timeout(PATIENCE, act).await.expect("in time")
}

/// Waits until a client has been told to leave.
pub(crate) async fn told_to_leave(sender: &mut Sender) {
    let told = async { while ask(sender, "/").await.is_ok() {} };
    soon(told).await;
}

/// Returns a future that never completes.
pub(crate) fn never() -> impl Future<Output = ()> {
    pending()
}
