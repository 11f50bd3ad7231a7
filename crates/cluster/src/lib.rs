//! The actors, and the front door requests enter by.
