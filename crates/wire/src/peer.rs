//! The identity of a process: a role and a name, both in its certificate.

use std::fmt;

/// The maximum length of a peer's name, in bytes.
pub const NAME_BYTES_MAX: usize = 48;

/// The role of a process in the cluster.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    rkyv::Archive,
    rkyv::Serialize,
    rkyv::Deserialize,
)]
pub enum Role {
    /// The process that serves the API and controls the cluster.
    Head,
    /// An agent that offers devices and spawns shards.
    Node,
    /// The process of one rank.
    Shard,
}

/// The identity of a process. Two live processes never share one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId {
    role: Role,
    name: String,
}

/// The error of a name that no peer can have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the name `{given}` is not allowed: a name has 1 to {NAME_BYTES_MAX} of a-z, 0-9 and -, and \
     begins and ends with a letter or digit"
)]
pub struct BadName {
    /// The beginning of the name, with unprintable characters escaped.
    pub given: String,
}

// === impl Role ===

impl Role {
    /// Returns the role in lower case, as in certificates and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Head => "head",
            Self::Node => "node",
            Self::Shard => "shard",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl PeerId ===

impl PeerId {
    /// Returns an identity, if the name is allowed.
    ///
    /// # Errors
    /// Returns a [`BadName`] when the name is empty, long, or invalid in a host name.
    pub fn new(role: Role, name: &str) -> Result<Self, BadName> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let bytes = name.as_bytes();
        let inner = bytes.iter().all(|&byte| plain(byte) || byte == b'-');
        let ends = [bytes.first(), bytes.last()].iter().all(|end| end.is_some_and(|&b| plain(b)));
        if inner && ends && bytes.len() <= NAME_BYTES_MAX {
            return Ok(Self { role, name: name.to_owned() });
        }
        let given = name.chars().take(NAME_BYTES_MAX).flat_map(char::escape_default).collect();
        Err(BadName { given })
    }

    /// Returns the role of the process.
    #[must_use]
    pub fn role(&self) -> Role {
        self.role
    }

    /// Returns the name, which is unique within its role.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the DNS name that the peer's certificate is made out to.
    #[must_use]
    pub fn host_name(&self) -> String {
        format!("{}.{}.playhouse", self.name, self.role)
    }

    /// Returns the identity that a certificate is made out to, if the host name is one of ours.
    #[must_use]
    pub fn from_host_name(host: &str) -> Option<Self> {
        let (name, role) = host.strip_suffix(".playhouse")?.split_once('.')?;
        let mut roles = [Role::Head, Role::Node, Role::Shard].into_iter();
        Self::new(roles.find(|known| known.as_str() == role)?, name).ok()
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.role, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_fits_into_a_certificate() {
        for good in ["a", "node-7", "r0-s1-t2", &"x".repeat(NAME_BYTES_MAX)] {
            let id = PeerId::new(Role::Node, good).expect("a good name");
            assert_eq!(PeerId::from_host_name(&id.host_name()), Some(id));
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a b", "ä", &"x".repeat(NAME_BYTES_MAX + 1)] {
            assert!(PeerId::new(Role::Node, bad).is_err(), "{bad}");
        }
        for bad in ["a.node", "a.boss.playhouse", "a.b.node.playhouse", ".node.playhouse", ""] {
            assert_eq!(PeerId::from_host_name(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_bad_name_is_shown_safely_and_with_the_rule() {
        let error = PeerId::new(Role::Node, "rack\n7").expect_err("a line break");
        let text = error.to_string();
        assert!(text.starts_with("the name `rack\\n7` is not allowed: a name has 1 to 48 of a-z"));
    }
}
