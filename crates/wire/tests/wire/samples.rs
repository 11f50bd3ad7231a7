//! One or more values of every message, with every variant and every optional part.

use std::fmt::Write as _;
use std::sync::Arc;

use playhouse_layout::{ExpertPart, GroupKind, Part, Share, Slice};
use playhouse_types::{
    Admitted, Appended, BlockId, BlockSize, CheckpointDigest, Emission, Epoch, ExpertPlacement,
    FinishReason, GenerateRequest, Logits, PrefixEvent, RequestId, Run, RunOutcome, Sampled,
    SamplingParams, Slot, StepId, StepOutcome, StepPlan, TokenLogprobs,
};
use playhouse_wire::*;

/// The operations of a test on a message of any type.
pub(crate) struct Sample {
    /// `Kind.number`.
    pub(crate) name: String,
    pub(crate) kind: Kind,
    /// One frame.
    pub(crate) bytes: Vec<u8>,
    /// Decodes a frame as this type and encodes the value again.
    pub(crate) again: fn(&Frame) -> Result<Vec<u8>, DecodeError>,
    /// As `Debug` shows the value.
    pub(crate) text: String,
    /// Decodes a frame as this type and shows it.
    pub(crate) show: fn(&Frame) -> Result<String, DecodeError>,
}

/// Every sample, in the order of kinds.
pub(crate) fn all() -> Vec<Sample> {
    let mut all = Vec::new();
    handshake(&mut all);
    control(&mut all);
    shard(&mut all);
    steps(&mut all);
    generation(&mut all);
    add(&mut all, [BulkOpening { tag: 3, bytes: 1 << 40 }]);
    all
}

/// The only frame of `bytes`.
pub(crate) fn frame(bytes: &[u8]) -> Frame {
    let (taken, frame) = FrameDecoder::default().feed(bytes).expect("a frame");
    assert_eq!(taken, bytes.len());
    frame.expect("the whole frame is there")
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("strings take everything");
        text
    })
}

fn add<M: Message + std::fmt::Debug, const N: usize>(all: &mut Vec<Sample>, values: [M; N]) {
    for (number, value) in values.into_iter().enumerate() {
        let mut bytes = Vec::new();
        value.encode_into(&mut bytes).expect("a sample is short");
        let again = |frame: &Frame| {
            let mut bytes = Vec::new();
            M::decode(frame)?.encode_into(&mut bytes).expect("no longer than it was");
            Ok(bytes)
        };
        let show = |frame: &Frame| Ok(format!("{:?}", M::decode(frame)?));
        let (name, text) = (format!("{}.{number}", M::KIND), format!("{value:?}"));
        all.push(Sample { name, kind: M::KIND, bytes, again, text, show });
    }
}

fn text(words: &str) -> String {
    words.to_owned()
}

fn handshake(all: &mut Vec<Sample>) {
    let hello = Hello { role: Role::Node, name: text("rack-7"), incarnation: 9, epoch: Epoch(2) };
    add(all, [hello.clone(), Hello { role: Role::Shard, ..hello.clone() }]);
    let refused = HelloReply::Refused;
    add(
        all,
        [
            HelloReply::Welcome(Hello { role: Role::Head, ..hello }),
            refused(Refusal::OtherIdentity { certificate: text("node a"), hello: text("node b") }),
            refused(Refusal::DuplicateName {
                name: text("node a"),
                address: text("10.0.0.1:4433"),
            }),
            refused(Refusal::StaleEpoch { given: Epoch(1), current: Epoch(2) }),
            refused(Refusal::Unexpected(text("no shard of this name was spawned"))),
            refused(Refusal::Full(1024)),
        ],
    );
    add(
        all,
        [JoinRequest {
            token: [1, 2, 3, 4, 5, 6, 7, 8],
            proof: [9; 32],
            name: text("rack-7"),
            csr: vec![0x30, 0x82, 0x01],
        }],
    );
    add(
        all,
        [
            JoinReply::Granted { certificate: vec![0x30, 0x81] },
            JoinReply::Refused(JoinRefusal::UnknownToken),
            JoinReply::Refused(JoinRefusal::Expired),
            JoinReply::Refused(JoinRefusal::Used),
            JoinReply::Refused(JoinRefusal::WrongSecret),
            JoinReply::Refused(JoinRefusal::NameTaken(text("rack-7"))),
            JoinReply::Refused(JoinRefusal::BadRequest(text("no key"))),
            JoinReply::Refused(JoinRefusal::NoAuthority),
        ],
    );
    add(
        all,
        [IdentityBundle {
            role: Role::Shard,
            name: text("r0-0"),
            authority: vec![1],
            certificate: vec![2, 2],
            key: vec![3, 3, 3],
        }],
    );
    add(all, [RenewRequest { csr: vec![0x30, 0x82, 0x02] }]);
    let refused = |why| RenewReply::Refused(why);
    add(
        all,
        [
            RenewReply::Granted { certificate: vec![0x30, 0x82] },
            refused(RenewRefusal::Revoked),
            refused(RenewRefusal::OtherName { certificate: text("node a") }),
            refused(RenewRefusal::TooSoon { seconds: 30 }),
            refused(RenewRefusal::BadRequest(text("no key"))),
        ],
    );
}

fn control(all: &mut Vec<Sample>) {
    add(all, [HeadNote::ResyncPrefixes { replica: 1 }, HeadNote::Shutdown]);
    let exit = |status| PeerNote::Exited(Exit { pid: 77, status, reason: text("out of memory") });
    let prefix =
        |sequence, event| PeerNote::Prefix { replica: 1, epoch: Epoch(2), sequence, event };
    let stats = NodeStats { processes: 2, memory_free: 1 << 33 };
    add(
        all,
        [
            exit(ExitStatus::Code(-1)),
            exit(ExitStatus::Signal(9)),
            PeerNote::Stats(stats.clone()),
            prefix(0, PrefixEvent::Stored(vec![1, u64::MAX])),
            prefix(1, PrefixEvent::Removed(vec![1])),
            prefix(2, PrefixEvent::Reset),
        ],
    );
    let spawn = Spawn { name: text("r0-1"), device: 0, identity: vec![5; 9] };
    add(all, [NodeRequest::Spawn(spawn), NodeRequest::Kill { pid: 77 }, NodeRequest::Stats]);
    add(
        all,
        [
            NodeReply::Spawned { pid: 77 },
            NodeReply::Killed,
            NodeReply::Stats(stats),
            NodeReply::Failed(text("no such device")),
        ],
    );
    let device = |kind, name| Device { kind, name: text(name), memory: 1 << 36, threads: 8 };
    let devices = vec![device(DeviceKind::Cpu, "cpu"), device(DeviceKind::Cuda, "H100")];
    let running = Running { name: text("r0-2-17f"), device: 1, pid: 4711 };
    add(all, [HeadRequest::Offer { devices, memory: 1 << 37, processes: vec![running] }]);
    add(all, [HeadReply::Accepted, HeadReply::Refused(text("two devices were promised"))]);
}

fn shard(all: &mut Vec<Sample>) {
    let part = |at, of| Part { at, of };
    let share = Share {
        stage: part(1, 2),
        layers: Slice { first: 12, count: 12 },
        attention: part(1, 2),
        dense: part(1, 4),
        expert_slice: part(0, 1),
        experts: ExpertPart {
            part: part(3, 8),
            placement: ExpertPlacement::RoundRobin,
            redundant: 4,
        },
        embedding: part(1, 2),
        head: part(0, 1),
    };
    let load = Load {
        model: Some(text("/models/m")),
        dtype: Dtype::Bf16,
        share,
        groups: vec![GroupKind::Tensor, GroupKind::Pipeline],
        threads: 1,
    };
    let member = Member { machine: text("m"), address: text("10.0.0.1:7001") };
    let group = |name, rank, size| Group {
        name: text(name),
        secret: [7; 32],
        rank,
        members: vec![member.clone(); size],
    };
    let join = Join {
        epoch: Epoch(2),
        groups: vec![
            (GroupKind::Tensor, group("r0-TP-2", 1, 2)),
            (GroupKind::Pipeline, group("r0-PP-1", 1, 2)),
        ],
        kv_blocks: 512,
        block_tokens: BlockSize::CPU.get(),
        max_num_seqs: 64,
    };
    let bare = Load { model: None, ..load.clone() };
    add(all, [ShardCommand::Load(load), ShardCommand::Load(bare), ShardCommand::Join(join)]);
    add(
        all,
        [
            ShardEvent::Progress { bytes: 1, of: 2 },
            ShardEvent::Loaded(Loaded {
                members: GroupKind::ALL.map(|kind| (kind, member.clone())).to_vec(),
                checkpoint: CheckpointDigest { config: [8; 32], weights: [9; 32] },
            }),
            ShardEvent::Ready,
            ShardEvent::Failed(text("no such file")),
        ],
    );
}

fn sampling() -> SamplingParams {
    SamplingParams {
        temperature: 0.7,
        logit_bias: vec![(7, -1.5)],
        seed: 11,
        stop_tokens: vec![2, 3],
        logprobs: Some(1),
        prompt_logprobs: Some(0),
        ..SamplingParams::greedy(16)
    }
}

fn logprobs() -> TokenLogprobs {
    TokenLogprobs { token: 5, logprob: -0.25, top: vec![(5, -0.25), (6, -2.0)] }
}

fn steps(all: &mut Vec<Sample>) {
    let params = Arc::new(sampling());
    let admitted = |slot, blocks| Admitted {
        slot: Slot(slot),
        tokens: Arc::from([10, 20, 30]),
        prompt_tokens: 2,
        sampling: Arc::clone(&params),
        blocks,
    };
    let run = |slot, appended, logits| Run {
        slot: Slot(slot),
        start: 0,
        tokens: 3,
        appended,
        new_blocks: vec![BlockId(4)],
        logits,
    };
    let plan = StepPlan {
        epoch: Epoch(2),
        step: StepId(40),
        released: vec![Slot(9)],
        admitted: vec![admitted(0, Vec::new()), admitted(1, vec![BlockId(2), BlockId(3)])],
        runs: vec![
            run(0, Appended::Token(17), Logits::Last),
            run(1, Appended::OwnSample, Logits::All),
            run(2, Appended::Nothing, Logits::None),
        ],
    };
    add(all, [StepCommand::Attach { epoch: Epoch(2) }, StepCommand::Plan(plan)]);
    let outcome = |sampled: Option<Sampled>, prompt_logprobs| RunOutcome {
        slot: Slot(0),
        sampled: Vec::from_iter(sampled),
        prompt_logprobs,
    };
    let runs = vec![
        outcome(Some(Sampled { token: 5, logprobs: Some(logprobs()) }), vec![logprobs()]),
        outcome(Some(Sampled { token: 6, logprobs: None }), Vec::new()),
        outcome(None, Vec::new()),
    ];
    add(
        all,
        [
            StepEvent::Outcome(StepOutcome { epoch: Epoch(2), step: StepId(40), runs }),
            StepEvent::Done { epoch: Epoch(2), step: StepId(40) },
            StepEvent::Exited { epoch: Epoch(2), reason: text("panicked"), of_step: true },
        ],
    );
}

fn generation(all: &mut Vec<Sample>) {
    let request = GenerateRequest {
        id: RequestId(3),
        prompt: Arc::from([1, 2, 3, 4, 5]),
        sampling: Arc::new(sampling()),
        cache_salt: 99,
    };
    add(all, [GenerationRequest::Generate { replica: 1, epoch: Epoch(2), request }]);
    let emission = |token, finish| {
        GenerationEvent::Emission(Emission {
            id: RequestId(3),
            cached_tokens: 16,
            prompt_logprobs: vec![logprobs()],
            token,
            finish,
        })
    };
    add(
        all,
        [
            emission(Some(Sampled { token: 5, logprobs: Some(logprobs()) }), None),
            emission(None, Some(FinishReason::Stop(2))),
            emission(None, Some(FinishReason::Length)),
            emission(None, Some(FinishReason::Cancelled)),
            emission(None, Some(FinishReason::Failed(text("the engine is gone")))),
            GenerationEvent::Refused(NotTaken::Overloaded { retry_after_ms: 250 }),
            GenerationEvent::Refused(NotTaken::Draining),
            GenerationEvent::Refused(NotTaken::NotHere { replica: 1, epoch: Epoch(2) }),
        ],
    );
}
