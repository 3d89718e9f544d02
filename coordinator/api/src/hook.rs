//! What runs at named points of a cutover, by the user's wish.

use serde::{Deserialize, Serialize};

use crate::object::Side;

/// A program that a cutover runs in a pod of its own, and waits for. It may be run twice if the coordinator is killed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Hook {
    /// When.
    pub at: Point,
    /// Image of its pod, which the namespace's nodes can pull.
    pub image: String,
    /// Program and arguments; none for what the image itself runs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// ServiceAccount of its namespace whose token it gets; nothing for no token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account: Option<String>,
    /// User that it runs as, not root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_as_user: Option<i64>,
    /// How long it may take; nothing for [`TIMEOUT_SECONDS`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<u32>,
}

/// How long a hook may take where nothing is said.
pub const TIMEOUT_SECONDS: u32 = 300;

/// A point of a cutover. A rollback after a commit has the same points, with the sides exchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Point {
    /// Beside the application, right before it is stopped. A failure takes the cutover back.
    BeforeStop,
    /// Where the application was, after it has let go of its volumes. A failure takes the cutover back.
    AfterStop,
    /// Where the application is about to start, after the commit. Nothing starts until it succeeds.
    BeforeStart,
    /// Where the application runs, after it is ready. A failure is told, and changes nothing.
    AfterReady,
}

impl Point {
    /// All of them, in order.
    pub const ALL: [Self; 4] = [Self::BeforeStop, Self::AfterStop, Self::BeforeStart, Self::AfterReady];

    /// As it is typed.
    pub fn word(self) -> &'static str {
        match self {
            Self::BeforeStop => "before-stop",
            Self::AfterStop => "after-stop",
            Self::BeforeStart => "before-start",
            Self::AfterReady => "after-ready",
        }
    }

    /// Where its hooks run in a cutover from `owner`.
    pub fn side(self, owner: Side) -> Side {
        match self {
            Self::BeforeStop | Self::AfterStop => owner,
            Self::BeforeStart | Self::AfterReady => owner.other(),
        }
    }
}
