//! Shared bench of the end-to-end tests.
