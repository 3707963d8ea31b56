//! The image-id (D6): the build key of an image, which names its bytes one to one.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::values::{Digest, Hostname, Invalid};

/// Label of a Kubernetes Node with [`ImageId::short`]. Of our own domain: a kubelet may set it on
/// its Node, which it may not do with those of kubernetes.io.
pub const LABEL: &str = "node.homelab/image-id";

/// Annotation of a Kubernetes Node with the whole id.
pub const ANNOTATION: &str = "node.homelab/image";

/// Hex digits of the key shown to people: 48 bits, ample for the images one home ever builds.
const SHORT: usize = 12;

/// Marks an image whose K3s is the test double and not the real release.
const STANDIN: &str = "-standin";

/// `worker-3f9c2a71b0de`, or `worker-3f9c2a71b0de-standin`: profile, first 12 hex digits of the
/// build key, and a mark when K3s is the stand-in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageId {
    profile: Hostname,
    short: String,
    standin: bool,
}

impl ImageId {
    /// The id of a build of `profile` whose inputs hash to `key`.
    pub fn new(profile: Hostname, key: &Digest, standin: bool) -> Self {
        Self { profile, short: key.short(SHORT), standin }
    }

    /// Name of the profile it was built from.
    pub fn profile(&self) -> &Hostname {
        &self.profile
    }

    /// The 12 hex digits alone: the Node's label, and `IMAGE_VERSION` in os-release.
    pub fn short(&self) -> &str {
        &self.short
    }

    /// Whether K3s inside is the stand-in, so that the image must never be pushed.
    pub fn is_standin(&self) -> bool {
        self.standin
    }
}

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}{}", self.profile, self.short, if self.standin { STANDIN } else { "" })
    }
}

impl FromStr for ImageId {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let rule = || Invalid { rule: "must look like `worker-3f9c2a71b0de`".to_owned() };
        let (bare, standin) = match text.strip_suffix(STANDIN) {
            Some(bare) => (bare, true),
            None => (text, false),
        };
        let (profile, short) = bare.rsplit_once('-').ok_or_else(rule)?;
        let hex = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
        if short.len() != SHORT || !short.bytes().all(hex) {
            return Err(rule());
        }
        Ok(Self { profile: profile.parse()?, short: short.to_owned(), standin })
    }
}

impl Serialize for ImageId {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ImageId {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn print_and_parse_agree_also_for_the_standin() {
        for text in ["worker-3f9c2a71b0de", "my-dev-3f9c2a71b0de-standin"] {
            assert_eq!(text.parse::<ImageId>().unwrap().to_string(), text);
        }
        for text in ["worker", "worker-3F9c2a71b0de", "worker-3f9c", "-3f9c2a71b0de"] {
            assert!(text.parse::<ImageId>().is_err(), "{text}");
        }
    }
}
