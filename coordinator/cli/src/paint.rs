//! Colour, where it is wanted. Nothing is said by colour alone.

use std::fmt::Display;
use std::io::{self, IsTerminal};

/// Whether and how to colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Paint {
    is_on: bool,
}

impl Paint {
    /// On for a terminal that can, unless `NO_COLOR` says otherwise (no-color.org).
    pub(crate) fn for_stdout() -> Self {
        let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        Self { is_on: io::stdout().is_terminal() && !is_set("NO_COLOR") && !is_dumb }
    }

    /// Without colour.
    #[cfg(test)]
    pub(crate) fn off() -> Self {
        Self { is_on: false }
    }

    /// For headings.
    pub(crate) fn bold(self, text: impl Display) -> String {
        self.with("1", text)
    }

    /// For what matters less.
    pub(crate) fn dim(self, text: impl Display) -> String {
        self.with("2", text)
    }

    /// For what is well.
    pub(crate) fn green(self, text: impl Display) -> String {
        self.with("1;32", text)
    }

    /// For what is not.
    pub(crate) fn red(self, text: impl Display) -> String {
        self.with("1;31", text)
    }

    fn with(self, code: &str, text: impl Display) -> String {
        if self.is_on { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }
}
