use std::time::Duration;

use playhouse_admin::view::ReplicaState;

use super::*;
use crate::status::tree::tests::cluster;

/// The cluster of the golden tree, two seconds apart: 246 tokens generated, 3000 computed.
fn samples() -> (Sample, Sample) {
    let at = Instant::now();
    let previous = Sample { at, cluster: cluster() };
    let mut current = Sample { at: at + Duration::from_secs(2), cluster: cluster() };
    current.cluster.replicas[0].generated_tokens += 246;
    current.cluster.replicas[0].prefill_tokens += 3000;
    (previous, current)
}

#[test]
fn frames_are_as_drawn() {
    let (previous, current) = samples();
    for (width, height, expected) in [
        (100, 24, include_str!("100x24.txt")),
        (80, 24, include_str!("80x24.txt")),
        (40, 24, include_str!("40x24.txt")),
        (40, 6, include_str!("40x6.txt")),
    ] {
        let drawn = frame(&previous, &current, width, height) + "\n";
        assert_eq!(drawn, expected, "{width} x {height}\n{drawn}");
    }
}

/// TOP-3
#[test]
fn a_frame_fits_whatever_the_cluster_says() {
    let (previous, mut current) = samples();
    let replica = &mut current.cluster.replicas[0];
    replica.state = ReplicaState::Failed;
    replica.reason = Some("\u{1b}[2J\r\n\u{9b}節".repeat(500));
    (replica.running, replica.kv_blocks_held, replica.kv_blocks) = (usize::MAX, usize::MAX, 1);
    (replica.generated_tokens, replica.prefix_hit_tokens) = (u64::MAX, u64::MAX);
    current.cluster.nodes[0].name = "\u{202e}\u{8}".repeat(500);
    for width in (0..200).step_by(9).chain([40, 75, 76]) {
        for height in [0, 1, 2, 5, 30] {
            let drawn = frame(&previous, &current, width, height);
            assert!(drawn.split('\n').count() <= height.max(1));
            for line in drawn.split('\n') {
                assert!(line.width() <= width, "{width}: {line}");
                assert!(!line.chars().any(|c| c.is_control() || c == '\u{202e}'));
            }
        }
    }
}

#[test]
fn counters_that_went_back_or_began_are_no_rate() {
    let (previous, mut current) = samples();
    current.cluster.replicas[0].generated_tokens = 0;
    current.cluster.replicas[1].id = 9;
    for replica in &current.cluster.replicas {
        assert_eq!(Rates::of(replica, &previous, &current).decode, 0.0);
    }
    let same = Rates::of(&previous.cluster.replicas[0], &previous, &previous);
    assert_eq!(same.prefill, 0.0, "no time passed");
}

#[test]
fn bars_show_the_first_block_and_stay_inside() {
    let mut replica = cluster().replicas.swap_remove(0);
    for (held, blocks, expected) in [
        (0, 512, "[........]   0 %"),
        (1, 512, "[#.......]   0 %"),
        (256, 512, "[####....]  50 %"),
        (512, 512, "[########] 100 %"),
        (0, 0, "[........]     -"),
    ] {
        (replica.kv_blocks_held, replica.kv_blocks) = (held, blocks);
        assert_eq!(bar(&replica, 8), expected);
    }
    assert_eq!(bar(&replica, 0), "[]     -");
}
