//! The codes that the process ends with. They are an interface: scripts branch on them.

use std::process::ExitCode;

use tranship_agent::report::Report;
use tranship_api::Side;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// Done; after a final pass, proven.
    Done = 0,
    /// What was typed cannot be done.
    Usage = 2,
    /// Refused before anything was changed.
    Refused = 3,
    /// Failed or stopped; the source is authoritative and the next pass goes on from here.
    Failed = 4,
    /// Failed after the commit; the destination is authoritative.
    FailedAfterCommit = 5,
    /// A final pass met things that it could not carry and that nobody accepted.
    Gaps = 6,
    /// Two volumes differ.
    Different = 7,
}

impl Exit {
    /// The number.
    pub(crate) fn number(self) -> u8 {
        self as u8
    }

    /// What a failure is that leaves this side authoritative.
    pub(crate) fn failed_with(authoritative: Side) -> Self {
        match authoritative {
            Side::Source => Self::Failed,
            Side::Destination => Self::FailedAfterCommit,
        }
    }

    /// What a report amounts to: a stage is done when it is committed, a final pass only when it is proven.
    pub(crate) fn of_report(report: &Report) -> Self {
        if !report.is_final || report.is_proven() {
            Self::Done
        } else if report.unaccepted_gaps().next().is_some() {
            Self::Gaps
        } else {
            Self::Failed
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.number())
    }
}

/// The table for `--help`.
pub(crate) const HELP: &str = "\
Exit codes:
  0  done; for a final pass, for `verify` and for `demo`: proven
  2  usage: what was typed cannot be done
  3  refused, nothing was done
  4  failed or stopped, the source is authoritative
  5  failed, the destination is authoritative
  6  a final pass met things that it cannot carry (a stage lists them and ends with 0)
  7  `verify` found a difference";

#[cfg(test)]
mod tests {
    use tranship_agent::report::{Basis, Digest, Fidelity, Gap, GapKind, Kind, Level, Place, Proof, Versions};

    use super::*;

    fn proven() -> Report {
        let digest = Digest([7; 32]);
        let mut report = Report::new(1, true, Kind::Tree, Basis::Nothing);
        (report.digest_source, report.digest_destination) = (Some(digest), Some(digest));
        report.proof = Some(Proof {
            level: Level::Full,
            mode: Fidelity::Plain,
            canonical: digest,
            challenge: digest,
            entries: 1,
            bytes: 1,
            read_source_bytes: 1,
            read_destination_bytes: 1,
            read_at: 0,
            versions: Versions { source: String::new(), destination: String::new() },
        });
        report
    }

    #[test]
    fn a_final_pass_without_proof_never_ends_with_zero() {
        assert_eq!(Exit::of_report(&proven()), Exit::Done);
        let mut report = proven();
        report.proof = None;
        assert_eq!(Exit::of_report(&report), Exit::Failed);
        report.is_final = false;
        assert_eq!(Exit::of_report(&report), Exit::Done);
    }

    #[test]
    fn a_gap_that_nobody_accepted_fails_a_final_pass_only() {
        let mut report = proven();
        report.gaps = vec![Gap { path: Place::root(), kind: GapKind::Acl, detail: String::new(), accepted: false }];
        assert_eq!(Exit::of_report(&report), Exit::Gaps);
        report.gaps[0].accepted = true;
        assert_eq!(Exit::of_report(&report), Exit::Done);
        report.gaps[0].accepted = false;
        report.is_final = false;
        assert_eq!(Exit::of_report(&report), Exit::Done);
    }

    #[test]
    fn the_help_names_every_code() {
        use Exit::*;
        for exit in [Done, Usage, Refused, Failed, FailedAfterCommit, Gaps, Different] {
            assert!(HELP.contains(&format!("\n  {}  ", exit.number())), "{exit:?}");
        }
    }
}
