//! A UDP relay in front of a real endpoint, which a test can cut.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::net::UdpSocket;

pub(crate) struct Relay {
    pub(crate) addr: SocketAddr,
    cut: Arc<AtomicBool>,
}

// === impl Relay ===

impl Relay {
    /// Passes datagrams between the sender and `to`, until the runtime ends.
    pub(crate) async fn start(to: SocketAddr) -> Self {
        let outside = Arc::new(UdpSocket::bind("127.0.0.1:0").await.expect("a socket"));
        let addr = outside.local_addr().expect("an address");
        let cut = Arc::new(AtomicBool::new(false));
        let is_cut = Arc::clone(&cut);
        tokio::spawn(async move {
            let mut inside: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
            let mut buffer = vec![0; 65_536];
            loop {
                let (length, from) = outside.recv_from(&mut buffer).await.expect("loopback works");
                let socket = match inside.entry(from) {
                    Entry::Occupied(known) => known.into_mut(),
                    Entry::Vacant(new) => {
                        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
                        socket.connect(to).await.expect("an address");
                        let socket = Arc::new(socket);
                        let back = (Arc::clone(&socket), Arc::clone(&outside), Arc::clone(&is_cut));
                        tokio::spawn(pass_back(back, from));
                        new.insert(socket)
                    }
                };
                if !is_cut.load(Ordering::Relaxed) {
                    // A full buffer loses packets, as networks do.
                    drop(socket.send(&buffer[..length]).await);
                }
            }
        });
        Self { addr, cut }
    }

    pub(crate) fn cut(&self) {
        self.cut.store(true, Ordering::Relaxed);
    }

    pub(crate) fn mend(&self) {
        self.cut.store(false, Ordering::Relaxed);
    }
}

async fn pass_back(
    (inside, outside, is_cut): (Arc<UdpSocket>, Arc<UdpSocket>, Arc<AtomicBool>),
    to: SocketAddr,
) {
    let mut buffer = vec![0; 65_536];
    while let Ok(length) = inside.recv(&mut buffer).await {
        if !is_cut.load(Ordering::Relaxed) {
            drop(outside.send_to(&buffer[..length], to).await);
        }
    }
}
