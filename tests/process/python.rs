//! openai-python against the real binary. A machine needs no Python to pass the tests: without the
//! package this one says that it did not run.

use std::io::Write as _;
use std::process::{Command, Stdio};

use crate::server::Server;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/process/openai_client.py");

#[test]
fn openai_python_finds_what_it_expects() {
    let python = std::env::var("PLAYHOUSE_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let import = Command::new(&python)
        .args(["-c", "import openai"])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !import {
        let text = format!(
            "\n*** NOT TESTED: {python} has no package openai; name one that has in PLAYHOUSE_TEST_PYTHON ***\n"
        );
        // Past the capture of the test harness: a test that did not run says so.
        std::io::stderr().write_all(text.as_bytes()).expect("stderr is open");
        return;
    }
    let server = Server::start(&[]);
    let output = Command::new(&python)
        .args([SCRIPT, &format!("{}/v1", server.url())])
        .output()
        .expect("python starts");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
}
