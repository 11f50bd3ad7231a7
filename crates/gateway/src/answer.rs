//! An accepted request: its generations, from submission to the whole answer.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use axum::body::Body;
use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use playhouse_types::SamplingParams;
use tokio::time::Instant;

use crate::choice::{Choice, Finish, Setting, Usage};
use crate::error::{ApiError, Result};
use crate::gateway::Gateway;
use crate::reply::Reply;
use crate::request::Job;
use crate::stream::EventStream;

/// Dropping it cancels every generation that still runs.
pub(crate) struct Answer {
    pub(crate) setting: Setting,
    pub(crate) reply: Reply,
    /// Prompt by prompt, `n` each.
    pub(crate) choices: Vec<Choice>,
    n: usize,
}

// === impl Answer ===

impl Answer {
    /// Submits every generation of `job`; if one is refused, the others are cancelled.
    pub(crate) fn submit(
        gateway: &Arc<Gateway>,
        job: Job,
        session: Option<&str>,
        arrived: Instant,
    ) -> Result<Self> {
        let Job { form, prompts, n, stops, cache_salt } = job;
        let reply = Reply::new(gateway, &form);
        let setting = Setting { gateway: Arc::clone(gateway), form, stops, arrived };
        gateway.metrics().request_n.observe(n.into());
        let mut choices = Vec::with_capacity(prompts.len() * n as usize);
        for work in prompts {
            let prompt = Arc::new(work.prompt);
            for choice in 0..n {
                let seed = work.sampling.seed.wrapping_add(choice.into());
                let sampling = Arc::new(SamplingParams { seed, ..work.sampling.clone() });
                let tokens = Arc::clone(&prompt.tokens);
                let door = gateway.front_door();
                let generation = door.submit(tokens, Arc::clone(&sampling), cache_salt, session)?;
                let index = choices.len();
                let prompt = Arc::clone(&prompt);
                choices.push(Choice::new(&setting, index, prompt, &sampling, generation));
            }
        }
        Ok(Self { setting, reply, choices, n: n as usize })
    }

    /// The answer to an HTTP request: at once as a stream, or when everything is there.
    pub(crate) async fn respond(self) -> Result<Response> {
        if self.setting.form.stream.is_some() {
            let mut response = Response::new(Body::new(EventStream::new(self)));
            let headers = response.headers_mut();
            let events = HeaderValue::from_static("text/event-stream; charset=utf-8");
            headers.insert(CONTENT_TYPE, events);
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
            // nginx buffers answers unless told not to.
            headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
            return Ok(response);
        }
        let body = self.collect().await?;
        let mut response = Response::new(Body::from(body));
        let json = HeaderValue::from_static("application/json");
        response.headers_mut().insert(CONTENT_TYPE, json);
        Ok(response)
    }

    async fn collect(mut self) -> Result<Bytes> {
        poll_fn(|cx| {
            let mut waiting = false;
            for choice in &mut self.choices {
                while choice.finish.is_none() {
                    let Poll::Ready(emission) = choice.poll(cx) else {
                        waiting = true;
                        break;
                    };
                    choice.apply(&self.setting, emission);
                }
            }
            if waiting { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
        if let Some(reason) = self.failure() {
            return Err(engine_failed(reason));
        }
        let mut body = BytesMut::with_capacity(1024);
        self.reply.whole(&mut body, &self.setting, &self.choices, &self.usage());
        Ok(body.freeze())
    }

    fn failure(&self) -> Option<&str> {
        self.choices.iter().find_map(|choice| match &choice.finish {
            Some(Finish::Failed(reason)) => Some(&**reason),
            _ => None,
        })
    }

    /// Each prompt counts once, however many choices continue it.
    pub(crate) fn usage(&self) -> Usage {
        let mut total = Usage::default();
        for choices in self.choices.chunks(self.n) {
            total.prompt += choices[0].usage.prompt;
            total.cached += choices[0].usage.cached;
            total.completion += choices.iter().map(|choice| choice.usage.completion).sum::<u32>();
        }
        total
    }
}

/// 500: the request was right, the engine could not run it.
pub(crate) fn engine_failed(reason: &str) -> ApiError {
    ApiError::internal(format!("the generation failed: {reason}")).with_code("engine_failed")
}
