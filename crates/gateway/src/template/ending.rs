//! The end of a prompt within its last message (`continue_final_message`), as transformers finds it: the
//! content gets a mark at its end, and the rendered text is cut where the mark is. Searching for the content
//! itself would find it in whatever the template writes behind it.

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::TemplateError;

/// The mark of transformers, with the space that a template which trims the content removes.
const MARK: &str = "CONTINUE_FINAL_MESSAGE_TAG ";

/// The content that is to be continued.
#[derive(Debug)]
pub(super) struct OpenContent(String);

// === impl OpenContent ===

impl OpenContent {
    /// Marks the end of the last message's content, in its last text part if there are parts.
    ///
    /// # Errors
    /// Returns [`TemplateError::NotContinuable`] when there is no such text.
    pub(super) fn mark(
        messages: &mut [Cow<'_, Map<String, Value>>],
    ) -> Result<Self, TemplateError> {
        let none = TemplateError::NotContinuable("the last message has no text to continue".into());
        let Some(content) = messages.last_mut().and_then(|it| it.to_mut().get_mut("content"))
        else {
            return Err(none);
        };
        let text = match content {
            Value::Array(parts) => parts.iter_mut().rev().find_map(|part| part.get_mut("text")),
            content => Some(content),
        };
        let Some(Value::String(text)) = text else { return Err(none) };
        let content = text.clone();
        text.push_str(MARK);
        Ok(Self(content))
    }

    /// Cuts a rendered text at the mark.
    ///
    /// # Errors
    /// Returns [`TemplateError::NotContinuable`] when the template does not repeat the content.
    pub(super) fn cut(&self, mut text: String) -> Result<String, TemplateError> {
        let at = text.rfind(MARK.trim_end()).filter(|_| text.contains(strip(&self.0)));
        let at = at.ok_or(TemplateError::NotContinuable(
            "the chat template does not repeat the last message word for word".into(),
        ))?;
        let keeps_space = text[at..].starts_with(MARK);
        text.truncate(at);
        if !keeps_space {
            text.truncate(strip_end(&text).len());
        }
        Ok(text)
    }
}

/// Returns a text as Python's `str.strip` does.
fn strip(text: &str) -> &str {
    strip_end(text).trim_start_matches(is_space)
}

fn strip_end(text: &str) -> &str {
    text.trim_end_matches(is_space)
}

/// Returns whether Python counts a character as white space: four separators more than Unicode does.
fn is_space(character: char) -> bool {
    character.is_whitespace() || matches!(character, '\x1c'..='\x1f')
}
