//! What a call of a seam can answer besides its result. Three answers, as the engine does three things.

/// A call that did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failed {
    /// Not now, or nobody knows whether it had its effect: a connection that broke, a lock, an API
    /// that is away, an agent that is not up. The engine looks at what is there and calls again,
    /// until the step's deadline.
    #[error("{0}")]
    Later(String),
    /// No repetition helps: a missing privilege, a refused value, a storage that is full.
    #[error("{0}")]
    Never(String),
    /// The VM's number belongs to another: take the next one.
    #[error("{0}")]
    Taken(String),
}

impl Failed {
    /// What happened, on one line or several.
    pub fn text(&self) -> &str {
        match self {
            Self::Later(text) | Self::Never(text) | Self::Taken(text) => text,
        }
    }
}
