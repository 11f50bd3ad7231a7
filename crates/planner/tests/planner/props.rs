//! The guarantees of the rules and the dialects, under arbitrary layouts and arguments.

use crate::shape;
use playhouse_layout::{ModelShape, Widths};
use playhouse_planner::dialect::{
    Dialect, Document, Flag, Key, Kind, Parameters, flags, help, read, write,
};
use playhouse_planner::{RuleSet, Violation, check};
use playhouse_types::{
    ExpertBalance, ExpertParallel, ExpertPlacement, LoadBalancing, ParallelSpec, Role,
};
use proptest::prelude::*;
use proptest::sample::select;

const MODELS: [&str; 5] = [
    "none",
    "llama-3.1-8b layers=32 heads=32 kv=8 inner=14336 vocab=128256",
    "qwen2.5-7b layers=28 heads=28 kv=4 inner=18944 vocab=152064",
    "mixtral layers=32 heads=32 kv=8 experts=8 expert-inner=14336 vocab=32000",
    "deepseek-v3 mla layers=61 heads=128 inner=18432 dense-layers=3 experts=256 expert-inner=2048 \
     groups=8 block=128 vocab=129280",
];

/// A number that is usually small, sometimes absurd.
fn number() -> impl Strategy<Value = u32> {
    prop_oneof![
        6 => Just(1_u32),
        12 => select(vec![2_u32, 4, 8, 16]),
        3 => 0_u32..70,
        1 => select(vec![u32::MAX, u32::MAX - 1, 1 << 31, 65_535, 65_537]),
    ]
}

/// Mostly what is usual, so that whole layouts make sense now and then.
fn seldom<T: Clone + std::fmt::Debug + 'static>(
    usual: T,
    other: impl Strategy<Value = T> + 'static,
) -> BoxedStrategy<T> {
    prop_oneof![7 => Just(usual), 1 => other].boxed()
}

fn maybe() -> BoxedStrategy<Option<u32>> {
    seldom(None, number().prop_map(Some))
}

prop_compose! {
    fn replicas()(
        data in number(),
        data_start_rank in seldom(0, number()),
        data_local in maybe(),
        data_rank in maybe(),
        load_balancing in seldom(
            LoadBalancing::Internal,
            select(vec![LoadBalancing::Hybrid, LoadBalancing::External]),
        ),
        role in seldom(Role::Unified, select(vec![Role::Prefill, Role::Decode])),
    ) -> ParallelSpec {
        ParallelSpec {
            data, data_start_rank, data_local, data_rank, load_balancing, role,
            ..ParallelSpec::default()
        }
    }
}

prop_compose! {
    fn experts()(
        expert in prop_oneof![
            3 => Just(ExpertParallel::Off),
            2 => Just(ExpertParallel::AcrossReplicas),
            2 => number().prop_map(ExpertParallel::Within),
        ],
        moe_tensor in maybe(),
        moe_data in seldom(1, number()),
        moe_cluster in seldom(1, number()),
        moe_dense_tensor in maybe(),
        redundant_experts in seldom(0, number()),
        expert_placement in seldom(ExpertPlacement::Linear, Just(ExpertPlacement::RoundRobin)),
        expert_balance in seldom(None, (number(), number()).prop_map(|(window_steps, interval_steps)| {
            Some(ExpertBalance { window_steps, interval_steps })
        })),
    ) -> ParallelSpec {
        ParallelSpec {
            expert, moe_tensor, moe_data, moe_cluster, moe_dense_tensor, redundant_experts,
            expert_placement, expert_balance,
            ..ParallelSpec::default()
        }
    }
}

prop_compose! {
    fn spec()(
        replicas in replicas(),
        experts in experts(),
        tensor in number(),
        pipeline in number(),
        pipeline_partition in seldom(None, prop::collection::vec(number(), 0..5).prop_map(Some)),
        micro_batch_max in maybe(),
        prefill_context in seldom(1, number()),
        decode_context in seldom(1, number()),
        kv_interleave_tokens in seldom(1, number()),
        attention_data in seldom(1, number()),
        attention_tensor in maybe(),
        attention_context in maybe(),
        head_tensor in maybe(),
    ) -> ParallelSpec {
        ParallelSpec {
            tensor, pipeline, pipeline_partition, micro_batch_max, prefill_context,
            decode_context, kv_interleave_tokens, attention_data, attention_tensor,
            attention_context, head_tensor,
            expert: experts.expert,
            moe_tensor: experts.moe_tensor,
            moe_data: experts.moe_data,
            moe_cluster: experts.moe_cluster,
            moe_dense_tensor: experts.moe_dense_tensor,
            redundant_experts: experts.redundant_experts,
            expert_placement: experts.expert_placement,
            expert_balance: experts.expert_balance,
            ..replicas
        }
    }
}

prop_compose! {
    /// Widths whose products match: most of these run on some engine.
    fn sound()(
        other in spec(),
        data in select(vec![1_u32, 1, 1, 2]),
        pipeline in select(vec![1_u32, 1, 2, 4]),
        tensor in select(vec![1_u32, 2, 4, 8]),
        groups in select(vec![1_u32, 1, 2, 4, 8]),
        context in select(vec![1_u32, 1, 2]),
        decode in select(vec![1_u32, 1, 1, 1, 2]),
        copies in select(vec![1_u32, 1, 1, 2]),
        expert in select(vec![1_u32, 1, 1, 2, 4, 8]),
        across in prop::bool::weighted(0.3),
        whole in any::<bool>(),
        head in select(vec![0_u32, 0, 1, 2]),
        balance in prop::bool::weighted(0.15),
        role in seldom(Role::Unified, select(vec![Role::Prefill, Role::Decode])),
    ) -> ParallelSpec {
        let expert = if across {
            ExpertParallel::AcrossReplicas
        } else {
            ExpertParallel::Within(expert)
        };
        ParallelSpec {
            tensor: tensor.saturating_mul(groups),
            pipeline, data, role,
            attention_data: groups,
            prefill_context: context,
            decode_context: decode,
            // Of the engines only SGLang splits dense layers over context ranks.
            dense_tensor: (context > 1 && whole)
                .then(|| tensor.saturating_mul(groups).saturating_mul(context)),
            head_tensor: [None, Some(1), Some(tensor)][head as usize].filter(|_| groups > 1),
            moe_data: if copies > 1 { context } else { 1 },
            attention_context: (copies > 1).then_some(1),
            expert_balance: balance.then(ExpertBalance::default),
            redundant_experts: if balance { 32 } else { 0 },
            expert: if expert == ExpertParallel::Within(1) { ExpertParallel::Off } else { expert },
            data_local: other.data_local.filter(|local| *local <= data),
            load_balancing: other.load_balancing,
            micro_batch_max: other.micro_batch_max.filter(|most| *most > 0),
            expert_placement: other.expert_placement,
            ..ParallelSpec::default()
        }
    }
}

fn model() -> impl Strategy<Value = Option<ModelShape>> {
    select(MODELS.to_vec()).prop_map(shape::shape_of)
}

/// What a layout says, however it leaves it open.
fn plain(spec: &ParallelSpec) -> ParallelSpec {
    let widths = Widths::of(spec);
    let alone = spec.data == 1 && spec.expert == ExpertParallel::AcrossReplicas;
    ParallelSpec {
        attention_tensor: Some(widths.attention_tensor),
        attention_context: Some(widths.attention_context),
        moe_tensor: Some(widths.moe_tensor),
        expert: match spec.expert {
            _ if alone && widths.stage_ranks == 1 => ExpertParallel::Off,
            _ if alone => ExpertParallel::Within(widths.stage_ranks),
            ExpertParallel::Within(1) => ExpertParallel::Off,
            other => other,
        },
        data_local: spec.data_local.filter(|local| *local != spec.data),
        dense_tensor: spec.dense_tensor.filter(|width| *width != spec.tensor),
        head_tensor: spec.head_tensor.filter(|width| *width != spec.tensor),
        ..spec.clone()
    }
}

fn names(violations: &[Violation]) -> Vec<&str> {
    violations.iter().map(|violation| violation.rule).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// PL-1, PL-2, PL-3.
    #[test]
    fn checking_ends_repeats_itself_and_reports_a_zero_once(
        spec in spec(), shape in model(), rules in select(RuleSet::ALL.to_vec()),
    ) {
        let found = check(&spec, shape.as_ref(), rules);
        prop_assert_eq!(&found, &check(&spec, shape.as_ref(), rules));
        for violation in &found {
            prop_assert!(!violation.message.is_empty() && !violation.fix.is_empty());
        }
        if spec.tensor == 0 {
            let about = found.iter().filter(|violation| {
                violation.message.contains("tensor is 0") && !violation.message.contains('_')
            });
            prop_assert_eq!(about.count(), 1);
            let needs = ["heads-divide", "attention-factors", "moe-factors", "rank-count"];
            prop_assert!(names(&found).iter().all(|name| !needs.contains(name)));
        }
    }

    /// PL-4.
    #[test]
    fn an_offered_change_mends_its_rule_and_breaks_no_other(
        spec in spec(), shape in model(), rules in select(RuleSet::ALL.to_vec()),
    ) {
        let found = check(&spec, shape.as_ref(), rules);
        for violation in found.iter().take(3) {
            for change in &violation.nearest {
                let mut mended = spec.clone();
                change.apply(&mut mended);
                let after = check(&mended, shape.as_ref(), rules);
                prop_assert!(
                    after.len() < found.len(),
                    "{} after {change}: {:?} of {:?}", violation.rule, names(&after), names(&found)
                );
                if found.len() == 1 {
                    prop_assert_eq!(after, vec![]);
                }
            }
        }
    }

    /// PL-7, for every layout that an engine can express.
    #[test]
    fn what_is_written_for_an_engine_reads_back_as_the_same_layout(
        spec in prop_oneof![spec(), sound(), sound()], shape in model(),
        dialect in select(Dialect::ALL.to_vec()),
    ) {
        let parameters = Parameters { context_tokens: Some(8192), ..Parameters::default() };
        let Ok(written) = write(dialect, &spec, Some("m"), shape.as_ref(), &parameters) else {
            prop_assert!(
                spec.redundant_experts > 0 || !check(&spec, shape.as_ref(), dialect.rules()).is_empty()
            );
            return Ok(());
        };
        if dialect == Dialect::Native {
            let back = written.document.expect("a TOML file").spec().expect("our own TOML");
            prop_assert_eq!(back, spec);
            return Ok(());
        }
        let documents: Vec<Document> = written.document.iter().cloned().collect();
        let mut back = match read(dialect, &written.words, &documents) {
            Ok(back) => back,
            Err(problems) => panic!("{}: {problems:?}", written.line()),
        };
        if let Some(shape) = &shape {
            back.settle(shape);
        }
        prop_assert_eq!(plain(&back.spec), plain(&spec), "{}", written.line());
        prop_assert_eq!(back.parameters.context_tokens, Some(8192));
        prop_assert_eq!(back.check(shape.as_ref(), dialect.rules()), vec![]);
    }

    /// PL-5: whatever the words are.
    #[test]
    fn reading_never_panics(dialect in select(Dialect::ALL.to_vec()), words in words()) {
        let document = Document { name: "FILE".to_owned(), text: words.join("\n") };
        if let Ok(reading) = read(dialect, &words, std::slice::from_ref(&document)) {
            let _ = reading.check(None, RuleSet::Native);
        }
        let _ = playhouse_planner::dialect::read_document(dialect, &document);
        let _ = playhouse_planner::dialect::Grid::read(dialect, &document);
        let _ = document.spec();
    }
}

/// Words that look like a command line, and some that do not.
fn words() -> impl Strategy<Value = Vec<String>> {
    let names: Vec<String> = Dialect::ALL
        .into_iter()
        .flat_map(flags)
        .flat_map(|flag| flag.names)
        .map(|name| if name.starts_with('-') { (*name).to_owned() } else { format!("--{name}") })
        .collect();
    let value = prop_oneof![
        number().prop_map(|number| number.to_string()),
        select(vec!["-1", "1.5", "", "true", "{\"a\": {\"b\": [1]}}", "8,8", "[", "m", "32k", "∞"])
            .prop_map(str::to_owned),
        "\\PC{0,12}",
    ];
    let glued =
        (select(names.clone()), value.clone()).prop_map(|(name, value)| format!("{name}={value}"));
    let pair = glued.clone().prop_map(|glued| glued.trim_start_matches('-').to_owned());
    prop::collection::vec(prop_oneof![4 => select(names), 4 => value, 2 => glued, 1 => pair], 0..6)
}

#[test]
fn every_flag_stands_in_the_help_of_its_dialect() {
    for dialect in Dialect::ALL {
        let help = help(dialect, |_| true);
        for flag in flags(dialect) {
            assert!(help.contains(flag.names[0]), "{dialect:?} {}", flag.names[0]);
        }
    }
}

#[test]
fn no_dialect_has_one_name_for_two_things() {
    for dialect in Dialect::ALL {
        let mut names: Vec<String> = flags(dialect)
            .iter()
            .flat_map(|flag| flag.names)
            .map(|name| name.replace('_', "-"))
            .collect();
        let before = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), before, "{dialect:?}");
    }
}

/// Values that are what the engine does anyway.
const USUAL: [&str; 6] = ["internal", "linear", "null", "unified", "ULYSSES", "none"];

/// Values to try a flag with.
fn samples(kind: Kind) -> Vec<&'static str> {
    match kind {
        Kind::Switch => vec!["true"],
        Kind::Size | Kind::SizeOrAuto => vec!["3"],
        Kind::Sizes => vec!["1,2"],
        Kind::Tokens => vec!["4096"],
        Kind::Fraction => vec!["0.5"],
        Kind::OneOf(words) => words.iter().filter(|word| !USUAL.contains(word)).copied().collect(),
        Kind::Text => vec!["word"],
        Kind::Tree => vec![],
    }
}

/// PL-5: whatever a flag says is carried on, noted or refused.
#[test]
fn no_flag_is_dropped_in_silence() {
    let mut dropped = Vec::new();
    for dialect in Dialect::ALL {
        let bare = read(dialect, &[], &[]).expect("nothing is a command");
        let said = |flag: &&Flag| ![Key::Model, Key::ConfigFile].contains(&flag.key);
        for flag in flags(dialect).iter().filter(said) {
            let name = flag.names[0];
            let dashes = if name.starts_with('-') { "" } else { "--" };
            for value in samples(flag.kind) {
                let words = [format!("{dashes}{name}={value}")];
                let reading = read(dialect, &words, &[]).expect("a sample value fits");
                let told = reading.spec != bare.spec
                    || reading.parameters != bare.parameters
                    || reading.notes.len() > bare.notes.len()
                    || !reading.check(None, dialect.rules()).is_empty();
                if !told {
                    dropped.push(format!("{} {}", dialect.name(), words[0]));
                }
            }
        }
    }
    assert_eq!(dropped, Vec::<String>::new());
}
