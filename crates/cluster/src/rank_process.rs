//! The process of one rank, which obeys the head over as many epochs as the head likes.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use playhouse_engine::{EngineEvent, StepPort, SubmitError};
use playhouse_link::{Endpoint, Incoming, KeepIdentity, Receiver, Sender, Stream, Streams};
use playhouse_types::Epoch;
use playhouse_wire::{Join, Kind, Load, Loaded, ShardCommand, ShardEvent, StepCommand, StepEvent};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle as Task, spawn_blocking};
use tokio::time::timeout;
use tracing::{debug, warn};

use crate::head::{NoHead, Way};
use crate::rank::RankPort;

/// How long a rank without its head keeps its weights, for a head that comes back.
const LEASE: Duration = Duration::from_secs(30);

/// How long an engine may take to end after its groups were aborted: a step at most. Its replica waits
/// for that, so the wait for an engine that hangs should not be much longer than a step.
const STOP: Duration = Duration::from_secs(5);

/// How long the head may take to drop the stream of an epoch that has failed. By then it has read the
/// reason.
const FAREWELL: Duration = Duration::from_secs(5);

/// How long a rank delays the report that it lost another rank. The parent of the other rank knows the
/// cause, and should be heard first: then the head ends this epoch, and asks for no report.
const ROOT_CAUSE: Duration = Duration::from_millis(300);

/// The computing side of a rank process.
pub trait RankHost: Send + Sync + 'static {
    /// Loads a part of a model, unless that part is loaded already, and prepares to meet other ranks.
    /// `progress` is told the bytes read and the bytes to read. May take minutes, and never blocks.
    fn load(self: Arc<Self>, load: Load, progress: ReadProgress) -> Loading;

    /// Starts the engine of an epoch on what was loaded last. The engine joins its groups by itself.
    ///
    /// # Errors
    /// When the system refuses a thread.
    fn start(&self, join: Join, sink: Box<dyn Fn(EngineEvent) + Send>) -> io::Result<RankEngine>;
}

/// A callback that is told the bytes read and the bytes to read.
pub type ReadProgress = Box<dyn Fn(u64, u64) + Send + Sync>;

/// Resolves to what was loaded, or to what is wrong with the checkpoint, for a person.
pub type Loading = Pin<Box<dyn Future<Output = Result<Loaded, String>> + Send>>;

/// The running engine of an epoch.
pub struct RankEngine {
    /// The port to which the engine's plans go. Dropping the port ends the engine after those plans.
    pub port: RankPort,
    /// Completes when nothing of the engine runs any more.
    pub ended: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// Ends the engine's groups, whatever it is doing, and its attempts to join others.
    pub abort: Box<dyn Fn() + Send + Sync>,
}

/// The reason why a rank process ends.
#[derive(Debug, thiserror::Error)]
pub enum RankProcessError {
    /// The head does not answer, or has no use for the process.
    #[error(transparent)]
    Head(#[from] NoHead),
    /// The engine hangs.
    #[error("the engine of {0} did not end within {STOP:?} of its abort")]
    Stuck(Epoch),
}

/// The state that the streams of the head share.
#[derive(Clone)]
struct RankProcess {
    host: Arc<dyn RankHost>,
    /// The engine of the current epoch, until a step stream attaches to it.
    stage: Arc<Mutex<Option<OnStage>>>,
    /// The last epoch that the process was told to join. A head that takes the process over begins a
    /// higher one.
    joined: Arc<AtomicU64>,
}

/// An engine that takes plans and has no step stream yet.
struct OnStage {
    epoch: Epoch,
    port: RankPort,
    events: mpsc::UnboundedReceiver<EngineEvent>,
}

/// Runs a rank process: serves the head until it has been gone for 30 seconds.
///
/// # Errors
/// See [`RankProcessError`].
pub async fn run_rank(way: Way, host: Arc<dyn RankHost>) -> Result<(), RankProcessError> {
    let process = RankProcess { host, stage: Arc::default(), joined: Arc::default() };
    loop {
        let epoch = Epoch(process.joined.load(Ordering::Relaxed));
        let (peer, mut inbox) = way.dial(LEASE, epoch).await?;
        // Nothing is written down: the identity ends with the process.
        let keep: KeepIdentity = Arc::new(|_| Ok(()));
        tokio::select! {
            biased;
            served = process.serve(&mut inbox.streams, &way.endpoint) => served?,
            never = way.endpoint.renew_over(&peer, keep) => match never {},
        }
        let reason = peer.until_lost().await;
        warn!(%reason, "the head is gone");
    }
}

// === impl RankEngine ===

impl RankEngine {
    /// Returns an engine that computes on a thread.
    #[must_use]
    pub fn of_thread(
        port: StepPort,
        thread: JoinHandle<()>,
        abort: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        let ended = async move {
            drop(spawn_blocking(move || drop(thread.join())).await);
        };
        Self { port: RankPort::Engine(port), ended: Box::pin(ended), abort: Box::new(abort) }
    }
}

// === impl RankProcess ===

impl RankProcess {
    /// Serves one connection until it is lost, and ends the engine with it.
    async fn serve(
        &self,
        streams: &mut Streams,
        endpoint: &Endpoint,
    ) -> Result<(), RankProcessError> {
        let mut playing: Option<Playing> = None;
        while let Some(incoming) = streams.next().await {
            match incoming.kind() {
                Kind::ShardCommand => {
                    // The head has one epoch at a time: the one before is over.
                    if let Some(before) = playing.take() {
                        before.end().await?;
                    }
                    playing = Some(self.play(incoming));
                }
                Kind::StepCommand => {
                    let stage = Arc::clone(&self.stage);
                    endpoint.runtime().spawn(attach(incoming, stage));
                }
                // Dropping the stream says that it is not served.
                kind => debug!(?kind, "a stream for somebody else"),
            }
        }
        match playing {
            Some(playing) => playing.end().await,
            None => Ok(()),
        }
    }

    /// Starts to serve a control stream.
    fn play(&self, incoming: Incoming) -> Playing {
        let process = self.clone();
        let (over, end) = mpsc::channel(1);
        let task = tokio::spawn(async move {
            match incoming.take::<ShardCommand>() {
                Ok((ShardCommand::Load(load), stream)) => process.epoch(load, stream, end).await,
                Ok((ShardCommand::Join(_), _)) => {
                    warn!("the head said `Join` before `Load`");
                    Ok(())
                }
                Err(why) => {
                    warn!("the head said what cannot be read: {why}");
                    Ok(())
                }
            }
        });
        Playing { over, task }
    }

    /// Runs one epoch, from its weights to its end: when the head drops the stream, or `end` says so.
    async fn epoch(
        self,
        load: Load,
        stream: Stream<ShardEvent, ShardCommand>,
        mut end: mpsc::Receiver<()>,
    ) -> Result<(), RankProcessError> {
        let Self { host, stage, joined } = self;
        let Stream { mut sender, mut receiver } = stream;
        let Some(join) = prepare(&host, load, &mut sender, &mut receiver).await else {
            return Ok(());
        };
        let epoch = join.epoch;
        if joined.fetch_max(epoch.0, Ordering::Relaxed) >= epoch.0 {
            let why = format!("{epoch} is over: this process was in it, or in a later one");
            fail(why, &mut sender, &mut receiver, &mut end).await;
            return Ok(());
        }
        let (report, mut events) = mpsc::unbounded_channel();
        let sink = Box::new(move |event| drop(report.send(event)));
        let engine = match host.start(join, sink) {
            Ok(engine) => engine,
            Err(why) => {
                let why = format!("cannot start an engine: {why}");
                fail(why, &mut sender, &mut receiver, &mut end).await;
                return Ok(());
            }
        };
        let RankEngine { port, ended, abort } = engine;
        let first = tokio::select! {
            biased;
            first = events.recv() => first,
            _ = receiver.next() => None,
            _ = end.recv() => None,
        };
        match first {
            Some(EngineEvent::Ready { .. }) => {
                // The head attaches its step stream once it has read this.
                *stage.lock() = Some(OnStage { epoch, port, events });
                if sender.send(&ShardEvent::Ready).await.is_ok() {
                    tokio::select! {
                        biased;
                        _ = receiver.next() => {}
                        _ = end.recv() => {}
                    }
                }
            }
            Some(EngineEvent::Exited { reason, .. }) => {
                fail(reason, &mut sender, &mut receiver, &mut end).await;
            }
            // The head does not wait for an answer any more.
            _ => {}
        }
        stage.lock().take();
        abort();
        match timeout(STOP, ended).await {
            Ok(()) => Ok(()),
            Err(_) => Err(RankProcessError::Stuck(epoch)),
        }
    }
}

/// A control stream that is being served.
struct Playing {
    /// Dropped to end the control stream.
    over: mpsc::Sender<()>,
    task: Task<Result<(), RankProcessError>>,
}

// === impl Playing ===

impl Playing {
    async fn end(self) -> Result<(), RankProcessError> {
        drop(self.over);
        self.task.await.unwrap_or(Ok(()))
    }
}

/// Says why an epoch has failed, and waits until the head has read that: a message that is on its way
/// when a stream is dropped is lost with it.
async fn fail(
    why: String,
    sender: &mut Sender<ShardEvent>,
    receiver: &mut Receiver<ShardCommand>,
    end: &mut mpsc::Receiver<()>,
) {
    if sender.send(&ShardEvent::Failed(why)).await.is_ok() {
        let dropped = async {
            tokio::select! {
                biased;
                _ = receiver.next() => {}
                _ = end.recv() => {}
            }
        };
        // A head that does neither is as good as gone.
        drop(timeout(FAREWELL, dropped).await);
    }
}

/// Loads, and waits for the order to join. `None` when the epoch was given up.
async fn prepare(
    host: &Arc<dyn RankHost>,
    load: Load,
    sender: &mut Sender<ShardEvent>,
    receiver: &mut Receiver<ShardCommand>,
) -> Option<Join> {
    let (report, mut progress) = mpsc::unbounded_channel();
    let report = Box::new(move |bytes, of| {
        let _ = report.send((bytes, of));
    });
    let mut loading = Arc::clone(host).load(load, report);
    let loaded = loop {
        tokio::select! {
            biased;
            Some((bytes, of)) = progress.recv() => {
                sender.send(&ShardEvent::Progress { bytes, of }).await.ok()?;
            }
            loaded = &mut loading => break loaded,
        }
    };
    match loaded {
        Ok(loaded) => sender.send(&ShardEvent::Loaded(loaded)).await.ok()?,
        Err(why) => {
            drop(sender.send(&ShardEvent::Failed(why)).await);
            // The head reads it before it hears that the stream is gone.
            drop(receiver.next().await);
            return None;
        }
    }
    match receiver.next().await {
        Ok(Some(ShardCommand::Join(join))) => Some(join),
        _ => None,
    }
}

/// Passes plans to the engine on stage, and the engine's events back.
async fn attach(incoming: Incoming, stage: Arc<Mutex<Option<OnStage>>>) {
    let Ok((StepCommand::Attach { epoch }, stream)) = incoming.take::<StepCommand>() else {
        return warn!("the head opened a step stream without attaching to an epoch");
    };
    let own = stage.lock().take_if(|on_stage| on_stage.epoch == epoch);
    let Some(OnStage { port, mut events, .. }) = own else {
        return debug!(%epoch, "no engine of this epoch is on stage");
    };
    let Stream { mut sender, mut receiver } = stream;
    loop {
        let event = tokio::select! {
            biased;
            plan = receiver.next() => match plan {
                Ok(Some(StepCommand::Plan(plan))) => match port.submit(plan) {
                    Ok(()) => continue,
                    // The engine has said why, or is about to.
                    Err(SubmitError::Gone) => continue,
                    Err(why) => {
                        StepEvent::Exited { epoch, reason: why.to_string(), of_step: false }
                    }
                },
                _ => return,
            },
            event = events.recv() => match event {
                Some(EngineEvent::Step(outcome)) => StepEvent::Outcome(outcome),
                Some(EngineEvent::Followed { epoch, step }) => StepEvent::Done { epoch, step },
                Some(EngineEvent::Exited { epoch, reason, of_step }) => {
                    if !of_step && ends_within(&mut receiver, ROOT_CAUSE).await {
                        return;
                    }
                    StepEvent::Exited { epoch, reason, of_step }
                }
                Some(EngineEvent::Ready { .. }) => continue,
                None => return,
            },
        };
        if sender.send(&event).await.is_err() {
            return;
        }
    }
}

/// Returns whether a step stream ends within `limit`. Plans that come meanwhile are for an engine that
/// is gone.
async fn ends_within(receiver: &mut Receiver<StepCommand>, limit: Duration) -> bool {
    let ended = async { while let Ok(Some(_)) = receiver.next().await {} };
    timeout(limit, ended).await.is_ok()
}
