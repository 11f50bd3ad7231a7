//! The place of a rank in a group that it is to join.

use std::net::TcpListener;
use std::time::Duration;

use playhouse_collectives::{AbortHandle, Communicator, GroupSpec, Member, Secret};
use playhouse_types::Epoch;

/// The longest that a rank waits for the others. A step takes far less; a rank that ends wakes the
/// others at once.
const GROUP_TIMEOUT: Duration = Duration::from_secs(60);

/// Time for which a rank delays its report that another rank was lost while both joined. The starter of the
/// lost rank knows more about the loss, ends this rank's epoch, and should be heard first.
const ROOT_CAUSE: Duration = Duration::from_millis(300);

/// A group, and the place of a rank in it.
pub(crate) struct GroupPlace {
    pub(crate) name: String,
    pub(crate) secret: Secret,
    pub(crate) members: Vec<Member>,
    pub(crate) rank: usize,
    /// Listener to which ranks of other machines connect.
    pub(crate) listener: Option<TcpListener>,
}

// === impl GroupPlace ===

impl GroupPlace {
    /// Joins the group, and waits until all of its ranks are there.
    pub(crate) fn join(
        self,
        Epoch(epoch): Epoch,
        abort: &AbortHandle,
    ) -> Result<Communicator, String> {
        let Self { name, secret, members, rank, listener } = self;
        let size = members.len();
        let spec = GroupSpec {
            group: name,
            epoch,
            secret,
            members,
            timeout: GROUP_TIMEOUT,
            buffer_bytes: GroupSpec::collective_buffer_bytes(size),
        };
        Communicator::join(&spec, rank, listener, abort).map_err(|why| {
            if why.is_of_another_rank() {
                abort.wait(ROOT_CAUSE);
            }
            format!("{}: {why}", spec.group)
        })
    }
}
