//! Transcripts: text files of commands and of what they print, played against the code.
//!
//! A file is prose (lines with `#`), then blocks of commands, `----`, and what they print, up to an empty
//! line. With `REWRITE=1` in the environment, a test writes what was printed into the files: read the diff.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// The state between the commands of a file, which begins as the default.
pub(crate) trait Player: Default {
    /// Carries out one command.
    fn run(&mut self, command: &str);

    /// Returns what commands have printed since it was last taken away.
    fn printed(&mut self) -> &mut String;
}

/// Plays every transcript of a folder, which has at least `files_min` of them.
///
/// # Panics
/// When a command prints something else than its file says.
pub(crate) fn play_folder<P: Player>(folder: &Path, files_min: usize) {
    let files = fs::read_dir(folder).expect("the folder of transcripts");
    let mut files: Vec<PathBuf> = files.map(|file| file.expect("a file").path()).collect();
    files.sort();
    assert!(files.len() >= files_min, "{} transcripts were found", files.len());
    let rewrite = std::env::var_os("REWRITE").is_some();
    let mut failures = String::new();
    for file in files {
        let written = fs::read_to_string(&file).expect("a readable transcript");
        let played = play::<P>(&written);
        if played != written && rewrite {
            fs::write(&file, &played).expect("a writable transcript");
        } else if played != written {
            let name = file.file_name().expect("a file has a name").display();
            let _ = writeln!(failures, "{name}:\n{}", difference(&written, &played));
        }
    }
    assert!(failures.is_empty(), "- written, + played (REWRITE=1 accepts)\n{failures}");
}

/// Returns the transcript with what its commands print now.
fn play<P: Player>(transcript: &str) -> String {
    let mut player = P::default();
    let mut played = String::new();
    let mut lines = transcript.lines();
    while let Some(line) = lines.next() {
        played += line;
        played.push('\n');
        if line == "----" {
            played += &std::mem::take(player.printed());
            lines.by_ref().take_while(|line| !line.is_empty()).for_each(drop);
            played.push('\n');
        } else if !line.is_empty() && !line.starts_with('#') {
            player.run(line);
        }
    }
    let printed = player.printed();
    assert!(printed.is_empty(), "commands without ---- print {printed:?}");
    // Blocks end in an empty line, the file does not.
    played.trim_end().to_owned() + "\n"
}

/// Returns the lines between the first and the last difference.
fn difference(written: &str, played: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (written.lines().collect(), played.lines().collect());
    let head = old.iter().zip(&new).take_while(|(old, new)| old == new).count();
    let (old, new) = (&old[head..], &new[head..]);
    let tail = old.iter().rev().zip(new.iter().rev()).take_while(|(old, new)| old == new).count();
    let mut text = format!("  line {}\n", head + 1);
    for (mark, lines) in [('-', &old[..old.len() - tail]), ('+', &new[..new.len() - tail])] {
        lines.iter().for_each(|line| text += &format!("{mark} {line}\n"));
    }
    text
}
