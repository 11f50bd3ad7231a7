//! One choice of an answer while it grows: it turns emissions into text and log-probabilities.

mod echo;

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use playhouse_cluster::Generation;
use playhouse_telemetry::{
    FinishLabels, Finished, LatencyMetrics, Metrics, Refusal, StreamFailure, StreamFailureLabels,
};
use playhouse_types::{
    Emission, FinishReason, ReplicaId, RequestId, SamplingParams, TokenId, TokenLogprobs,
};
use tokio::time::Instant;

use crate::caller::Caller;
use crate::error::ApiError;
use crate::gateway::Gateway;
use crate::request::{Form, Prompt};
use crate::stop::{StopMatcher, Stops};
use crate::tokenizer::Detokenizer;

/// The data that all choices of an answer share.
pub(crate) struct Setting {
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) form: Form,
    pub(crate) stops: Arc<Stops>,
    pub(crate) caller: Caller,
    pub(crate) arrived: Instant,
}

/// A choice of an answer, with the state needed to continue it.
pub(crate) struct Choice {
    pub(crate) index: usize,
    pub(crate) prompt: Arc<Prompt>,
    /// The running generation, dropped as soon as the choice is finished, which frees its blocks.
    generation: Option<Generation>,
    /// An emission that was received early and is not applied yet.
    ahead: Option<Emission>,
    detokenizer: Detokenizer,
    stops: StopMatcher,
    min_tokens: u32,
    /// The output that was not sent yet.
    pub(crate) delta: Delta,
    pub(crate) finish: Option<Finish>,
    pub(crate) usage: Usage,
    /// Whether a stream has opened this choice.
    pub(crate) opened: bool,
    echoed: bool,
    prompt_logprobs: Vec<TokenLogprobs>,
    /// The number of characters decoded so far, sent or held back.
    characters: usize,
    scratch: String,
    record: Record,
}

/// The output of a choice that was not sent yet.
#[derive(Debug, Default)]
pub(crate) struct Delta {
    pub(crate) text: String,
    /// One entry per token, when log-probabilities were asked for.
    pub(crate) logprobs: Vec<Entry>,
    /// The generated tokens, when they were asked for.
    pub(crate) token_ids: Vec<TokenId>,
}

/// The log-probabilities of one token.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) token: TokenId,
    /// The log-probabilities; `None` for the first token of a prompt, which nothing predicts.
    pub(crate) logprobs: Option<TokenLogprobs>,
    /// The number of characters of the text before the token.
    pub(crate) offset: usize,
}

/// The reason why a choice ended.
#[derive(Debug)]
pub(crate) enum Finish {
    Stop(StopReason),
    Length,
    /// The choice failed, and there will be no more of it.
    Failed(Box<ApiError>),
}

/// The `stop_reason` of vLLM's API.
#[derive(Debug)]
pub(crate) enum StopReason {
    EndOfSequence,
    Token(TokenId),
    Text(String),
}

/// The tokens counted for a choice.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    pub(crate) prompt: u32,
    pub(crate) completion: u32,
    pub(crate) cached: u32,
}

/// The times of one generation, observed when it ends.
struct Record {
    metrics: Arc<Metrics>,
    max_tokens: u32,
    arrived: Instant,
    first: Option<Instant>,
    last: Instant,
    /// The replica that the last emission came from.
    engine: Option<(ReplicaId, LatencyMetrics)>,
    /// Whether the last emission is the first after a change of ranks.
    resumes: bool,
}

// === impl Setting ===

impl Setting {
    /// Counts a generation that is refused, or that ends before its computation is complete.
    pub(crate) fn refused(&self, reason: Refusal) {
        self.gateway.refused(reason, self.caller.name());
    }

    /// Counts a stream that ends with an error event.
    pub(crate) fn stream_failed(&self, error: &ApiError) {
        let reason = match error.code {
            Some("unavailable") => StreamFailure::unavailable,
            Some("timeout") => StreamFailure::timeout,
            Some("draining") => StreamFailure::draining,
            _ => StreamFailure::engine_failed,
        };
        let labels = StreamFailureLabels { reason };
        self.gateway.metrics().streams_failed.get_or_create(&labels).inc();
    }
}

// === impl Choice ===

impl Choice {
    pub(crate) fn new(
        setting: &Setting,
        index: usize,
        prompt: Arc<Prompt>,
        sampling: &SamplingParams,
        generation: Generation,
    ) -> Self {
        let prompt_tokens = u32::try_from(prompt.tokens.len()).expect("shorter than the context");
        Self {
            index,
            generation: Some(generation),
            ahead: None,
            detokenizer: Detokenizer::new(setting.form.skip_special_tokens, false),
            stops: StopMatcher::new(Arc::clone(&setting.stops)),
            min_tokens: sampling.min_tokens,
            delta: Delta::default(),
            finish: None,
            usage: Usage { prompt: prompt_tokens, ..Usage::default() },
            opened: false,
            echoed: false,
            prompt_logprobs: Vec::new(),
            characters: 0,
            scratch: String::new(),
            record: Record {
                metrics: Arc::clone(setting.gateway.metrics()),
                max_tokens: sampling.max_tokens,
                arrived: setting.arrived,
                first: None,
                last: setting.arrived,
                engine: None,
                resumes: false,
            },
            prompt,
        }
    }

    /// Returns when the first token of the choice came.
    pub(crate) fn first_token(&self) -> Option<Instant> {
        self.record.first
    }

    /// Returns the next emission. An engine whose channel closes without a last emission counts as
    /// failed.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Emission> {
        if let Some(emission) = self.ahead.take() {
            return Poll::Ready(emission);
        }
        let generation = self.generation.as_mut().expect("a finished choice is not polled");
        let emission = ready!(generation.poll_next(cx));
        self.record.comes_from(generation);
        Poll::Ready(emission.unwrap_or_else(|| Emission {
            id: RequestId::default(),
            cached_tokens: self.usage.cached,
            prompt_logprobs: Vec::new(),
            token: None,
            finish: Some(FinishReason::Failed("the engine is gone".to_owned())),
        }))
    }

    /// Waits for the next emission without taking it.
    pub(crate) fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.ahead = Some(ready!(self.poll(cx)));
        Poll::Ready(())
    }

    /// Takes the early emission if it only says that there will be no others.
    pub(crate) fn fail_ahead(&mut self, setting: &Setting) {
        let fails = |emission: &mut Emission| {
            let answers =
                matches!(emission.finish, Some(FinishReason::Stop(_) | FinishReason::Length));
            emission.finish.is_some() && !answers
        };
        if let Some(emission) = self.ahead.take_if(fails) {
            self.apply(setting, emission);
        }
    }

    /// Returns whether no replica can serve the generation now.
    pub(crate) fn is_parked(&self) -> bool {
        self.generation.as_ref().is_some_and(Generation::is_parked)
    }

    /// Adds an emission to the delta, and finishes the choice if it ends here.
    pub(crate) fn apply(&mut self, setting: &Setting, emission: Emission) {
        let Setting { gateway, form, .. } = setting;
        self.usage.cached = emission.cached_tokens;
        self.prompt_logprobs.extend(emission.prompt_logprobs);
        let stopped_by = match emission.finish {
            Some(FinishReason::Stop(token)) => Some(token),
            _ => None,
        };
        if form.echo && !self.echoed && (emission.token.is_some() || emission.finish.is_some()) {
            self.echo(gateway, form);
        }
        let mut stop_text = None;
        if let Some(sampled) = emission.token {
            self.record.token(self.usage.prompt);
            if !form.prompt_only {
                self.usage.completion += 1;
                let visible = form.include_stop || stopped_by.is_none();
                self.keep(form, sampled.token, sampled.logprobs);
                if visible {
                    stop_text = self.decode(gateway, sampled.token);
                }
            }
        }
        let finish = match (stop_text, emission.finish) {
            (Some(text), _) => Finish::Stop(StopReason::Text(text)),
            (None, None) => return,
            (None, Some(FinishReason::Stop(token))) => {
                Finish::Stop(if !form.ignore_eos && gateway.eos_tokens().contains(&token) {
                    StopReason::EndOfSequence
                } else {
                    StopReason::Token(token)
                })
            }
            (None, Some(FinishReason::Length)) => Finish::Length,
            (None, Some(reason)) => return self.fail(setting, &reason),
        };
        self.end(finish);
    }

    /// Finishes the choice with the failure `reason`; there will be no more of it.
    pub(crate) fn fail(&mut self, setting: &Setting, reason: &FinishReason) {
        match reason {
            FinishReason::Unserved(_) => setting.refused(Refusal::unserved),
            FinishReason::Expired => setting.refused(Refusal::expired),
            FinishReason::Draining => setting.refused(Refusal::draining),
            _ => {}
        }
        self.end(Finish::Failed(Box::new(failure(reason))));
    }

    fn keep(&mut self, form: &Form, token: TokenId, logprobs: Option<TokenLogprobs>) {
        if form.return_token_ids {
            self.delta.token_ids.push(token);
        }
        if form.logprobs {
            self.delta.logprobs.push(Entry { token, logprobs, offset: self.characters });
        }
    }

    /// Appends the text of `token`. Returns the stop string that the text completes, if any.
    fn decode(&mut self, gateway: &Gateway, token: TokenId) -> Option<String> {
        self.scratch.clear();
        self.detokenizer.push(gateway.tokenizer(), token, &mut self.scratch);
        self.characters += self.scratch.chars().count();
        if self.usage.completion <= self.min_tokens {
            self.stops.pass(&self.scratch, &mut self.delta.text);
            return None;
        }
        self.stops.push(&self.scratch, &mut self.delta.text)
    }

    /// Puts the prompt before the completion.
    fn echo(&mut self, gateway: &Gateway, form: &Form) {
        self.echoed = true;
        let (tokenizer, prompt) = (gateway.tokenizer(), Arc::clone(&self.prompt));
        let decoded = || tokenizer.decode(&prompt.tokens, form.skip_special_tokens);
        let text = prompt.text.clone().unwrap_or_else(decoded);
        if form.logprobs {
            let mut given = std::mem::take(&mut self.prompt_logprobs).into_iter();
            let offsets = echo::offsets(tokenizer, &prompt, &text, form.skip_special_tokens);
            for (position, (&token, offset)) in prompt.tokens.iter().zip(offsets).enumerate() {
                let logprobs = if position == 0 { None } else { given.next() };
                self.delta.logprobs.push(Entry { token, logprobs, offset });
            }
        }
        self.characters = text.chars().count();
        self.delta.text.push_str(&text);
    }

    fn end(&mut self, finish: Finish) {
        self.generation = None;
        if !matches!(finish, Finish::Stop(StopReason::Text(_))) {
            self.scratch.clear();
            self.detokenizer.finish(&mut self.scratch);
            // A dangling byte may complete a stop string that contains U+FFFD; then it is cut
            // off like any other, and the reason already known stays.
            if self.stops.push(&self.scratch, &mut self.delta.text).is_none() {
                self.stops.finish(&mut self.delta.text);
            }
        }
        self.record.end(&self.usage, &finish);
        self.finish = Some(finish);
    }
}

/// Returns the error for a generation that ended otherwise than its caller asked for.
fn failure(reason: &FinishReason) -> ApiError {
    match reason {
        FinishReason::Unserved(why) => ApiError::unavailable("unavailable", why),
        FinishReason::Expired => ApiError::unavailable(
            "timeout",
            "the request had not begun when its time (x-request-timeout-ms) was up",
        ),
        FinishReason::Draining => ApiError::draining(),
        FinishReason::Failed(why) => ApiError::engine_failed(why),
        _ => ApiError::engine_failed("the server cancelled the request"),
    }
}

impl Drop for Choice {
    fn drop(&mut self) {
        if self.finish.is_none() {
            self.record.count(Finished::abort);
        }
    }
}

// === impl Delta ===

impl Delta {
    pub(crate) fn is_empty(&self) -> bool {
        self.text.is_empty() && self.logprobs.is_empty() && self.token_ids.is_empty()
    }

    /// Clears the delta and keeps its capacity.
    pub(crate) fn clear(&mut self) {
        self.text.clear();
        self.logprobs.clear();
        self.token_ids.clear();
    }
}

// === impl Record ===

impl Record {
    /// Records an emission of the generation.
    fn comes_from(&mut self, generation: &Generation) {
        self.resumes = generation.has_resumed();
        // A generation that is parked by now got the emission from the same replica as the previous one.
        let replica =
            generation.replica().filter(|now| self.engine.as_ref().is_none_or(|(it, _)| it != now));
        if let Some(replica) = replica {
            self.engine = Some((replica, self.metrics.latency(replica.0)));
        }
    }

    fn token(&mut self, prompt_tokens: u32) {
        let now = Instant::now();
        self.metrics.generation_tokens.inc();
        if self.first.is_none() {
            self.first = Some(now);
            self.metrics.prompt_tokens.inc_by(prompt_tokens.into());
            let waited = now - self.arrived;
            if let Some((_, latency)) = &self.engine {
                latency.time_to_first_token.observe(waited.as_secs_f64());
            }
        } else {
            let waited = (now - self.last).as_secs_f64();
            if let Some((_, latency)) = &self.engine {
                latency.inter_token_latency.observe(waited);
            }
            if self.resumes {
                self.metrics.stream_gap.observe(waited);
            }
        }
        self.last = now;
    }

    fn end(&self, usage: &Usage, finish: &Finish) {
        let metrics = &self.metrics;
        self.count(match finish {
            Finish::Stop(_) => Finished::stop,
            Finish::Length => Finished::length,
            Finish::Failed(_) => Finished::error,
        });
        metrics.request_prompt_tokens.observe(usage.prompt.into());
        metrics.request_generation_tokens.observe(usage.completion.into());
        metrics.request_max_tokens.observe(self.max_tokens.into());
        metrics.e2e_latency.observe((Instant::now() - self.arrived).as_secs_f64());
        if let Some(first) = self.first
            && usage.completion > 1
        {
            let per_token = (self.last - first).as_secs_f64() / f64::from(usage.completion - 1);
            metrics.time_per_output_token.observe(per_token);
        }
    }

    fn count(&self, finished_reason: Finished) {
        self.metrics.request_success.get_or_create(&FinishLabels { finished_reason }).inc();
    }
}
