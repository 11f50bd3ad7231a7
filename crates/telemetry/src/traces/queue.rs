//! The bounded queue of spans to the collector, and the thread that empties it.

use std::io;
use std::mem;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use opentelemetry::Context;
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{Span, SpanData, SpanExporter as _, SpanProcessor};
use parking_lot::Mutex;
use tokio::runtime::{Builder, Runtime};
use tracing::{info, warn};

use super::SpanCounters;
use super::post::Post;

/// Most spans that wait.
const SPANS_MAX: usize = 4096;

/// Most spans in one message to the collector.
const BATCH_MAX: usize = 512;

/// Time between two runs that empty the queue. No thread is woken for a single span.
const INTERVAL: Duration = Duration::from_millis(500);

/// The queue that takes spans when they end.
#[derive(Debug)]
pub(super) struct Queue {
    spans: SyncSender<SpanData>,
    counters: SpanCounters,
    end: Mutex<Option<End>>,
}

/// The channels by which the thread is ended.
#[derive(Debug)]
struct End {
    /// Dropped to ask the thread to end.
    _wish: SyncSender<()>,
    /// Closed when the thread has ended.
    ended: Receiver<()>,
}

/// The state of the sending thread.
struct Sender {
    spans: Receiver<SpanData>,
    exporter: SpanExporter,
    post: Post,
    runtime: Runtime,
    endpoint: String,
    counters: SpanCounters,
    /// Whether the collector failed to accept the last spans.
    missed: bool,
}

// === impl Queue ===

impl Queue {
    /// Starts the thread, once the service's resource is known.
    pub(super) fn start(
        exporter: SpanExporter,
        post: Post,
        endpoint: String,
        counters: SpanCounters,
        resource: &Resource,
    ) -> io::Result<Self> {
        let (spans, waiting) = sync_channel(SPANS_MAX);
        let (wish, wished) = sync_channel(0);
        let (ending, ended) = sync_channel(0);
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let mut exporter = exporter;
        exporter.set_resource(resource);
        let mut sender = Sender {
            spans: waiting,
            exporter,
            post,
            runtime,
            endpoint,
            counters: counters.clone(),
            missed: false,
        };
        thread::Builder::new().name("traces".to_owned()).spawn(move || {
            sender.run(&wished);
            drop(ending);
        })?;
        Ok(Self { spans, counters, end: Mutex::new(Some(End { _wish: wish, ended })) })
    }
}

impl SpanProcessor for Queue {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        if self.spans.try_send(span).is_err() {
            self.counters.dropped.inc();
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        let End { _wish, ended } = self.end.lock().take().ok_or(OTelSdkError::AlreadyShutdown)?;
        drop(_wish);
        match ended.recv_timeout(timeout) {
            Err(RecvTimeoutError::Timeout) => Err(OTelSdkError::Timeout(timeout)),
            _ => Ok(()),
        }
    }
}

// === impl Sender ===

impl Sender {
    fn run(&mut self, wished: &Receiver<()>) {
        loop {
            let waited = wished.recv_timeout(INTERVAL);
            self.empty();
            if waited != Err(RecvTimeoutError::Timeout) {
                return;
            }
        }
    }

    /// Sends every span that waits now.
    fn empty(&mut self) {
        let mut batch = Vec::new();
        while let Ok(span) = self.spans.try_recv() {
            batch.push(span);
            if batch.len() == BATCH_MAX {
                self.send(mem::take(&mut batch));
            }
        }
        if !batch.is_empty() {
            self.send(batch);
        }
    }

    fn send(&mut self, batch: Vec<SpanData>) {
        let count = batch.len() as u64;
        let sent = self.runtime.block_on(self.exporter.export(batch));
        let endpoint = &self.endpoint;
        match sent {
            Ok(()) => {
                self.counters.exported.inc_by(count);
                if mem::take(&mut self.missed) {
                    info!(endpoint, "traces arrive again");
                }
            }
            Err(why) => {
                self.counters.dropped.inc_by(count);
                let why = self.post.why().unwrap_or_else(|| why.to_string());
                if !mem::replace(&mut self.missed, true) {
                    warn!(endpoint, why, "traces do not arrive, and are dropped until they do");
                }
            }
        }
    }
}
