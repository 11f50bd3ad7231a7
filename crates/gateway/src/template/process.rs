//! A chat template in a process of its own, which may run out of memory, time or stack.
//!
//! - **TPR-1** a rendering ends within `RENDER_TIMEOUT`: then the process is killed, and another one is
//!   started for the next conversation.
//! - **TPR-2** a process has at most `MEMORY_BYTES` of memory, and ends with its parent.
//!
//! The two ends talk in lines of JSON over the standard input and output of the process: first the source and
//! whether it compiles, then conversations and what is rendered of each.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::AsFd;
use rustix::process::{Resource, Rlimit, setrlimit};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::{ChatTemplate, Ending, RenderChat, RenderOptions, TemplateError, TemplateSource};
use crate::tokenizer::panic_text;

/// The maximum time of one rendering, or of starting a process.
const RENDER_TIMEOUT: Duration = Duration::from_secs(5);

/// The maximum memory of a process: many times that of the longest conversation.
const MEMORY_BYTES: u64 = 512 << 20;

/// The maximum length of a line from the process: escapes make a character six bytes long.
const LINE_MAX: usize = 6 * super::OUTPUT_MAX + 1024;

/// Processes that are kept for the next conversations.
const IDLE_MAX: usize = 8;

/// A chat template in processes of its own, one for each conversation that is rendered at a time.
pub struct TemplateProcess {
    command: Box<dyn Fn() -> Command + Send + Sync>,
    /// The first line that a process reads.
    source: Vec<u8>,
    idle: Mutex<Vec<Worker>>,
}

/// A process that renders one conversation at a time.
struct Worker {
    process: Child,
    input: ChildStdin,
    output: ChildStdout,
}

/// What a process reads of a conversation.
type Rendering = (Vec<Map<String, Value>>, Ending, Vec<(String, Value)>);

// === impl TemplateProcess ===

impl TemplateProcess {
    /// Compiles `source` in a process that `command` starts, which must call [`run_template_process`].
    ///
    /// # Errors
    /// Returns [`TemplateError::Malformed`] for a syntax error, and [`TemplateError::Failed`] when the process
    /// cannot be started or ends.
    pub fn start(
        command: impl Fn() -> Command + Send + Sync + 'static,
        source: &TemplateSource,
    ) -> Result<Self, TemplateError> {
        let (command, source) = (Box::new(command), line(source));
        let this = Self { command, source, idle: Mutex::new(Vec::new()) };
        let worker = this.worker()?;
        this.idle.lock().push(worker);
        Ok(this)
    }

    /// Returns a process that waits for a conversation.
    fn worker(&self) -> Result<Worker, TemplateError> {
        while let Some(mut worker) = { self.idle.lock().pop() } {
            if matches!(worker.process.try_wait(), Ok(None)) {
                return Ok(worker);
            }
        }
        let mut worker = Worker::start((self.command)()).map_err(|why| {
            TemplateError::Failed(format!("the process for it cannot be started: {why}"))
        })?;
        worker.exchange::<Result<(), TemplateError>>(&self.source)??;
        Ok(worker)
    }
}

impl RenderChat for TemplateProcess {
    fn render(
        &self,
        messages: &[Map<String, Value>],
        options: &RenderOptions<'_>,
    ) -> Result<String, TemplateError> {
        let conversation = line(&(messages, options.ending, options.variables));
        let mut worker = self.worker()?;
        let rendered: Result<String, TemplateError> = worker.exchange(&conversation)?;
        let mut idle = self.idle.lock();
        if idle.len() < IDLE_MAX {
            idle.push(worker);
        }
        rendered
    }

    fn may_block(&self) -> bool {
        true
    }
}

// === impl Worker ===

impl Worker {
    fn start(mut command: Command) -> io::Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = command.spawn()?;
        let (input, output) = (process.stdin.take(), process.stdout.take());
        let input = input.expect("its standard input is a pipe");
        let output = output.expect("its standard output is a pipe");
        let worker = Self { process, input, output };
        // A process that reads nothing must not block its parent.
        rustix::io::ioctl_fionbio(&worker.input, true)?;
        Ok(worker)
    }

    /// Sends a line, and returns what the process says about it. After an error the process is of no use.
    fn exchange<T: DeserializeOwned>(&mut self, line: &[u8]) -> Result<T, TemplateError> {
        let deadline = Instant::now() + RENDER_TIMEOUT;
        let reply = self.send(line, deadline).and_then(|()| self.receive(deadline));
        let reply = reply.map_err(|why| TemplateError::Failed(self.explain(&why)))?;
        serde_json::from_slice(&reply)
            .map_err(|why| TemplateError::Failed(format!("its process answered with {why}")))
    }

    fn send(&mut self, mut line: &[u8], deadline: Instant) -> io::Result<()> {
        while !line.is_empty() {
            wait(&self.input, PollFlags::OUT, deadline)?;
            match self.input.write(line) {
                Ok(written) => line = &line[written..],
                Err(why) if why.kind() == io::ErrorKind::WouldBlock => {}
                Err(why) => return Err(why),
            }
        }
        Ok(())
    }

    fn receive(&mut self, deadline: Instant) -> io::Result<Vec<u8>> {
        let mut line = Vec::new();
        let mut piece = vec![0; 64 << 10];
        while line.last() != Some(&b'\n') {
            wait(&self.output, PollFlags::IN, deadline)?;
            let count = self.output.read(&mut piece)?;
            if count == 0 || line.len() + count > LINE_MAX {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            line.extend_from_slice(&piece[..count]);
        }
        Ok(line)
    }

    /// Says why the process gave no answer.
    fn explain(&mut self, why: &io::Error) -> String {
        if why.kind() == io::ErrorKind::TimedOut {
            return format!("it ran for more than {} s", RENDER_TIMEOUT.as_secs());
        }
        format!(
            "it needed more than {} MiB of memory, or nested calls or values too deeply",
            MEMORY_BYTES >> 20
        )
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Of a process that has ended by itself only the status is left.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Waits until a pipe is ready.
fn wait(pipe: &impl AsFd, flags: PollFlags, deadline: Instant) -> io::Result<()> {
    let left = deadline.saturating_duration_since(Instant::now());
    let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
    match poll(&mut [PollFd::new(pipe, flags)], Some(&timeout)) {
        Ok(0) => Err(io::ErrorKind::TimedOut.into()),
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(why) => Err(why.into()),
    }
}

/// Returns a value as a line of JSON, which has no line feed in it.
fn line(value: &impl serde::Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(value).expect("keys are strings");
    line.push(b'\n');
    line
}

/// Compiles the template that comes as the first line of `input`, and renders the conversations in the lines
/// after it to `output`. Ends the process with the input.
///
/// # Errors
/// Returns an error when the process cannot bound its memory, or `output` is closed.
pub fn run_template_process(
    input: impl Read + Send + 'static,
    mut output: impl Write,
) -> io::Result<()> {
    for (resource, most) in [(Resource::Data, MEMORY_BYTES), (Resource::Core, 0)] {
        setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })?;
    }
    let (send, lines) = sync_channel(1);
    thread::spawn(move || {
        for line in BufReader::new(input).lines().map_while(Result::ok) {
            if send.send(line).is_err() {
                break;
            }
        }
        // The end of the input is the end of the parent, while a template may still run.
        std::process::exit(0);
    });
    let mut template = Err(TemplateError::Missing);
    if let Ok(first) = lines.recv() {
        template = parse(&first).and_then(|source| guarded(|| ChatTemplate::new(source)));
        output.write_all(&line(&template.as_ref().map(drop)))?;
        output.flush()?;
    }
    for conversation in lines {
        let rendered = template.as_ref().map_err(Clone::clone).and_then(|template| {
            let (messages, ending, variables): Rendering = parse(&conversation)?;
            let options = RenderOptions { ending, variables: &variables };
            guarded(|| template.render(&messages, &options))
        });
        output.write_all(&line(&rendered))?;
        output.flush()?;
    }
    Ok(())
}

fn parse<T: DeserializeOwned>(line: &str) -> Result<T, TemplateError> {
    serde_json::from_str(line).map_err(|why| TemplateError::Failed(why.to_string()))
}

/// Runs `work`; a panic is an error of the template.
fn guarded<T>(work: impl FnOnce() -> Result<T, TemplateError>) -> Result<T, TemplateError> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|panic| Err(TemplateError::Failed(panic_text(&*panic))))
}
