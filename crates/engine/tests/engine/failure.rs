//! **E-2**: what an engine does with plans it cannot follow.

use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use playhouse_engine::{EngineConfig, EngineEvent, STEPS_QUEUED_MAX, SubmitError, spawn};
use playhouse_types::{
    Admitted, Appended, BlockId, BlockSize, Epoch, Logits, Run, SamplingParams, Slot, StepId,
    StepPlan,
};

use crate::driver::{Driver, EPOCH, Sequence, load, reference, tokens};

const CASE: &str = "qwen3-gqa4-f32";

fn admitted(slot: u32) -> Admitted {
    Admitted {
        slot: Slot(slot),
        tokens: [1, 2, 3].into(),
        prompt_tokens: 3,
        sampling: Arc::new(SamplingParams::greedy(4)),
        blocks: Vec::new(),
    }
}

fn run(start: u32, tokens: u32, blocks: &[u32]) -> Run {
    let new_blocks = blocks.iter().map(|&block| BlockId(block)).collect();
    Run {
        slot: Slot(0),
        start,
        tokens,
        appended: Appended::Nothing,
        new_blocks,
        logits: Logits::None,
    }
}

#[test]
fn a_plan_that_cannot_be_followed_ends_the_engine_with_the_reason() {
    let model = load(&reference().join(CASE), 1);
    let mut healthy = Driver::new(&model);
    let sampled = |run| Run { logits: Logits::Last, ..run };
    type Change = Box<dyn Fn(&mut StepPlan)>;
    let cases: [(Change, &str); 11] = [
        (Box::new(|plan| plan.epoch = Epoch(2)), "got a plan of epoch-2, this engine runs epoch-3"),
        (Box::new(|plan| plan.step = StepId(5)), "steps come in order"),
        (Box::new(|plan| plan.released = vec![Slot(0)]), "slot-0: released while empty"),
        (Box::new(|plan| plan.admitted = vec![admitted(99)]), "slot-99: of 32 slots"),
        (Box::new(|plan| plan.admitted.push(admitted(0))), "slot-0: admitted while taken"),
        (Box::new(|plan| plan.admitted.clear()), "slot-0: run while empty"),
        (Box::new(|plan| plan.runs.push(run(0, 1, &[]))), "slot-0: two runs in one step"),
        (Box::new(|plan| plan.runs = vec![run(1, 1, &[0])]), "slot-0: run from 1, cached up to 0"),
        (Box::new(|plan| plan.runs = vec![run(0, 4, &[0])]), "slot-0: run up to 4, known up to 3"),
        (Box::new(|plan| plan.runs = vec![run(0, 3, &[])]), "slot-0: run up to 3, blocks hold 0"),
        (Box::new(|plan| plan.runs = vec![run(0, 3, &[512])]), "slot-0: block-512 of 512"),
    ];
    let before_last: Change = Box::new(move |plan| plan.runs = vec![sampled(run(0, 2, &[0]))]);
    let cases = cases.into_iter().chain([(before_last, "sampling from a token before the last")]);
    for (change, expected) in cases {
        let mut driver = Driver::new(&model);
        let mut plan = driver.plan(vec![admitted(0)], vec![run(0, 3, &[0])]);
        change(&mut plan);
        driver.port.submit(plan).unwrap();
        let EngineEvent::Exited { epoch: EPOCH, reason, of_step: true } =
            driver.events.recv().unwrap()
        else {
            panic!("{expected}: the plan was executed");
        };
        assert!(reason.contains(expected), "{reason}, not {expected}");
        let plan = driver.plan(Vec::new(), Vec::new());
        assert_eq!(driver.port.submit(plan), Err(SubmitError::Gone));
        driver.thread.join().unwrap();
        assert!(driver.events.recv().is_err(), "nothing follows the exit");
    }
    let sequence = Sequence::greedy(tokens(20, 1, model.spec().vocab), 2);
    assert_eq!(healthy.generate(&[sequence], 8)[0].sampled.len(), 2, "others live on");
    healthy.finish();
}

#[test]
fn a_token_outside_the_vocabulary_ends_the_engine() {
    let mut driver = Driver::new(&load(&reference().join(CASE), 1));
    let mut sequence = admitted(0);
    sequence.tokens = [1, 1_000_000, 3].into();
    let plan = driver.plan(vec![sequence], vec![run(0, 3, &[0])]);
    driver.port.submit(plan).unwrap();
    let EngineEvent::Exited { reason, of_step: true, .. } = driver.events.recv().unwrap() else {
        panic!("the plan was executed");
    };
    assert!(reason.starts_with("forward pass: ") && reason.contains("1000000"), "{reason}");
    driver.thread.join().unwrap();
}

#[test]
fn a_busy_engine_takes_a_bounded_number_of_plans() {
    let model = load(&reference().join(CASE), 1);
    let config =
        EngineConfig { epoch: EPOCH, kv_blocks: 1, block_size: BlockSize::CPU, max_num_seqs: 1 };
    let (entered, wait_entered) = sync_channel(STEPS_QUEUED_MAX + 1);
    let (leave, wait_leave) = sync_channel::<()>(0);
    let on_event = move |_| {
        entered.send(()).unwrap();
        let _ = wait_leave.recv();
    };
    let (port, thread) = spawn(move || Ok(model), config, on_event).unwrap();
    let plan = |step| StepPlan {
        epoch: EPOCH,
        step: StepId(step),
        released: Vec::new(),
        admitted: Vec::new(),
        runs: Vec::new(),
    };
    // Ready, then the first step.
    wait_entered.recv().unwrap();
    port.submit(plan(0)).unwrap();
    leave.send(()).unwrap();
    wait_entered.recv().unwrap();
    for step in 1..=STEPS_QUEUED_MAX as u64 {
        port.submit(plan(step)).unwrap();
    }
    assert_eq!(port.submit(plan(99)), Err(SubmitError::Full));
    drop(leave);
    drop(port);
    thread.join().unwrap();
    assert_eq!(wait_entered.iter().count(), STEPS_QUEUED_MAX, "queued plans are still executed");
}
