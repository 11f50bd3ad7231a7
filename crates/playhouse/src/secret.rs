//! Secrets that are read from files, so that neither `ps` nor the environment shows them.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::error::CliError;

/// The maximum size of a file.
const FILE_BYTES_MAX: u64 = 4 << 10;

/// Returns the secret in a file, without surrounding white space. The contents of the file are never
/// repeated.
///
/// # Errors
/// Returns an error if the file cannot be read, is empty or too long to be one secret; the error names
/// `flag` and the file.
pub(crate) fn read(flag: &str, file: &Path) -> Result<String, CliError> {
    let failed = |why: &dyn std::fmt::Display| {
        CliError::usage(format!("cannot take a secret from {flag} {}: {why}", file.display()))
    };
    let mut text = String::new();
    let read =
        File::open(file).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text));
    match read {
        Err(why) => Err(failed(&why)),
        Ok(bytes) if bytes as u64 > FILE_BYTES_MAX => {
            Err(failed(&format_args!("it is longer than {FILE_BYTES_MAX} bytes")))
        }
        Ok(_) if text.trim().is_empty() => Err(failed(&"it is empty")),
        Ok(_) => Ok(text.trim().to_owned()),
    }
}

/// Returns a secret that is given by its flag or variable, or by a file, which takes precedence.
///
/// # Errors
/// Returns the errors of [`read`].
pub(crate) fn either(
    flag: &str,
    given: Option<&str>,
    file: Option<&Path>,
) -> Result<Option<String>, CliError> {
    match file {
        Some(file) => read(&format!("{flag}-file"), file).map(Some),
        None => Ok(given.map(str::to_owned)),
    }
}

/// Returns the same for a secret that others must show: an empty one would admit every client.
///
/// # Errors
/// Returns the errors of [`read`], and an error if the secret is empty.
pub(crate) fn asked_for(
    flag: &str,
    given: Option<&str>,
    file: Option<&Path>,
) -> Result<Option<String>, CliError> {
    match either(flag, given, file)? {
        Some(secret) if secret.trim().is_empty() => {
            Err(CliError::usage(format!("{flag} is empty")))
        }
        secret => Ok(secret),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_stronger_and_what_is_no_secret_is_one_line_without_it() {
        let name = format!("playhouse-secret-{}", std::process::id());
        let file = std::env::temp_dir().join(name);
        let read = |given| either("--key", given, Some(&file)).map_err(|why| why.message);
        let missing = read(Some("given")).expect_err("no file");
        assert!(missing.contains("--key-file") && missing.contains("No such file"), "{missing}");
        for (text, expected) in [
            (b"  of-the-file\n".to_vec(), Ok("of-the-file")),
            (b" \n".to_vec(), Err("it is empty")),
            (b"hush".repeat(2000), Err("it is longer than 4096 bytes")),
            (b"\xff\xfe hush".to_vec(), Err("valid UTF-8")),
        ] {
            std::fs::write(&file, text).expect("written");
            match (read(Some("given")), expected) {
                (Ok(secret), Ok(expected)) => assert_eq!(secret.as_deref(), Some(expected)),
                (Err(why), Err(expected)) => {
                    assert!(why.ends_with(expected) && !why.contains("hush"), "{why}");
                }
                (read, expected) => panic!("{read:?} is not {expected:?}"),
            }
        }
        std::fs::remove_file(&file).expect("written above");
        let direct = |given| either("--key", given, None).map_err(|why| why.message);
        assert_eq!(direct(Some("given")), Ok(Some("given".to_owned())));
        assert_eq!(direct(None), Ok(None));
        assert_eq!(direct(Some("")), Ok(Some(String::new())), "a client may send nothing");
        let empty = asked_for("--key", Some(" "), None).map_err(|why| why.message);
        assert_eq!(empty, Err("--key is empty".to_owned()));
    }
}
