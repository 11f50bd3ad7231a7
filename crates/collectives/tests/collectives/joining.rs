//! Who gets into a group, and what the others are told.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use playhouse_collectives::{
    AbortHandle, BUFFER_BYTES, CollectiveError, Group, GroupSpec, JoinError, RANKS_MAX, Secret,
};

use crate::ranks::{cast, layouts, values};

/// Long enough for ranks that are all there, on a machine that is busy with others.
const SHORT: Duration = Duration::from_secs(3);

#[test]
fn ranks_that_do_not_come_are_named() {
    let layouts = [[0, 0, 0, 0], [0, 0, 0, 1], [0, 1, 0, 1], [0, 1, 2, 3]];
    let casts = layouts.map(|machines| {
        let mut cast = cast(&machines);
        cast.spec.timeout = SHORT;
        (machines, cast)
    });
    thread::scope(|scope| {
        for ((machines, cast), rank) in casts.iter().flat_map(|cast| [(cast, 0), (cast, 2)]) {
            scope.spawn(move || {
                let error = cast.join(rank).unwrap_err();
                let JoinError::Missing { ranks, .. } = &error else { panic!("{error}") };
                assert_eq!(*ranks, [1, 3], "{machines:?}");
            });
        }
    });
}

/// A join that failed leaves nothing that a later one trips over.
#[test]
fn a_group_can_be_joined_after_a_failed_attempt() {
    for machines in layouts(2) {
        let mut cast = cast(&machines);
        cast.spec.timeout = Duration::from_millis(50);
        cast.join(0).unwrap_err();
        cast.spec.timeout = crate::ranks::PATIENCE;
        cast.play(|group| group.barrier().unwrap());
    }
}

#[test]
fn a_rank_with_another_secret_stays_outside() {
    let mut cast = cast(&[0, 1]);
    cast.spec.timeout = SHORT;
    let stranger = GroupSpec { secret: Secret([0xff; 32]), ..cast.spec.clone() };
    thread::scope(|scope| {
        let dialer =
            scope.spawn(|| Group::join(&stranger, 1, None, &AbortHandle::new()).unwrap_err());
        let error = cast.join(0).unwrap_err();
        let JoinError::Missing { ranks, refused, .. } = &error else { panic!("{error}") };
        assert_eq!(*ranks, [1]);
        assert!(refused.iter().any(|refusal| refusal.contains("secret")), "{error}");
        let error = dialer.join().unwrap();
        assert!(matches!(error, JoinError::Refused { rank: 0, .. }), "{error}");
        assert!(error.to_string().contains("secret"), "{error}");
    });
}

/// The listener proves itself too: a rank does not talk to whoever has taken an address.
#[test]
fn a_rank_does_not_trust_a_listener_that_echoes() {
    let mut cast = cast(&[0, 1]);
    cast.spec.timeout = SHORT;
    let listener = cast.listeners[0].try_clone().unwrap();
    thread::scope(|scope| {
        scope.spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut hello = [0; 88];
            stream.read_exact(&mut hello).unwrap();
            // A challenge that welcomes, and a proof copied from nowhere.
            stream.write_all(&[1; 41 + 32]).unwrap();
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).unwrap();
            assert!(rest.is_empty(), "the rank proved itself to a stranger");
        });
        let error = cast.join(1).unwrap_err();
        assert!(matches!(error, JoinError::Refused { rank: 0, .. }), "{error}");
    });
}

#[test]
fn ranks_of_different_epochs_stay_apart() {
    for machines in layouts(2) {
        let mut cast = cast(&machines);
        cast.spec.timeout = SHORT;
        let older = GroupSpec { epoch: cast.spec.epoch - 1, ..cast.spec.clone() };
        thread::scope(|scope| {
            let newer = scope.spawn(|| cast.join(0).unwrap_err());
            if machines[0] == machines[1] {
                // Otherwise the older may come first, which is the next test.
                while !older_sees_newer(&older) && !newer.is_finished() {}
            } else {
                let error = Group::join(&older, 1, None, &AbortHandle::new()).unwrap_err();
                assert!(matches!(error, JoinError::Epoch { ours: 2, theirs: 3 }), "{error}");
            }
            let error = newer.join().unwrap();
            let JoinError::Missing { ranks, .. } = &error else { panic!("{error}") };
            assert_eq!(*ranks, [1], "{machines:?}");
        });
    }
}

/// Whether an older rank was refused by epoch.
fn older_sees_newer(older: &GroupSpec) -> bool {
    let brief = GroupSpec { timeout: Duration::from_millis(20), ..older.clone() };
    matches!(
        Group::join(&brief, 1, None, &AbortHandle::new()),
        Err(JoinError::Epoch { ours: 2, theirs: 3 })
    )
}

/// **SG-2**
#[test]
fn a_newer_group_takes_the_name_of_an_unfinished_older_one() {
    let cast = cast(&[0, 0]);
    let older = GroupSpec { epoch: cast.spec.epoch - 1, ..cast.spec.clone() };
    thread::scope(|scope| {
        // It waits for a rank that never comes, and ends when the newer group begins or at once.
        let zombie = scope.spawn(|| Group::join(&older, 0, None, &AbortHandle::new()).unwrap_err());
        cast.play(|group| group.barrier().unwrap());
        // If it came last it is alone: end its wait.
        let newest = GroupSpec { timeout: SHORT, ..cast.spec.clone() };
        while !zombie.is_finished() {
            Group::join(&newest, 1, None, &AbortHandle::new()).unwrap_err();
        }
        let error = zombie.join().unwrap();
        let is_told = matches!(
            error,
            JoinError::Missing { .. } | JoinError::Epoch { .. } | JoinError::Ended { .. }
        );
        assert!(is_told, "{error}");
    });
}

#[test]
fn a_rank_is_taken_once() {
    let mut cast = cast(&[0, 0, 0]);
    cast.spec.timeout = SHORT;
    thread::scope(|scope| {
        let twins = [1, 1].map(|rank| {
            scope.spawn({
                let cast = &cast;
                move || cast.join(rank)
            })
        });
        let errors = twins.map(|twin| twin.join().unwrap().unwrap_err());
        let refused = errors.iter().filter(|error| matches!(error, JoinError::Refused { .. }));
        assert_eq!(refused.count(), 1, "{errors:?}");
    });
}

/// **ME-2**: scanners, and connections that say nothing.
#[test]
fn strangers_on_the_listener_do_not_disturb() {
    let cast = cast(&[0, 1]);
    let address = cast.spec.members[0].address.unwrap();
    let mute: Vec<_> = (0..3).map(|_| TcpStream::connect(address).unwrap()).collect();
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 1000], b"PLAYCOL1"] {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(bytes).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
    }
    cast.play(|group| group.barrier().unwrap());
    drop(mute);
}

/// A connection that breaks or lies after the handshake, at any byte: the ranks are told.
#[test]
fn a_broken_or_corrupted_connection_ends_the_group() {
    // Within the header of the first frame, that of the first message, and beyond, where a lie about
    // a tensor's value is for its owner to find.
    for (damage, places) in
        [(Damage::Cut, &[0, 7, 23, 24, 90, 300][..]), (Damage::Flip, &[0, 8, 16, 20, 23, 24, 40])]
    {
        for &at in places {
            let mut cast = cast(&[0, 1]);
            let proxy = TcpListener::bind("127.0.0.1:0").unwrap();
            let behind = cast.spec.members[0].address.unwrap();
            cast.spec.members[0].address = Some(proxy.local_addr().unwrap());
            thread::scope(|scope| {
                scope.spawn(move || forward(&proxy, behind, damage, at));
                cast.play(|group| {
                    // Rank 1 sends through the damage; what comes back ends with the connection.
                    let (mut error, mut data) = (None, [0u32; 25]);
                    for _ in 0..100 {
                        let sent = match group.rank() {
                            1 => group.send(&values::<u32>(1, 25), 0),
                            _ => group.recv(&mut data, 1),
                        };
                        error = error.or(sent.err());
                    }
                    let error = error.or(group.barrier().err()).unwrap();
                    let is_told = matches!(
                        error,
                        CollectiveError::PeerLost { .. } | CollectiveError::Mismatch { .. }
                    );
                    assert!(is_told, "{damage:?} at {at}: {error}");
                });
            });
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Damage {
    Cut,
    Flip,
}

/// Bytes of the dialer's handshake.
const HANDSHAKE: usize = 88 + 32;

/// Forwards one connection, and does damage to the byte `at` after the handshake.
fn forward(proxy: &TcpListener, behind: std::net::SocketAddr, damage: Damage, at: usize) {
    let (mut dialer, _) = proxy.accept().unwrap();
    let mut listener = TcpStream::connect(behind).unwrap();
    let (mut back_from, mut back_to) = (listener.try_clone().unwrap(), dialer.try_clone().unwrap());
    thread::scope(|scope| {
        scope.spawn(move || std::io::copy(&mut back_from, &mut back_to));
        let mut byte = [0];
        std::io::copy(&mut (&dialer).take((HANDSHAKE + at) as u64), &mut listener).unwrap();
        dialer.read_exact(&mut byte).unwrap();
        if matches!(damage, Damage::Flip) {
            listener.write_all(&[byte[0] ^ 0x80]).unwrap();
            // Until either end has had enough.
            let _ = std::io::copy(&mut dialer, &mut listener);
        }
        let _ = listener.shutdown(Shutdown::Both);
        let _ = dialer.shutdown(Shutdown::Both);
    });
}

#[test]
fn specs_that_describe_no_group_are_refused_with_the_reason() {
    let good = cast(&[0, 1]).spec;
    let with = |change: fn(&mut GroupSpec)| {
        let mut spec = good.clone();
        change(&mut spec);
        spec
    };
    for (spec, rank, reason) in [
        (with(|spec| spec.members.clear()), 0, "0 members"),
        (with(|spec| spec.members = vec![spec.members[0].clone(); 65]), 0, "65 members"),
        (good.clone(), 2, "rank 2 of 2"),
        (with(|spec| spec.timeout = Duration::ZERO), 0, "timeout 0"),
        (with(|spec| spec.buffer_bytes = 100), 0, "buffer_bytes 100"),
        (with(|spec| spec.members[1].address = None), 0, "rank 1 has no address"),
    ] {
        let error = Group::join(&spec, rank, None, &AbortHandle::new()).unwrap_err();
        assert!(matches!(&error, JoinError::Invalid(_)), "{error}");
        assert!(error.to_string().contains(reason), "{error}");
    }
}

#[test]
fn a_spec_survives_json_and_hides_its_secret_when_printed() {
    let spec = cast(&[0, 1]).spec;
    let json = serde_json::to_string(&spec).unwrap();
    assert_eq!(serde_json::from_str::<GroupSpec>(&json).unwrap(), spec);
    assert!(format!("{spec:?}").contains("secret: Secret(..)"), "{spec:?}");
}

#[test]
fn buffers_for_collectives_fit_the_shared_memory_of_a_container() {
    for ranks in 1..=RANKS_MAX {
        let bytes = GroupSpec::collective_buffer_bytes(ranks);
        assert!(BUFFER_BYTES.contains(&bytes), "{bytes}");
        assert!(ranks * (ranks - 1) * bytes.next_multiple_of(4096) < 64 << 20, "{ranks}");
    }
}
