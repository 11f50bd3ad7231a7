//! The OpenAI API: template, tokenize, validate, stream.
