//! The small concurrent pieces of the crate under every interleaving of their calls, by loom: the same files
//! as the crate has, compiled against loom's primitives. It is a binary of its own because those files say
//! `crate::sync`, which is loom's here and nowhere else.
#![expect(dead_code, reason = "models use what they are about")]

#[path = "../src/departures.rs"]
mod departures;
#[path = "../src/nodes/leases.rs"]
mod leases;
#[path = "../src/mail/waiting_queue.rs"]
mod waiting_queue;

mod sync {
    pub(crate) use loom::sync::MutexGuard;
    pub(crate) use loom::sync::atomic::{AtomicBool, Ordering};

    /// A mutex of loom with the methods of `parking_lot`, which knows no poison.
    #[derive(Debug)]
    pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(loom::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().expect("no panic")
        }
    }
}

use loom::model;
use loom::sync::Arc;
use loom::sync::atomic::AtomicUsize;
use loom::thread;
use playhouse_types::ReplicaId;

use departures::Departures;
use leases::Leases;
use sync::{AtomicBool, Mutex, Ordering};
use waiting_queue::WaitingQueue;

/// A holder of requests: what a replica and the waiting room do about callers that leave.
#[derive(Default)]
struct Holder {
    departures: Departures,
    /// Messages that say to look.
    mail: AtomicUsize,
    /// It has the request.
    has: AtomicBool,
}

impl Holder {
    fn told(&self) {
        if self.departures.raise() {
            self.mail.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Takes the request in, unless its caller has left.
    fn take_in(&self, closed: &AtomicBool) {
        if !closed.load(Ordering::SeqCst) {
            self.has.store(true, Ordering::SeqCst);
        }
    }

    /// Handles one message, if there is any.
    fn look(&self, closed: &AtomicBool) -> bool {
        let mail = self.mail.load(Ordering::SeqCst);
        if mail == 0 {
            return false;
        }
        self.mail.fetch_sub(1, Ordering::SeqCst);
        self.departures.lower();
        if closed.load(Ordering::SeqCst) {
            self.has.store(false, Ordering::SeqCst);
        }
        true
    }
}

/// **DE-1**: a request that moves from one holder to another while its caller leaves, and while another
/// caller leaves, is held by nobody when all messages have been handled.
#[test]
fn a_caller_that_leaves_is_noticed_wherever_its_request_goes() {
    model(|| {
        let closed = Arc::new(AtomicBool::new(false));
        let holders: [Arc<Holder>; 2] = [Arc::default(), Arc::default()];
        holders[0].has.store(true, Ordering::SeqCst);
        let leaves = {
            let (closed, holders) = (Arc::clone(&closed), holders.clone());
            thread::spawn(move || {
                // Somebody else leaves before, whose news may not have been handled yet.
                holders[1].told();
                closed.store(true, Ordering::SeqCst);
                holders.iter().for_each(|holder| holder.told());
            })
        };
        let second = {
            let (closed, holders) = (Arc::clone(&closed), holders.clone());
            thread::spawn(move || {
                holders[1].look(&closed);
                // It is handed over.
                if holders[0].has.swap(false, Ordering::SeqCst) {
                    holders[1].take_in(&closed);
                }
                holders[1].look(&closed);
            })
        };
        leaves.join().expect("no panic");
        second.join().expect("no panic");
        for holder in &holders {
            while holder.look(&closed) {}
            assert!(!holder.has.load(Ordering::SeqCst), "DE-1");
        }
    });
}

/// **WQ-1**: one is handed out and put back, another comes, and the queue is closed, all at once.
#[test]
fn whoever_waits_is_handed_out_or_ended_once() {
    model(|| {
        let (queue, ended) = (Arc::new(WaitingQueue::new()), Arc::new(AtomicUsize::new(0)));
        queue.push(0).expect("it is open");
        let comes = {
            let (queue, ended) = (Arc::clone(&queue), Arc::clone(&ended));
            thread::spawn(move || {
                if queue.push(1).is_err() {
                    ended.fetch_add(1, Ordering::SeqCst);
                }
            })
        };
        let hands_out = {
            let (queue, ended) = (Arc::clone(&queue), Arc::clone(&ended));
            thread::spawn(move || {
                // Nobody serves.
                let first = queue.take_first();
                if first.is_some_and(|first| queue.put_back(first).is_err()) {
                    ended.fetch_add(1, Ordering::SeqCst);
                }
            })
        };
        let closed = queue.close("the head stops").len();
        comes.join().expect("no panic");
        hands_out.join().expect("no panic");
        assert_eq!(queue.len(), 0, "WQ-1: nobody is forgotten");
        assert_eq!(closed + ended.load(Ordering::SeqCst), 2, "WQ-1: everybody ends once");
    });
}

/// **LE-1**: an incarnation of a replica is given up, and given up again, while the next takes its devices.
#[test]
fn what_an_older_lease_does_does_not_concern_the_next() {
    model(|| {
        let leases = Arc::new(Mutex::new(Leases::default()));
        let holder = ReplicaId(0);
        let old = leases.lock().add(holder, "device 0");
        let late = {
            let leases = Arc::clone(&leases);
            thread::spawn(move || {
                for _ in 0..2 {
                    let mut leases = leases.lock();
                    leases.remove(old);
                    leases.set(old, "device 0");
                }
            })
        };
        let new = leases.lock().add(holder, "");
        leases.lock().set(new, "device 1");
        late.join().expect("no panic");
        let leases = leases.lock();
        assert_eq!(leases.get(old), None);
        assert_eq!(leases.get(new), Some((holder, &"device 1")), "LE-1");
        assert_eq!(leases.of(holder).count(), 1);
    });
}
