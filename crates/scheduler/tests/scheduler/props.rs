//! The guarantees of the scheduler under arbitrary calls, with an engine that checks the plans.
//!
//! The heart of it is S-4: whatever happens to a request (chunks, preemption, hits, restarts, the
//! end of its neighbours), its output equals that of the request computed alone.

use playhouse_scheduler::{Limits, Tenant};
use playhouse_types::{FinishReason, RequestId};
use proptest::prelude::*;

use self::asked::Asked;
use self::calls::{Wish, calls, limits, wishes};
use self::world::World;

mod asked;
mod calls;
mod engine;
mod world;

proptest! {
    #[test]
    fn every_request_gets_what_it_would_get_alone((limits, depth) in limits(), calls in calls()) {
        let mut world = World::new(limits, depth);
        for call in calls {
            world.run(call);
        }
        world.drain();
        world.judge();
    }

    /// S-14: while several tenants wait, none has had more than another by more than a slot's worth for
    /// every slot, and one: what a request will cost is known only when it has ended.
    #[test]
    fn tenants_that_wait_share_alike(
        (limits, depth) in limits(),
        mut wishes in prop::collection::vec(wishes(), 12..60),
    ) {
        // One tenant after the other, so that the order of arrival would be the most unfair.
        wishes.sort_by_key(|wish| wish.tenant);
        // No preemption and no hits, so that what a request costs is its own.
        let limits = Limits { kv_blocks: 200, prefix_caching: false, ..limits };
        let mut world = World::new(limits, depth);
        for wish in &wishes {
            let wish = Wish { priority: 0, patience: None, follows: usize::MAX, ..wish.clone() };
            world.enqueue(&wish);
        }
        let cost = |asked: &Asked| asked.request.prompt.len() + 2 * asked.emitted.len();
        let dearest = world.asked.iter().map(|asked| {
            asked.request.prompt.len() + 2 * asked.request.sampling.max_tokens as usize
        });
        let bound = dearest.max().unwrap_or(0) * (limits.max_num_seqs + 1);
        loop {
            while world.plan() {}
            let waits = |tenant: &u32| {
                let of = |asked: &&Asked| asked.terms.tenant == Tenant(*tenant);
                world.asked.iter().filter(of).any(|asked| !asked.had_slot)
            };
            if (0..3).filter(waits).count() < 2 {
                break;
            }
            let had = (0..3).filter(waits).map(|tenant| {
                let of = |asked: &&Asked| asked.had_slot && asked.terms.tenant == Tenant(tenant);
                world.asked.iter().filter(of).map(cost).sum::<usize>()
            });
            let had: Vec<usize> = had.collect();
            let (least, most) = (had.iter().min(), had.iter().max());
            let (least, most) = (least.copied().unwrap_or(0), most.copied().unwrap_or(0));
            prop_assert!(most - least <= bound, "S-14: {had:?}, at most {bound} apart");
            world.apply();
        }
        world.drain();
        world.judge();
    }

    /// S-9: one request kills every engine that computes a certain position of it. It fails, after
    /// three deaths, and nobody else does. (No prefix cache: a hit could save it from the position.)
    #[test]
    fn a_poisonous_request_fails_alone(
        (limits, depth) in limits(),
        wishes in prop::collection::vec(wishes(), 1..12),
        poison in 0..12u64,
        position in 0..80u32,
        steps in 0..20usize,
    ) {
        let mut world = World::new(Limits { prefix_caching: false, ..limits }, depth);
        world.poison = Some((RequestId(poison), position));
        for (at, wish) in wishes.iter().enumerate() {
            world.enqueue(wish);
            for _ in 0..if at % 2 == 0 { steps } else { 0 } {
                world.plan();
                world.apply();
            }
        }
        world.drain();
        world.judge();
        let failed = |asked: &&Asked| matches!(asked.finish, Some(FinishReason::Failed(_)));
        let failed: Vec<u64> = world.asked.iter().filter(failed).map(|a| a.request.id.0).collect();
        match world.epoch {
            1 => prop_assert!(failed.is_empty(), "{failed:?}"),
            4 => prop_assert_eq!(failed, [poison]),
            epoch => prop_assert!(false, "{} deaths", epoch - 1),
        }
    }
}
