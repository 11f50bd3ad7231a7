//! Ranks that let the actor of their replica panic.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use playhouse_cluster::RankHandle;

use crate::life::fate::Fate;

/// A handle of a rank that may panic the replica's actor when the actor ends the hung rank.
pub(crate) struct Mine {
    inner: Arc<dyn RankHandle>,
    fate: Arc<Fate>,
}

// === impl Mine ===

impl Mine {
    pub(crate) fn beside(inner: Arc<dyn RankHandle>, fate: &Arc<Fate>) -> Self {
        Self { inner, fate: Arc::clone(fate) }
    }
}

impl RankHandle for Mine {
    fn abort(&self) {
        self.inner.abort();
        assert!(!self.fate.strikes(2), "this life wants the actor of a replica to panic");
    }

    fn vacate(&self) {
        self.inner.vacate();
    }

    fn vacated(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        self.inner.vacated()
    }
}

impl fmt::Debug for Mine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Mine").field(&self.inner).finish()
    }
}
