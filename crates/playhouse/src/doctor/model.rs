//! The check whether `playhouse serve` accepts a model folder. The loaders themselves check it; of
//! weights only the headers are read.

use std::path::Path;

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
    let mut checks = vec![tokenizer(&checkpoint), chat_template(&checkpoint)];
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

fn tokenizer(checkpoint: &Checkpoint) -> Check {
    match loading::tokenizer(checkpoint) {
        Ok(tokenizer) => Check::ok("tokenizer", format!("{} tokens", tokenizer.vocab())),
        Err(why) => {
            let hint = "only tokenizer.json is read; transformers' save_pretrained() writes it";
            Check::fail("tokenizer", why, hint)
        }
    }
}

fn chat_template(checkpoint: &Checkpoint) -> Check {
    match loading::template(checkpoint) {
        Ok(Some(_)) => Check::ok("chat template", "compiles"),
        Ok(None) => {
            let hint = "/v1/completions works without one; chat needs chat_template.jinja";
            Check::warn("chat template", "none", hint)
        }
        Err(why) => Check::fail("chat template", why, "repair or remove the template"),
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
            let hint = "the files are incomplete, damaged or of another model: fetch them again";
            Check::fail("weights", why.to_string(), hint)
        }
    }
}
