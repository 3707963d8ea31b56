//! What each command does, over the modules of the library.

pub mod cache;
pub mod lock;
