//! The inventory of devices, and the choice of devices for ranks.

use std::collections::BTreeSet;

use playhouse_layout::{CrossDomain, DeviceIndex, Machine, Placement, RankMap};
use playhouse_types::ReplicaId;

use super::entry::NodeEntry;
use super::leases::LeaseId;
use super::{Assignment, DeviceInventory, Free, Unplaced};
use crate::head::HEAD;
use crate::memory::MemoryNeeds;

// === impl DeviceInventory ===

impl DeviceInventory {
    pub(super) fn place(
        &mut self,
        lease: LeaseId,
        map: &RankMap,
        needs: &MemoryNeeds,
    ) -> Result<Vec<Assignment>, String> {
        let (replica, own) = self.leases.get(lease).ok_or("its lease has ended")?;
        let own = own.clone();
        let free = self.free(Some(lease));
        let sound = free.iter().filter(|(node, _)| !self.failing.contains(node));
        let sound = sound.cloned().collect();
        let assignments = self.fitting(&sound, replica, &own, map, needs);
        let assignments = assignments.or_else(|_| self.fitting(&free, replica, &own, map, needs));
        let assignments = assignments.map_err(|why| why + &self.away(&own));
        match &assignments {
            Ok(assignments) => {
                self.leases.set(lease, assignments.clone());
                self.unplaced.remove(&lease);
            }
            Err(reason) => {
                let ranks = map.replica_ranks();
                self.unplaced.insert(lease, Unplaced { ranks, reason: reason.clone() });
            }
        }
        assignments
    }

    /// Ends a lease: its devices are free, and its ranks wait for none.
    pub(super) fn end_lease(&mut self, lease: LeaseId) {
        self.leases.remove(lease);
        self.unplaced.remove(&lease);
    }

    /// Names the nodes that had ranks of a replica and are not connected, for a person who waits for them.
    fn away(&self, own: &[Assignment]) -> String {
        let is_away = |node: &&str| {
            let entry = self.nodes.get(*node);
            !node.is_empty() && *node != HEAD && entry.and_then(NodeEntry::live).is_none()
        };
        let nodes: BTreeSet<&str> =
            own.iter().map(|assignment| &*assignment.node).filter(is_away).collect();
        let names: Vec<&str> = nodes.into_iter().collect();
        match &*names {
            [] => String::new(),
            [name] => format!("; node {name}, which had some, is not connected"),
            names => format!("; nodes {}, which had some, are not connected", names.join(", ")),
        }
    }

    /// Assigns these devices: those that are large enough for every rank, or else any that are large
    /// enough for the ranks that get them.
    fn fitting(
        &self,
        free: &Free,
        replica: ReplicaId,
        own: &[Assignment],
        map: &RankMap,
        needs: &MemoryNeeds,
    ) -> Result<Vec<Assignment>, String> {
        let bounds = needs.bounds();
        let mut refused = None;
        for bound in bounds {
            match self.assign_on(self.large(free, bound), replica, own, map) {
                Ok(assignments) if needs.fit(&self.memories(&assignments)) => {
                    return Ok(assignments);
                }
                Ok(_) => {}
                Err(why) => drop(refused.get_or_insert(why)),
            }
        }
        let why = refused.unwrap_or_else(|| format!("{replica}: its ranks do not fit"));
        Err(why + &needs.complaint(&self.small(free, bounds[0])))
    }

    /// Assigns these devices to the ranks of a replica that had `own` before.
    pub(super) fn assign_on(
        &self,
        free: Free,
        replica: ReplicaId,
        own: &[Assignment],
        map: &RankMap,
    ) -> Result<Vec<Assignment>, String> {
        let machines = free.iter().map(|(name, devices)| Machine {
            name: name.clone(),
            devices: u32::try_from(devices.len()).unwrap_or(u32::MAX),
            domain: name.clone(),
        });
        let machines: Vec<_> = machines.collect();
        let had_devices = !own.is_empty();
        let previous = had_devices.then(|| previous(own, &free, map)).flatten();
        let placed = Placement::new(map, &machines, CrossDomain::Warn, previous.as_ref());
        let placed = placed.map_err(|why| format!("{replica}: {why}"))?;
        let assignment = |assignment: &DeviceIndex| {
            let (node, devices) = &free[assignment.node as usize];
            let (device, threads) = devices[assignment.device as usize];
            Assignment { node: node.clone(), device, threads }
        };
        let assignments: Vec<Assignment> = placed.devices.iter().map(assignment).collect();
        let in_doubt = |assignment: &&Assignment| {
            self.nodes.get(&assignment.node).is_some_and(|entry| !entry.ending.is_empty())
        };
        if let Some(Assignment { node, .. }) = assignments.iter().find(in_doubt) {
            return Err(format!(
                "{replica}: node {node} has not ended a process that it was told to"
            ));
        }
        Ok(assignments)
    }

    /// Returns those of the devices that have at least this much memory.
    pub(super) fn large(&self, free: &Free, bytes: u64) -> Free {
        let large = free.iter().map(|(node, devices)| {
            let large = |device: &&(u32, u32)| self.memory(node, device.0) >= bytes;
            (node.clone(), devices.iter().filter(large).copied().collect::<Vec<_>>())
        });
        large.filter(|(_, devices)| !devices.is_empty()).collect()
    }

    /// Returns those of the devices that have less memory, and how much they have.
    pub(super) fn small(&self, free: &Free, bytes: u64) -> Vec<(String, u32, u64)> {
        let all = free.iter().flat_map(|(node, devices)| {
            devices.iter().map(|(device, _)| (node.clone(), *device, self.memory(node, *device)))
        });
        all.filter(|(_, _, memory)| *memory < bytes).collect()
    }

    pub(super) fn memories(&self, assignments: &[Assignment]) -> Vec<u64> {
        assignments
            .iter()
            .map(|assignment| self.memory(&assignment.node, assignment.device))
            .collect()
    }

    /// Returns the bytes of memory of a device; 0 if there is no such device.
    pub(super) fn memory(&self, node: &str, device: u32) -> u64 {
        let entry = self.nodes.get(node);
        let devices = if node == HEAD { Some(&self.here) } else { entry.map(|it| &it.devices) };
        let device = devices.and_then(|devices| devices.get(device as usize));
        device.map_or(0, |device| device.memory_bytes)
    }

    /// Returns the nodes with ranks, without the head's own machine.
    pub(super) fn hosts(&self) -> BTreeSet<String> {
        let nodes = self.assignments(None).map(|assignment| &assignment.node);
        nodes.filter(|node| !node.is_empty() && *node != HEAD).cloned().collect()
    }

    /// Returns the number of devices that a node must have for the ranks that are there.
    pub(super) fn devices_in_use(&self, node: &str) -> usize {
        let assignments = self.assignments(None).filter(|assignment| assignment.node == node);
        assignments.map(|assignment| assignment.device as usize + 1).max().unwrap_or(0)
    }

    /// Returns the devices that ranks have, or had and shall have again, without those of lease `but`.
    pub(super) fn assignments(&self, but: Option<LeaseId>) -> impl Iterator<Item = &Assignment> {
        self.leases.but(but).chain(self.remembered.values()).flatten()
    }

    /// Returns the devices, with their threads, that no lease but `own` has, of nodes that are connected
    /// and may have ranks.
    pub(super) fn free(&self, own: Option<LeaseId>) -> Free {
        let here = std::iter::once((HEAD.to_owned(), &self.here));
        let live = self.nodes.iter().filter(|(_, entry)| entry.live().is_some());
        let all = here.chain(live.map(|(name, entry)| (name.clone(), &entry.devices)));
        let all = all.filter(|(name, _)| !self.cordoned.contains(name));
        let others: Vec<&Assignment> = self.assignments(own).collect();
        let free = all.map(|(name, devices)| {
            let taken = |index: u32| {
                others
                    .iter()
                    .any(|assignment| assignment.node == name && assignment.device == index)
            };
            let devices = (0..).zip(devices).filter(|(index, _)| !taken(*index));
            let devices = devices.map(|(index, device)| (index, device.threads)).collect();
            (name.clone(), devices)
        });
        free.filter(|(_, devices): &(_, Vec<_>)| !devices.is_empty()).collect()
    }
}

/// Returns the assignments in the planner's form, if some of their devices are still free.
fn previous(assignments: &[Assignment], free: &Free, map: &RankMap) -> Option<Placement> {
    let nodes = free.iter().map(|(name, _)| name.clone());
    // The empty name stands for a node that is gone: no assignment to it exists any more.
    let nodes: Vec<String> = nodes.chain([String::new()]).collect();
    let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let gone = DeviceIndex { node: number(free.len()), device: 0 };
    let named = |assignment: &Assignment| {
        let node = free.iter().position(|(name, _)| *name == assignment.node)?;
        let device = free[node].1.iter().position(|(index, _)| *index == assignment.device)?;
        Some(DeviceIndex { node: number(node), device: number(device) })
    };
    let devices = assignments.iter().map(|assignment| named(assignment).unwrap_or(gone)).collect();
    let stage_ranks = map.widths().stage_ranks;
    Some(Placement { nodes, devices, stage_ranks, crossing: Vec::new() })
}
