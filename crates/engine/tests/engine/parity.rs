//! Greedy tokens through the engine equal those of Hugging Face transformers.

use std::fs;

use playhouse_types::{SamplingParams, TokenId};
use serde::Deserialize;

use crate::driver::{Driver, Sequence, cases, load};

#[derive(Deserialize)]
struct Reference {
    prompts: Vec<Prompt>,
}

#[derive(Deserialize)]
struct Prompt {
    tokens: Vec<TokenId>,
    greedy: Vec<TokenId>,
}

#[test]
fn greedy_tokens_equal_those_of_transformers() {
    for folder in cases() {
        let json = fs::read(folder.join("reference.json")).unwrap();
        let reference: Reference = serde_json::from_slice(&json).unwrap();
        let sequence = |prompt: &Prompt| Sequence {
            prompt: prompt.tokens.clone(),
            sampling: SamplingParams::greedy(prompt.greedy.len() as u32),
            cached: Vec::new(),
        };
        let sequences: Vec<_> = reference.prompts.iter().map(sequence).collect();
        let mut driver = Driver::new(&load(&folder, 2));
        // All prompts in one batch, in chunks that end within blocks.
        let generated = driver.generate(&sequences, 5);
        for (prompt, generated) in reference.prompts.iter().zip(generated) {
            let tokens: Vec<_> = generated.sampled.iter().map(|sampled| sampled.token).collect();
            assert_eq!(tokens, prompt.greedy, "{}", folder.display());
        }
        driver.finish();
    }
}
