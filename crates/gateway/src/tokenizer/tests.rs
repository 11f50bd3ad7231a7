use std::path::PathBuf;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn reference(path: &str) -> Vec<u8> {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/reference").join(path);
    std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

fn byte_level() -> Tokenizer {
    Tokenizer::from_bytes(&reference("tokenizer/tokenizer.json")).expect("the reference loads")
}

/// A tokenizer in the manner of Llama 2: `▁` for spaces, a token for every byte.
fn sentencepiece(decoder: Value) -> Result<Tokenizer, TokenizerError> {
    let mut vocab: Vec<Value> =
        (0..=255).map(|byte| json!([format!("<0x{byte:02X}>"), 0])).collect();
    for piece in ["<unk>", "▁", "▁Hi", "Hi", "▁你", "a", "▁▁", "<s>"] {
        vocab.push(json!([piece, 0]));
    }
    let file = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
        "pre_tokenizer": null, "post_processor": null,
        "added_tokens": [{"id": 263, "content": "<s>", "single_word": false, "lstrip": false,
                          "rstrip": false, "normalized": false, "special": true}],
        "decoder": decoder,
        "model": {"type": "Unigram", "unk_id": 256, "vocab": vocab, "byte_fallback": true},
    });
    Tokenizer::from_bytes(file.to_string().as_bytes())
}

fn llama2_decoder() -> Value {
    json!({"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"}, {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0}]})
}

fn incrementally(tokenizer: &Tokenizer, tokens: &[TokenId], skip: bool) -> String {
    let mut detokenizer = Detokenizer::new(skip, true);
    let mut text = String::new();
    for &token in tokens {
        let mut piece = String::new();
        detokenizer.push(tokenizer, token, &mut piece);
        text.push_str(&piece);
    }
    detokenizer.finish(&mut text);
    text
}

#[test]
fn the_reference_texts_encode_and_decode_as_in_transformers() {
    let plain = byte_level();
    let with_bos = Tokenizer::from_bytes(&reference("tokenizer/bos/tokenizer.json"))
        .expect("the reference loads");
    let cases: Vec<Value> =
        serde_json::from_slice(&reference("tokenizer/cases.json")).expect("cases are JSON");
    assert!(cases.len() > 50);
    for case in &cases {
        let text = case["text"].as_str().expect("text");
        let ids: Vec<TokenId> = serde_json::from_value(case["ids"].clone()).expect("ids");
        assert_eq!(plain.encode(text, true).expect("encodes"), ids, "{text:?}");
        assert_eq!(plain.encode(text, false).expect("encodes"), ids, "{text:?}");
        let bos = with_bos.encode(text, true).expect("encodes");
        assert_eq!((bos[0], &bos[1..]), (287, &ids[..]), "{text:?}");
        assert_eq!(plain.decode(&ids, false), case["decoded"], "{text:?}");
        assert_eq!(plain.decode(&ids, true), case["decoded_without_special"], "{text:?}");
    }
}

#[test]
fn a_code_point_is_emitted_when_its_last_byte_comes() {
    let tokenizer = sentencepiece(llama2_decoder()).expect("loads");
    let mut detokenizer = Detokenizer::new(true, false);
    let mut text = String::new();
    for (byte, so_far) in [(0xF0, ""), (0x9F, ""), (0x99, ""), (0x82, "🙂"), (0xE4, "🙂")] {
        detokenizer.push(&tokenizer, byte, &mut text);
        assert_eq!(text, so_far);
    }
    detokenizer.finish(&mut text);
    assert_eq!(text, "🙂\u{FFFD}");
    detokenizer.finish(&mut text);
    assert_eq!(text, "🙂\u{FFFD}");
}

#[test]
fn sentencepiece_loses_one_space_at_the_start_only() {
    let tokenizer = sentencepiece(llama2_decoder()).expect("loads");
    assert_eq!(tokenizer.decode(&[258, 258, 260], false), "Hi Hi 你");
    assert_eq!(tokenizer.decode(&[262, 259], false), " Hi");
    assert_eq!(tokenizer.decode(&[257, 258], false), " Hi");
    assert_eq!(tokenizer.decode(&[263, 258], true), "Hi");
    let mut text = String::new();
    Detokenizer::new(true, false).push(&tokenizer, 258, &mut text);
    assert_eq!(text, " Hi");
}

#[test]
fn an_id_without_a_token_stands_for_nothing() {
    let tokenizer = byte_level();
    assert_eq!(tokenizer.vocab(), 288);
    assert_eq!(tokenizer.token_bytes(288), b"");
    assert_eq!(tokenizer.decode(&[39, u32::MAX, 68], false), "He");
}

#[test]
fn unusable_files_are_errors_that_say_why() {
    let refused = |file: &[u8]| match Tokenizer::from_bytes(file) {
        Ok(_) => panic!("must be refused"),
        Err(error) => error.to_string(),
    };
    assert!(refused(b"{").contains("tokenizer.json"));
    assert!(refused(b"").contains("tokenizer.json"));
    let word_piece = sentencepiece(json!({"type": "WordPiece", "prefix": "##", "cleanup": true}));
    let message = word_piece.err().expect("refused").to_string();
    assert!(message.contains("WordPiece") && message.contains("ByteLevel"), "{message}");
    let strip = json!({"type": "Strip", "content": " ", "start": 0, "stop": 1});
    assert!(sentencepiece(strip).err().expect("refused").to_string().contains("stop: 1"));
    assert!(sentencepiece(Value::Null).is_err());
}

#[test]
fn the_bytes_of_a_token_are_bounded_where_no_text_is_lost() {
    let file: Value = serde_json::from_slice(&reference("tokenizer/tokenizer.json")).expect("JSON");
    let bound = |change: &dyn Fn(&mut Value)| {
        let mut file = file.clone();
        file["normalizer"] = Value::Null;
        change(&mut file);
        Tokenizer::from_bytes(file.to_string().as_bytes()).expect("loads").bytes_per_token_max()
    };
    let longest = (0..288).map(|token| byte_level().token_bytes(token).len()).max();
    assert_eq!(bound(&|_| ()), longest);
    let normalizer = |normalizer: Value| bound(&|file| file["normalizer"] = normalizer.clone());
    let four = longest.map(|longest| 4 * longest);
    assert_eq!(normalizer(json!({"type": "NFC"})), four);
    let replace = |from: &str, to: &str| json!({"type": "Replace", "pattern": {"String": from}, "content": to});
    assert_eq!(normalizer(replace(" ", "▁")), longest);
    assert_eq!(normalizer(replace("ab", "")), None);
    let sequence = json!([{"type": "NFKC"}, replace("a", "bc")]);
    assert_eq!(normalizer(json!({"type": "Sequence", "normalizers": sequence})), four);
    let strip = json!({"type": "Strip", "strip_left": true, "strip_right": true});
    assert_eq!(normalizer(strip), None, "it drops spaces");
    assert_eq!(bound(&|file| file["added_tokens"][0]["rstrip"] = true.into()), None);
    let no_exclamation_mark = |file: &mut Value| {
        let vocab = file["model"]["vocab"].as_object_mut().expect("an object");
        let id = vocab.remove("!").expect("it has one");
        vocab.insert("never".to_owned(), id);
    };
    assert_eq!(bound(&no_exclamation_mark), None, "a text of them has no tokens");
}

proptest! {
    /// **TOK-1** and **TOK-2**, against the decoder of `tokenizers` itself.
    #[test]
    fn pieces_join_to_the_decoding_of_the_whole(
        tokens in prop::collection::vec(0_u32..290, 0..60),
        skip: bool,
    ) {
        let tokenizer = byte_level();
        let whole = tokenizer.encoder.decode(&tokens, skip).expect("decodes");
        prop_assert_eq!(incrementally(&tokenizer, &tokens, skip), whole);
    }

    /// The same for SentencePiece, where every run of fallback bytes is valid.
    #[test]
    fn sentencepiece_pieces_join_to_the_decoding_of_the_whole(
        parts in prop::collection::vec((256_u32..264, "[a-zé你🙂]{0,3}"), 0..20),
        skip: bool,
    ) {
        let tokenizer = sentencepiece(llama2_decoder()).expect("loads");
        let tokens: Vec<u32> = parts.iter()
            .flat_map(|(id, text)| std::iter::once(*id).chain(text.bytes().map(u32::from)))
            .collect();
        let whole = tokenizer.encoder.decode(&tokens, skip).expect("decodes");
        prop_assert_eq!(incrementally(&tokenizer, &tokens, skip), whole);
    }
}
