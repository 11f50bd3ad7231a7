//! Plans and recommendations for people: text and a picture.

mod names;
mod picture;
mod ranking;
mod table;

pub use self::names::layout;
