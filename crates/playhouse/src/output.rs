//! Text on standard output and standard error.

use std::io::{self, Write};

use crate::error::CliError;

/// Prints a text on standard output.
///
/// # Errors
/// Returns an error when standard output cannot be written.
pub(crate) fn print(text: &str) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(CliError::output)
}

/// Prints a text on standard error, and ignores errors.
pub(crate) fn tell(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}
