//! What a call answers: data, or an error with Proxmox' status and words.

use serde_json::Value as Json;

use crate::table::Errors;

/// An error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fail {
    /// The HTTP status.
    pub status: u16,
    /// Without the end of line that Proxmox adds.
    pub message: String,
    /// Texts by parameter.
    pub errors: Errors,
}

/// Data or an error.
pub type Reply = Result<Json, Fail>;

impl Fail {
    /// Any status.
    pub fn new(status: u16, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), errors: Errors::new() }
    }

    /// 400 with a text for each parameter.
    pub fn parameters(errors: Errors) -> Self {
        Self { status: 400, message: "Parameter verification failed.".to_owned(), errors }
    }

    /// 400 with a text for one parameter.
    pub fn parameter(name: &str, text: impl Into<String>) -> Self {
        Self::parameters(Errors::from([(name.to_owned(), text.into())]))
    }

    /// 403 that names path and privileges.
    pub fn denied(path: &str, privileges: &str) -> Self {
        Self::new(403, format!("Permission check failed ({path}, {privileges})"))
    }

    /// 403 without a word of what was missing.
    pub fn denied_plainly() -> Self {
        Self::new(403, "Permission check failed")
    }
}

impl From<String> for Fail {
    fn from(message: String) -> Self {
        Self::new(500, message)
    }
}
