//! The requests of a scenario: every kind whose continuation is easy to get wrong.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use parking_lot::{Condvar, Mutex};
use serde_json::{Value, json};

use super::answer::Answer;
use super::patience::PATIENCE;

/// The number of concurrent streams.
pub(crate) const STREAMS: usize = 32;

/// A model that a cluster serves.
pub(crate) struct Model {
    /// `None` is the one inside the binary.
    pub(crate) folder: Option<&'static str>,
    /// The number of tokens of a long prompt.
    pub(crate) long: u64,
    /// The number of tokens of an answer.
    pub(crate) length: u64,
    /// The tokens that end a text. They are never sampled, because all texts go on alike behind them.
    pub(crate) ends: &'static [u64],
}

pub(crate) const DEMO: Model = Model { folder: None, long: 600, length: 140, ends: &[1533, 1535] };

/// Random weights, whose text depends on every bit; enough heads for four shards.
pub(crate) const REFERENCE: Model = Model {
    folder: Some(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/reference/llama-gqa8-bf16")),
    long: 110,
    length: 140,
    ends: &[286],
};

/// One request.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) path: &'static str,
    pub(crate) body: Value,
    /// The number of choices.
    pub(crate) choices: usize,
    /// The session of the request.
    pub(crate) session: Option<String>,
}

/// The progress of a load.
pub(crate) struct Progress {
    count: Mutex<Count>,
    changed: Condvar,
}

#[derive(Default)]
struct Count {
    tokens: usize,
    open: usize,
}

// === impl Model ===

impl Model {
    /// Returns [`STREAMS`] requests of all kinds. Requests of different rounds have different prompts.
    pub(crate) fn requests(&self, round: u64) -> Vec<Request> {
        (0..STREAMS as u64).map(|index| self.request(round * STREAMS as u64 + index)).collect()
    }

    fn request(&self, number: u64) -> Request {
        let prompt = format!("Tell me {number} things about the sea and the {number} winds");
        let mut path = "/v1/completions";
        let mut body = json!({
            "prompt": prompt, "max_tokens": self.length, "temperature": 1.0, "seed": number,
            "logprobs": 1,
        });
        match number % 8 {
            0 => body["temperature"] = json!(0.0),
            1 => body["top_p"] = json!(0.9),
            2 => {
                body["n"] = json!(3);
                body["max_tokens"] = json!(self.length / 2);
            }
            3 => body["prompt"] = self.long_prompt(number),
            4 => {
                path = "/v1/chat/completions";
                body["messages"] = json!([{ "role": "user", "content": body["prompt"].take() }]);
                body["logprobs"] = json!(true);
                body.as_object_mut().expect("an object").remove("prompt");
            }
            5 => {
                body["frequency_penalty"] = json!(0.6);
                body["repetition_penalty"] = json!(1.2);
            }
            6 => body["stop"] = json!(["x", "the q"]),
            _ => {
                body["prompt"] = self.long_prompt(number);
                body["temperature"] = json!(0.0);
            }
        }
        let bias = self.ends.iter().map(|end| (end.to_string(), json!(-100)));
        body["logit_bias"] = bias.collect::<serde_json::Map<_, _>>().into();
        body["return_token_ids"] = json!(true);
        body["stream"] = json!(true);
        body["stream_options"] = json!({ "include_usage": true });
        let choices = if number % 8 == 2 { 3 } else { 1 };
        Request { path, body, choices, session: None }
    }

    /// Returns a prompt of tokens that every tokenizer here has.
    fn long_prompt(&self, number: u64) -> Value {
        (0..self.long).map(|at| 10 + (at * at + number * 31) % 240).collect::<Vec<_>>().into()
    }
}

// === impl Progress ===

impl Progress {
    /// Returns the progress of a load of `streams` streams that begins.
    pub(crate) fn new(streams: usize) -> Self {
        let count = Mutex::new(Count { tokens: 0, open: streams });
        Self { count, changed: Condvar::new() }
    }

    pub(crate) fn came(&self, tokens: usize) {
        self.count.lock().tokens += tokens;
        self.changed.notify_all();
    }

    pub(crate) fn ended(&self) {
        self.count.lock().open -= 1;
        self.changed.notify_all();
    }

    /// Waits until the clients have read `more` further tokens.
    pub(crate) fn wait_for_tokens(&self, more: usize) {
        let mut count = self.count.lock();
        let until = count.tokens + more;
        let is_early = |count: &mut Count| count.tokens < until && count.open > 0;
        let waited = self.changed.wait_while_for(&mut count, is_early, PATIENCE);
        let Count { tokens, open } = *count;
        assert!(!waited.timed_out(), "{tokens} of {until} tokens after {PATIENCE:?}");
        assert!(open > 0, "all streams ended with {tokens} tokens, before there were {until}");
    }
}

/// A guard that stops the clients when it is dropped, also by a panic.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Sends all requests at once, each on a connection of its own, and repeats each until `meanwhile` has returned:
/// requests are under way whenever it acts. Returns all answers to each request; a request whose answer was
/// incomplete is not repeated.
pub(crate) fn play_on<T>(
    requests: &[Request],
    api: SocketAddr,
    meanwhile: impl FnOnce(&Progress) -> T,
) -> (Vec<Vec<Answer>>, T) {
    let (progress, over) = (Progress::new(requests.len()), AtomicBool::new(false));
    thread::scope(|scope| {
        let (progress, over) = (&progress, &over);
        let ask = |request: &'_ Request| {
            let mut answers = vec![Answer::to(request, api, progress)];
            while !over.load(Ordering::Relaxed)
                && answers.last().is_some_and(|answer| answer.is_whole(request.choices))
            {
                answers.push(Answer::to(request, api, progress));
            }
            progress.ended();
            answers
        };
        let clients = requests.iter().map(|request| scope.spawn(move || ask(request)));
        let clients: Vec<_> = clients.collect();
        let is_over = Over(over);
        let result = meanwhile(progress);
        drop(is_over);
        let answers = clients.into_iter().map(|client| client.join().expect("a client reads on"));
        (answers.collect(), result)
    })
}

/// Sends all requests at once, each on a connection of its own, and runs `meanwhile`.
pub(crate) fn play<T>(
    requests: &[Request],
    api: SocketAddr,
    meanwhile: impl FnOnce(&Progress) -> T,
) -> (Vec<Answer>, T) {
    let progress = Progress::new(requests.len());
    thread::scope(|scope| {
        let progress = &progress;
        let ask = |request| {
            let answer = Answer::to(request, api, progress);
            progress.ended();
            answer
        };
        let clients = requests.iter().map(|request| scope.spawn(move || ask(request)));
        let clients: Vec<_> = clients.collect();
        let result = meanwhile(progress);
        let answers = clients.into_iter().map(|client| client.join().expect("a client reads on"));
        (answers.collect(), result)
    })
}
