//! The demo checkpoint, inside the binary. `demo/README.md` says how it was made.

macro_rules! files {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_bytes!(concat!("../demo/checkpoint/", $name)))),*]
    };
}

/// The names and the contents of the files.
pub(crate) const FILES: &[(&str, &[u8])] = files![
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "model.safetensors",
];
