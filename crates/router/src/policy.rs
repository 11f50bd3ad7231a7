//! [`Policy`]: the ways to choose a replica.

use std::fmt;
use std::str::FromStr;

/// The policy by which a replica is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// The replica with the least work for the request, cached prefixes considered.
    #[default]
    Prefix,
    /// The replica that was chosen least recently.
    RoundRobin,
    /// The replica with the least load, whatever is cached.
    LeastLoad,
    /// The less loaded of two random replicas.
    PowerOfTwo,
    /// The replica of the request's session; like [`Prefix`](Self::Prefix) without a session.
    Session,
}

/// The error of a name that no policy has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is no routing policy: choose one of {}", Policy::ALL.map(Policy::name).join(", "))]
pub struct UnknownPolicy {
    /// The name that was given.
    pub given: String,
}

// === impl Policy ===

impl Policy {
    /// All policies.
    pub const ALL: [Self; 5] =
        [Self::Prefix, Self::RoundRobin, Self::LeastLoad, Self::PowerOfTwo, Self::Session];

    /// Returns the policy's name as flags and files spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Prefix => "prefix",
            Self::RoundRobin => "round_robin",
            Self::LeastLoad => "least_load",
            Self::PowerOfTwo => "power_of_two",
            Self::Session => "session",
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Policy {
    type Err = UnknownPolicy;

    fn from_str(given: &str) -> Result<Self, UnknownPolicy> {
        let named = Self::ALL.into_iter().find(|policy| policy.name() == given);
        named.ok_or_else(|| UnknownPolicy { given: given.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_and_others_refused() {
        for policy in Policy::ALL {
            assert_eq!(policy.to_string().parse(), Ok(policy));
        }
        let unknown = "random".parse::<Policy>().expect_err("no such policy");
        assert_eq!(
            unknown.to_string(),
            "`random` is no routing policy: choose one of prefix, round_robin, least_load, \
             power_of_two, session"
        );
    }
}
