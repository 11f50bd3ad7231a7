//! The `config.json` files of well-known models, so that a plan needs no download.
//!
//! Each file of the folder `published` is a published file without the keys that describe no size: training,
//! sampling, file formats. Models of equal sizes share a file; the table lists the names that each file
//! stands for.

use crate::ModelShape;
use crate::nearest::nearest;

/// A model whose `config.json` is built in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublishedModel {
    /// Name of the model, in lower case and without the organization.
    pub name: &'static str,
    /// Names of models with the same sizes, in the same form.
    aliases: &'static [&'static str],
    config: &'static str,
}

/// Endings of names that change no size: `Llama-3.1-8B-Instruct` has the sizes of `Llama-3.1-8B`.
const ENDINGS: [&str; 4] = ["-instruct", "-chat", "-base", "-hf"];

/// Writes each row as the name of a file, and the other names that the file stands for.
macro_rules! published {
    ($($name:literal $(= $($alias:literal)+)?;)+) => {
        &[$(PublishedModel {
            name: $name,
            aliases: &[$($($alias),+)?],
            config: include_str!(concat!("published/", $name, ".json")),
        }),+]
    };
}

const MODELS: &[PublishedModel] = published! {
    "deepseek-v2-lite";
    "deepseek-v3" =
        "deepseek-v3-0324" "deepseek-v3.1" "deepseek-v3.1-terminus" "deepseek-r1" "deepseek-r1-0528";
    "kimi-k2";
    "llama-2-7b";
    "llama-2-13b";
    "llama-2-70b";
    "llama-3-8b" = "meta-llama-3-8b";
    "llama-3-70b" = "meta-llama-3-70b";
    "llama-3.1-8b" = "meta-llama-3.1-8b" "deepseek-r1-distill-llama-8b";
    "llama-3.1-70b" = "meta-llama-3.1-70b" "llama-3.3-70b" "deepseek-r1-distill-llama-70b";
    "llama-3.1-405b" = "meta-llama-3.1-405b";
    "llama-3.2-1b";
    "llama-3.2-3b";
    "mistral-7b-v0.1" = "mistral-7b-instruct-v0.1";
    "mistral-7b-v0.2" = "mistral-7b-instruct-v0.2";
    "mistral-7b-v0.3" = "mistral-7b" "mistral-7b-instruct-v0.3";
    "mixtral-8x7b" = "mixtral-8x7b-v0.1" "mixtral-8x7b-instruct-v0.1";
    "mixtral-8x22b" = "mixtral-8x22b-v0.1" "mixtral-8x22b-instruct-v0.1";
    "qwen1.5-moe-a2.7b";
    "qwen2.5-0.5b";
    "qwen2.5-1.5b";
    "qwen2.5-3b";
    "qwen2.5-7b";
    "qwen2.5-7b-awq" = "qwen2.5-7b-instruct-awq";
    "qwen2.5-7b-gptq" = "qwen2.5-7b-instruct-gptq-int4";
    "qwen2.5-14b";
    "qwen2.5-32b";
    "qwen2.5-72b";
    "qwen3-0.6b";
    "qwen3-1.7b";
    "qwen3-4b";
    "qwen3-8b";
    "qwen3-14b";
    "qwen3-32b";
    "qwen3-32b-fp8";
    "qwen3-30b-a3b";
    "qwen3-30b-a3b-fp8";
    "qwen3-235b-a22b";
    "qwen3-235b-a22b-fp8";
    "qwen3-coder-480b-a35b";
    "tinyllama-1.1b" = "tinyllama-1.1b-chat-v1.0";
};

// === impl PublishedModel ===

impl PublishedModel {
    /// Returns the model called `name`, with or without its organization, in any case.
    #[must_use]
    pub fn find(name: &str) -> Option<&'static Self> {
        let plain = plain(name);
        std::iter::successors(Some(&*plain), |name| shorter(name))
            .find_map(|name| MODELS.iter().find(|model| model.names().any(|own| own == name)))
    }

    /// Returns the name of the built-in model that is most similar to `name`.
    #[must_use]
    pub fn nearest(name: &str) -> Option<&'static str> {
        nearest(&plain(name), MODELS.iter().flat_map(Self::names))
    }

    /// Returns every built-in model.
    pub fn all() -> impl Iterator<Item = &'static Self> {
        MODELS.iter()
    }

    /// Returns the shape that the model's file describes.
    #[must_use]
    pub fn shape(&self) -> ModelShape {
        ModelShape::parse(self.config.as_bytes()).expect("a file that the tests have read")
    }

    fn names(&self) -> impl Iterator<Item = &'static str> {
        std::iter::once(self.name).chain(self.aliases.iter().copied())
    }
}

/// Returns a name of a hub in the form of the table.
fn plain(name: &str) -> String {
    let name = name.trim_end_matches('/');
    name.rsplit('/').next().unwrap_or(name).to_ascii_lowercase().replace('_', "-")
}

/// Returns a name without an ending that changes no size.
fn shorter(name: &str) -> Option<&str> {
    ENDINGS.iter().find_map(|ending| name.strip_suffix(ending))
}
