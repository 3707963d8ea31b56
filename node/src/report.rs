//! The report firstboot gives of a boot: read by people on the console, by `builder boot` from a
//! serial port, and by later tools from the file.

use serde::{Deserialize, Serialize};

use crate::config::Role;
use crate::image_id::ImageId;
use crate::values::Digest;

/// Where the report lies on a node, relative to its root.
pub const PATH: &str = "run/firstboot/report.json";

/// Version of the report's shape.
pub const SCHEMA: u32 = 1;

/// Prefix of the report's one line on the serial console.
pub const CONSOLE_PREFIX: &str = "FIRSTBOOT-REPORT ";

/// How far the node came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Host stage done, K3s started, the node not seen Ready yet.
    Starting,
    /// Maintenance mode: no join secret yet; SSH is up and K3s is not started.
    Waiting,
    /// The node is Ready in Kubernetes.
    Ready,
    /// A step failed; `failure` says which and why.
    Failed,
}

/// What a step came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It changed something.
    Applied,
    /// Nothing was to do.
    Satisfied,
    /// It cannot go on without something that may still come.
    Waiting,
    /// It failed.
    Failed,
}

/// One step of a stage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepReport {
    /// Name of the step.
    pub name: String,
    /// `host` or `cluster`.
    pub stage: String,
    /// What came of it.
    pub outcome: Outcome,
    /// How long it took, in milliseconds.
    pub millis: u64,
    /// What was done, or is missing, or the cause of the failure.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

/// What is wrong and how to go on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The step that failed or waits.
    pub step: String,
    /// The whole chain of causes, outermost first.
    pub cause: String,
    /// The command or action that helps.
    pub fix: String,
}

/// The whole report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Image of the node; absent when its configuration cannot be read.
    pub image_id: Option<ImageId>,
    /// Host name.
    pub node: String,
    /// Server or agent; absent when the configuration cannot be read.
    pub role: Option<Role>,
    /// Kernel's id of this boot.
    pub boot_id: String,
    /// How far it came.
    pub state: State,
    /// Milliseconds from kernel start to this report.
    pub uptime_millis: u64,
    /// Packages that differ from the image's: `NAME OLD -> NEW`, `+ NAME NEW`, `- NAME OLD`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub modified: Vec<String>,
    /// Every step so far, in order.
    pub steps: Vec<StepReport>,
    /// Whether the bundle is still being applied: the node is Ready, and another report follows.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub applying: bool,
    /// What became of the bundle, on servers whose image has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bundle: Option<BundleReport>,
    /// Present in the states `waiting` and `failed`; in `ready` when the bundle is not whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
}

/// What became of the bundle in this boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleReport {
    /// Revision of this image's bundle.
    pub revision: u64,
    /// Its digest.
    pub digest: Digest,
    /// Why the bundle as a whole was left alone, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped: Option<String>,
    /// Every release in its order; empty when the bundle was left alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub releases: Vec<ReleaseReport>,
}

/// What became of one release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseReport {
    /// `NAMESPACE/NAME`.
    pub release: String,
    /// How it ended.
    pub outcome: ReleaseOutcome,
    /// How long it took, in milliseconds.
    pub millis: u64,
    /// The cause, where there is one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

/// How a release ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReleaseOutcome {
    /// Installed or upgraded, and healthy.
    Applied,
    /// As wanted before.
    Satisfied,
    /// Not in the bundle any more, and removed.
    Removed,
    /// Not in the bundle any more, and kept for its data.
    Kept,
    /// Its chart, or that of one it needs, is not in this image.
    LeftOut,
    /// It failed.
    Failed,
    /// Not tried: one that it needs failed.
    Blocked,
}

impl ReleaseOutcome {
    /// The word that JSON has for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Satisfied => "satisfied",
            Self::Removed => "removed",
            Self::Kept => "kept",
            Self::LeftOut => "left-out",
            Self::Failed => "failed",
            Self::Blocked => "blocked",
        }
    }

    /// Whether the bundle is not whole because of it.
    pub const fn is_bad(self) -> bool {
        matches!(self, Self::Failed | Self::Blocked)
    }
}

impl BundleReport {
    /// How many releases ended so.
    pub fn count(&self, outcome: ReleaseOutcome) -> usize {
        self.releases.iter().filter(|r| r.outcome == outcome).count()
    }
}
