//! Certificates that are no longer valid, though the authority signed them.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use playhouse_wire::{PeerId, Role};

/// The names of revoked nodes, each with the number of its last certificate that is not valid any more.
/// Certificates are numbered by the time of their issue, so that a name can be used again with a later
/// certificate.
///
/// Its text form is a line for each node: the name, a space and the number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revocations(BTreeMap<String, u64>);

/// The error of a line that is no name and number.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {0} is not the name of a node, a space and a number")]
pub struct BadRevocation(usize);

// === impl Revocations ===

impl Revocations {
    /// Returns whether the certificate with this number was revoked.
    pub(crate) fn has(&self, name: &str, number: u64) -> bool {
        self.0.get(name).is_some_and(|last| number <= *last)
    }

    /// Returns the number of the last revoked certificate of this name; 0 if none is.
    pub(crate) fn last(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    pub(crate) fn revoke(&mut self, name: &str, number: u64) {
        let last = self.0.entry(name.to_owned()).or_default();
        *last = number.max(*last);
    }
}

impl fmt::Display for Revocations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(name, number)| writeln!(f, "{name} {number}"))
    }
}

impl FromStr for Revocations {
    type Err = BadRevocation;

    fn from_str(text: &str) -> Result<Self, BadRevocation> {
        let parse = |line: &str| {
            let (name, number) = line.split_once(' ')?;
            PeerId::new(Role::Node, name).ok()?;
            Some((name.to_owned(), number.parse().ok()?))
        };
        let lines = text.lines().zip(1..);
        let entries = lines.map(|(line, at)| parse(line).ok_or(BadRevocation(at)));
        entries.collect::<Result<_, _>>().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_survives_being_written_down() {
        let mut list = Revocations::default();
        list.revoke("rack-1", 7);
        list.revoke("rack-2", u64::MAX);
        list.revoke("rack-1", 5);
        assert_eq!(list.to_string(), "rack-1 7\nrack-2 18446744073709551615\n");
        assert_eq!(list.to_string().parse(), Ok(list.clone()));
        assert!(list.has("rack-1", 7) && !list.has("rack-1", 8) && !list.has("rack-3", 0));
        for (text, line) in [("rack-1", 1), ("rack-1 7\nrack-2 x\n", 2), ("a b 3\n", 1)] {
            assert_eq!(text.parse::<Revocations>(), Err(BadRevocation(line)), "{text}");
        }
    }
}
