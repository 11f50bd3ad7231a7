//! The input of the user: lines of standard input, and the commands among them.

use std::io::{self, BufRead, Read};

use tokio::sync::mpsc;

use crate::error::CliError;

/// The maximum length of a line.
const LINE_BYTES_MAX: u64 = 1 << 20;

/// Lines of standard input.
pub(super) struct Input(mpsc::Receiver<io::Result<String>>);

/// A parsed line.
#[derive(Debug, PartialEq)]
pub(super) enum ChatCommand<'a> {
    Nothing,
    Say(&'a str),
    Reset,
    System(&'a str),
    Stats,
    Help,
    Quit,
    Unknown(&'a str),
}

// === impl Input ===

impl Input {
    /// Begins to read. A separate thread does so, because a read of a terminal cannot be cancelled: the
    /// thread ends with the process, at the end of the input, or with this `Input`.
    pub(super) fn start() -> Self {
        let (lines, receiver) = mpsc::channel(1);
        std::thread::spawn(move || {
            while let Some(line) = read_line(&mut io::stdin().lock()).transpose() {
                let failed = line.is_err();
                if lines.blocking_send(line).is_err() || failed {
                    return;
                }
            }
        });
        Self(receiver)
    }

    /// Returns the next line without its end; `None` after the last.
    ///
    /// # Errors
    /// Returns an error if standard input cannot be read, or the line is longer than a mebibyte.
    pub(super) async fn line(&mut self) -> Result<Option<String>, CliError> {
        self.0
            .recv()
            .await
            .transpose()
            .map_err(|error| CliError::failure(format!("cannot read standard input: {error}")))
    }
}

fn read_line(input: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    input.take(LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
    if line.len() as u64 == LINE_BYTES_MAX {
        return Err(io::Error::other(format!("a line is longer than {LINE_BYTES_MAX} bytes")));
    }
    Ok((!line.is_empty()).then(|| String::from_utf8_lossy(&line).trim_end().to_owned()))
}

// === impl ChatCommand ===

impl<'a> ChatCommand<'a> {
    /// Parses a line: a command if it begins with a slash.
    pub(super) fn parse(line: &'a str) -> Self {
        let line = line.trim();
        let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        match name {
            "" => Self::Nothing,
            "/reset" => Self::Reset,
            "/system" => Self::System(rest.trim()),
            "/stats" => Self::Stats,
            "/help" => Self::Help,
            "/quit" | "/exit" | "/bye" => Self::Quit,
            _ if name.starts_with('/') => Self::Unknown(name),
            _ => Self::Say(line),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_understood() {
        for (line, command) in [
            ("  ", ChatCommand::Nothing),
            ("What is 2 + 2?", ChatCommand::Say("What is 2 + 2?")),
            ("/reset", ChatCommand::Reset),
            ("/system  You are a pirate. ", ChatCommand::System("You are a pirate.")),
            ("/system", ChatCommand::System("")),
            ("/stats", ChatCommand::Stats),
            ("/help", ChatCommand::Help),
            (" /quit", ChatCommand::Quit),
            ("/sytem hello", ChatCommand::Unknown("/sytem")),
        ] {
            assert_eq!(ChatCommand::parse(line), command);
        }
    }

    #[test]
    fn lines_are_read_to_the_last_and_are_bounded() {
        let mut input = &b"one\r\n\ntwo \xff"[..];
        assert_eq!(read_line(&mut input).expect("read").as_deref(), Some("one"));
        assert_eq!(read_line(&mut input).expect("read").as_deref(), Some(""));
        assert_eq!(read_line(&mut input).expect("read").as_deref(), Some("two \u{fffd}"));
        assert_eq!(read_line(&mut input).expect("read"), None);
        let long = vec![b'x'; LINE_BYTES_MAX as usize + 1];
        read_line(&mut &long[..]).expect_err("too long");
    }
}
