//! Shared bench of the end-to-end tests: the built programs, a copy of the project, caches of
//! their own, and runs that end by a deadline.
//!
//! Nothing is skipped silently: what a test needs and does not find is a failure that says what
//! to run. Which cases of the long tables run is decided in [`sample`].

pub mod cache;
pub mod container;
pub mod home;
pub mod images;
pub mod jail;
pub mod kubernetes;
pub mod lab;
pub mod leftovers;
pub mod nfs;
pub mod run;
pub mod sample;
pub mod surroundings;
pub mod tied;
pub mod verdict;

pub use lab::Lab;
pub use run::{Ended, Running};
