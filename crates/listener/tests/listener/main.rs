//! A listener as its clients see it, over sockets and on a clock that tests control.

mod ends;
mod frames;
mod limits;
mod protocols;
mod support;
