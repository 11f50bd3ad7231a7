//! Ports that stay free until a test uses them.
//!
//! What was free a moment ago is anybody's, if the kernel hands it out: to whoever binds port 0, to any
//! connection that is made, and to a client that dials a port before its server listens and so meets
//! itself. These are below all those.

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};

/// Below it are the ports of well-known services.
const FIRST: u32 = 20_000;

/// Returns a port that is free for TCP and UDP, and that no other caller gets.
#[allow(dead_code, reason = "some tests need several")]
pub(crate) fn port() -> u16 {
    let [port] = ports();
    port
}

/// Returns several free ports in a row, as [`port`] returns one.
pub(crate) fn ports<const N: usize>() -> [u16; N] {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").expect("Linux");
    let given = range.split_whitespace().next().and_then(|port| port.parse::<u32>().ok());
    let count = given.and_then(|given| given.checked_sub(FIRST + N as u32)).expect("ports below");
    // Test processes at the same time begin in different places.
    let begin = std::process::id().wrapping_mul(61);
    for _ in 0..count {
        let next = NEXT.fetch_add(N as u32, Ordering::Relaxed);
        let first = FIRST + begin.wrapping_add(next) % count;
        let ports = std::array::from_fn(|at| (first as u16) + at as u16);
        if ports.into_iter().all(is_free) {
            return ports;
        }
    }
    panic!("no port from {FIRST} on is free");
}

fn is_free(port: u16) -> bool {
    let anywhere = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port);
    TcpListener::bind(anywhere).is_ok() && UdpSocket::bind(anywhere).is_ok()
}
