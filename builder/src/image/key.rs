//! Stage keys (D4): the SHA-256 of everything a stage's output depends on, and of nothing else.

use node::values::Digest;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

/// A key in the making. Every part is fed with its label and length, so that no two different
/// lists of parts can give the same bytes.
#[derive(Debug, Clone)]
pub struct Key(Sha256);

impl Key {
    /// Starts the key of stage `stage`, whose code is at `version`: raise that when the stage
    /// makes other bytes from the same inputs.
    pub fn of(stage: &str, version: u32) -> Self {
        Self(Sha256::new()).with("stage", stage).with("version", version.to_string())
    }

    /// Adds raw bytes under a label.
    #[must_use]
    pub fn with(mut self, label: &str, value: impl AsRef<[u8]>) -> Self {
        for part in [label.as_bytes(), value.as_ref()] {
            self.0.update((part.len() as u64).to_le_bytes());
            self.0.update(part);
        }
        self
    }

    /// Adds a digest, of an input or of a stage before this one.
    #[must_use]
    pub fn digest(self, label: &str, value: &Digest) -> Self {
        self.with(label, value.as_bytes())
    }

    /// Adds a value by its JSON; types whose maps are ordered give one text each.
    ///
    /// # Errors
    /// A value that JSON cannot hold.
    pub fn json(self, label: &str, value: &impl Serialize) -> serde_json::Result<Self> {
        Ok(self.with(label, serde_json::to_vec(value)?))
    }

    /// The key.
    pub fn finish(self) -> Digest {
        Digest::from_bytes(self.0.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(parts: &[(String, Vec<u8>)]) -> Digest {
        parts.iter().fold(Key::of("s", 1), |k, (label, value)| k.with(label, value)).finish()
    }

    proptest! {
        #[test]
        fn keys_are_equal_exactly_when_their_parts_are(
            a in prop::collection::vec(("[a-c]{0,2}", prop::collection::vec(0u8..3, 0..3)), 0..4),
            b in prop::collection::vec(("[a-c]{0,2}", prop::collection::vec(0u8..3, 0..3)), 0..4),
        ) {
            prop_assert_eq!(key(&a) == key(&b), a == b);
            prop_assert_eq!(key(&a), key(&a.clone()));
        }
    }

    #[test]
    fn stage_and_version_count() {
        assert_ne!(Key::of("a", 1).finish(), Key::of("b", 1).finish());
        assert_ne!(Key::of("a", 1).finish(), Key::of("a", 2).finish());
    }
}
