//! A sender of requests when they are due, which times their answers.
//!
//! One loop serves open and closed loads. A request waits until it is due and, if concurrency is limited,
//! for a slot, in order of arrival; then it runs as a separate task, so a slow answer delays no other
//! request. In a closed loop all requests are due at once and only slots hold them back.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use super::dataset::Prepared;
use crate::client::completion::{Completion, TokenScan, Usage, message_of};
use crate::client::sse::SseParser;
use crate::client::{Client, ClientError};
use crate::progress::Progress;

/// The maximum length of an answer that is not streamed.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// The number of inter-token latencies for which memory is reserved, so that timing does not include
/// growing a buffer.
const LATENCIES_RESERVED_MAX: usize = 4096;

/// The requests of a load, their target and their limits.
pub(super) struct Load {
    /// The client of the target.
    pub(super) client: Client,
    /// The path of the API.
    pub(super) endpoint: &'static str,
    /// The requests, in the order of sending.
    pub(super) requests: Vec<Prepared>,
    /// Whether answers are streams.
    pub(super) streamed: bool,
    /// Whether to keep the text of answers.
    pub(super) keep_text: bool,
    /// The time after which a request has failed.
    pub(super) time_max: Duration,
}

/// The outcome of one request. Times are in seconds.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Outcome {
    /// The time of sending, counted from the start of the load.
    pub(super) start: f64,
    /// The time from when the request was due to its sending.
    pub(super) queue_time: f64,
    /// The time from sending to the last token.
    pub(super) latency: f64,
    /// From sending to the first token; 0 for answers that are not streamed.
    pub(super) ttft: f64,
    /// Between tokens; one less than events with tokens.
    pub(super) itls: Vec<f32>,
    /// Tokens of the prompt.
    pub(super) prompt_tokens: u64,
    /// The number of tokens generated: the server's count, otherwise that of events.
    pub(super) output_tokens: u64,
    /// The text, if it was kept.
    pub(super) text: String,
    /// The reason of the failure, if the request failed.
    pub(super) error: Option<String>,
}

/// A load that was run.
#[derive(Debug, Default)]
pub(super) struct Run {
    /// The outcomes of the requests that ended, in the order of sending.
    pub(super) outcomes: Vec<Outcome>,
    /// The time from the start to the end of the last request, or to the interruption.
    pub(super) seconds: f64,
    /// The number of requests that were sent and had not ended when the run was interrupted; `None` if
    /// it was not.
    pub(super) interrupted: Option<usize>,
}

/// A reader of a streamed answer.
struct Stream<'a> {
    sent: Instant,
    last_token: Option<Instant>,
    usage: Usage,
    done: bool,
    failed: Option<ClientError>,
    keep_text: bool,
    scan: TokenScan,
    outcome: &'a mut Outcome,
}

/// Sends all requests of `load` when they are due (`arrivals`, counted from now), at most
/// `concurrency_max` at once, and waits for their outcomes. If `interruption` completes before, requests
/// that have not ended are cancelled, and the others are not sent.
pub(super) async fn run(
    load: Arc<Load>,
    arrivals: &[Duration],
    concurrency_max: Option<usize>,
    progress: &mut Progress,
    interruption: impl Future<Output = ()>,
) -> Run {
    assert_eq!(load.requests.len(), arrivals.len(), "each request has its time");
    let places = concurrency_max.map(|max| Arc::new(Semaphore::new(max)));
    let started = Instant::now();
    let mut outcomes = vec![None; arrivals.len()];
    let mut running = JoinSet::new();
    let mut finished = 0;
    let mut record = |ended: Result<(usize, Outcome), tokio::task::JoinError>| {
        let (index, outcome) = ended.expect("a request neither panics nor is aborted");
        outcomes[index] = Some(outcome);
        finished += 1;
        progress.set(finished);
    };
    let sending = async {
        for (index, &arrival) in arrivals.iter().enumerate() {
            let due = started + arrival;
            let turn = turn(due, places.as_ref());
            tokio::pin!(turn);
            let place = loop {
                tokio::select! {
                    biased;
                    place = &mut turn => break place,
                    Some(ended) = running.join_next(), if !running.is_empty() => record(ended),
                }
            };
            let load = Arc::clone(&load);
            running.spawn(async move {
                let outcome = load.request(index, started, due).await;
                drop(place);
                (index, outcome)
            });
        }
        while let Some(ended) = running.join_next().await {
            record(ended);
        }
    };
    let interrupted = tokio::select! {
        biased;
        () = sending => false,
        () = interruption => true,
    };
    while let Some(ended) = running.try_join_next() {
        record(ended);
    }
    Run {
        outcomes: outcomes.into_iter().flatten().collect(),
        seconds: started.elapsed().as_secs_f64(),
        interrupted: interrupted.then(|| running.len()),
    }
}

async fn turn(due: Instant, places: Option<&Arc<Semaphore>>) -> Option<OwnedSemaphorePermit> {
    // The timer wakes up to a millisecond late, so it is not used for requests that are due already.
    if Instant::now() < due {
        sleep_until(due).await;
    }
    let places = Arc::clone(places?);
    Some(places.acquire_owned().await.expect("places are never closed"))
}

// === impl Load ===

impl Load {
    /// Sends the first request `count` times, to warm the server up.
    ///
    /// # Errors
    /// Returns the first failure.
    pub(super) async fn warm_up(&self, count: usize) -> Result<(), String> {
        for _ in 0..count {
            let now = Instant::now();
            if let Some(error) = self.request(0, now, now).await.error {
                return Err(error);
            }
        }
        Ok(())
    }

    async fn request(&self, index: usize, started: Instant, due: Instant) -> Outcome {
        let request = &self.requests[index];
        let sent = Instant::now();
        let mut outcome = Outcome {
            start: (sent - started).as_secs_f64(),
            queue_time: (sent - due).as_secs_f64(),
            prompt_tokens: request.prompt_tokens,
            ..Outcome::default()
        };
        let exchange = async {
            if self.streamed {
                self.stream(request, sent, &mut outcome).await
            } else {
                self.whole(request, sent, &mut outcome).await
            }
        };
        let ended = timeout(self.time_max, exchange).await.unwrap_or_else(|_| {
            Err(ClientError::TooSlow { what: "the end of the answer", limit: self.time_max })
        });
        if let Err(error) = ended {
            outcome.error = Some(error.to_string());
        }
        outcome
    }

    async fn stream(
        &self,
        request: &Prepared,
        sent: Instant,
        outcome: &mut Outcome,
    ) -> Result<(), ClientError> {
        let response = self.client.post(self.endpoint, request.body.clone()).await?;
        let mut response = response.success().await?;
        outcome.itls.reserve_exact(request.output_tokens_max.min(LATENCIES_RESERVED_MAX));
        let mut parser = SseParser::default();
        let mut stream = Stream {
            sent,
            last_token: None,
            usage: Usage::default(),
            done: false,
            failed: None,
            keep_text: self.keep_text,
            scan: TokenScan::new(),
            outcome,
        };
        while let Some(chunk) = response.chunk().await? {
            // The events of one chunk came at one time.
            let now = Instant::now();
            parser
                .feed(&chunk, |data| stream.event(data, now))
                .map_err(|error| ClientError::Malformed(error.to_string()))?;
            if let Some(error) = stream.failed.take() {
                return Err(error);
            }
        }
        stream.end()
    }

    async fn whole(
        &self,
        request: &Prepared,
        sent: Instant,
        outcome: &mut Outcome,
    ) -> Result<(), ClientError> {
        let response = self.client.post(self.endpoint, request.body.clone()).await?;
        let body = response.success().await?.whole(ANSWER_BYTES_MAX).await?;
        outcome.latency = sent.elapsed().as_secs_f64();
        let answer =
            Completion::parse(&body).map_err(|error| ClientError::Malformed(error.to_string()))?;
        if !answer.is_token() {
            return Err(ClientError::Malformed("it has no choices".to_owned()));
        }
        outcome.count(answer.usage.unwrap_or_default(), 1);
        if self.keep_text {
            answer.text().clone_into(&mut outcome.text);
        }
        Ok(())
    }
}

// === impl Outcome ===

impl Outcome {
    /// Returns when the last token came, counted from the start of the load.
    pub(super) fn end(&self) -> f64 {
        self.start + self.latency
    }

    fn count(&mut self, usage: Usage, events: u64) {
        self.prompt_tokens = usage.prompt_tokens.unwrap_or(self.prompt_tokens);
        self.output_tokens = usage.completion_tokens.filter(|&count| count > 0).unwrap_or(events);
    }
}

// === impl Stream ===

impl Stream<'_> {
    fn event(&mut self, data: &[u8], now: Instant) {
        if !self.keep_text && self.scan.is_plain_token(data) {
            return self.token(now);
        }
        if data == b"[DONE]" {
            self.done = true;
            return;
        }
        let event = match Completion::parse(data) {
            Ok(event) => event,
            Err(error) => {
                self.failed.get_or_insert(ClientError::Malformed(error.to_string()));
                return;
            }
        };
        if let Some(error) = &event.error {
            self.failed.get_or_insert(ClientError::BrokeOff(message_of(error)));
            return;
        }
        if event.is_token() {
            self.token(now);
        }
        if self.keep_text {
            self.outcome.text.push_str(event.text());
        }
        if let Some(usage) = event.usage {
            self.usage = usage;
        }
    }

    fn token(&mut self, now: Instant) {
        match self.last_token.replace(now) {
            None => self.outcome.ttft = (now - self.sent).as_secs_f64(),
            Some(last) => self.outcome.itls.push((now - last).as_secs_f32()),
        }
    }

    fn end(self) -> Result<(), ClientError> {
        let Some(last) = self.last_token else {
            return Err(ClientError::Malformed("the stream has no token".to_owned()));
        };
        if !self.done {
            return Err(ClientError::BrokeOff("the stream ended without [DONE]".to_owned()));
        }
        self.outcome.latency = (last - self.sent).as_secs_f64();
        let events = 1 + self.outcome.itls.len() as u64;
        self.outcome.count(self.usage, events);
        Ok(())
    }
}
