//! Settings of one engine that the layout has no place for (**PL-5**): the planner checks them against the
//! layout where that engine does. A translation leaves them out, and a note says so.

use super::settings::{Given, Settings};
use super::table::Table;
use super::value::Value;
use super::{Key, Note, NoteKind, Problem};

/// Settings with counts that are at least one.
const POSITIVE: &[Key] = &[
    Key::ContextTokens,
    Key::BlockTokens,
    Key::RequestsMax,
    Key::BatchTokensMax,
    Key::DevicesPerNode,
    Key::MemoryFraction,
];

/// Returns a problem for every setting that is zero and must not be.
pub(super) fn zeros(settings: &Settings) -> impl Iterator<Item = Problem> {
    let given = POSITIVE.iter().filter_map(|key| settings.get(*key));
    let zero = given.filter(|given| match given.value {
        Value::Size(size) => size == 0,
        Value::Tokens(tokens) => tokens == 0,
        Value::Fraction(share) => share == 0.0,
        _ => false,
    });
    zero.map(|given| Problem::BadValue {
        flag: given.spelling.clone(),
        value: given.value.to_string(),
        wants: "more than 0".to_owned(),
    })
}

/// Returns a note for every setting that nothing carries on. `headless` tells whether the layout contains the
/// flag of that name.
pub(super) fn notes(table: &Table, settings: &Settings, headless: bool) -> Vec<Note> {
    let mut notes = Vec::new();
    let mut note = |given: &Given, why: &str| {
        let message = format!("{}: {why}", given.value);
        notes.push(Note::new(NoteKind::Checked, given.spelling.as_str(), message));
    };
    let left_out = "no part of the layout; a translation leaves it out";
    for (_, given) in settings.iter().filter(|(key, _)| key.is_checked()) {
        note(given, left_out);
    }
    if let Some(given) = settings.get(Key::Headless).filter(|_| !headless) {
        note(given, left_out);
    }
    for (key, given) in settings.iter() {
        if let Some(why) = table.narrowed(key, &given.value.to_string()) {
            note(given, why);
        }
    }
    for key in [Key::ContextTokens, Key::BatchTokensMax] {
        if let Some(given) = settings.get(key).filter(|given| given.value == Value::Auto) {
            note(given, left_out);
        }
    }
    if let Some(given) =
        settings.get(Key::LayerUpdates).filter(|_| settings.size(Key::LayerUpdates) > Some(1))
    {
        note(given, "a layout only says that experts are rebalanced; a translation writes 1");
    }
    notes
}
