//! The admin API over real sockets, with a script in the place of a cluster.

mod api;
mod changes;
mod script;
