//! An operation, followed step by step until it ends.
//!
//! - **FO-1** every step is printed once, also across lost connections.
//! - **FO-2** only an operation that is done counts as success.
//! - **FO-3** a head that cannot be reached is waited for, [`AWAY_MAX`] at most.

use std::process::ExitCode;
use std::time::Duration;

use playhouse_admin::view::{Operation, Phase, Step};
use serde::Deserialize;
use tokio::time::{Instant, sleep};

use crate::admin::Admin;
use crate::client::ClientError;
use crate::client::sse::SseParser;
use crate::error::CliError;
use crate::output::{print, tell};
use crate::terminal::visible;
use crate::wording::phase_word;

/// The time that a head may be away, for example for its restart.
const AWAY_MAX: Duration = Duration::from_secs(60);

/// The time between two attempts to reach the head.
const PAUSE: Duration = Duration::from_millis(500);

/// An event of the operation's stream.
#[derive(Deserialize)]
#[serde(untagged)]
enum Event {
    /// The last event, with the whole operation.
    End(Box<Operation>),
    Step(Step),
}

/// The reader of an operation's stream, with its position.
struct StepReader {
    id: u64,
    /// The id of the last event.
    seen: u64,
    /// The time of the head's last message.
    heard: Instant,
}

/// Prints the steps of an operation on standard error, and its end on standard output.
///
/// # Errors
/// Returns an error if the operation was not done, or cannot be followed.
pub(crate) async fn follow(admin: &Admin, id: u64) -> Result<ExitCode, CliError> {
    let mut reader = StepReader { id, seen: 0, heard: Instant::now() };
    loop {
        match reader.read(admin).await {
            Ok(Some(operation)) => return outcome(&operation),
            // The connection was lost, or has reached its maximum lifetime.
            Ok(None) => {}
            Err(why) if why.is_unreached() && reader.heard.elapsed() < AWAY_MAX => {}
            Err(why) => return Err(why),
        }
        sleep(PAUSE).await;
    }
}

fn outcome(operation: &Operation) -> Result<ExitCode, CliError> {
    let id = operation.id;
    match operation.phase {
        Phase::Done => {
            print(&format!("operation {id} is done\n"))?;
            Ok(ExitCode::SUCCESS)
        }
        Phase::Aborted => Err(CliError::failure(format!("operation {id} was aborted"))),
        _ => {
            let reason = visible(operation.reason.as_deref().unwrap_or("it does not say why"));
            Err(CliError::failure(format!("operation {id} failed: {reason}")))
        }
    }
}

// === impl StepReader ===

impl StepReader {
    /// Reads one stream until it breaks off or the operation ends.
    async fn read(&mut self, admin: &Admin) -> Result<Option<Operation>, CliError> {
        let mut stream = admin.follow(self.id, self.seen).await?;
        self.heard = Instant::now();
        let mut parser = SseParser::default();
        loop {
            let chunk = match stream.chunk().await {
                Ok(Some(chunk)) => chunk,
                Ok(None) | Err(ClientError::Http(_) | ClientError::TooSlow { .. }) => {
                    return Ok(None);
                }
                Err(why) => return Err(why.into()),
            };
            self.heard = Instant::now();
            let mut events = Vec::new();
            let parsed = parser.feed(&chunk, |data| events.push(serde_json::from_slice(data)));
            parsed.map_err(|why| CliError::failure(why.to_string()))?;
            for event in events {
                let event = event.map_err(|why| {
                    let why = visible(&why.to_string());
                    CliError::failure(format!("an event is not the admin API's: {why}"))
                })?;
                match event {
                    Event::End(operation) => return Ok(Some(*operation)),
                    Event::Step(step) => self.step(&step),
                }
            }
        }
    }

    fn step(&mut self, step: &Step) {
        if step.at_unix_us > self.seen {
            self.seen = step.at_unix_us;
            tell(&format!("{:<8} {}\n", phase_word(step.phase), visible(&step.text)));
        }
    }
}
