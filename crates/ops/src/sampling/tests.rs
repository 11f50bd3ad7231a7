use proptest::prelude::*;

use super::*;

fn params(change: impl FnOnce(&mut SamplingParams)) -> SamplingParams {
    let mut params = SamplingParams::greedy(64);
    params.temperature = 1.0;
    change(&mut params);
    params
}

/// Samples with a fresh prompt of `position` tokens.
fn sample_at(logits: &[f32], params: &SamplingParams, position: usize) -> TokenId {
    sample(logits, params, &TokenState::new(&vec![0; position], position, params))
}

fn greedy_after(
    logits: &[f32],
    params: &SamplingParams,
    prompt: &[u32],
    output: &[u32],
) -> TokenId {
    let tokens = [prompt, output].concat();
    sample(logits, params, &TokenState::new(&tokens, prompt.len(), params))
}

/// The definitions, spelled out with a full sort: the tokens a draw may return with their
/// probabilities.
fn reference(logits: &[f32], params: &SamplingParams) -> Vec<(TokenId, f64)> {
    let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weight = |&logit: &f32| f64::from(((logit - best) / params.temperature).exp());
    let mut ranked: Vec<(TokenId, f64)> = (0..).zip(logits.iter().map(weight)).collect();
    ranked.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    ranked.retain(|&(_, weight)| weight >= f64::from(params.min_p) && weight > 0.0);
    if params.top_k > 0 {
        ranked.truncate(params.top_k as usize);
    }
    let normalize = |ranked: &mut Vec<(TokenId, f64)>| {
        let sum: f64 = ranked.iter().map(|&(_, weight)| weight).sum();
        ranked.iter_mut().for_each(|(_, weight)| *weight /= sum);
    };
    normalize(&mut ranked);
    let mut sum = 0.0;
    let reached = ranked.iter().position(|&(_, share)| {
        sum += share;
        sum >= f64::from(params.top_p)
    });
    ranked.truncate(reached.map_or(ranked.len(), |last| last + 1));
    normalize(&mut ranked);
    ranked
}

/// Logits that look like a model's: a few likely tokens and a long tail.
fn peaked(vocab: u32, seed: u64) -> Vec<f32> {
    let unit = |token| uniform(seed, u64::from(token)) as f32;
    (0..vocab).map(|token| 6.0 * unit(token).powi(4) - 3.0 * unit(token + vocab)).collect()
}

#[test]
fn greedy_takes_the_lowest_of_equal_tokens() {
    let greedy = SamplingParams::greedy(1);
    assert_eq!(sample_at(&[1.0, 3.0, 3.0, 2.0], &greedy, 5), 1);
    assert_eq!(sample_at(&[-0.0, 0.0], &greedy, 5), 0);
}

/// **SA-3**
#[test]
fn impossible_logits_have_a_defined_answer() {
    let (nan, inf) = (f32::NAN, f32::INFINITY);
    let all = params(|p| (p.top_k, p.top_p, p.min_p) = (3, 0.9, 0.1));
    for params in [SamplingParams::greedy(1), params(|_| ()), all] {
        assert_eq!(sample_at(&[nan; 4], &params, 1), 0);
        assert_eq!(sample_at(&[-inf; 4], &params, 1), 0);
        assert_eq!(sample_at(&[nan, -inf, 2.0, nan], &params, 1), 2);
        assert_eq!(sample_at(&[5.0, inf, -inf, 2.0], &params, 1), 1);
        assert_eq!(sample_at(&[f32::MIN, f32::MAX, nan], &params, 1), 1);
    }
    for logits in [[nan; 3], [-inf; 3]] {
        let logprobs = token_logprobs(&logits, 1, 2);
        assert_eq!(logprobs.logprob, -inf);
        assert_eq!(logprobs.top, [(0, -inf), (1, -inf)]);
    }
    let mixed = token_logprobs(&[nan, 0.0, inf], 2, 3);
    assert_eq!((mixed.logprob, mixed.top[0]), (0.0, (2, 0.0)));
    assert!(mixed.top.iter().all(|(_, logprob)| !logprob.is_nan()));
}

/// **SA-1**
#[test]
fn a_draw_depends_on_seed_and_position_alone() {
    let logits = peaked(1000, 1);
    let draw = |seed, position| sample_at(&logits, &params(|p| p.seed = seed), position);
    assert_eq!(draw(7, 3), draw(7, 3));
    let tokens: Vec<_> = (0..32).map(|position| draw(7, position)).collect();
    let others: Vec<_> = (0..32).map(|position| draw(8, position)).collect();
    assert_ne!(tokens, others);
    assert!(tokens.iter().any(|&token| token != tokens[0]));
}

#[test]
fn random_numbers_are_pinned() {
    // A change would break resumption across versions; SplitMix64(0) is 0xe220a8397b1dcdaf.
    assert_eq!(splitmix64(0), 0xe220_a839_7b1d_cdaf);
    assert_eq!(uniform(0, 0), 0.6524484863740322);
}

/// **SA-1**
#[test]
fn a_rebuilt_state_equals_the_grown_one() {
    let params = params(|p| p.presence_penalty = 1.0);
    let tokens = [5, 6, 5, 7, 7, 6, 9];
    let mut grown = TokenState::new(&tokens[..3], 3, &params);
    for &token in &tokens[3..] {
        grown.push(token);
    }
    assert_eq!(grown, TokenState::new(&tokens, 3, &params));
}

#[test]
fn penalties_follow_their_definitions() {
    let logits = [2.0, 1.9, -1.0, 1.8];
    let greedy = |change: fn(&mut SamplingParams)| {
        let mut params = SamplingParams::greedy(8);
        change(&mut params);
        params
    };
    // Repetition counts prompt and output: 2.0 / 1.2 is less than 1.8.
    let repetition = greedy(|p| p.repetition_penalty = 1.2);
    assert_eq!(greedy_after(&logits, &repetition, &[0], &[1]), 3);
    // It pushes negative logits further down: -1.0 * 1.2 is less than -1.1.
    assert_eq!(greedy_after(&[-1.0, -1.1], &repetition, &[0], &[]), 1);
    // Presence and frequency count the output alone.
    let presence = greedy(|p| p.presence_penalty = 0.15);
    assert_eq!(greedy_after(&logits, &presence, &[0, 0, 0], &[]), 0);
    assert_eq!(greedy_after(&logits, &presence, &[1], &[0, 0, 0, 0]), 1);
    let frequency = greedy(|p| p.frequency_penalty = 0.06);
    assert_eq!(greedy_after(&logits, &frequency, &[1], &[0]), 0);
    assert_eq!(greedy_after(&logits, &frequency, &[1], &[0, 0]), 1);
    assert_eq!(greedy_after(&logits, &frequency, &[1], &[0, 0, 1, 1, 0, 0]), 3);
}

#[test]
fn bias_and_min_tokens_change_what_is_possible() {
    let logits = [2.0, 1.0, 0.0];
    let mut params = SamplingParams::greedy(8);
    (params.min_tokens, params.stop_tokens) = (2, vec![0]);
    assert_eq!(greedy_after(&logits, &params, &[5], &[]), 1);
    assert_eq!(greedy_after(&logits, &params, &[5], &[1]), 1);
    assert_eq!(greedy_after(&logits, &params, &[5], &[1, 1]), 0);
    params.logit_bias = vec![(0, 100.0), (2, 1.5)];
    assert_eq!(greedy_after(&logits, &params, &[5], &[]), 2, "a bias does not undo the mask");
    assert_eq!(greedy_after(&logits, &params, &[5], &[1, 1]), 0);
}

#[test]
fn top_k_one_and_min_p_one_are_greedy() {
    let logits = peaked(500, 3);
    let best = sample_at(&logits, &SamplingParams::greedy(1), 1);
    for position in 0..64 {
        assert_eq!(sample_at(&logits, &params(|p| p.top_k = 1), position), best);
        assert_eq!(sample_at(&logits, &params(|p| p.min_p = 1.0), position), best);
        assert_eq!(sample_at(&logits, &params(|p| p.top_p = 1e-6), position), best);
        assert_eq!(sample_at(&logits, &params(|p| p.temperature = 1e-30), position), best);
    }
}

#[test]
fn draws_follow_the_distribution() {
    const DRAWS: u32 = 20_000;
    let logits: Vec<f32> = (0..40).map(|token| 2.5 - 0.15 * token as f32).collect();
    for (case, params) in [
        params(|_| ()),
        params(|p| p.temperature = 0.7),
        params(|p| p.top_k = 12),
        params(|p| p.top_p = 0.8),
        params(|p| p.min_p = 0.1),
        params(|p| (p.temperature, p.top_k, p.top_p, p.min_p) = (1.5, 20, 0.9, 0.05)),
    ]
    .into_iter()
    .enumerate()
    {
        let expected = reference(&logits, &params);
        let mut counts = vec![0_u32; logits.len()];
        for position in 0..DRAWS as usize {
            let state = TokenState { prompt_tokens: 0, tokens: position, output_counts: None };
            counts[sample(&logits, &params, &state) as usize] += 1;
        }
        let mut chi_square = 0.0;
        for &(token, share) in &expected {
            let mean = share * f64::from(DRAWS);
            chi_square += (f64::from(counts[token as usize]) - mean).powi(2) / mean;
            counts[token as usize] = 0;
        }
        assert!(counts.iter().all(|&count| count == 0), "case {case}: drew what is excluded");
        // Mean and standard deviation of the chi-square distribution; seeds are fixed, so this
        // passes always or never.
        let freedom = expected.len() as f64 - 1.0;
        let limit = freedom + 4.0 * (2.0 * freedom).sqrt();
        assert!(chi_square < limit, "case {case}: {chi_square} of {limit}");
    }
}

#[test]
fn logprobs_are_a_log_softmax_best_first() {
    let logits = [1.0, 3.0, 3.0, -2.0];
    let sum: f64 = logits.iter().map(|&logit: &f32| f64::from(logit).exp()).sum();
    let expected = |token: usize| (f64::from(logits[token]) - sum.ln()) as f32;
    let found = token_logprobs(&logits, 3, 3);
    assert!((found.logprob - expected(3)).abs() < 1e-6);
    let tokens: Vec<_> = found.top.iter().map(|&(token, _)| token).collect();
    assert_eq!(tokens, [1, 2, 0]);
    assert!(
        found.top.iter().all(|&(token, logprob)| (logprob - expected(token as usize)).abs() < 1e-6)
    );
    assert_eq!(token_logprobs(&logits, 0, 0).top, []);
    assert_eq!(token_logprobs(&logits, 0, 20).top.len(), 4);
}

/// A logit of any kind, special ones often.
fn any_logit() -> impl Strategy<Value = f32> {
    prop_oneof![
        8 => -30.0..30.0_f32,
        1 => (-3..3_i8).prop_map(f32::from),
        1 => any::<f32>(),
        1 => prop::sample::select(vec![f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN]),
    ]
}

fn any_params() -> impl Strategy<Value = SamplingParams> {
    let shape = (1e-3..2.0_f32, 0..40_u32, 1e-3..=1.0_f32, 0.0..=1.0_f32);
    (shape, any::<u64>(), 1e-2..3.0_f32, -2.0..2.0_f32, -2.0..2.0_f32).prop_map(
        |((temperature, top_k, top_p, min_p), seed, repetition, presence, frequency)| {
            params(|p| {
                (p.temperature, p.top_k, p.top_p, p.min_p) = (temperature, top_k, top_p, min_p);
                p.seed = seed;
                p.repetition_penalty = repetition;
                (p.presence_penalty, p.frequency_penalty) = (presence, frequency);
            })
        },
    )
}

proptest! {
    /// **SA-3**
    #[test]
    fn any_logits_give_a_token_of_the_vocabulary(
        logits in prop::collection::vec(any_logit(), 1..200), params in any_params(),
        output in prop::collection::vec(any::<prop::sample::Index>(), 0..5),
    ) {
        let vocab = logits.len();
        let output: Vec<_> = output.iter().map(|index| index.index(vocab) as u32).collect();
        let token = sample(&logits, &params, &TokenState::new(&output, 0, &params));
        prop_assert!((token as usize) < vocab);
        let logprobs = token_logprobs(&logits, token, 20);
        prop_assert!(logprobs.logprob <= 0.0);
        prop_assert!(logprobs.top.iter().all(|(_, logprob)| *logprob <= 0.0));
        prop_assert!(logprobs.top.is_sorted_by(|a, b| a.1 >= b.1));
    }

    #[test]
    fn a_draw_is_among_the_reference_candidates(
        seed in any::<u64>(), vocab in 1..3000_u32, params in any_params(), position in 0..1000_usize,
    ) {
        let mut params = params;
        (params.repetition_penalty, params.presence_penalty, params.frequency_penalty) = (1.0, 0.0, 0.0);
        let logits = peaked(vocab, seed);
        // A hair above top_p and below min_p, since sums and logarithms round differently.
        let mut wide = params.clone();
        wide.top_p = (params.top_p * 1.0001).min(1.0);
        wide.min_p = params.min_p * 0.9999;
        let token = sample_at(&logits, &params, position);
        prop_assert!(reference(&logits, &wide).iter().any(|&(candidate, _)| candidate == token));
    }
}
