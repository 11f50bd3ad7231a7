//! What may happen in a storm: a pure function of its seed.

use std::time::Duration;

use super::{NODES, REPLICAS, SHARDS};
use crate::rig::cluster::At;
use crate::rig::fault::Fault;

/// Everything, in the order of its time.
pub(crate) struct Forecast {
    pub(crate) deeds: Vec<(Duration, Deed)>,
}

/// One thing that happens.
#[derive(Clone, Debug)]
pub(crate) enum Deed {
    Strike(Fault),
    Heal(Fault),
}

/// Draws one fault after the other.
struct Dice {
    state: u64,
    /// Until when each node is away.
    away: [Duration; NODES],
    /// Until when the checkpoint is.
    checkpoint_away: Duration,
}

// === impl Forecast ===

impl Forecast {
    /// A storm of this length. All is healed at its end.
    pub(crate) fn new(seed: u64, length: Duration) -> Self {
        let (away, checkpoint_away) = Default::default();
        let mut dice = Dice { state: seed, away, checkpoint_away };
        let mut deeds = Vec::new();
        let mut now = Duration::from_secs(1);
        while now < length {
            let heal = now + dice.between(700, 4_000);
            if let Some(fault) = dice.fault(now, heal) {
                deeds.push((now, Deed::Strike(fault.clone())));
                deeds.push((heal, Deed::Heal(fault)));
            }
            now += dice.between(300, 4_000);
        }
        deeds.sort_by_key(|(at, _)| *at);
        Self { deeds }
    }
}

// === impl Dice ===

impl Dice {
    /// SplitMix64.
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.state;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bits ^ (bits >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).expect("it is below a usize")
    }

    fn between(&mut self, from_ms: u64, to_ms: u64) -> Duration {
        Duration::from_millis(from_ms + self.next() % (to_ms - from_ms))
    }

    /// A fault, unless it is of a node that is away, or of a checkpoint that is.
    fn fault(&mut self, now: Duration, heal: Duration) -> Option<Fault> {
        let (replica, tensor, node) = (self.below(REPLICAS), self.below(SHARDS), self.below(NODES));
        let at = At { replica, stage: 0, tensor };
        let fault = match self.below(11) {
            0 => Fault::KillShard(at),
            1 => Fault::FreezeShard(at),
            2 => Fault::KillReplica(replica),
            3 => Fault::KillNode(node),
            4 => Fault::FreezeNode(node),
            5 => Fault::RestartNode(node),
            6 => Fault::FreezeAgent(node),
            7 => Fault::StopNode(node),
            8 => Fault::ThrottleShard(at),
            9 => Fault::StartTwin(node),
            _ => Fault::TakeCheckpoint,
        };
        let away = match fault {
            Fault::KillNode(_)
            | Fault::FreezeNode(_)
            | Fault::RestartNode(_)
            | Fault::FreezeAgent(_)
            | Fault::StopNode(_)
            | Fault::StartTwin(_) => &mut self.away[node],
            Fault::TakeCheckpoint => &mut self.checkpoint_away,
            _ => return Some(fault),
        };
        if *away > now {
            return None;
        }
        *away = heal;
        Some(fault)
    }
}

/// Replaying a seed replays its faults.
#[test]
fn a_seed_has_one_forecast() {
    let minutes = Duration::from_secs(300);
    let show = |seed| format!("{:?}", Forecast::new(seed, minutes).deeds);
    assert_eq!(show(7), show(7));
    assert_ne!(show(7), show(8));
    assert!(Forecast::new(7, minutes).deeds.len() > 2 * 20, "enough happens: {}", show(7));
}
