//! `playhouse top`, on a terminal of the test's own.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use playhouse_cluster::ReplicaState;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

use crate::head::{Head, TOKEN};
use crate::{playhouse, run};

const PATIENCE: Duration = Duration::from_secs(30);
const ENTER: &str = "\u{1b}[?1049h";
const LEAVE: &str = "\u{1b}[?7h\u{1b}[?25h\u{1b}[?1049l";

/// `playhouse top` on a pseudo-terminal.
struct Top {
    child: Child,
    /// The person's end.
    keys: File,
    /// The program's end; while it is open the terminal stays.
    terminal: OwnedFd,
    shown: Arc<Mutex<Vec<u8>>>,
}

// === impl Top ===

impl Top {
    fn start(url: &str, columns: u16) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a pseudo-terminal");
        grantpt(&master).and_then(|()| unlockpt(&master)).expect("it is ours");
        let name = ptsname(&master, Vec::new()).expect("it has a name");
        let path = name.to_str().expect("an ASCII path");
        let terminal = File::options().read(true).write(true).open(path).expect("its other end");
        let terminal = OwnedFd::from(terminal);
        let shown = Arc::new(Mutex::new(Vec::new()));
        let keys = File::from(master);
        let (mut screen, noted) = (keys.try_clone().expect("a handle"), Arc::clone(&shown));
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // Fails when the last handle of the other end is closed.
            while let Ok(count @ 1..) = screen.read(&mut bytes) {
                noted.lock().extend(&bytes[..count]);
            }
        });
        let end = || terminal.try_clone().expect("a handle");
        resize(&terminal, columns);
        let child = playhouse(&["top", "--admin", url, "--admin-token", TOKEN])
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .expect("the binary starts");
        Self { child, keys, terminal, shown }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock()).into_owned()
    }

    /// Waits until the screen has shown `text`.
    fn until(&self, text: &str) {
        let start = SystemTime::now();
        while !self.text().contains(text) {
            assert!(
                start.elapsed().unwrap_or_default() < PATIENCE,
                "{text:?} in {:?}",
                self.text()
            );
            std::thread::yield_now();
        }
    }

    fn press(&mut self, key: &[u8]) {
        self.keys.write_all(key).expect("the terminal is open");
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status();
        assert!(status.expect("kill runs").success());
    }

    fn is_raw(&self) -> bool {
        let modes = tcgetattr(&self.terminal).expect("it is open").local_modes;
        !modes.contains(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
    }

    /// TOP-1
    fn ends_restored(mut self) -> ExitStatus {
        let status = self.child.wait().expect("it ends");
        assert!(!self.is_raw());
        self.until(LEAVE);
        assert!(self.text().ends_with(LEAVE), "{:?}", self.text());
        status
    }
}

fn resize(terminal: &OwnedFd, columns: u16) {
    let size = Winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(terminal, size).expect("it is a terminal");
}

#[test]
fn without_a_terminal_it_says_what_to_do() {
    let refused = run(&["top"]);
    assert_eq!((refused.code, refused.stdout.as_str()), (1, ""));
    assert!(refused.stderr.contains("needs a terminal"), "{}", refused.stderr);
    assert!(refused.stderr.contains("status --watch"), "{}", refused.stderr);
}

/// TOP-1, TOP-2
#[test]
fn keys_that_leave_restore_the_terminal() {
    let head = Head::start(ReplicaState::Serving);
    for key in [&b"q"[..], b"Q", b"\x03", b"\x04", b"\x1b"] {
        let mut top = Top::start(&head.url(), 80);
        top.until("1 of 1 replicas serve");
        assert!(top.is_raw());
        assert!(top.text().starts_with(ENTER));
        top.press(key);
        assert_eq!(top.ends_restored().code(), Some(0), "{key:?}");
    }
}

/// TOP-1
#[test]
fn signals_restore_the_terminal() {
    let head = Head::start(ReplicaState::Serving);
    for name in ["TERM", "INT", "HUP"] {
        let top = Top::start(&head.url(), 80);
        top.until("1 of 1 replicas serve");
        top.signal(name);
        assert_eq!(top.ends_restored().code(), Some(0), "{name}");
    }
}

/// TOP-3, and arrow keys do not leave.
#[test]
fn it_follows_the_size_and_the_numbers() {
    let head = Head::start(ReplicaState::Serving);
    let mut top = Top::start(&head.url(), 80);
    top.until("REPLICA STATE");
    // A frame may come in pieces.
    top.until("node\\u{1b}[2J");
    assert!(!top.text().contains("node\u{1b}[2J"));
    assert!(!top.text().contains("  run 1, wait 2"));
    top.press(b"\x1b[A");
    resize(&top.terminal, 40);
    top.signal("WINCH");
    top.until("  run 1, wait 2, prefix 45 %");
    head.change(|cluster| cluster.in_flight = 77);
    top.until("in flight: 77");
    top.press(b"q");
    assert_eq!(top.ends_restored().code(), Some(0));
}

/// TOP-4
#[test]
fn a_head_that_goes_away_is_a_line_and_it_may_come_back() {
    let head = Head::start(ReplicaState::Serving);
    let address = head.address;
    let mut top = Top::start(&head.url(), 80);
    top.until("1 of 1 replicas serve");
    drop(head);
    top.until("error: cannot connect");
    let _head = Head::at(address, ReplicaState::Starting);
    top.until("0 of 1 replicas serve");
    top.press(b"q");
    assert_eq!(top.ends_restored().code(), Some(0));
}

#[test]
fn without_a_head_the_terminal_is_left_alone() {
    let head = Head::start(ReplicaState::Serving);
    let url = head.url();
    drop(head);
    let mut top = Top::start(&url, 80);
    assert_eq!(top.child.wait().expect("it ends").code(), Some(1));
    top.until("hint: ");
    assert!(!top.text().contains('\u{1b}') && !top.is_raw());
}
