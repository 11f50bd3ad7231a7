//! Join tokens, which an operator carries from the head to a new machine.

use std::fmt::{self, Write as _};
use std::str::FromStr;

use ring::hmac;

const PREFIX: &str = "playhouse";

/// A token that lets one node join. Its text is `playhouse-ID-SECRET-AUTHORITY`, the parts in
/// hexadecimal.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// The id of the token; not secret.
    pub(crate) id: [u8; 8],
    /// The secret, which proves that the joiner was given the token.
    pub(crate) secret: [u8; 16],
    /// The SHA-256 digest of the only authority that the joiner may trust.
    pub(crate) authority: [u8; 32],
}

/// The error of a text that is no token. The text is not repeated, because it may be most of a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a join token: {0}; a token is `playhouse-` and three groups of 16, 32 and 64 hexadecimal \
     digits joined by `-`, as `playhouse token create` prints it"
)]
pub struct BadToken(&'static str);

// === impl JoinToken ===

impl JoinToken {
    /// Returns the proof of the secret for one TLS session and one certificate request.
    pub(crate) fn proof(&self, session: &[u8; 32], csr: &[u8]) -> [u8; 32] {
        let mut proof = [0; 32];
        proof.copy_from_slice(self.sign(session, csr).as_ref());
        proof
    }

    /// Returns whether a proof was made with the secret; takes the same time for every wrong one.
    pub(crate) fn proves(&self, proof: &[u8; 32], session: &[u8; 32], csr: &[u8]) -> bool {
        let message = [session.as_slice(), csr].concat();
        hmac::verify(&self.hmac_key(), &message, proof).is_ok()
    }

    fn sign(&self, session: &[u8; 32], csr: &[u8]) -> hmac::Tag {
        hmac::sign(&self.hmac_key(), &[session.as_slice(), csr].concat())
    }

    fn hmac_key(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &self.secret)
    }
}

impl fmt::Display for JoinToken {
    /// Formats the token with its secret, as the operator carries it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, secret, authority } = self;
        write!(f, "{PREFIX}-{}-{}-{}", hex(id), hex(secret), hex(authority))
    }
}

impl fmt::Debug for JoinToken {
    /// Formats the token without its secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinToken({})", hex(&self.id))
    }
}

impl FromStr for JoinToken {
    type Err = BadToken;

    fn from_str(text: &str) -> Result<Self, BadToken> {
        let mut parts = text.trim().split('-');
        let mut part = || parts.next().unwrap_or_default();
        if part() != PREFIX {
            return Err(BadToken("it does not begin with `playhouse-`"));
        }
        let id = unhex(part()).ok_or(BadToken("its id is broken"))?;
        let secret = unhex(part()).ok_or(BadToken("its secret is broken"))?;
        let authority = unhex(part()).ok_or(BadToken("its authority is broken"))?;
        if parts.next().is_some() {
            return Err(BadToken("it has more than three groups"));
        }
        Ok(Self { id, secret, authority })
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |ascii: u8| char::from(ascii).to_digit(16);
        *byte = u8::try_from(16 * digit(pair[0])? + digit(pair[1])?).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: JoinToken = JoinToken { id: [0xab; 8], secret: [7; 16], authority: [0xff; 32] };

    #[test]
    fn a_token_survives_being_written_down() {
        let text = TOKEN.to_string();
        assert_eq!(text.parse(), Ok(TOKEN));
        assert_eq!(format!(" {text}\n").parse(), Ok(TOKEN));
    }

    #[test]
    fn a_broken_token_is_refused_without_repeating_it() {
        let text = TOKEN.to_string();
        let cut = &text[..text.len() - 1];
        for bad in ["", "playhouse", "a-b-c-d", cut, &format!("{text}-00"), &text.replace('7', "g")]
        {
            let error = bad.parse::<JoinToken>().expect_err(bad).to_string();
            assert!(!error.contains("0707"), "{error}");
        }
    }

    #[test]
    fn lk7_a_proof_holds_for_its_session_and_request_only() {
        let proof = TOKEN.proof(&[1; 32], b"request");
        assert!(TOKEN.proves(&proof, &[1; 32], b"request"));
        assert!(!TOKEN.proves(&proof, &[2; 32], b"request"));
        assert!(!TOKEN.proves(&proof, &[1; 32], b"another"));
        let other = JoinToken { secret: [8; 16], ..TOKEN };
        assert!(!other.proves(&proof, &[1; 32], b"request"));
    }

    #[test]
    fn lk7_a_token_is_not_shown_by_debug() {
        assert_eq!(format!("{TOKEN:?}"), "JoinToken(abababababababab)");
    }
}
