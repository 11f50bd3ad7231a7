//! The takeover of a terminal, and its restoration (**TOP-1**).

use std::io::{self, IsTerminal, Read, Write};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::sync::oneshot;

use crate::error::CliError;
use crate::terminal::{start, visible};

/// Switches to the alternate screen, without a cursor and without wrapped lines.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l";
/// Switches back.
const LEAVE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";

const CTRL_C: u8 = 3;
const CTRL_D: u8 = 4;
const ESCAPE: u8 = 27;

/// A terminal that is taken over while this value lives.
pub(super) struct Screen {
    before: Termios,
}

// === impl Screen ===

impl Screen {
    /// Checks that there is a terminal to take over.
    ///
    /// # Errors
    /// Returns an error if there is none.
    pub(super) fn check() -> Result<(), CliError> {
        if io::stdin().is_terminal() && io::stdout().is_terminal() {
            return Ok(());
        }
        Err(CliError::failure("`playhouse top` needs a terminal")
            .hint("`playhouse status --watch` prints the cluster to anything else"))
    }

    /// Takes the terminal over: keys are read as they are typed, Ctrl-C as one of them.
    ///
    /// # Errors
    /// Returns an error if the system does not allow it.
    pub(super) fn enter() -> Result<Self, CliError> {
        let failed = |why: io::Error| CliError::failure(format!("cannot use the terminal: {why}"));
        let before = tcgetattr(io::stdin()).map_err(|why| failed(why.into()))?;
        // From here on, dropping the screen restores everything.
        let screen = Self { before };
        let mut raw = screen.before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Flush, &raw).map_err(|why| failed(why.into()))?;
        write(ENTER).map_err(CliError::output)?;
        Ok(screen)
    }

    /// Returns the columns and the lines.
    pub(super) fn size(&self) -> (usize, usize) {
        let size = tcgetwinsize(io::stdout()).map_or((0, 0), |size| (size.ws_col, size.ws_row));
        match size {
            // A serial line does not tell its size.
            (0, _) | (_, 0) => (80, 24),
            (columns, lines) => (columns.into(), lines.into()),
        }
    }

    /// Shows `frame`, and `notice` in the last line.
    pub(super) fn draw(&self, frame: &str, notice: Option<&str>) -> io::Result<()> {
        // The frame is drawn over the old one, without clearing, which would flicker.
        let mut text = format!("\x1b[H{}\x1b[K\x1b[J", frame.replace('\n', "\x1b[K\r\n"));
        if let Some(notice) = notice {
            let (width, height) = self.size();
            let notice = visible(notice);
            text += &format!("\x1b[{height};1H\x1b[K{}", start(&notice, width));
        }
        write(&text)
    }

    /// Completes with a key that means to quit, or with the end of the terminal (**TOP-2**). A separate
    /// thread waits for keys, because a read of a terminal cannot be cancelled: it ends with the process.
    pub(super) fn left(&self) -> oneshot::Receiver<()> {
        let (leaving, left) = oneshot::channel();
        std::thread::spawn(move || {
            let mut typed = [0; 64];
            while let Ok(count @ 1..) = io::stdin().read(&mut typed)
                && !leaves(&typed[..count])
            {}
            // The command may have ended for another reason.
            let _ = leaving.send(());
        });
        left
    }
}

/// Returns whether the typed keys mean to quit. Arrow keys and the like begin with Escape, but do not end
/// there.
fn leaves(typed: &[u8]) -> bool {
    match typed {
        [ESCAPE] => true,
        [ESCAPE, ..] => false,
        keys => keys.iter().any(|key| [b'q', b'Q', CTRL_C, CTRL_D].contains(key)),
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // Errors are ignored: the terminal is gone.
        let _ = write(LEAVE);
        let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &self.before);
    }
}

fn write(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}
