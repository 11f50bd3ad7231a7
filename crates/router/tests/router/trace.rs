//! The trace of `trace/play.rs`: hits stay near the best possible, and no replica does it all.

use playhouse_router::Policy;

mod play;

use play::play;

#[test]
fn conversations_find_their_blocks_and_replicas_share_the_work() {
    for replicas in [2, 4] {
        let outcome = play(Policy::Prefix, replicas, 1);
        assert!(outcome.hits() >= 0.95, "{outcome:?}");
        assert!(outcome.imbalance <= 1.2, "{outcome:?}");
    }
    let blind = play(Policy::RoundRobin, 4, 1);
    assert!(blind.hits() < 0.7, "the trace tells policies apart: {blind:?}");
}
