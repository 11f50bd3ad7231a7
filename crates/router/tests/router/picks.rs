//! Who is picked, by the guarantee of the crate that says so.

use std::collections::HashSet;

use playhouse_router::{Applied, Ask, COLD_TOKENS, Load, Policy, REQUEST_TOKENS, Router};
use playhouse_types::{BlockSize, Epoch, PrefixEvent, ReplicaId};

const TOKENS: u32 = 1000;

fn router(policy: Policy, replicas: u32) -> Router {
    let mut router = Router::new(policy, 7);
    (0..replicas).map(ReplicaId).for_each(|replica| router.add(replica));
    router
}

/// Names of the blocks of the n-th prompt.
fn names(prompt: u64) -> Vec<u64> {
    (0..u64::from(TOKENS) / BlockSize::CPU.tokens() as u64)
        .map(|block| prompt << 32 | block)
        .collect()
}

fn pick(router: &mut Router, hashes: &[u64]) -> u32 {
    let ask = Ask { hashes, block_size: BlockSize::CPU, tokens: TOKENS, session: None };
    router.pick(&ask, |_| true).expect("there are replicas").replica.0
}

/// Tells that a replica has everything accepted and computed.
fn idle(router: &mut Router, replica: u32) {
    busy(router, replica, 0, 0);
}

fn busy(router: &mut Router, replica: u32, queued_tokens: u64, running: u32) {
    let load = Load { queued_tokens, running, kv_total_blocks: 1000, ..Load::default() };
    // The fourth report covers every pick.
    for accepted in 0..4 {
        router.report(ReplicaId(replica), Load { accepted, ..load });
    }
}

fn store(router: &mut Router, replica: u32, sequence: u64, names: &[u64]) {
    let event = PrefixEvent::Stored(names.to_vec());
    assert_eq!(router.apply(ReplicaId(replica), Epoch(1), sequence, &event), Applied::Applied);
}

fn counts(picks: impl Iterator<Item = u32>, replicas: u32) -> Vec<usize> {
    let picks: Vec<u32> = picks.collect();
    (0..replicas).map(|replica| picks.iter().filter(|&&pick| pick == replica).count()).collect()
}

#[test]
fn ro_4_cold_prompts_sent_one_at_a_time_alternate() {
    // The head of the chat template is all that the prompts share.
    let head = (0..u64::from(COLD_TOKENS) / BlockSize::CPU.tokens() as u64).collect::<Vec<_>>();
    for (replicas, each) in [(2, 4), (4, 2)] {
        let mut router = router(Policy::Prefix, replicas);
        let mut events = vec![0; replicas as usize];
        let mut one = |prompt: u64| {
            let prompt = [&head, &names(prompt)[head.len()..]].concat();
            let picked = pick(&mut router, &prompt);
            store(&mut router, picked, events[picked as usize], &prompt);
            events[picked as usize] += 1;
            idle(&mut router, picked);
            picked
        };
        assert_eq!(counts((1..=8).map(&mut one), replicas), vec![each; replicas as usize]);
    }
}

#[test]
fn ro_4_a_cold_prompt_does_not_wait_longer_than_it_is_long() {
    let mut router = router(Policy::Prefix, 2);
    assert_eq!(pick(&mut router, &names(1)), 0);
    idle(&mut router, 0);
    busy(&mut router, 1, u64::from(TOKENS), 0);
    assert_eq!(pick(&mut router, &names(2)), 1, "least recently chosen");
    idle(&mut router, 0);
    assert_eq!(pick(&mut router, &names(3)), 0);
    idle(&mut router, 0);
    busy(&mut router, 1, u64::from(TOKENS) + 1, 0);
    assert_eq!(pick(&mut router, &names(4)), 0, "the other has too much to do");
}

#[test]
fn ro_5_a_burst_between_two_reports_spreads() {
    let mut router = router(Policy::Prefix, 4);
    let burst = counts((0..64).map(|prompt| pick(&mut router, &names(prompt))), 4);
    assert_eq!(burst, [16; 4]);
}

/// A hot prefix stays while its replica keeps up, spreads when that has more to do than the prefix is
/// worth, and draws requests again when it is done.
#[test]
fn ro_3_a_prefix_draws_requests_until_its_load_outweighs_it() {
    let mut router = router(Policy::Prefix, 2);
    let prompt = names(1);
    store(&mut router, 1, 0, &prompt);
    let worth = 2 * (prompt.len() * BlockSize::CPU.tokens()) as u64;
    for (queued, expected) in [(0, 1), (worth - 1, 1), (worth + 1, 0), (0, 1)] {
        busy(&mut router, 0, 0, 0);
        busy(&mut router, 1, queued, 0);
        assert_eq!(pick(&mut router, &prompt), expected, "{queued} tokens are queued");
    }
    // Where it spread to it is cached soon, and the two take turns.
    store(&mut router, 0, 0, &prompt);
    for expected in [0, 1, 0, 1] {
        assert_eq!(pick(&mut router, &prompt), expected);
        idle(&mut router, 0);
        idle(&mut router, 1);
    }
}

#[test]
fn ro_3_requests_that_decode_weigh_too() {
    let mut router = router(Policy::Prefix, 2);
    let prompt = names(1);
    store(&mut router, 0, 0, &prompt);
    let worth = 2 * (prompt.len() * BlockSize::CPU.tokens()) as u32;
    busy(&mut router, 0, 0, worth / REQUEST_TOKENS);
    assert_eq!(pick(&mut router, &prompt), 0);
    busy(&mut router, 0, 0, worth / REQUEST_TOKENS + 1);
    assert_eq!(pick(&mut router, &prompt), 1);
}

#[test]
fn hits_are_whole_blocks_and_leave_a_token() {
    let mut router = router(Policy::Prefix, 1);
    store(&mut router, 0, 0, &names(1));
    for (tokens, cached) in [(0, 0), (1, 0), (16, 0), (17, 16), (32, 16), (1000, 992), (5000, 992)]
    {
        let ask = Ask { hashes: &names(1), block_size: BlockSize::CPU, tokens, session: None };
        let pick = router.pick(&ask, |_| true).expect("there is a replica");
        assert_eq!(pick.cached_tokens_expected, cached, "{tokens} tokens");
    }
}

#[test]
fn ro_2_a_gap_empties_the_index_until_the_reset() {
    let mut router = router(Policy::Prefix, 1);
    let (first, second) = (names(1), names(2));
    let mut tell = |epoch, sequence, event: PrefixEvent| {
        let applied = router.apply(ReplicaId(0), Epoch(epoch), sequence, &event);
        let known = |names: &[u64], router: &mut Router| {
            let ask =
                Ask { hashes: names, block_size: BlockSize::CPU, tokens: TOKENS, session: None };
            router.pick(&ask, |_| true).expect("there is a replica").cached_tokens_expected > 0
        };
        (applied, known(&first, &mut router), known(&second, &mut router))
    };
    let stored = |prompt| PrefixEvent::Stored(names(prompt));
    let removed = |prompt| PrefixEvent::Removed(names(prompt));
    for (epoch, sequence, event, expected) in [
        (1, 0, stored(1), (Applied::Applied, true, false)),
        (1, 0, removed(1), (Applied::Stale, true, false)),
        (1, 2, stored(2), (Applied::Gap, false, false)),
        (1, 3, stored(2), (Applied::Stale, false, false)),
        // The reset was lost too.
        (1, 5, stored(2), (Applied::Gap, false, false)),
        (1, 6, PrefixEvent::Reset, (Applied::Applied, false, false)),
        (1, 7, stored(2), (Applied::Applied, false, true)),
        // A reset after a gap needs no other.
        (1, 9, PrefixEvent::Reset, (Applied::Applied, false, false)),
        (1, 10, stored(1), (Applied::Applied, true, false)),
        // A new epoch begins with nothing, and from 0.
        (2, 0, stored(2), (Applied::Applied, false, true)),
        (1, 11, stored(1), (Applied::Stale, false, true)),
        (3, 1, stored(1), (Applied::Gap, false, false)),
        (4, u64::MAX, PrefixEvent::Reset, (Applied::Applied, false, false)),
    ] {
        let said = format!("{sequence} of epoch {epoch}: {event:?}");
        assert_eq!(tell(epoch, sequence, event), expected, "{said}");
    }
}

#[test]
fn ro_1_only_known_and_eligible_replicas_are_picked() {
    for policy in Policy::ALL {
        let mut router = router(policy, 0);
        let ask = Ask {
            hashes: &names(1),
            block_size: BlockSize::CPU,
            tokens: TOKENS,
            session: Some("a"),
        };
        assert_eq!(router.pick(&ask, |_| true), None, "{policy}");
        [5, 3, 9].map(ReplicaId).into_iter().for_each(|replica| router.add(replica));
        assert_eq!(router.pick(&ask, |_| false), None, "{policy}");
        for _ in 0..4 {
            let picked = router.pick(&ask, |replica| replica.0 == 3).expect("3 is eligible");
            assert_eq!(picked.replica.0, 3, "{policy}");
        }
        [5, 3, 9].map(ReplicaId).into_iter().for_each(|replica| router.remove(replica));
        assert_eq!(router.pick(&ask, |_| true), None, "{policy}");
    }
}

#[test]
fn a_replica_that_is_added_again_has_no_blocks() {
    let mut router = router(Policy::Prefix, 2);
    store(&mut router, 0, 0, &names(1));
    router.add(ReplicaId(0));
    let ask = Ask { hashes: &names(1), block_size: BlockSize::CPU, tokens: TOKENS, session: None };
    let picked = router.pick(&ask, |replica| replica.0 == 0).expect("it is eligible");
    assert_eq!(picked.cached_tokens_expected, 0);
}

#[test]
fn round_robin_and_least_load_do_what_they_are_called() {
    let mut turns = router(Policy::RoundRobin, 3);
    busy(&mut turns, 1, 100_000, 9);
    assert_eq!([0; 6].map(|_| pick(&mut turns, &names(1))), [0, 1, 2, 0, 1, 2]);
    let mut least = router(Policy::LeastLoad, 3);
    store(&mut least, 1, 0, &names(1));
    busy(&mut least, 0, 5, 0);
    busy(&mut least, 1, 4, 0);
    busy(&mut least, 2, 3, 0);
    assert_eq!([0; 4].map(|_| pick(&mut least, &names(2))), [2, 1, 0, 2]);
}

#[test]
fn power_of_two_avoids_the_busiest_and_uses_all_others() {
    let mut router = router(Policy::PowerOfTwo, 8);
    busy(&mut router, 3, 1 << 40, 0);
    let counts = counts((0..7000).map(|_| pick(&mut router, &names(1))), 8);
    assert_eq!(counts[3], 0, "the other of the two is always less busy");
    let others = [0, 1, 2, 4, 5, 6, 7].map(|replica| counts[replica]);
    assert!(others.iter().all(|&count| (900..1100).contains(&count)), "{counts:?}");
}

#[test]
fn ro_6_sessions_stay_when_others_come_and_go() {
    let mut router = router(Policy::Session, 8);
    let sessions: Vec<String> = (0..800).map(|n| format!("session {n}")).collect();
    let place = |router: &mut Router, without: Option<u32>| -> Vec<u32> {
        let pick = |session: &String| {
            let ask = Ask {
                hashes: &[],
                block_size: BlockSize::CPU,
                tokens: TOKENS,
                session: Some(session),
            };
            let picked = router.pick(&ask, |replica| Some(replica.0) != without);
            picked.expect("there are replicas").replica.0
        };
        sessions.iter().map(pick).collect()
    };
    let before = place(&mut router, None);
    let each = counts(before.iter().copied(), 8);
    assert!(each.iter().all(|&count| (60..140).contains(&count)), "{each:?}");
    for (was, is) in before.iter().zip(place(&mut router, Some(2))) {
        assert!(*was == 2 && is != 2 || *was == is, "{was} became {is}");
    }
    router.add(ReplicaId(99));
    let moved: HashSet<u32> = (before.iter().zip(place(&mut router, None)))
        .filter_map(|(was, is)| (*was != is).then_some(is))
        .collect();
    assert_eq!(moved, HashSet::from([99]));
    // Without a session, by prefix.
    store(&mut router, 4, 0, &names(1));
    busy(&mut router, 4, 0, 0);
    assert_eq!(pick(&mut router, &names(1)), 4);
}
