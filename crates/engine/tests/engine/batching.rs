//! **E-3**: what a sequence gives does not depend on how it is run.

use playhouse_types::TokenLogprobs;

use crate::driver::{Driver, Generated, Sequence, load, reference, tokens};

const CASES: [&str; 2] = ["llama-wide-bf16", "qwen3-gqa4-f32"];
/// Several blocks and several chunks, the last of each cut short.
const PROMPT_TOKENS: usize = 150;
const STEPS: usize = 12;

/// Everything observable of the logits: tokens and bits of log-probabilities.
fn bits(generated: &Generated) -> Vec<Vec<(u32, u32)>> {
    let row = |logprobs: &TokenLogprobs| {
        let own = (logprobs.token, logprobs.logprob.to_bits());
        let top = logprobs.top.iter().map(|&(token, logprob)| (token, logprob.to_bits()));
        std::iter::once(own).chain(top).collect()
    };
    let sampled = generated.sampled.iter().map(|sampled| sampled.logprobs.as_ref().unwrap());
    generated.prompt_logprobs.iter().chain(sampled).map(row).collect()
}

#[test]
fn logits_do_not_depend_on_batch_chunks_or_threads() {
    for case in CASES {
        let mut first: Option<Vec<_>> = None;
        for threads in [1, 2] {
            let model = load(&reference().join(case), threads);
            let vocab = model.spec().vocab;
            let own = Sequence::greedy(tokens(PROMPT_TOKENS, 1, vocab), STEPS);
            let neighbour = |i: usize| {
                let mut sequence = Sequence::greedy(tokens(3 + 13 * i, 1 + i as u64, vocab), 4 + i);
                sequence.sampling.temperature = 1.0;
                sequence
            };
            let alone = vec![own.clone()];
            // Neither first nor last, among prefills and decodes of other lengths.
            let mut batch: Vec<_> = (1..16).map(neighbour).collect();
            batch.insert(5, own);
            for chunk in [7, 64, PROMPT_TOKENS] {
                for (sequences, place) in [(&alone, 0), (&batch, 5)] {
                    let mut driver = Driver::new(&model);
                    let found = bits(&driver.generate(sequences, chunk)[place]);
                    driver.finish();
                    assert_eq!(found.len(), PROMPT_TOKENS - 1 + STEPS);
                    let expected = first.get_or_insert_with(|| found.clone());
                    assert!(
                        *expected == found,
                        "{case}: {threads} threads, chunks of {chunk}, batch of {}",
                        sequences.len()
                    );
                }
            }
        }
    }
}

#[test]
fn a_shared_prefix_gives_the_same_bits_as_its_own() {
    for case in CASES {
        let model = load(&reference().join(case), 2);
        let prompt = tokens(PROMPT_TOKENS, 9, model.spec().vocab);
        let mut driver = Driver::new(&model);
        let cold = driver.generate(&[Sequence::greedy(prompt.clone(), STEPS)], 64).remove(0);
        let mut warm = Sequence::greedy(prompt.clone(), STEPS);
        // Another tail, so that a write into the shared blocks would show.
        let mut other = Sequence::greedy(prompt[..100].to_vec(), STEPS);
        for sequence in [&mut warm, &mut other] {
            sequence.cached = cold.blocks[..5].to_vec();
        }
        let found = driver.generate(&[other.clone(), warm.clone()], 7);
        let reported = PROMPT_TOKENS - 1 - 5 * 16;
        assert_eq!(bits(&found[1]), bits(&cold)[5 * 16..], "{case}");
        assert_eq!(found[1].prompt_logprobs.len(), reported);
        assert_eq!(bits(&found[0])[..100 - 1 - 5 * 16], bits(&cold)[5 * 16..99], "{case}");
        driver.finish();
    }
}

#[test]
fn seeded_sampling_resumes_where_it_was_preempted() {
    let model = load(&reference().join(CASES[1]), 2);
    let mut sequence = Sequence::greedy(tokens(40, 5, model.spec().vocab), 20);
    sequence.sampling.prompt_logprobs = None;
    let sampling = &mut sequence.sampling;
    (sampling.temperature, sampling.seed) = (1.3, 11);
    (sampling.repetition_penalty, sampling.frequency_penalty) = (1.2, 0.3);
    let mut driver = Driver::new(&model);
    let whole = driver.generate(std::slice::from_ref(&sequence), 64).remove(0);
    let output: Vec<_> = whole.sampled.iter().map(|sampled| sampled.token).collect();
    assert!(output.windows(2).any(|pair| pair[0] != pair[1]), "{output:?}");
    for emitted in [1, 7] {
        let rest = driver.resume(&sequence, &output[..emitted]);
        assert_eq!(rest, output[emitted], "after {emitted}");
    }
    driver.finish();
}

/// E-3, for plans made before the token was known that they feed.
#[test]
fn steps_planned_ahead_of_their_tokens_sample_the_same() {
    let model = load(&reference().join(CASES[1]), 2);
    let mut sequence = Sequence::greedy(tokens(40, 5, model.spec().vocab), 30);
    sequence.sampling.prompt_logprobs = None;
    let sampling = &mut sequence.sampling;
    (sampling.temperature, sampling.seed) = (1.3, 11);
    (sampling.repetition_penalty, sampling.frequency_penalty) = (1.2, 0.3);
    let mut driver = Driver::new(&model);
    let told = driver.generate(std::slice::from_ref(&sequence), 64).remove(0);
    assert_eq!(driver.generate_ahead(&sequence), told.sampled);
    driver.finish();
}
