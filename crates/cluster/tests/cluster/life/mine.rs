//! Lets the actor of a replica panic.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use playhouse_cluster::RankHandle;

use crate::life::fate::Fate;

/// A handle that may panic its replica's actor when it shall end a rank that hangs.
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
