//! Joins that fail: whose reason is shown.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use crate::hangs::not_tested;
use crate::server::BINARY;

#[test]
fn the_reason_of_a_failed_join_is_that_of_the_rank_that_failed() {
    let script = "mount -t tmpfs -o size=700k tmpfs /dev/shm && exec \"$@\"";
    let mut server = Command::new("unshare")
        .args(["--mount", "sh", "-c", script, "sh", BINARY, "serve", "-tp", "2", "--port", "0"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("sh runs");
    let mut log = BufReader::new(server.stderr.take().expect("it is piped")).lines();
    let (mut heard, mut reasons) = (String::new(), Vec::new());
    while let Some(Ok(line)) = log.next() {
        heard += &line;
        heard.push('\n');
        if line.contains("restarting") || line.contains("replica failed") {
            reasons.push(line.clone());
        }
        if line.contains("replica failed") {
            break;
        }
    }
    drop(server.kill());
    drop(server.wait());
    if reasons.is_empty() && (heard.contains("unshare") || heard.contains("mount")) {
        return not_tested("no file system may be mounted here");
    }
    assert!(reasons.len() >= 2, "it is tried again, then given up: {heard}");
    for reason in &reasons {
        assert!(reason.contains("no room in /dev/shm for the 524288 bytes"), "{reason}");
        assert!(reason.contains("--shm-size"), "{reason}");
    }
}
