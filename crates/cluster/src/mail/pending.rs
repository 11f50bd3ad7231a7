//! Pending requests, on their way to a replica.

use playhouse_scheduler::{HashedRequest, MovedRequest, NeverFits, Scheduler};

use super::sink::Sink;

/// A request that no replica has now. Dropping it does not end the request: see [`Sink`].
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) sink: Sink,
    /// The state of the request in its last replica, unless that state was lost, or there was no such
    /// replica.
    pub(crate) moved: Option<Box<MovedRequest>>,
}

// === impl Pending ===

impl Pending {
    /// Creates a pending request that goes on behind what its caller has seen, if anything.
    pub(crate) fn new(sink: Sink) -> Self {
        Self { sink, moved: None }
    }

    /// Creates a pending request that a replica has given up.
    pub(crate) fn moved(moved: MovedRequest, sink: Sink) -> Self {
        Self { sink, moved: Some(Box::new(moved)) }
    }

    /// Returns the request as the caller asked for it.
    pub(crate) fn request(&self) -> &HashedRequest {
        self.sink.request()
    }

    /// Puts the request into the queue of a scheduler, and returns its sink.
    ///
    /// # Errors
    /// When the request does not fit, with the sink.
    pub(crate) fn enter(
        self,
        scheduler: &mut Scheduler,
        now: std::time::Duration,
    ) -> Result<Sink, (Sink, NeverFits)> {
        let Self { sink, moved } = self;
        let entered = match moved {
            Some(moved) => {
                scheduler.adopt(*moved);
                Ok(())
            }
            None => {
                let (request, terms) = (sink.request().clone(), sink.terms());
                scheduler.resume(request, terms, sink.emitted(), now)
            }
        };
        match entered {
            Ok(()) => Ok(sink),
            Err(why) => Err((sink, why)),
        }
    }
}
