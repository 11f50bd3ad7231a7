//! The answers of one connection that are being made or sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use hyper::Version;
use tokio::sync::{Notify, watch};

use crate::phase::{Phase, Phases};

/// How many answers of a connection are under way: shared by its socket and the service behind it.
#[derive(Clone, Default)]
pub(crate) struct Turn(Arc<Answers>);

#[derive(Default)]
struct Answers {
    busy: AtomicUsize,
    /// The client does not take what is sent to it.
    stalled: AtomicBool,
    /// The version of the first request, once there has been one.
    asked: watch::Sender<Option<Version>>,
    /// It was idle for too long.
    expired: Notify,
}

/// While it lives, an answer is being made or sent.
pub(crate) struct Busy(Turn);

// === impl Turn ===

impl Turn {
    /// A request of this version has come.
    pub(crate) fn busy(&self, version: Version) -> Busy {
        self.0.asked.send_if_modified(|asked| asked.replace(version).is_none());
        self.0.busy.fetch_add(1, Ordering::Relaxed);
        Busy(self.clone())
    }

    pub(crate) fn is_busy(&self) -> bool {
        self.0.busy.load(Ordering::Relaxed) > 0
    }

    /// Notes whether the client takes what is sent to it.
    pub(crate) fn set_stalled(&self, stalled: bool) {
        self.0.stalled.store(stalled, Ordering::Relaxed);
    }

    /// The client lacks a part of an answer.
    pub(crate) fn is_unfinished(&self) -> bool {
        self.is_busy() || self.0.stalled.load(Ordering::Relaxed)
    }

    /// Completes when there has been a request that `fits`.
    pub(crate) async fn asked(&self, fits: fn(Version) -> bool) {
        drop(self.0.asked.subscribe().wait_for(|asked| asked.is_some_and(fits)).await);
    }

    /// Notes that an HTTP/2 connection was idle for too long.
    pub(crate) fn expire(&self) {
        self.0.expired.notify_one();
    }

    /// Completes when an HTTP/2 connection is to be left by its client: it was idle for too long, it has
    /// had its `only` request, or, once it has been answered at all, the listener drains (**H2-5**).
    /// HTTP/1.1 says the same by the headers of its answers.
    pub(crate) async fn left(&self, only: bool, phases: &Phases) {
        if !only {
            tokio::select! {
                () = self.0.expired.notified() => return,
                () = phases.reached(Phase::Draining) => {}
            }
        }
        self.asked(|version| version == Version::HTTP_2).await;
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}
