//! A caller of the cluster: what it asks for, and what it gets.

use std::sync::Arc;
use std::time::Duration;

use playhouse_cluster::{FrontDoor, Generation, Rejected, Submission};
use playhouse_types::{FinishReason, SamplingParams, TokenId};
use tokio::time::{Instant, sleep, timeout};

/// The maximum wait for an event that must happen, however busy the machine is.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// The script of engines under which the token at a position is the position.
pub(crate) fn count(position: usize) -> TokenId {
    TokenId::try_from(position).expect("a short sequence")
}

/// Submits a request for `max_tokens` tokens behind a prompt of `prompt` tokens.
pub(crate) fn submit(
    door: &FrontDoor,
    prompt: u32,
    max_tokens: u32,
) -> Result<Generation, Rejected> {
    let prompt: Vec<TokenId> = (0..prompt).collect();
    door.submit(Submission::new(prompt.into(), Arc::new(SamplingParams::greedy(max_tokens))))
}

/// Submits a request, as [`submit`] does, that the cluster accepts.
pub(crate) fn accepted(door: &FrontDoor, prompt: u32, max_tokens: u32) -> Generation {
    submit(door, prompt, max_tokens).expect("accepted")
}

/// Returns all tokens that are still to come, and the reason of the end (**C-1**).
pub(crate) async fn collect(generation: &mut Generation) -> (Vec<TokenId>, FinishReason) {
    let mut tokens = Vec::new();
    let all = async {
        while let Some(emission) = generation.next().await {
            tokens.extend(emission.token.map(|sampled| sampled.token));
            if let Some(finish) = emission.finish {
                assert!(generation.next().await.is_none(), "C-1: nothing after the end");
                return finish;
            }
        }
        panic!("C-1: every generation ends with a reason");
    };
    let finish = timeout(LONG, all).await.expect("C-1: every generation ends");
    (tokens, finish)
}

/// Returns the next token.
pub(crate) async fn first_token(generation: &mut Generation) -> TokenId {
    let first = timeout(LONG, generation.next()).await.expect("a token comes");
    first.expect("an emission").token.expect("a token").token
}

/// Waits until a condition is true.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < LONG, "never happened: {what}");
        sleep(Duration::from_millis(1)).await;
    }
}
