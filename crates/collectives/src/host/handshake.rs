//! The handshake, by which two ranks of different machines prove to each other that they know the group's
//! secret.
//!
//! - **HA-1** neither end trusts the other before it has seen an HMAC-SHA256, under the secret, of this very
//!   exchange: both nonces, epoch, group, ranks and the prover's role. The secret itself is not sent.
//! - **HA-2** a peer of another epoch, group or spec is refused with that reason, and learns nothing else.
//!
//! Dialer → listener: hello (magic, epoch, from, to, digest of the spec, nonce). Listener → dialer:
//! reply (verdict, epoch, nonce, proof). Dialer → listener: proof. Listener → dialer: verdict.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;

use hmac::Mac as _;
use rustix::rand::{GetRandomFlags, getrandom};

use super::clock::Deadline;
use super::proof::{Proof, keyed};
use crate::GroupSpec;

const MAGIC: [u8; 8] = *b"PLAYCOL1";
const HELLO_BYTES: usize = 8 + 8 + 4 + 4 + 32 + 32;
/// Bytes of a reply before its proof.
const CHALLENGE_BYTES: usize = 1 + 8 + 32;
const PROOF_BYTES: usize = 32;

/// Verdicts of the listener on a dialer.
const COME_IN: u8 = 1;
const OTHER_EPOCH: u8 = 2;
const OTHER_GROUP: u8 = 3;
const NO_PROOF: u8 = 4;
const TAKEN: u8 = 5;

/// The reason why a handshake failed.
#[derive(Debug)]
pub(super) enum Failed {
    /// Out of time, or the peer disconnected in the middle.
    Broken(io::Error),
    /// The peer carries another epoch.
    Epoch(u64),
    /// The peer is refused for this reason.
    Refused(&'static str),
}

/// The two ranks of a handshake.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ends {
    pub(super) from: usize,
    pub(super) to: usize,
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::Broken(error)
    }
}

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Broken(error) => error.fmt(f),
            Self::Epoch(epoch) => write!(f, "it is of epoch {epoch}"),
            Self::Refused(reason) => f.write_str(reason),
        }
    }
}

/// Runs the dialer's side on a fresh connection.
pub(super) fn dial(
    stream: &TcpStream,
    spec: &GroupSpec,
    ends: Ends,
    deadline: Deadline,
) -> Result<(), Failed> {
    let hello = hello(spec, ends)?;
    send(stream, &hello, deadline)?;
    let mut challenge = [0; CHALLENGE_BYTES];
    receive(stream, &mut challenge, deadline)?;
    let epoch = challenge[1..9].try_into().expect("8 bytes");
    verdict(challenge[0], u64::from_le_bytes(epoch))?;
    let mut theirs = [0; PROOF_BYTES];
    receive(stream, &mut theirs, deadline)?;
    let expected = proof(spec, "listener", &hello, &challenge);
    expected.verify_slice(&theirs).map_err(|_| {
        Failed::Refused("it cannot prove that it knows the group's secret; are both from one spec?")
    })?;
    let ours = proof(spec, "dialer", &hello, &challenge).finalize().into_bytes();
    send(stream, &ours, deadline)?;
    let mut last = [0; 1];
    receive(stream, &mut last, deadline)?;
    verdict(last[0], spec.epoch)
}

/// Runs the listener's side, up to its verdict, and returns which rank dialed. `admit` tells whether that
/// rank is awaited.
pub(super) fn answer(
    stream: &TcpStream,
    spec: &GroupSpec,
    rank: usize,
    deadline: Deadline,
    admit: impl FnOnce(usize) -> bool,
) -> Result<usize, Failed> {
    let mut hello = [0; HELLO_BYTES];
    receive(stream, &mut hello, deadline)?;
    let from = match judge(&hello, spec, rank) {
        Ok(from) => from,
        Err((verdict, failed)) => {
            send(stream, &challenge(verdict, spec)?, deadline)?;
            return Err(failed);
        }
    };
    let challenge = challenge(COME_IN, spec)?;
    let ours = proof(spec, "listener", &hello, &challenge).finalize().into_bytes();
    send(stream, &[challenge.as_slice(), &ours].concat(), deadline)?;
    let mut theirs = [0; PROOF_BYTES];
    receive(stream, &mut theirs, deadline).map_err(|_| {
        Failed::Refused("it hung up on this rank's proof; does it hold another secret?")
    })?;
    if proof(spec, "dialer", &hello, &challenge).verify_slice(&theirs).is_err() {
        send(stream, &[NO_PROOF], deadline)?;
        return Err(Failed::Refused("it cannot prove that it knows the group's secret"));
    }
    if !admit(from) {
        send(stream, &[TAKEN], deadline)?;
        return Err(Failed::Refused("its rank is connected already"));
    }
    send(stream, &[COME_IN], deadline)?;
    Ok(from)
}

fn hello(spec: &GroupSpec, ends: Ends) -> io::Result<[u8; HELLO_BYTES]> {
    let mut hello = [0; HELLO_BYTES];
    hello[..8].copy_from_slice(&MAGIC);
    hello[8..16].copy_from_slice(&spec.epoch.to_le_bytes());
    hello[16..20].copy_from_slice(&(ends.from as u32).to_le_bytes());
    hello[20..24].copy_from_slice(&(ends.to as u32).to_le_bytes());
    hello[24..56].copy_from_slice(&spec.digest());
    hello[56..].copy_from_slice(&nonce()?);
    Ok(hello)
}

/// Returns the rank that says hello, or the verdict to send and the error to note.
fn judge(hello: &[u8; HELLO_BYTES], spec: &GroupSpec, rank: usize) -> Result<usize, (u8, Failed)> {
    let short = |at: usize| u32::from_le_bytes(hello[at..at + 4].try_into().expect("4 bytes"));
    let epoch = u64::from_le_bytes(hello[8..16].try_into().expect("8 bytes"));
    let refuse = |reason| Err((OTHER_GROUP, Failed::Refused(reason)));
    if hello[..8] != MAGIC {
        return refuse("it does not speak this protocol");
    }
    if hello[24..56] != spec.digest() {
        return refuse("it comes with another group spec");
    }
    if epoch != spec.epoch {
        return Err((OTHER_EPOCH, Failed::Epoch(epoch)));
    }
    let (from, to) = (short(16) as usize, short(20) as usize);
    let is_remote = |from: usize| {
        spec.members.get(from).is_some_and(|it| it.machine != spec.members[rank].machine)
    };
    if to != rank || from <= rank || !is_remote(from) {
        return refuse("it has no business with this rank");
    }
    Ok(from)
}

fn challenge(verdict: u8, spec: &GroupSpec) -> io::Result<[u8; CHALLENGE_BYTES]> {
    let mut challenge = [0; CHALLENGE_BYTES];
    challenge[0] = verdict;
    if verdict != OTHER_GROUP {
        challenge[1..9].copy_from_slice(&spec.epoch.to_le_bytes());
    }
    challenge[9..].copy_from_slice(&nonce()?);
    Ok(challenge)
}

fn proof(spec: &GroupSpec, role: &str, hello: &[u8], challenge: &[u8]) -> Proof {
    keyed(&spec.secret, role).chain_update(hello).chain_update(challenge)
}

fn verdict(verdict: u8, epoch: u64) -> Result<(), Failed> {
    match verdict {
        COME_IN => Ok(()),
        OTHER_EPOCH => Err(Failed::Epoch(epoch)),
        OTHER_GROUP => Err(Failed::Refused("it belongs to a group with another spec")),
        NO_PROOF => Err(Failed::Refused("it does not accept the proof of the group's secret")),
        TAKEN => Err(Failed::Refused("somebody connected to it as this rank already")),
        _ => Err(Failed::Refused("it does not speak this protocol")),
    }
}

fn nonce() -> io::Result<[u8; 32]> {
    let mut nonce = [0; 32];
    // Up to 256 bytes come whole or not at all.
    getrandom(nonce.as_mut_slice(), GetRandomFlags::empty())?;
    Ok(nonce)
}

fn send(mut stream: &TcpStream, bytes: &[u8], deadline: Deadline) -> io::Result<()> {
    stream.set_write_timeout(Some(time_left(deadline)?))?;
    stream.write_all(bytes)
}

/// Fills `bytes` by the deadline, however slowly the bytes come.
fn receive(mut stream: &TcpStream, mut bytes: &mut [u8], deadline: Deadline) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.set_read_timeout(Some(time_left(deadline)?))?;
        match stream.read(bytes) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => bytes = &mut bytes[read..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn time_left(deadline: Deadline) -> io::Result<std::time::Duration> {
    let remaining = deadline.remaining();
    if remaining.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(remaining) }
}
