//! Hardware descriptions, and where ranks go on them.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use playhouse_layout::{CrossDomain, ModelShape, Placement, PlacementError, RankMap};
use playhouse_planner::{DeviceType, Hardware, rank_map};
use playhouse_types::ParallelSpec;
use proptest::prelude::*;

fn hardware(text: &str) -> Hardware {
    Hardware::parse(text).expect(text)
}

fn map(data: u32, pipeline: u32, tensor: u32) -> RankMap {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/published/llama-3.1-8b.json");
    let shape = ModelShape::parse(&fs::read(path).expect("a config")).expect("a shape");
    let spec = ParallelSpec { data, pipeline, tensor, ..ParallelSpec::default() };
    rank_map(&spec, &shape).expect("a layout that can run")
}

fn place(map: &RankMap, hardware: &Hardware) -> Placement {
    Placement::new(map, &hardware.machines(), CrossDomain::Refuse, None).expect("room")
}

/// The node of each rank.
fn nodes(placement: &Placement) -> Vec<u32> {
    placement.devices.iter().map(|device| device.node).collect()
}

#[test]
fn short_descriptions_name_nodes_devices_and_type() {
    for (text, nodes, devices, name) in [
        ("H100", 1, 1, "H100"),
        ("8xH100", 1, 8, "H100"),
        ("2x8xH100", 2, 16, "H100"),
        ("4xL40S,2x8xA100", 3, 20, "L40S"),
        (" 2 x8xMI300X", 0, 0, ""),
        ("2x8XMI300X", 2, 16, "MI300X"),
        ("2x4090", 1, 2, "RTX4090"),
        ("4xa100-40g", 1, 4, "A100-40G"),
        ("18x4xGB200", 18, 72, "GB200"),
        ("18x4xgb300", 18, 72, "GB300"),
        ("8xB300", 1, 8, "B300"),
        ("h20", 1, 1, "H20"),
        ("2x8xH800", 2, 16, "H800"),
        ("8xMI355X", 1, 8, "MI355X"),
    ] {
        match Hardware::parse(text) {
            Ok(found) => {
                assert_eq!((found.nodes.len(), found.devices()), (nodes, devices), "{text}");
                assert_eq!(found.nodes[0].device.name, name);
            }
            Err(_) => assert_eq!(nodes, 0, "{text}"),
        }
    }
}

/// **HW-2**
#[test]
fn descriptions_that_cannot_be_read_say_why() {
    for (text, reason) in [
        ("", "the device type is missing"),
        ("8x", "the device type is missing"),
        ("0xH100", "a count is 0"),
        ("2x2x2xH100", "3 counts, at most two are read"),
        ("99999999999xH100", "99999999999 is too large"),
        ("8xH999", "unknown device `H999`: known are H100, H200, H800"),
        ("H100,,A100", "the device type is missing"),
        ("4000000000x8xH100", "at most 65536 can be planned"),
    ] {
        let refused = Hardware::parse(text).expect_err(text).to_string();
        assert!(refused.contains(reason), "{text}: {refused}");
    }
}

#[test]
fn a_file_gives_names_memory_domains_and_network() {
    let text = r#"
        [[nodes]]
        name = "rack"
        count = 2
        devices = 4
        device = "gb200"
        domain = "one"
        [[nodes]]
        name = "old"
        devices = 2
        device = "A100"
        memory_gib = 40
        network_gbit = 100
    "#;
    let found = Hardware::from_toml(text).expect("hardware");
    let names: Vec<_> = found.nodes.iter().map(|node| node.name.as_str()).collect();
    assert_eq!(names, ["rack-0", "rack-1", "old"]);
    assert_eq!(found.domains().iter().map(Vec::len).collect::<Vec<_>>(), [8, 2]);
    assert_eq!(found.nodes[2].device.memory_bytes, 40 << 30);
    assert_eq!(found.nodes[2].device.network_bandwidth, 12.5e9);
    let slowest = found.slowest().expect("devices");
    assert_eq!((slowest.memory_bytes, slowest.bf16_flops), (40 << 30, 312e12));

    let node =
        |line: &str| format!("[[nodes]]\nname = \"a\"\ndevices = 1\ndevice = \"L4\"\n{line}");
    for (text, reason) in [
        (String::new(), "missing field `nodes`"),
        (node("color = \"red\""), "unknown field `color`"),
        (node("memory_gib = 0"), "memory_gib is 0"),
        (node("devices = 2"), "duplicate key"),
        (node(&node("")), "two nodes are named `a`"),
        ("nodes = []".to_owned(), "no node has a device"),
        (node("count = 4000000000"), "at most 65536"),
    ] {
        let refused = Hardware::from_toml(&text).expect_err(reason).to_string();
        assert!(refused.contains(reason), "{text}: {refused}");
    }
}

#[test]
fn every_device_type_is_found_by_its_name_and_has_sane_numbers() {
    for name in DeviceType::names() {
        let device = DeviceType::find(&name.to_lowercase()).expect(name);
        assert_eq!(device.name, name);
        assert!(device.memory_bytes > 16 << 30, "{name}");
        assert!(device.fp8_flops >= device.bf16_flops, "{name}");
        assert!(device.memory_bandwidth > device.link_bandwidth, "{name}");
        assert!(device.link_bandwidth > device.network_bandwidth, "{name}");
        assert!(!device.source.is_empty());
    }
}

/// What a command of several kinds of servers plans on: the devices after those in use, with their numbers.
#[test]
fn the_devices_left_beside_a_placement_keep_their_numbers() {
    let whole = hardware("2x8xH100");
    let left = whole.left(&place(&map(1, 1, 4), &whole));
    let devices: Vec<_> = left.nodes.iter().map(|node| (node.first_device, node.devices)).collect();
    assert_eq!(devices, [(4, 4), (0, 8)]);
    let all = left.left(&place(&map(3, 1, 4), &left));
    assert_eq!(all.devices(), 0);
}

/// **PC-3**: a replica that fits on a node stays on it; the next goes to the emptiest.
#[test]
fn replicas_spread_over_nodes() {
    let placement = place(&map(2, 2, 2), &hardware("2x8xH100"));
    assert_eq!(nodes(&placement), [0, 0, 0, 0, 1, 1, 1, 1]);
    let placement = place(&map(4, 1, 2), &hardware("2x8xH100"));
    assert_eq!(nodes(&placement), [0, 0, 1, 1, 0, 0, 1, 1]);
}

/// **PC-2**: tensor inside a node, stages across.
#[test]
fn stages_of_a_large_replica_go_to_different_nodes() {
    let placement = place(&map(1, 2, 8), &hardware("2x8xH100"));
    assert_eq!(nodes(&placement), [[0; 8], [1; 8]].concat());
    assert_eq!(placement.crossing, [] as [u32; 0]);
    // Nodes of uneven size: 6 devices hold one stage of 4, not one and a half.
    let placement = place(&map(1, 3, 4), &hardware("8xH100,6xH100"));
    assert_eq!(nodes(&placement), [[0; 4], [0; 4], [1; 4]].concat());
}

#[test]
fn a_stage_that_fits_in_no_node_is_refused_or_reported() {
    let (map, hardware) = (map(1, 1, 16), hardware("2x8xH100"));
    let refused = Placement::new(&map, &hardware.machines(), CrossDomain::Refuse, None);
    assert_eq!(
        refused,
        Err(PlacementError::Crosses { replica: 0, stage: 0, stage_ranks: 16, free: 8 })
    );
    let placement =
        Placement::new(&map, &hardware.machines(), CrossDomain::Warn, None).expect("room");
    assert_eq!(placement.crossing, [0]);
    assert_eq!(nodes(&placement), [[0; 8], [1; 8]].concat());
    // Nodes that share a fast link are one domain.
    let placement = place(&map, &Hardware::parse("4x4xGB200").expect("hardware"));
    assert_eq!(placement.crossing, [] as [u32; 0]);
}

#[test]
fn too_few_devices_are_counted() {
    let refused =
        Placement::new(&map(2, 1, 8), &hardware("8xH100").machines(), CrossDomain::Warn, None)
            .unwrap_err();
    assert_eq!(refused, PlacementError::TooFew { ranks: 16, devices: 8 });
}

/// **PC-5**: only the stages of the lost node move.
#[test]
fn a_lost_node_moves_only_its_own_stages() {
    let (map, mut hardware) = (map(3, 1, 4), hardware("4x4xH100"));
    let before = place(&map, &hardware);
    assert_eq!(nodes(&before), [[0; 4], [1; 4], [2; 4]].concat());
    hardware.nodes.remove(1);
    let after = Placement::new(&map, &hardware.machines(), CrossDomain::Refuse, Some(&before))
        .expect("room");
    assert_eq!(after.moved(&before), [4, 5, 6, 7]);
    assert_eq!(after.node(4), Some("node-3"));
}

#[test]
fn a_lost_device_moves_one_rank_where_its_node_has_another() {
    let (map, mut hardware) = (map(1, 1, 4), hardware("8xH100"));
    let mut before = place(&map, &hardware);
    for (device, index) in before.devices.iter_mut().zip([2, 7, 3, 1]) {
        device.device = index;
    }
    hardware.nodes[0].devices = 7;
    let after = Placement::new(&map, &hardware.machines(), CrossDomain::Refuse, Some(&before))
        .expect("room");
    assert_eq!(after.moved(&before), [1]);
}

/// A placement that was written by hand may name a device twice, or one that never was.
#[test]
fn a_broken_previous_placement_does_not_break_the_next() {
    let (map, hardware) = (map(2, 1, 4), hardware("2x8xH100"));
    let mut before = place(&map, &hardware);
    let first = before.devices[0];
    before.devices.fill(first);
    before.devices[7].node = 9;
    let after = Placement::new(&map, &hardware.machines(), CrossDomain::Refuse, Some(&before))
        .expect("room");
    assert_eq!(after.devices.iter().collect::<HashSet<_>>().len(), 8);
    assert_eq!(after.crossing, [] as [u32; 0]);
}

#[test]
fn new_replicas_go_to_new_nodes_and_old_ones_stay() {
    let before = place(&map(2, 1, 8), &hardware("2x8xH100"));
    let grown = hardware("3x8xH100");
    let after =
        Placement::new(&map(3, 1, 8), &grown.machines(), CrossDomain::Refuse, Some(&before))
            .expect("room");
    assert_eq!(after.moved(&before), [] as [u32; 0]);
    assert_eq!(after.node(16), Some("node-2"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// **PC-1**, **PC-2**, **PC-4**, **PC-5** over random nodes that come, go and shrink.
    #[test]
    fn placements_hold_while_nodes_come_and_go(
        sizes in prop::collection::vec(1u32..9, 1..7),
        later in prop::collection::vec(0u32..9, 1..7),
        data in 1u32..5,
        pipeline in 1u32..4,
        tensor in prop::sample::select(vec![1u32, 2, 4]),
    ) {
        let text = |size: &u32| format!("{size}xH100");
        let mut machines = hardware(&sizes.iter().map(text).collect::<Vec<_>>().join(","));
        let map = map(data, pipeline, tensor);
        let stages = data * pipeline;
        let room = |sizes: &[u32]| sizes.iter().map(|size| size / tensor).sum::<u32>() >= stages;
        let before = Placement::new(&map, &machines.machines(), CrossDomain::Refuse, None);
        prop_assert_eq!(before.is_ok(), room(&sizes), "room is found where there is some");
        let Ok(before) = before else { return Ok(()) };
        prop_assert_eq!(before.devices.iter().collect::<HashSet<_>>().len(), before.devices.len());
        prop_assert_eq!(&place(&map, &machines), &before);

        for (node, devices) in machines.nodes.iter_mut().zip(&later) {
            node.devices = *devices;
        }
        let after = Placement::new(&map, &machines.machines(), CrossDomain::Refuse, Some(&before));
        let now: Vec<_> = machines.nodes.iter().map(|node| node.devices).collect();
        prop_assert_eq!(after.is_ok(), room(&now));
        let Ok(after) = after else { return Ok(()) };
        prop_assert_eq!(after.devices.iter().collect::<HashSet<_>>().len(), after.devices.len());
        let moved: HashSet<_> = after.moved(&before).into_iter().collect();
        for (stage, devices) in (0..).zip(before.devices.chunks(tensor as usize)) {
            let whole = devices.iter().all(|device| device.device < now[device.node as usize]);
            let ranks = stage * tensor..(stage + 1) * tensor;
            prop_assert!(!whole || ranks.clone().all(|rank| !moved.contains(&rank)), "{:?}", ranks);
            let first = after.node(ranks.start);
            prop_assert!(ranks.clone().all(|rank| after.node(rank) == first));
        }
    }

    #[test]
    fn no_description_panics(text in "[0-9xX×,AHL s-]{0,24}") {
        if let Ok(found) = Hardware::parse(&text) {
            prop_assert!(found.devices() > 0);
        }
    }
}
