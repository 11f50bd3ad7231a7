//! `playhouse chat`: a conversation with a model behind any OpenAI endpoint.
//!
//! - **CH-1** standard output carries answers only; prompts, numbers and errors go to standard
//!   error, prompts only on a terminal. So `echo question | playhouse chat | wc` works.
//! - **CH-2** Ctrl-C during an answer ends only that answer; the connection is closed, which cancels the
//!   generation. The printed part of the answer stays in the conversation.
//! - **CH-3** on a terminal an error ends the turn, otherwise the program (exit code 1).

mod answer;
mod input;

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use tokio::signal::unix::{Signal, SignalKind, signal};

use self::answer::{Answer, Sink};
use self::input::{ChatCommand, Input};
use crate::client::completion::StreamOptions;
use crate::client::{Client, Target};
use crate::error::CliError;
use crate::number;
use crate::secret;
use crate::terminal::shows_colour;

/// The maximum silence of the server while an answer is awaited: prefill of a long conversation on a
/// small machine is slow, and the user can press Ctrl-C.
const QUIET_MAX: Duration = Duration::from_secs(600);
/// The exit code of a program that Ctrl-C ended (128 + SIGINT).
const INTERRUPTED: u8 = 130;

const HELP: &str = "/reset         forget the conversation
/system TEXT   set the system prompt; without TEXT, remove it
/stats         numbers of this session
/help          this list
/quit          leave (also Ctrl-D)
Ctrl-C         stop the answer";

/// The flags of `playhouse chat`.
#[derive(clap::Args)]
pub(crate) struct ChatArgs {
    /// Base URL of the server.
    #[arg(long, default_value = "http://127.0.0.1:8000")]
    url: String,
    /// Name of the model; otherwise the first that the server lists.
    #[arg(long)]
    model: Option<String>,
    /// System prompt.
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Sampling temperature; otherwise the server's default, as for the three below.
    #[arg(long, value_name = "T", value_parser = number::decimal)]
    temperature: Option<f64>,
    /// Sample from the smallest set of tokens whose probability reaches this.
    #[arg(long, value_name = "P", value_parser = number::decimal)]
    top_p: Option<f64>,
    /// Most tokens per answer.
    #[arg(long, value_name = "N", value_parser = number::count::<u32>)]
    max_tokens: Option<u32>,
    /// Seed of sampling.
    #[arg(long, value_parser = number::whole::<u64>)]
    seed: Option<u64>,
    /// Key of the API, sent as a bearer token.
    #[arg(long, value_name = "KEY", env = "PLAYHOUSE_API_KEY", hide_env_values = true)]
    api_key: Option<String>,
    /// File with the key, in place of --api-key and its variable.
    #[arg(long, value_name = "FILE", env = "PLAYHOUSE_API_KEY_FILE")]
    api_key_file: Option<PathBuf>,
    /// Ask this one question, print the answer and leave.
    #[arg(long, value_name = "QUESTION")]
    quick: Option<String>,
}

/// One message of the conversation.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct ChatMessage {
    role: &'static str,
    content: String,
}

/// The body of a request.
#[derive(Serialize)]
struct ChatRequest<'a> {
    model: &'a str,
    messages: Vec<&'a ChatMessage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_p: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u64>,
    stream: bool,
    stream_options: StreamOptions,
}

/// A conversation and the server it is held with.
struct Session {
    client: Client,
    args: ChatArgs,
    model: String,
    /// The turns so far, without the system prompt.
    history: Vec<ChatMessage>,
    interrupt: Signal,
    terminal: Terminal,
    totals: SessionTotals,
}

/// The way in which an answer ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ended {
    Complete,
    Interrupted,
}

/// The properties of the standard streams.
#[derive(Clone, Copy)]
struct Terminal {
    /// Whether a person types and reads.
    interactive: bool,
    /// Whether standard error shows colours and they are not turned off.
    colour: bool,
}

/// The totals of a session.
#[derive(Default)]
struct SessionTotals {
    answers: u32,
    tokens: u64,
    /// The number of tokens after the first of each answer, and the time they took.
    decoded: u64,
    decoding: Duration,
    first_token: Duration,
}

/// Runs a conversation until its end.
///
/// # Errors
/// Returns an error if there is no server; off a terminal, also if the server refuses.
pub(crate) async fn run(args: ChatArgs) -> Result<ExitCode, CliError> {
    let target = Target::parse(&args.url)?;
    let place = target.to_string();
    let (given, file) = (args.api_key.as_deref(), args.api_key_file.as_deref());
    let api_key = secret::either("--api-key", given, file)?;
    let client = Client::new(target, api_key.as_deref(), QUIET_MAX).await?;
    let model = match &args.model {
        Some(model) => model.clone(),
        None => client.first_model().await?,
    };
    let interrupt = signal(SignalKind::interrupt())
        .map_err(|error| CliError::failure(format!("cannot listen for Ctrl-C: {error}")))?;
    let terminal = Terminal::of_this_process();
    let history = Vec::new();
    let totals = SessionTotals::default();
    let mut session = Session { client, args, model, history, interrupt, terminal, totals };
    match session.args.quick.take() {
        Some(question) => match session.turn(question).await? {
            Ended::Complete => Ok(ExitCode::SUCCESS),
            Ended::Interrupted => Ok(ExitCode::from(INTERRUPTED)),
        },
        None => session.converse(&place).await,
    }
}

// === impl Session ===

impl Session {
    async fn converse(&mut self, place: &str) -> Result<ExitCode, CliError> {
        let mut input = Input::start();
        self.remark(&format!("{} at {place}. /help lists commands.", self.model));
        loop {
            self.prompt();
            let line = tokio::select! {
                line = input.line() => line,
                _ = self.interrupt.recv() => {
                    self.remark("");
                    return Ok(ExitCode::from(INTERRUPTED));
                }
            };
            let Some(line) = line? else {
                self.remark("");
                return Ok(ExitCode::SUCCESS);
            };
            let done = match ChatCommand::parse(&line) {
                ChatCommand::Nothing => Ok(()),
                ChatCommand::Quit => return Ok(ExitCode::SUCCESS),
                ChatCommand::Say(question) => self.turn(question.to_owned()).await.map(|_| ()),
                ChatCommand::Reset => self.reset(),
                ChatCommand::System(text) => self.set_system(text),
                ChatCommand::Stats => self.tell(&self.totals.text()),
                ChatCommand::Help => self.tell(HELP),
                ChatCommand::Unknown(name) => {
                    Err(CliError::failure(format!("there is no command {name}"))
                        .hint("/help lists the commands"))
                }
            };
            match done {
                // The text has all that matters; the exit code is for the end of the program.
                Err(error) if self.terminal.interactive => {
                    error.report();
                }
                Err(error) => return Err(error),
                Ok(()) => {}
            }
        }
    }

    /// Sends a question, prints the answer as it comes, and keeps both.
    async fn turn(&mut self, question: String) -> Result<Ended, CliError> {
        self.history.push(ChatMessage { role: "user", content: question });
        let mut sink = Sink::new(self.terminal);
        let mut answer = Answer::default();
        let body = self.request();
        let ended = tokio::select! {
            ended = answer::stream(&self.client, body, &mut answer, &mut sink) => {
                ended.map(|()| Ended::Complete)
            }
            _ = self.interrupt.recv() => Ok(Ended::Interrupted),
        };
        sink.end().map_err(CliError::output)?;
        match ended {
            Ok(ended) => {
                self.totals.add(&answer);
                self.tell(&answer.line(ended))?;
                self.remember(answer);
                Ok(ended)
            }
            Err(error) => {
                // The turn is forgotten, so that it can be tried again.
                self.history.pop();
                Err(if self.history.is_empty() {
                    error
                } else {
                    error.hint_if_none("/reset forgets the conversation so far")
                })
            }
        }
    }

    fn remember(&mut self, answer: Answer) {
        if answer.text.is_empty() {
            // Many templates refuse a conversation with an empty message of the assistant.
            self.history.pop();
        } else {
            self.history.push(ChatMessage { role: "assistant", content: answer.text });
        }
    }

    fn request(&self) -> Bytes {
        let system = self.args.system.as_ref();
        let system = system.map(|text| ChatMessage { role: "system", content: text.clone() });
        let request = ChatRequest {
            model: &self.model,
            messages: system.iter().chain(&self.history).collect(),
            temperature: self.args.temperature,
            top_p: self.args.top_p,
            max_tokens: self.args.max_tokens,
            seed: self.args.seed,
            stream: true,
            stream_options: StreamOptions { include_usage: true },
        };
        serde_json::to_vec(&request).expect("a body of strings and numbers is JSON").into()
    }

    fn reset(&mut self) -> Result<(), CliError> {
        self.history.clear();
        self.remark("The conversation is forgotten.");
        Ok(())
    }

    fn set_system(&mut self, text: &str) -> Result<(), CliError> {
        self.args.system = (!text.is_empty()).then(|| text.to_owned());
        self.remark(if text.is_empty() { "No system prompt." } else { "System prompt set." });
        Ok(())
    }

    fn prompt(&self) {
        if self.terminal.interactive {
            // A prompt that cannot be written is left out.
            let _ = io::stderr().write_all(b">>> ");
        }
    }

    /// Prints a remark for a person; nothing to a pipe.
    fn remark(&self, text: &str) {
        if self.terminal.interactive {
            let _ = writeln!(io::stderr(), "{}", self.terminal.dim(text));
        }
    }

    /// Prints a text that also belongs into a log.
    fn tell(&self, text: &str) -> Result<(), CliError> {
        writeln!(io::stderr(), "{}", self.terminal.dim(text)).map_err(CliError::output)
    }
}

// === impl Terminal ===

impl Terminal {
    fn of_this_process() -> Self {
        Self {
            interactive: io::stdin().is_terminal() && io::stdout().is_terminal(),
            colour: shows_colour(&io::stderr()),
        }
    }

    fn dim(self, text: &str) -> String {
        if self.colour && !text.is_empty() {
            format!("\x1b[2m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

// === impl SessionTotals ===

impl SessionTotals {
    fn add(&mut self, answer: &Answer) {
        self.answers += 1;
        self.tokens += answer.tokens;
        self.first_token += answer.first_token.unwrap_or_default();
        self.decoded += answer.tokens.saturating_sub(1);
        self.decoding += answer.decoding();
    }

    fn text(&self) -> String {
        if self.answers == 0 {
            return "no answers yet".to_owned();
        }
        let rate = answer::rate(self.decoded, self.decoding);
        let first = self.first_token / self.answers;
        format!(
            "answers: {}, {} tokens{rate}, first token {} ms on average",
            self.answers,
            self.tokens,
            first.as_millis()
        )
    }
}
