//! `builder preflight` and `builder push` against the Proxmox double (`tests/pve`): the client's
//! library in virtual time with faults, the program for its messages and exit statuses.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a broken preparation ends the test")]

mod api;
mod certificates;
mod faults;
mod ha;
mod home;
mod k3s;
mod life;
mod nodes;
mod overhead;
mod program;
mod project;
mod quarantine;
mod rights;
mod speed;
mod upgrade;
mod wrong;
