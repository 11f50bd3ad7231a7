//! Placement of ranks on devices.
//!
//! - **PC-1** no two ranks share a device.
//! - **PC-2** the ranks of a stage are in one domain (a node, unless nodes share a fast link). When no domain
//!   has room, [`CrossDomain`] decides whether the layout is refused or the stage is spread with a warning.
//! - **PC-3** a replica that fits in one domain is placed in one; another replica is placed stage by stage.
//!   Replicas go where most devices are free, so they spread over the domains.
//! - **PC-4** the same input gives the same placement.
//! - **PC-5** given the previous placement, a stage whose devices are all still there does not move. Of a
//!   stage that lost some devices, the remaining ranks stay where they are if their domain still has room for
//!   all ranks of the stage. Only when that would make a stage cross domains needlessly is everything placed
//!   anew.
//!
//! All stages have the same size, so the domain that one stage takes never keeps another stage from fitting:
//! a domain of `d` free devices takes `d / stage_ranks` stages in any order.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use crate::{DeviceIndex, Machine, RankMap};

/// The policy for a stage that fits in no domain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CrossDomain {
    /// Place the stage over several domains and warn.
    #[default]
    Warn,
    /// Refuse the layout.
    Refuse,
}

/// A device for every rank.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// Names of the nodes to which the indices in `devices` refer.
    pub nodes: Vec<String>,
    /// The device of each rank.
    pub devices: Vec<DeviceIndex>,
    /// Number of ranks of a stage, by which a later placement recognises stages.
    pub stage_ranks: u32,
    /// First ranks of the stages that span several domains.
    pub crossing: Vec<u32>,
}

/// The reason why a layout cannot be placed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlacementError {
    /// More ranks than devices.
    #[error("{ranks} ranks need as many devices, the hardware has {devices}")]
    TooFew {
        /// Ranks in the layout.
        ranks: u64,
        /// Devices in the hardware.
        devices: u64,
    },
    /// A stage fits in no domain.
    #[error(
        "the {stage_ranks} ranks of stage {stage} of replica {replica} fit in no node: the largest \
         has {free} devices free"
    )]
    Crosses {
        /// Replica.
        replica: u32,
        /// Stage.
        stage: u32,
        /// Ranks of a stage.
        stage_ranks: u32,
        /// Most free devices in one domain.
        free: usize,
    },
}

// === impl Placement ===

impl Placement {
    /// Places every rank of `map`.
    ///
    /// # Errors
    /// When there are too few devices, or a stage fits in no domain and `cross` refuses that.
    pub fn new(
        map: &RankMap,
        machines: &[Machine],
        cross: CrossDomain,
        previous: Option<&Placement>,
    ) -> Result<Self, PlacementError> {
        let devices = machines.iter().map(|machine| u64::from(machine.devices)).sum();
        let ranks = u64::from(map.world());
        if ranks > devices {
            return Err(PlacementError::TooFew { ranks, devices });
        }
        let stage_ranks = map.widths().stage_ranks;
        let kept = previous.filter(|previous| previous.stage_ranks == stage_ranks);
        let mut devices_left = FreeDevices::new(map, machines);
        if let Some(previous) = kept {
            devices_left.keep(previous, cross);
        }
        let placed = devices_left.fill(cross).map(|()| devices_left.placement());
        if kept.is_some() && placed.as_ref().is_ok_and(|placed| placed.crossing.is_empty()) {
            return placed;
        }
        match kept {
            None => placed,
            Some(_) => {
                let anew = Self::new(map, machines, cross, None)?;
                Ok(placed
                    .ok()
                    .filter(|kept| kept.crossing.len() <= anew.crossing.len())
                    .unwrap_or(anew))
            }
        }
    }

    /// Returns the name of the node on which a rank runs.
    #[must_use]
    pub fn node(&self, rank: u32) -> Option<&str> {
        let device = self.devices.get(rank as usize)?;
        self.nodes.get(device.node as usize).map(String::as_str)
    }

    /// Returns the ranks of both placements whose device changed since `before`.
    #[must_use]
    pub fn moved(&self, before: &Placement) -> Vec<u32> {
        let at = |placement: &Placement, rank: u32| {
            let device = placement.devices.get(rank as usize)?.device;
            Some((placement.node(rank)?.to_owned(), device))
        };
        let both = u32::try_from(self.devices.len().min(before.devices.len())).unwrap_or(u32::MAX);
        (0..both).filter(|&rank| at(self, rank) != at(before, rank)).collect()
    }
}

/// The free devices of every domain while stages are placed.
struct FreeDevices<'a> {
    map: &'a RankMap,
    machines: &'a [Machine],
    /// Free devices of each domain, in order.
    free: Vec<Vec<DeviceIndex>>,
    /// The domain of each node.
    domain_of: Vec<usize>,
    /// The devices of each stage, replica by replica; empty while the stage has none.
    stages: Vec<Vec<DeviceIndex>>,
}

// === impl FreeDevices ===

impl<'a> FreeDevices<'a> {
    fn new(map: &'a RankMap, machines: &'a [Machine]) -> Self {
        let widths = map.widths();
        let stages = widths.replicas as usize * widths.stages as usize;
        let free = Machine::domains(machines);
        let mut domain_of = vec![0; machines.len()];
        for (domain, devices) in free.iter().enumerate() {
            for device in devices {
                domain_of[device.node as usize] = domain;
            }
        }
        Self { map, machines, free, domain_of, stages: vec![Vec::new(); stages] }
    }

    fn size(&self) -> usize {
        self.map.widths().stage_ranks as usize
    }

    /// Leaves every stage where it was, as far as the stage's devices are still there (**PC-5**).
    fn keep(&mut self, previous: &Placement, cross: CrossDomain) {
        // A placement may come from a file: a device given twice counts once.
        let mut taken = HashSet::new();
        let mut now = |before: &DeviceIndex| {
            let name = previous.nodes.get(before.node as usize)?;
            let node = self.machines.iter().position(|node| node.name == *name)?;
            let there = before.device < self.machines[node].devices;
            let device = DeviceIndex { node: u32::try_from(node).ok()?, device: before.device };
            (there && taken.insert(device)).then_some(device)
        };
        let before: Vec<Vec<Option<DeviceIndex>>> = previous
            .devices
            .chunks(self.size())
            .map(|devices| devices.iter().map(&mut now).collect())
            .collect();
        let stages = self.stages.len().min(before.len());
        for (stage, devices) in before[..stages].iter().enumerate() {
            let whole: Option<Vec<DeviceIndex>> = devices.iter().copied().collect();
            let Some(whole) = whole.filter(|devices| devices.len() == self.size()) else {
                continue;
            };
            if !self.crosses(&whole) || cross == CrossDomain::Warn {
                self.take(stage, whole);
            }
        }
        for (stage, devices) in before[..stages].iter().enumerate() {
            if self.stages[stage].is_empty() {
                self.mend(stage, devices);
            }
        }
    }

    /// Completes a stage that lost devices in the domain that holds most of the stage, if that domain has
    /// room.
    fn mend(&mut self, stage: usize, before: &[Option<DeviceIndex>]) {
        let survivors = |free: &[DeviceIndex]| {
            before.iter().flatten().filter(|device| free.contains(device)).count()
        };
        let fits = |free: &&Vec<DeviceIndex>| free.len() >= self.size() && survivors(free) > 0;
        let most = self.free.iter().filter(fits).rev().max_by_key(|free| survivors(free));
        let Some(free) = most else { return };
        let stays = |device: &Option<DeviceIndex>| device.filter(|device| free.contains(device));
        let mut others: Vec<DeviceIndex> =
            free.iter().filter(|device| !before.contains(&Some(**device))).copied().collect();
        others.reverse();
        let mut devices = Vec::with_capacity(self.size());
        for device in before {
            devices.extend(stays(device).or_else(|| others.pop()));
        }
        if devices.len() == self.size() {
            self.take(stage, devices);
        }
    }

    /// Gives devices to every stage that has none.
    fn fill(&mut self, cross: CrossDomain) -> Result<(), PlacementError> {
        let per_replica = self.map.widths().stages as usize;
        for first in (0..self.stages.len()).step_by(per_replica.max(1)) {
            let homeless: Vec<usize> = (first..first + per_replica)
                .filter(|&stage| self.stages[stage].is_empty())
                .collect();
            // One domain for the whole replica, if any has room for what is homeless of it.
            let mut domain = self.roomiest(homeless.len() * self.size());
            for stage in homeless {
                let has_room = |&at: &usize| self.free[at].len() >= self.size();
                domain = domain.filter(has_room).or_else(|| self.roomiest(self.size()));
                let devices = match domain {
                    Some(domain) => self.choose(domain),
                    None if cross == CrossDomain::Warn => self.gather(),
                    None => return Err(self.refused(stage)),
                };
                self.take(stage, devices);
            }
        }
        Ok(())
    }

    /// Returns the domain with most free devices, the first of equals, if that is at least `wanted`.
    fn roomiest(&self, wanted: usize) -> Option<usize> {
        let free = |at: &usize| self.free[*at].len();
        (0..self.free.len()).rev().max_by_key(free).filter(|at| free(at) >= wanted)
    }

    /// Chooses devices for a stage in a domain: on the node that the stage fills best, else in order.
    fn choose(&self, domain: usize) -> Vec<DeviceIndex> {
        let free = &self.free[domain];
        let on = |node: u32| free.iter().filter(|device| device.node == node).count();
        let best = free
            .iter()
            .map(|device| device.node)
            .filter(|&node| on(node) >= self.size())
            .min_by_key(|&node| (on(node), node));
        let wanted = |device: &&DeviceIndex| best.is_none_or(|node| device.node == node);
        free.iter().filter(wanted).take(self.size()).copied().collect()
    }

    /// Chooses devices for a stage over several domains, those with most free devices first.
    fn gather(&self) -> Vec<DeviceIndex> {
        let mut domains: Vec<&Vec<DeviceIndex>> = self.free.iter().collect();
        domains.sort_by_key(|free| std::cmp::Reverse(free.len()));
        domains.into_iter().flatten().take(self.size()).copied().collect()
    }

    fn take(&mut self, stage: usize, devices: Vec<DeviceIndex>) {
        let mut domains: Vec<_> =
            devices.iter().map(|device| self.domain_of[device.node as usize]).collect();
        domains.dedup();
        for domain in domains {
            self.free[domain].retain(|device| !devices.contains(device));
        }
        self.stages[stage] = devices;
    }

    fn refused(&self, stage: usize) -> PlacementError {
        let at = self.map.coordinates(u32::try_from(stage * self.size()).unwrap_or(u32::MAX));
        PlacementError::Crosses {
            replica: at.replica,
            stage: at.stage,
            stage_ranks: self.map.widths().stage_ranks,
            free: self.free.iter().map(Vec::len).max().unwrap_or(0),
        }
    }

    /// Returns whether a stage spans several domains.
    fn crosses(&self, devices: &[DeviceIndex]) -> bool {
        let mut domains = devices.iter().map(|device| self.domain_of[device.node as usize]);
        let first = domains.next();
        domains.any(|domain| Some(domain) != first)
    }

    fn placement(self) -> Placement {
        let stages = self.stages.iter().zip((0..).step_by(self.size()));
        Placement {
            crossing: stages
                .filter(|(devices, _)| self.crosses(devices))
                .map(|(_, first)| first)
                .collect(),
            nodes: self.machines.iter().map(|node| node.name.clone()).collect(),
            stage_ranks: self.map.widths().stage_ranks,
            devices: self.stages.concat(),
        }
    }
}
