//! Commands of the machine, and what they said.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

pub(crate) const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// Runs a command and returns its output, or its errors if it fails.
pub(crate) fn ask(program: &str, words: &[&str]) -> Result<String, String> {
    finish(program, words, Command::new(program).args(words).stdin(Stdio::null()).output())
}

/// Returns the standard output of a finished command, or both of its streams if the command failed.
pub(crate) fn finish(
    program: &str,
    words: &[&str],
    output: std::io::Result<Output>,
) -> Result<String, String> {
    let output = output.map_err(|why| format!("{program}: {why}"))?;
    let [said, complained] =
        [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
    match output.status.success() {
        true => Ok(said),
        false => Err(format!("{program} {words:?}: {}\n{said}{complained}", output.status)),
    }
}

/// Runs docker, which must succeed, and returns its output.
pub(crate) fn docker(words: &[&str]) -> String {
    ask("docker", words).unwrap_or_else(|why| panic!("{why}")).trim().to_owned()
}

/// Returns whether docker has a volume of this name.
pub(crate) fn volume_exists(name: &str) -> bool {
    let names = docker(&["volume", "ls", "--quiet"]);
    names.lines().any(|line| line == name)
}

/// Reports that a test did not run, past the capture of the test harness.
pub(crate) fn skip(why: &str) {
    let text = format!("\n*** NOT TESTED: {why} ***\n");
    std::io::stderr().write_all(text.as_bytes()).expect("stderr is open");
}
