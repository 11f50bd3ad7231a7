//! Commands of the machine, and what they said.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

pub(crate) const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// What a command printed, if it succeeded.
pub(crate) fn ask(program: &str, words: &[&str]) -> Result<String, String> {
    finish(program, words, Command::new(program).args(words).stdin(Stdio::null()).output())
}

/// What a command printed, both streams together if it failed.
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

/// What docker printed; it must succeed.
pub(crate) fn docker(words: &[&str]) -> String {
    ask("docker", words).unwrap_or_else(|why| panic!("{why}")).trim().to_owned()
}

/// Past the capture of the test harness: a test that did not run says so.
pub(crate) fn skip(why: &str) {
    let text = format!("\n*** NOT TESTED: {why} ***\n");
    std::io::stderr().write_all(text.as_bytes()).expect("stderr is open");
}
