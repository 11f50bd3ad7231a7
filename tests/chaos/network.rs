//! Cables that are cut (**G1**, **G3**), in network namespaces where these are permitted.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::namespaces::Namespaces;
use crate::rig::cluster::Cluster;
use crate::rig::fault::{Fault, can_deafen};
use crate::rig::load::DEMO;
use crate::scenario::{Heal, Scenario};

/// The address at which a head in the first namespace listens.
const HOST: &str = "10.77.0.1";

/// Plays in the first of three namespaces, with a node in each of the others.
fn play(layout: &[&str], act: impl FnOnce(&mut Scenario, &[String]) + Send) {
    let Some(spaces) = Namespaces::new(3) else {
        return skip("network namespaces are not permitted");
    };
    let [first, nodes @ ..] = &spaces.0[..] else { panic!("three were made") };
    if !can_deafen(first) {
        return skip("nft cannot drop packets");
    }
    // A thread of its own, because it does not come back; what it starts is there as well.
    let acted = thread::scope(|scope| {
        let acting = scope.spawn(|| {
            let space = File::open(format!("/run/netns/{first}")).expect("it was made");
            let network = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(space.as_fd(), network).expect("it can be entered");
            let cluster = Cluster::of_spaces(&DEMO, layout, HOST, nodes);
            let mut scenario = Scenario::open(&DEMO, cluster);
            act(&mut scenario, &spaces.0);
            scenario.close();
        });
        acting.join()
    });
    if let Err(why) = acted {
        std::panic::resume_unwind(why);
    }
}

/// Reports that a test did not run, past the capture of the test harness.
fn skip(why: &str) {
    let text = format!("\n*** NOT TESTED: {why} here ***\n");
    std::io::stderr().write_all(text.as_bytes()).expect("stderr is open");
}

/// The cable of either node, at the end of the first namespace.
fn cuts(spaces: &[String]) -> [Fault; 2] {
    ["v1", "v2"].map(|link| Fault::CutNode { space: spaces[0].clone(), link: link.to_owned() })
}

/// **G1** through a partition: the other side serves, and the lost one comes back with its cable.
#[test]
fn the_cable_of_either_node_is_cut() {
    play(&["-tp", "2", "-dp", "2"], |scenario, spaces| {
        for cut in cuts(spaces) {
            scenario.withstands(&cut, Heal::AfterTheLoad);
        }
    });
}

/// **G1**: the only replica is cut in two, and goes on when it is whole.
#[test]
fn the_cable_within_the_only_replica_is_cut() {
    play(&["-tp", "2", "-pp", "2"], |scenario, spaces| {
        for cut in cuts(spaces) {
            scenario.withstands(&cut, Heal::OnceSeen);
        }
    });
}

/// **G3**: a link that works one way only is down on both sides.
#[test]
fn either_node_is_deaf() {
    play(&["-tp", "2", "-dp", "2"], |scenario, spaces| {
        for space in &spaces[1..] {
            let deaf = Fault::DeafNode { space: space.clone() };
            scenario.withstands(&deaf, Heal::AfterTheLoad);
        }
    });
}
