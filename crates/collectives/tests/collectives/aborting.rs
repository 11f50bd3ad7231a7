//! How a join ends before its group has begun: from outside, whatever it waits for.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::thread;
use std::time::Duration;

use playhouse_collectives::{AbortHandle, CollectiveError, Group, GroupSpec, JoinError, Secret};
use rustix::net::{AddressFamily, SocketType, bind, listen, socket};

use crate::ranks::{Cast, Moment, PATIENCE, cast, first_of, layouts};

/// **AB-1** speaks of some 10 ms.
const AT_ONCE: Duration = Duration::from_millis(500);

/// Ranks that nobody joins by themselves, and a rank that waits for them far longer than any test.
fn lonely(machines: &[usize]) -> Cast {
    let mut cast = cast(machines);
    cast.spec.timeout = 10 * PATIENCE;
    cast
}

/// Joins as `rank`, aborts that once it `waits`, and checks that nothing is left of it.
fn abort_when(
    cast: &Cast,
    rank: usize,
    listener: Option<TcpListener>,
    waits: impl FnOnce(&GroupSpec),
) {
    let (spec, abort) = (&cast.spec, AbortHandle::new());
    thread::scope(|scope| {
        let join = scope.spawn(|| Group::join(spec, rank, listener, &abort).unwrap_err());
        waits(spec);
        assert!(!join.is_finished(), "it had somebody to wait for");
        let aborted = Moment::now();
        abort.abort();
        assert_eq!(join.join().unwrap(), JoinError::Aborted);
        let ended = aborted.elapsed();
        assert!(ended < AT_ONCE, "{ended:?}");
    });
    assert!(!is_named(spec, rank), "the file has lost its name");
}

/// Whether the shared memory of a rank's machine has a name: then an older rank is refused.
fn is_named(spec: &GroupSpec, rank: usize) -> bool {
    let other = (rank + 1) % spec.members.len();
    let older = GroupSpec {
        epoch: spec.epoch - 1,
        timeout: Duration::from_millis(1),
        // On the same machine.
        members: vec![spec.members[rank].clone(); spec.members.len()],
        ..spec.clone()
    };
    let error = Group::join(&older, other, None, &AbortHandle::new()).unwrap_err();
    matches!(error, JoinError::Epoch { .. })
}

fn until_named(spec: &GroupSpec, rank: usize) {
    while !is_named(spec, rank) {
        thread::yield_now();
    }
}

#[test]
fn an_abort_ends_the_wait_for_ranks_of_the_same_machine() {
    let cast = lonely(&[0, 0, 0]);
    for rank in 0..3 {
        abort_when(&cast, rank, None, |spec| until_named(spec, rank));
    }
    cast.play(|group| group.barrier().unwrap());
}

/// The listener answers strangers while it waits, and a connection that says nothing is cut.
#[test]
fn an_abort_ends_the_wait_for_ranks_that_dial() {
    let cast = lonely(&[0, 1]);
    let stranger = GroupSpec { secret: Secret([0xee; 32]), ..cast.spec.clone() };
    let listener = cast.listeners[0].try_clone().unwrap();
    abort_when(&cast, 0, Some(listener), |spec| {
        let _mute = TcpStream::connect(spec.members[0].address.unwrap()).unwrap();
        let refused = Group::join(&stranger, 1, None, &AbortHandle::new()).unwrap_err();
        assert!(matches!(refused, JoinError::Refused { rank: 0, .. }), "{refused}");
    });
    cast.play(|group| group.barrier().unwrap());
}

#[test]
fn an_abort_ends_a_handshake_with_a_rank_that_does_not_answer() {
    let cast = lonely(&[0, 1]);
    let listener = cast.listeners[0].try_clone().unwrap();
    let mut silent = None;
    abort_when(&cast, 1, None, |_| silent = Some(listener.accept().unwrap()));
    drop(silent);
    cast.play(|group| group.barrier().unwrap());
}

/// A machine that is gone answers nothing at all. So does a listener that has no room.
#[test]
fn an_abort_ends_a_dial_that_nobody_answers() {
    let mut cast = lonely(&[0, 1]);
    let (full, _inside) = full_listener();
    cast.spec.members[0].address = Some(full.1);
    abort_when(&cast, 1, None, |_| {
        while !dials(full.1) {
            thread::yield_now();
        }
    });
}

/// A listener that drops what comes, and what fills it.
fn full_listener() -> ((OwnedFd, SocketAddr), Vec<TcpStream>) {
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&socket, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    listen(&socket, 0).unwrap();
    let address = TcpListener::from(socket.try_clone().unwrap()).local_addr().unwrap();
    let brief = Duration::from_millis(200);
    let inside = std::iter::from_fn(|| TcpStream::connect_timeout(&address, brief).ok());
    let inside = inside.collect();
    ((socket, address), inside)
}

/// Whether a connection to a port of this machine was begun and not answered.
fn dials(to: SocketAddr) -> bool {
    const SYN_SENT: &str = "02";
    let port = format!(":{:04X}", to.port());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    table.lines().any(|line| {
        let mut fields = line.split_whitespace().skip(2);
        fields.next().is_some_and(|remote| remote.ends_with(&port))
            && fields.next() == Some(SYN_SENT)
    })
}

/// **AB-2**
#[test]
fn an_abort_that_comes_first_is_not_forgotten() {
    let abort = AbortHandle::new();
    abort.abort();
    for machines in layouts(2) {
        let cast = lonely(&machines);
        for rank in 0..2 {
            let error = Group::join(&cast.spec, rank, None, &abort).unwrap_err();
            assert_eq!(error, JoinError::Aborted, "{machines:?}");
            assert!(!is_named(&cast.spec, rank));
        }
    }
}

/// **AB-2**: whenever it comes, the join or the group ends.
#[test]
fn no_abort_falls_between_a_join_and_its_group() {
    for round in 0..50 {
        let machines = [[0, 0], [0, 1]][round % 2];
        let (cast, abort) = (lonely(&machines), AbortHandle::new());
        let join = |rank: usize| {
            let listener = cast.listeners[rank].try_clone().unwrap();
            match Group::join(&cast.spec, rank, Some(listener), &abort) {
                Ok(group) => loop {
                    if let Err(error) = group.barrier() {
                        let is_over = matches!(
                            error,
                            CollectiveError::Aborted { .. } | CollectiveError::PeerLost { .. }
                        );
                        assert!(is_over, "{error}");
                        break;
                    }
                },
                Err(error) => assert_eq!(error, JoinError::Aborted),
            }
        };
        thread::scope(|scope| {
            scope.spawn(|| join(0));
            scope.spawn(|| join(1));
            // From at once to long after they have met.
            (0..round * 20).for_each(|_| thread::yield_now());
            abort.abort();
        });
    }
}

/// Each rank has a handle of its own; those of the same machine are told whose it was.
#[test]
fn an_abort_of_one_rank_ends_the_join_of_its_neighbours() {
    let cast = lonely(&[0, 0, 0]);
    let (mine, other) = (AbortHandle::new(), AbortHandle::new());
    thread::scope(|scope| {
        let waits = scope.spawn(|| Group::join(&cast.spec, 0, None, &other).unwrap_err());
        until_named(&cast.spec, 0);
        let join = || Group::join(&cast.spec, 1, None, &mine).unwrap_err();
        let (refused, mut aborted) = first_of(vec![scope.spawn(join), scope.spawn(join)]);
        assert!(matches!(refused, JoinError::Refused { rank: 1, .. }), "{refused}");
        mine.abort();
        assert_eq!(aborted.remove(0).join().unwrap(), JoinError::Aborted);
        let cause = CollectiveError::Aborted { by: 1 };
        assert_eq!(waits.join().unwrap(), JoinError::Ended { rank: 0, cause });
    });
}
