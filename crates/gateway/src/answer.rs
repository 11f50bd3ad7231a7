//! An accepted request with its generations, from submission to the whole answer.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use playhouse_cluster::{Rejected, Submission};
use playhouse_telemetry::Refusal;
use playhouse_types::{FinishReason, SamplingParams};
use tokio::time::{Instant, timeout};

use crate::caller::Caller;
use crate::choice::{Choice, Finish, Setting, Usage};
use crate::error::{ApiError, Result};
use crate::gateway::Gateway;
use crate::reply::Reply;
use crate::request::Job;
use crate::shutdown::Phase;
use crate::trace;

/// An answer in the making. Dropping an `Answer` cancels every generation that still runs.
pub(crate) struct Answer {
    pub(crate) setting: Setting,
    pub(crate) reply: Reply,
    /// All choices, prompt by prompt, `n` for each.
    pub(crate) choices: Vec<Choice>,
    n: usize,
}

// === impl Answer ===

impl Answer {
    /// Submits every generation of `job`; if one of them is refused, the others are cancelled.
    pub(crate) fn submit(
        gateway: &Arc<Gateway>,
        job: Job,
        caller: Caller,
        arrived: Instant,
    ) -> Result<Self> {
        let Job { form, prompts, n, stops, cache_salt, priority, .. } = job;
        let reply = Reply::new(gateway, &form);
        let setting = Setting { gateway: Arc::clone(gateway), form, stops, caller, arrived };
        gateway.metrics().request_n.observe(n.into());
        let refused = |rejected: Rejected| {
            setting.refused(reason_of(&rejected));
            ApiError::from(rejected)
        };
        let door = gateway.front_door();
        let lengths = prompts
            .iter()
            .flat_map(|work| std::iter::repeat_n(work.prompt.tokens.len(), n as usize));
        door.check_together(lengths, setting.caller.client()).map_err(refused)?;
        if let Some(work) = prompts.first() {
            trace::asks(&setting, &work.sampling, n);
        }
        let mut choices = Vec::with_capacity(prompts.len() * n as usize);
        for work in prompts {
            let prompt = Arc::new(work.prompt);
            for choice in 0..n {
                let seed = work.sampling.seed.wrapping_add(choice.into());
                let sampling = Arc::new(SamplingParams { seed, ..work.sampling.clone() });
                let tokens = Arc::clone(&prompt.tokens);
                let caller = &setting.caller;
                let submission = Submission {
                    cache_salt: gateway.keys().salt(caller.key(), cache_salt),
                    session: caller.session(),
                    client: caller.client(),
                    priority,
                    deadline: caller.deadline(arrived),
                    span: caller.span.clone(),
                    ..Submission::new(tokens, Arc::clone(&sampling))
                };
                let generation = door.submit(submission).map_err(refused)?;
                let index = choices.len();
                let prompt = Arc::clone(&prompt);
                choices.push(Choice::new(&setting, index, prompt, &sampling, generation));
            }
        }
        Ok(Self { setting, reply, choices, n: n as usize })
    }

    /// Delays the head of a stream until its first event, so that a request which no replica can serve is
    /// refused with a status of its own. Silence is broken as in a stream, but not while the request is
    /// parked: a parked request has not begun, and may still be refused.
    pub(crate) async fn opening(&mut self) -> Result<()> {
        let ping_interval = self.setting.gateway.limits().ping_interval;
        let ending = self.setting.gateway.shutdown().reached(Phase::Ending);
        let mut ending = pin!(ending);
        loop {
            let ahead = timeout(ping_interval, poll_fn(|cx| self.poll_ahead(cx)));
            tokio::select! {
                biased;
                ahead = ahead => match ahead {
                    Ok(()) => break,
                    Err(_) if self.choices.iter().all(Choice::is_parked) => {}
                    Err(_) => return Ok(()),
                },
                () = &mut ending => return Err(self.shut_down()),
            }
        }
        for choice in &mut self.choices {
            choice.fail_ahead(&self.setting);
        }
        self.failure().map_or(Ok(()), |error| Err(error.clone()))
    }

    /// Waits until at least one choice has an emission.
    fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let ready = |choice: &mut Choice| choice.poll_ahead(cx).is_ready();
        if self.choices.iter_mut().any(ready) { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Collects the whole body, when all choices are complete.
    pub(crate) async fn collect(mut self) -> Result<Bytes> {
        let ending = self.setting.gateway.shutdown().reached(Phase::Ending);
        let whole = poll_fn(|cx| {
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
        });
        tokio::select! {
            biased;
            () = whole => {}
            () = ending => return Err(self.shut_down()),
        }
        if let Some(error) = self.failure() {
            return Err(error.clone());
        }
        let mut body = BytesMut::with_capacity(1024);
        self.reply.whole(&mut body, &self.setting, &self.choices, &self.usage());
        Ok(body.freeze())
    }

    /// Ends the running generations of the answer because the server shuts down (**END-3**).
    pub(crate) fn shut_down(&mut self) -> ApiError {
        for choice in self.choices.iter_mut().filter(|choice| choice.finish.is_none()) {
            choice.fail(&self.setting, &FinishReason::Draining);
        }
        self.setting.gateway.shutdown().ended_one();
        ApiError::draining()
    }

    fn failure(&self) -> Option<&ApiError> {
        self.choices.iter().find_map(|choice| match &choice.finish {
            Some(Finish::Failed(error)) => Some(&**error),
            _ => None,
        })
    }

    /// Returns the usage; each prompt counts once, however many choices continue it.
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

impl Drop for Answer {
    fn drop(&mut self) {
        trace::answered(&self.setting, &self.choices, || self.usage());
    }
}

fn reason_of(rejected: &Rejected) -> Refusal {
    match rejected {
        Rejected::Overloaded { .. } => Refusal::overloaded,
        Rejected::OverLimit { .. } => Refusal::over_limit,
        Rejected::Draining => Refusal::draining,
        Rejected::NeverFits { .. } | Rejected::NeverTogether(_) => Refusal::never_fits,
    }
}
