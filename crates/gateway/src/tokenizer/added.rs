//! Tokens that other files than `tokenizer.json` add, or declare special, as transformers reads them:
//! `added_tokens_decoder` of `tokenizer_config.json`, or else the older `added_tokens.json` and
//! `special_tokens_map.json`, and last the tokens with a role, such as `eos_token`.

use std::collections::{BTreeMap, HashMap, HashSet};

use playhouse_types::TokenId;
use serde::Deserialize;
use serde_json::{Map, Value};
use tokenizers::AddedToken;

use super::TokenizerError;

/// The contents of the files from which a tokenizer is made.
#[derive(Clone, Copy, Debug, Default)]
pub struct TokenizerFiles<'a> {
    /// `tokenizer.json`
    pub tokenizer: &'a [u8],
    /// `tokenizer_config.json`
    pub config: Option<&'a [u8]>,
    /// `added_tokens.json`
    pub added_tokens: Option<&'a [u8]>,
    /// `special_tokens_map.json`
    pub special_tokens_map: Option<&'a [u8]>,
}

/// The keys of tokens that have a role.
const ROLES: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// The keys of lists of more special tokens; the second is the older name.
const MORE: [&str; 2] = ["extra_special_tokens", "additional_special_tokens"];

const CONFIG: &str = "tokenizer_config.json";
const ADDED_TOKENS: &str = "added_tokens.json";
const SPECIAL_TOKENS_MAP: &str = "special_tokens_map.json";

/// A token as the files write it.
#[derive(Deserialize)]
struct WrittenToken {
    content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    /// By default the opposite of `special`.
    normalized: Option<bool>,
    #[serde(default)]
    special: bool,
}

/// The tokens that the files beside `tokenizer.json` name.
pub(super) struct NamedTokens {
    /// `added_tokens_decoder`, or what stands in for it.
    decoder: BTreeMap<TokenId, AddedToken>,
    /// Whether the properties in `decoder` win over those in `tokenizer.json`.
    overrides: bool,
    /// The tokens with a role, and the other special tokens.
    special: Vec<AddedToken>,
    /// The texts of `bos_token` and all others, by these names.
    pub(super) texts: BTreeMap<String, String>,
}

// === impl NamedTokens ===

impl NamedTokens {
    /// Reads the files.
    ///
    /// # Errors
    /// Returns a [`TokenizerError`] that names the file and the key.
    pub(super) fn read(files: &TokenizerFiles<'_>) -> Result<Self, TokenizerError> {
        let mut config = object(CONFIG, files.config)?;
        let modern = config.contains_key("added_tokens_decoder");
        if !modern {
            config.extend(object(SPECIAL_TOKENS_MAP, files.special_tokens_map)?);
        }
        let special = special(&config)?;
        let mut decoder = BTreeMap::new();
        if modern {
            let key = "added_tokens_decoder";
            let entries = config[key].as_object().ok_or_else(|| bad(key, "expected an object"))?;
            for (id, token) in entries {
                let place = format!("{key}.{id}");
                let id = id.parse().map_err(|_| bad(&place, "expected a token id"))?;
                decoder.insert(id, written(&place, token, false)?);
            }
        } else {
            let texts: HashSet<_> = special.iter().map(|token| &*token.content).collect();
            for (text, id) in object(ADDED_TOKENS, files.added_tokens)? {
                let id = id.as_u64().and_then(|id| TokenId::try_from(id).ok());
                let id = id.ok_or_else(|| TokenizerError::Beside {
                    file: ADDED_TOKENS,
                    reason: format!("token {text:?}: expected a token id"),
                })?;
                let is_special = texts.contains(&*text);
                decoder.insert(id, AddedToken::from(text, is_special));
            }
        }
        let texts = config.iter().filter(|(name, _)| name.ends_with("_token"));
        let texts = texts.filter_map(|(name, token)| Some((name.clone(), text(token)?.to_owned())));
        Ok(Self { decoder, overrides: modern, special, texts: texts.collect() })
    }

    /// Adds to `tokenizer` the tokens that it lacks, or knows with other properties. A token gets the next
    /// free id, whatever id a file gives it, as in transformers.
    ///
    /// # Errors
    /// Returns [`TokenizerError::Malformed`] when a token cannot be added.
    pub(super) fn add_to(
        self,
        tokenizer: &mut tokenizers::Tokenizer,
    ) -> Result<(), TokenizerError> {
        let present = tokenizer.get_added_tokens_decoder();
        let Self { mut decoder, special, overrides, .. } = self;
        decoder.retain(|id, _| overrides || !present.contains_key(id));
        let known = present.values().chain(decoder.values());
        let known: HashMap<_, _> = known.map(|token| (&*token.content, token)).collect();
        let of_role = |token: AddedToken| {
            let known = known.get(&*token.content).map(|known| (*known).clone());
            AddedToken { special: true, ..known.unwrap_or(token) }
        };
        let special: Vec<_> = special.into_iter().map(of_role).collect();
        let mut tokens: Vec<_> = decoder.into_values().chain(special).collect();
        let present: HashSet<_> = present.into_values().collect();
        tokens.retain(|token| present.get(token) != Some(token));
        if tokens.is_empty() {
            return Ok(());
        }
        let added = tokenizer.add_tokens(tokens);
        added.map(drop).map_err(|why| TokenizerError::Malformed(why.to_string()))
    }
}

/// Returns the tokens with a role and the other special tokens, in the order in which they are added.
fn special(config: &Map<String, Value>) -> Result<Vec<AddedToken>, TokenizerError> {
    let mut tokens = Vec::new();
    for key in ROLES {
        match config.get(key) {
            None | Some(Value::Null) => {}
            Some(token) => tokens.push(written(key, token, true)?),
        }
    }
    for key in MORE {
        // Some models have an object of further roles there.
        let Some(list) = config.get(key).and_then(Value::as_array) else { continue };
        for (at, token) in list.iter().enumerate() {
            tokens.push(written(&format!("{key}[{at}]"), token, true)?);
        }
    }
    Ok(tokens)
}

/// Returns a token, written as its text or as an object.
fn written(key: &str, value: &Value, is_special: bool) -> Result<AddedToken, TokenizerError> {
    if let Some(text) = value.as_str() {
        return Ok(AddedToken::from(text, true));
    }
    let written: WrittenToken =
        serde_json::from_value(value.clone()).map_err(|why| bad(key, &why.to_string()))?;
    let special = written.special || is_special;
    Ok(AddedToken::from(written.content, special)
        .single_word(written.single_word)
        .lstrip(written.lstrip)
        .rstrip(written.rstrip)
        .normalized(written.normalized.unwrap_or(!special)))
}

/// Returns the text of a token, written as such or as an object.
fn text(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}

fn object(file: &'static str, bytes: Option<&[u8]>) -> Result<Map<String, Value>, TokenizerError> {
    let Some(bytes) = bytes else { return Ok(Map::new()) };
    serde_json::from_slice(bytes).map_err(|why| TokenizerError::Beside {
        file,
        reason: format!("expected a JSON object: {why}"),
    })
}

fn bad(key: &str, reason: &str) -> TokenizerError {
    TokenizerError::Beside { file: CONFIG, reason: format!("key `{key}`: {reason}") }
}
