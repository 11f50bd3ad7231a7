//! The answers of one connection that are being made or sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use hyper::Version;
use tokio::sync::{Notify, watch};

use crate::phase::{Phase, Phases};

/// The number of answers that a connection is making or sending, shared by its socket and its service.
#[derive(Clone, Default)]
pub(crate) struct Turn(Arc<Answers>);

#[derive(Default)]
struct Answers {
    busy: AtomicUsize,
    /// Whether the client does not read its answers.
    stalled: AtomicBool,
    /// The version of the first request, once there has been one.
    asked: watch::Sender<Option<Version>>,
    /// Notified when an HTTP/2 connection was idle for too long.
    expired: Notify,
}

/// An answer that is being made or sent, for as long as this value lives.
pub(crate) struct Busy(Turn);

// === impl Turn ===

impl Turn {
    /// Records a request of this version.
    pub(crate) fn busy(&self, version: Version) -> Busy {
        self.0.asked.send_if_modified(|asked| asked.replace(version).is_none());
        self.0.busy.fetch_add(1, Ordering::Relaxed);
        Busy(self.clone())
    }

    pub(crate) fn is_busy(&self) -> bool {
        self.0.busy.load(Ordering::Relaxed) > 0
    }

    /// Records whether the client stopped reading its answers.
    pub(crate) fn set_stalled(&self, stalled: bool) {
        self.0.stalled.store(stalled, Ordering::Relaxed);
    }

    /// Returns whether the client lacks a part of an answer.
    pub(crate) fn is_unfinished(&self) -> bool {
        self.is_busy() || self.0.stalled.load(Ordering::Relaxed)
    }

    /// Completes when a request has come whose version `fits`.
    pub(crate) async fn asked(&self, fits: fn(Version) -> bool) {
        drop(self.0.asked.subscribe().wait_for(|asked| asked.is_some_and(fits)).await);
    }

    /// Records that an HTTP/2 connection was idle for too long.
    pub(crate) fn expire(&self) {
        self.0.expired.notify_one();
    }

    /// Completes when the client of an HTTP/2 connection should leave: the connection was idle for too
    /// long, it has had its `only` request, or, once it has been answered at all, the listener drains
    /// (**H2-5**). HTTP/1.1 says the same by the headers of its answers.
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
