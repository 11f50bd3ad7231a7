//! What a command says of the machines, held against the machines there are.

use crate::{Hardware, Node, Violation};

use super::Reading;

// === impl Reading ===

impl Reading {
    /// Where the nodes and devices of the command are not those of `hardware`.
    #[must_use]
    pub fn check_hardware(&self, hardware: &Hardware) -> Vec<Violation> {
        let parameters = &self.parameters;
        let nodes = hardware.nodes.len();
        let counted = parameters.nodes.filter(|asked| *asked as usize != nodes).map(|asked| {
            Violation::new(
                "nodes-match",
                format!("the command is for {asked} nodes, the hardware has {nodes}"),
                format!("nodes = {asked} → {nodes}, or other hardware"),
            )
        });
        let range = parameters.node_rank.filter(|rank| *rank as usize >= nodes).map(|rank| {
            Violation::new(
                "node-rank",
                format!("node {rank} is not one of the {nodes} of the hardware"),
                format!("the node rank is 0 to {}", nodes.saturating_sub(1)),
            )
        });
        let devices = parameters.devices_per_node.and_then(|asked| {
            let devices = |node: &Node| node.first_device.saturating_add(node.devices);
            let node = hardware.nodes.iter().find(|node| devices(node) != asked)?;
            Some(Violation::new(
                "devices-match",
                format!(
                    "the command is for {asked} devices of a node, {} has {}",
                    node.name,
                    devices(node)
                ),
                format!("devices = {asked} → {}, or other hardware", devices(node)),
            ))
        });
        [counted, range, devices].into_iter().flatten().collect()
    }
}
