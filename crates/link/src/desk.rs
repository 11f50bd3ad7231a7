//! The desk where nodes are let in: an authority and the tokens it has given out.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use playhouse_wire::{JoinRefusal, JoinRequest, PeerId, Role};
use ring::rand::{SecureRandom, SystemRandom};
use tokio::time::{Duration, Instant};

use crate::identity::{Authority, IdentityError, failed};
use crate::token::JoinToken;

/// Tokens that are known at once; for one more a used one is forgotten, or the one that expires next.
const TOKENS_MAX: usize = 1024;

/// Wrong secrets after which a token is void: nobody mistypes it that often.
const WRONG_MAX: u32 = 5;

/// Signs the certificates of nodes that bring a token (**LK-7**). Tokens live in memory: those
/// given out before a restart are void after it.
#[derive(Debug)]
pub struct JoinDesk {
    authority: Authority,
    issued: Mutex<HashMap<[u8; 8], Issued>>,
}

#[derive(Debug)]
struct Issued {
    token: JoinToken,
    until: Instant,
    used: bool,
    wrong: u32,
}

// === impl JoinDesk ===

impl JoinDesk {
    /// A desk that has given out no token.
    #[must_use]
    pub fn new(authority: Authority) -> Self {
        Self { authority, issued: Mutex::default() }
    }

    /// The authority behind it.
    #[must_use]
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// A new token, good for one node within `ttl`.
    ///
    /// # Errors
    /// When the operating system gives no randomness.
    pub fn issue(&self, ttl: Duration) -> Result<JoinToken, IdentityError> {
        let (mut id, mut secret) = ([0; 8], [0; 16]);
        let random = SystemRandom::new();
        let filled = random.fill(&mut id).and_then(|()| random.fill(&mut secret));
        filled.map_err(|_| failed("making a token")("the system gives no randomness"))?;
        let token = JoinToken { id, secret, authority: self.authority.hash() };
        let until = Instant::now() + ttl;
        let mut issued = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        if issued.len() >= TOKENS_MAX {
            // A used one before one that may still be brought.
            let least = issued.iter().min_by_key(|(_, issued)| (!issued.used, issued.until));
            let least = least.map(|(id, _)| *id);
            least.and_then(|id| issued.remove(&id));
        }
        issued.insert(id, Issued { token: token.clone(), until, used: false, wrong: 0 });
        Ok(token)
    }

    /// A certificate, DER, for a request that proves its token. `taken` says whether a peer is
    /// connected.
    pub(crate) fn admit(
        &self,
        request: &JoinRequest,
        session: &[u8; 32],
        taken: impl FnOnce(&PeerId) -> bool,
    ) -> Result<(PeerId, Vec<u8>), JoinRefusal> {
        let mut issued = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        let issued = issued.get_mut(&request.token).ok_or(JoinRefusal::UnknownToken)?;
        // What a token is worth is told to its owner only, so the proof comes first.
        if issued.wrong >= WRONG_MAX {
            return Err(JoinRefusal::Used);
        }
        if !issued.token.proves(&request.proof, session, &request.csr) {
            issued.wrong += 1;
            return Err(JoinRefusal::WrongSecret);
        }
        if issued.used {
            return Err(JoinRefusal::Used);
        }
        if Instant::now() >= issued.until {
            return Err(JoinRefusal::Expired);
        }
        let bad = |why: String| JoinRefusal::BadRequest(why);
        let peer = PeerId::new(Role::Node, &request.name).map_err(|e| bad(e.to_string()))?;
        if taken(&peer) {
            return Err(JoinRefusal::NameTaken(request.name.clone()));
        }
        let certificate = self.authority.sign(&peer, &request.csr);
        let certificate = certificate.map_err(|error| bad(error.to_string()))?;
        issued.used = true;
        Ok((peer, certificate))
    }
}
