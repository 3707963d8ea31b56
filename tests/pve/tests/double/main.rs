//! The double against its own rules, against the collected facts where they are, and under a client that
//! others wrote.

#![allow(
    clippy::unwrap_used,
    clippy::type_complexity,
    reason = "a broken preparation ends the test; a table's type stands beside its rows"
)]

mod client;
mod cloudinit;
mod compare;
mod facts;
mod lifecycle;
mod machine;
mod others;
mod permissions;
mod transcripts;
mod validate;
mod wire;
