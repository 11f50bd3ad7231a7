//! Clients that ask a cluster for tokens and check them.

use std::panic::resume_unwind;
use std::sync::Arc;

use playhouse_cluster::{FrontDoor, Generation, Submission};
use playhouse_types::{FinishReason, SamplingParams};
use tokio::time::{Instant, sleep, timeout};

use crate::life::fate::{Fate, LONG};

/// The request of a client, and how long the client waits.
struct Asked {
    /// The length of the prompt.
    length: u32,
    tokens: u32,
    leaves_after: Option<u32>,
    deadline: Option<Instant>,
}

/// Reads one answer and asserts that it has every token once and in order (**G1**), unless its client leaves.
async fn listen(fate: Arc<Fate>, mut generation: Generation, asked: Asked) {
    let Asked { length: first, tokens, leaves_after, deadline } = asked;
    let mut heard = Vec::new();
    loop {
        if leaves_after.is_some_and(|after| heard.len() >= after as usize) {
            return;
        }
        let emission = generation.next().await.expect("G1: an end comes first");
        fate.note(emission.id.0);
        heard.extend(emission.token.map(|sampled| sampled.token));
        if let Some(FinishReason::Failed(why)) = &emission.finish {
            assert!(why.contains("died twice"), "S-9: {why}");
            return;
        }
        if emission.finish == Some(FinishReason::Expired) {
            let passed = deadline.is_some_and(|deadline| deadline <= Instant::now());
            assert!(passed && heard.is_empty(), "S-13: {deadline:?}, after {} tokens", heard.len());
            return;
        }
        if let Some(finish) = emission.finish {
            assert_eq!(finish, FinishReason::Length, "G1: after {} tokens", heard.len());
            break;
        }
    }
    assert_eq!(heard, (first..first + tokens).collect::<Vec<_>>(), "G1");
}

/// Sends requests at most `pause` milliseconds apart, and waits for all of their answers.
pub(crate) async fn clients(fate: Arc<Fate>, door: FrontDoor, pause: u64) {
    let mut streams = Vec::new();
    for _ in 0..12 {
        sleep(fate.millis(0..pause)).await;
        let (length, tokens) = (1 + fate.below(70) as u32, 1 + fate.below(60) as u32);
        let leaves_after = (fate.below(5) == 0).then(|| fate.below(20) as u32);
        let deadline = (fate.below(4) == 0).then(|| Instant::now() + fate.millis(0..2 * pause));
        let mut submission =
            Submission::new((0..length).collect(), Arc::new(SamplingParams::greedy(tokens)));
        submission.deadline = deadline;
        let generation = door.submit(submission).expect("accepted");
        let asked = Asked { length, tokens, leaves_after, deadline };
        streams.push(tokio::spawn(listen(Arc::clone(&fate), generation, asked)));
    }
    for stream in streams {
        let ended = timeout(LONG, stream).await.expect("G1: every request ends");
        if let Err(why) = ended {
            resume_unwind(why.into_panic());
        }
    }
}
