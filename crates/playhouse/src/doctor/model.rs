//! The check whether `playhouse serve` accepts a model folder. The loaders themselves check it; of
//! weights only the headers are read.

use std::path::Path;

use playhouse_gateway::{TemplateError, Tokenizer};
use playhouse_layout::ModelShape;
use playhouse_model::{Checkpoint, Weights, checkpoint_shape};

use super::Check;
use crate::loading;
use crate::sizing::Bytes;

/// Returns all checks of the model in `folder`.
pub(super) fn checks(folder: &Path) -> Vec<Check> {
    let checkpoint = match Checkpoint::open(folder) {
        Ok(checkpoint) => checkpoint,
        Err(why) => {
            return vec![Check::fail("model", why.to_string(), "see docs of `playhouse serve`")];
        }
    };
    let (tokens, tokenizer) = tokenizer(&checkpoint);
    let mut checks = vec![tokens, chat_template(&checkpoint, tokenizer.as_ref())];
    match checkpoint_shape(&checkpoint) {
        Ok(shape) => checks.extend([
            Check::ok("config", shape.architecture.clone()),
            generation(&checkpoint, &shape),
            weights(&checkpoint, &shape),
        ]),
        Err(why) => {
            let hint = "a model folder has the config.json of its checkpoint";
            checks.push(Check::fail("config", why.to_string(), hint));
        }
    }
    checks
}

fn tokenizer(checkpoint: &Checkpoint) -> (Check, Option<Tokenizer>) {
    match loading::tokenizer(checkpoint) {
        Ok(tokenizer) => {
            (Check::ok("tokenizer", format!("{} tokens", tokenizer.vocab())), Some(tokenizer))
        }
        Err(why) => {
            let hint = "transformers' save_pretrained() writes the files of a tokenizer";
            (Check::fail("tokenizer", why, hint), None)
        }
    }
}

/// Checks the template. Completions work without one.
fn chat_template(checkpoint: &Checkpoint, tokenizer: Option<&Tokenizer>) -> Check {
    let name = "chat template";
    let special_tokens = tokenizer.map(Tokenizer::special_tokens).cloned().unwrap_or_default();
    match loading::template(checkpoint, &special_tokens) {
        Ok(_) => Check::ok(name, "compiles"),
        Err(TemplateError::Missing) => {
            let hint = "/v1/completions works without one; `serve --chat-template` gives one";
            Check::warn(name, "none", hint)
        }
        Err(why) => {
            let hint = "repair the template, or give another to `serve --chat-template`; \
                        /v1/completions works without one";
            Check::fail(name, why.to_string(), hint)
        }
    }
}

fn generation(checkpoint: &Checkpoint, shape: &ModelShape) -> Check {
    match checkpoint.generation_defaults(shape) {
        Ok(_) => Check::ok("sampling", "generation_config.json, where present, is in range"),
        Err(why) => Check::fail("sampling", why.to_string(), "repair generation_config.json"),
    }
}

fn weights(checkpoint: &Checkpoint, shape: &ModelShape) -> Check {
    match Weights::check(checkpoint, &shape.spec) {
        Ok(bytes) => Check::ok("weights", Bytes(bytes as u64).to_string()),
        Err(why) => {
            let hint =
                "files that are incomplete, damaged or of another model can be fetched again";
            Check::fail("weights", why.to_string(), hint)
        }
    }
}
