//! What goes wrong between the coordinator and a cluster.

use thiserror::Error;
use tranship_api::{ObjectRef, Side};

/// Why a step was not done. What it leaves behind, the step's own documentation says.
#[derive(Debug, Error)]
pub enum Error {
    /// The kubeconfig has no such context, or cannot be used.
    #[error("the kubeconfig cannot be used{}", context.as_ref().map(|name| format!(" with context {name:?}")).unwrap_or_default())]
    Kubeconfig {
        /// The context that was asked for.
        context: Option<String>,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An API server cannot be reached, or did not answer in time.
    #[error("the {side} cluster's API server does not answer: {what}")]
    Unreachable {
        /// Which.
        side: Side,
        /// What was asked.
        what: String,
        /// Why; nothing if time ran out.
        source: Option<Box<kube::Error>>,
    },
    /// It says no.
    #[error("{side} cluster: cannot {what}")]
    Api {
        /// Which.
        side: Side,
        /// What was asked: `VERB OBJECT`.
        what: String,
        /// What it says.
        source: Box<kube::Error>,
    },
    /// Somebody else changed it at the same time, or has taken over.
    #[error("{coordinator} has taken over this migration (epoch {epoch})")]
    Superseded {
        /// Who.
        coordinator: String,
        /// In which epoch.
        epoch: u64,
    },
    /// Something is not as it has to be; nothing was changed because of it.
    #[error("{what}")]
    Refused {
        /// Stable code.
        code: &'static str,
        /// What, with the object and the limit.
        what: String,
        /// What the user can do.
        todo: String,
    },
    /// An object that has to be there is not.
    #[error("{side} cluster: {object} is not there")]
    Missing {
        /// Where.
        side: Side,
        /// What.
        object: ObjectRef,
    },
    /// Something took longer than it may.
    #[error("{what} took longer than {seconds} s")]
    Late {
        /// What was waited for, and what it was like at the end.
        what: String,
        /// How long.
        seconds: u64,
    },
    /// An agent said no, or ended badly.
    #[error("the {side} agent: {what}")]
    Agent {
        /// Which.
        side: Side,
        /// Its own code.
        code: String,
        /// What it says.
        what: String,
    },
    /// A cutover failed before its commit, and everything was taken back.
    #[error("the cutover failed before its commit; the application runs on the {owner} again")]
    Restored {
        /// Who has the application.
        owner: Side,
        /// Why it failed.
        source: Box<Error>,
    },
    /// A cutover failed before its commit, and so did taking it back.
    #[error(
        "the cutover failed before its commit ({source}), so did taking it back ({second}), and the application may stand \
         still on the {owner}"
    )]
    Stranded {
        /// Who has the application.
        owner: Side,
        /// Why the cutover failed.
        source: Box<Error>,
        /// Why it was not taken back.
        second: Box<Error>,
    },
    /// The user stopped it.
    #[error("stopped")]
    Stopped,
}

impl Error {
    /// The stable code that users and scripts see.
    pub fn code(&self) -> &str {
        match self {
            Self::Kubeconfig { .. } => "TS-K900",
            Self::Unreachable { .. } => "TS-K901",
            Self::Api { .. } => "TS-K902",
            Self::Superseded { .. } => "TS-P107",
            Self::Refused { code, .. } => code,
            Self::Missing { .. } => "TS-K903",
            Self::Late { .. } => "TS-K904",
            Self::Agent { code, .. } => code,
            Self::Restored { source, .. } => source.code(),
            Self::Stranded { .. } => "TS-K941",
            Self::Stopped => "TS-P109",
        }
    }

    /// What the user can do, where this place knows it.
    pub fn todo(&self) -> Option<&str> {
        match self {
            Self::Refused { todo, .. } => Some(todo),
            Self::Kubeconfig { .. } => Some("see `kubectl config get-contexts`; give --from and --to"),
            Self::Unreachable { .. } => {
                Some("see that `kubectl --context … get --raw=/readyz` answers, then run the same command again")
            }
            Self::Superseded { .. } => Some("let the other one go on; `tranship status` shows how far it is"),
            Self::Restored { source, .. } => source.todo(),
            Self::Stranded { .. } => Some(
                "`tranship status` names the command that starts the application where it was, and the one that goes on",
            ),
            Self::Late { .. } => Some("look at the pods and events of the namespace, then run the same command again"),
            _ => None,
        }
    }

    /// Says no with this code.
    pub fn refused(code: &'static str, what: impl Into<String>, todo: impl Into<String>) -> Self {
        Self::Refused { code, what: what.into(), todo: todo.into() }
    }

    /// Whether the API server says that the object is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Api { source, .. } if matches!(&**source, kube::Error::Api(status) if status.code == 404))
    }

    /// Whether the API server says that somebody else was faster.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Api { source, .. } if matches!(&**source, kube::Error::Api(status) if status.code == 409))
    }

    /// Whether it is not known if what was asked was done: there was no answer, or one that leaves it open.
    pub fn is_unanswered(&self) -> bool {
        let is_open = |source: &kube::Error| matches!(source, kube::Error::Api(status) if status.code == 429 || status.code >= 500);
        matches!(self, Self::Unreachable { .. }) || matches!(self, Self::Api { source, .. } if is_open(source))
    }

    /// Whether the API server says that this user may not.
    pub fn is_forbidden(&self) -> bool {
        matches!(self, Self::Api { source, .. } if matches!(&**source, kube::Error::Api(status) if status.code == 403))
    }
}
