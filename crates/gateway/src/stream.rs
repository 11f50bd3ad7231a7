//! Server-sent events: the body of a streamed answer.
//!
//! - **STR-1** all available output goes out in one frame: one write per wake-up, however many tokens
//!   came.
//! - **STR-2** the order is content, finish reason, usage (if asked for), `[DONE]`. A failure is followed
//!   by one error event, and then the end without `[DONE]`. The shutdown of the server counts as a
//!   failure.
//! - **STR-3** dropping the body (the client disconnected) drops every generation.
//! - **STR-4** a comment breaks a silence longer than `ping_interval`, unless no replica can serve the
//!   request: then the head of the stream waits, so that a refusal has its status.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::answer::Answer;
use crate::choice::Finish;
use crate::reply::Reply;
use crate::shutdown::Phase;

/// The size at which a frame is sent, though there may be more output: memory stays bounded when an
/// answer waits behind a slow reader.
const FRAME_BYTES: usize = 64 << 10;

/// An answer as a streamed response body.
pub(crate) struct EventStream {
    /// The answer; `None` after the last event.
    answer: Option<Answer>,
    buffer: BytesMut,
    ping_interval: Duration,
    last_frame: Instant,
    /// A timer that fires no earlier than needed and often later: it is set again only when it fires.
    ping: Pin<Box<Sleep>>,
    /// Completes when the shutdown ends the running requests.
    ending: Pin<Box<dyn Future<Output = ()> + Send>>,
}

// === impl EventStream ===

impl EventStream {
    pub(crate) fn new(answer: Answer) -> Self {
        let ping_interval = answer.setting.gateway.limits().ping_interval;
        let now = Instant::now();
        let ending = answer.setting.gateway.shutdown().reached(Phase::Ending);
        Self {
            answer: Some(answer),
            buffer: BytesMut::with_capacity(4096),
            ping_interval,
            last_frame: now,
            ping: Box::pin(sleep_until(now + ping_interval)),
            ending: Box::pin(ending),
        }
    }

    /// Writes every event that is ready.
    fn fill(&mut self, cx: &mut Context<'_>) {
        let Some(answer) = &mut self.answer else { return };
        let Answer { setting, reply, choices, .. } = answer;
        let mut running = false;
        for choice in choices.iter_mut() {
            while choice.finish.is_none() && self.buffer.len() < FRAME_BYTES {
                let Poll::Ready(emission) = choice.poll(cx) else { break };
                choice.apply(setting, emission);
                if let Some(Finish::Failed(error)) = &choice.finish {
                    setting.stream_failed(error);
                    Reply::error(&mut self.buffer, error);
                    self.answer = None;
                    return;
                }
                if choice.delta.is_empty() && choice.finish.is_none() {
                    continue;
                }
                reply.chunks(&mut self.buffer, setting, choice);
                choice.delta.clear();
            }
            running |= choice.finish.is_none();
        }
        if !running {
            self.end();
        }
    }

    /// Ends the stream if the shutdown ends running requests; otherwise registers to be woken then.
    fn poll_ending(&mut self, cx: &mut Context<'_>) {
        let Some(answer) = &mut self.answer else { return };
        let ends = answer.setting.gateway.shutdown().is(Phase::Ending);
        // An answer with more output is polled again soon.
        if ends || (self.buffer.is_empty() && self.ending.as_mut().poll(cx).is_ready()) {
            let error = answer.shut_down();
            answer.setting.stream_failed(&error);
            Reply::error(&mut self.buffer, &error);
            self.answer = None;
        }
    }

    fn end(&mut self) {
        let Some(answer) = self.answer.take() else { return };
        if answer.setting.form.stream.is_some_and(|options| options.include_usage) {
            answer.reply.usage(&mut self.buffer, &answer.usage());
        }
        self.buffer.extend_from_slice(b"data: [DONE]\n\n");
    }

    /// Returns whether it is time to break the silence; otherwise registers to be woken then.
    fn poll_ping(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.ping.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            let due = self.last_frame + self.ping_interval;
            if due <= now {
                self.ping.as_mut().reset(now + self.ping_interval);
                return Poll::Ready(());
            }
            self.ping.as_mut().reset(due);
        }
        Poll::Pending
    }
}

impl Body for EventStream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        this.fill(cx);
        this.poll_ending(cx);
        if this.buffer.is_empty() {
            if this.answer.is_none() {
                return Poll::Ready(None);
            }
            if this.poll_ping(cx).is_pending() {
                return Poll::Pending;
            }
            this.buffer.extend_from_slice(b": ping\n\n");
        }
        this.last_frame = Instant::now();
        Poll::Ready(Some(Ok(Frame::data(this.buffer.split().freeze()))))
    }
}
