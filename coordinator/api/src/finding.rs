//! What a preflight has to say: each finding with a code, the object, why, and what to do.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::object::{ObjectRef, Side};

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Good to know.
    Info,
    /// It will work, and not as well as it could, or not as the user may expect.
    Warning,
    /// Stages work, a cutover would be refused.
    Cutover,
    /// Nothing can begin.
    Blocking,
}

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// Stable code, `TS-K…`.
    pub code: String,
    /// How bad it is.
    pub severity: Severity,
    /// In which cluster; nothing for what concerns both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub side: Option<Side>,
    /// On what.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<ObjectRef>,
    /// What is so, and why that matters: one sentence that names the limit.
    pub why: String,
    /// What the user can do.
    pub todo: String,
}

impl Finding {
    /// A finding that names no object yet.
    pub fn new(code: &'static str, severity: Severity, why: impl Into<String>, todo: impl Into<String>) -> Self {
        let (why, todo) = (why.into(), todo.into());
        Self { code: code.to_owned(), severity, side: None, object: None, why, todo }
    }

    /// The same, in this cluster.
    pub fn at(self, side: Side) -> Self {
        Self { side: Some(side), ..self }
    }

    /// The same, on this object.
    pub fn on(self, object: ObjectRef) -> Self {
        Self { object: Some(object), ..self }
    }
}

impl fmt::Display for Finding {
    /// In one sentence, without what to do.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.code)?;
        if let Some(side) = self.side {
            write!(f, "{side}: ")?;
        }
        if let Some(object) = &self.object {
            write!(f, "{object}: ")?;
        }
        f.write_str(&self.why)
    }
}

/// All that a preflight found, worst first.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Findings(pub Vec<Finding>);

impl Findings {
    /// The worst of it.
    pub fn worst(&self) -> Option<Severity> {
        self.0.iter().map(|finding| finding.severity).max()
    }

    /// Whether passes may begin.
    pub fn allow_stages(&self) -> bool {
        self.worst() < Some(Severity::Blocking)
    }

    /// Whether a cutover may begin.
    pub fn allow_cutover(&self) -> bool {
        self.worst() < Some(Severity::Cutover)
    }

    /// Worst first, else in the order in which they were found.
    pub fn sort(&mut self) {
        self.0.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_one_sentence() {
        let finding = Finding::new("TS-K000", Severity::Info, "it is so", "nothing");
        assert_eq!(finding.to_string(), "TS-K000 it is so");
        let on = finding.at(Side::Source).on(ObjectRef::named("v1", "Pod", Some("shop"), "db"));
        assert_eq!(on.to_string(), "TS-K000 source: Pod shop/db: it is so");
    }

    #[test]
    fn what_may_begin_depends_on_the_worst_finding_alone() {
        let all = |severities: &[Severity]| {
            Findings(severities.iter().map(|&severity| Finding::new("TS-K000", severity, "", "")).collect())
        };
        for (severities, stages, cutover) in [
            (&[][..], true, true),
            (&[Severity::Info, Severity::Warning], true, true),
            (&[Severity::Cutover, Severity::Info], true, false),
            (&[Severity::Info, Severity::Blocking], false, false),
        ] {
            let findings = all(severities);
            assert_eq!((findings.allow_stages(), findings.allow_cutover()), (stages, cutover), "{severities:?}");
        }
    }
}
