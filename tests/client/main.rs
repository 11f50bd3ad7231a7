//! The client commands of the `playhouse` binary, driven as processes against a scripted server.
//!
//! Tests are named after what a user sees. A test waits for conditions, never for time: where a
//! request has to be slow, the server holds it until something else has happened.

mod admin;
mod bench;
mod change;
mod chat;
mod doctor;
mod head;
#[path = "../ports.rs"]
mod ports;
mod server;
mod top;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// The binary under test, cut off from the environment of whoever runs the tests.
fn playhouse(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_playhouse"));
    command.args(args).stdin(Stdio::null());
    for name in ["PLAYHOUSE_API_KEY", "PLAYHOUSE_ADMIN_TOKEN", "RUST_LOG", "NO_COLOR"] {
        command.env_remove(name);
    }
    command
}

fn run(args: &[&str]) -> Finished {
    playhouse(args).output().expect("the binary starts").into()
}

/// A process that has ended.
struct Finished {
    code: i32,
    stdout: String,
    stderr: String,
}

impl From<Output> for Finished {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().expect("ended by itself"),
            stdout: String::from_utf8(output.stdout).expect("UTF-8"),
            stderr: String::from_utf8(output.stderr).expect("UTF-8"),
        }
    }
}

/// A folder that is removed when this is dropped.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("playhouse-client-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).expect("the temporary folder can be written");
        Self(path)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        let path = self.0.join(name);
        std::fs::write(&path, bytes).expect("the folder can be written");
        path.to_str().expect("UTF-8").to_owned()
    }

    fn path(&self) -> &str {
        Path::to_str(&self.0).expect("UTF-8")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn the_version_is_told() {
    let told = run(&["--version"]);
    assert_eq!((told.code, told.stdout.as_str()), (0, "playhouse 0.1.0\n"));
}

#[test]
fn an_unknown_flag_is_a_usage_error_with_a_suggestion() {
    let refused = run(&["bench", "--num-promts", "3"]);
    assert_eq!(refused.code, 2);
    assert!(refused.stderr.contains("--num-prompts"), "{}", refused.stderr);
}
