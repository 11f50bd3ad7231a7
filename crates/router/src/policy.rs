//! The ways to choose.

use std::fmt;
use std::str::FromStr;

/// How a replica is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// The least work, cached prefixes considered.
    #[default]
    Prefix,
    /// The least recently chosen.
    RoundRobin,
    /// The least load, whatever is cached.
    LeastLoad,
    /// The less loaded of two at random.
    PowerOfTwo,
    /// By the session of the request; like [`Prefix`](Self::Prefix) without one.
    Session,
}

/// No policy has this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is no routing policy: choose one of {}", Policy::ALL.map(Policy::name).join(", "))]
pub struct UnknownPolicy {
    /// What was given.
    pub given: String,
}

// === impl Policy ===

impl Policy {
    /// Every policy.
    pub const ALL: [Self; 5] =
        [Self::Prefix, Self::RoundRobin, Self::LeastLoad, Self::PowerOfTwo, Self::Session];

    /// As flags and files spell it.
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
        f.write_str(self.name())
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
