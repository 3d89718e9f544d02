//! The two writes of a commit.

use jiff::Timestamp;
use tranship_api::Side;
use tranship_api::record::{Authority, Proof, Step};

use super::{Ledger, Shelf, not_entitled};
use crate::Error;

impl<S: Shelf> Ledger<S> {
    /// The first write of a commit: the owner gives up, in its own cluster. From here on it starts nothing.
    ///
    /// An error leaves open whether it has; then nothing may be started anywhere until that was looked at again.
    pub async fn relinquish(&mut self, proof: Proof, digests: Vec<String>, at: Timestamp) -> Result<(), Error> {
        let (owner, epoch) = (self.record.owner, self.record.epoch);
        if !self.may_start(owner) {
            return Err(not_entitled(format!("the {owner} cannot give up what its cluster does not say it has")));
        }
        self.record.proof = Some(proof);
        self.record.committed();
        self.record.step = Step::Relinquished;
        self.record.happened(at, format!("the {owner} gave up in epoch {epoch}"));
        self.record.revision += 1;
        self.write(owner, Authority::Relinquished { epoch, digests }).await
    }

    /// The second write of a commit: the other side becomes authoritative, with a copy of what the first one wrote.
    pub async fn assume(&mut self, at: Timestamp) -> Result<(), Error> {
        let (owner, heir) = (self.record.owner, self.record.owner.other());
        let relinquished = match self.authority(owner) {
            Some(given @ Authority::Relinquished { .. }) if self.lead()? == owner => given.clone(),
            _ => {
                return Err(not_entitled(format!(
                    "the {owner} cluster does not say that it gave up, and the {heir} may not start without that"
                )));
            }
        };
        self.begin_at(heir, Some(Box::new(relinquished)), at, "is authoritative").await?;
        // The old owner's copy follows; what it says of itself stays.
        self.mirror(owner).await
    }

    /// The second write of a commit where the first cannot be seen, since the old owner's cluster is lost for good. Only for
    /// a user who has typed that, and only where the other side has a proven copy.
    pub async fn assume_without_owner(&mut self, coordinator: &str, at: Timestamp) -> Result<(), Error> {
        let (owner, heir) = (self.record.owner, self.record.owner.other());
        if self.authority(owner).is_some() || !matches!(self.record.step, Step::Proven | Step::Relinquished) {
            return Err(Error::refused(
                "TS-K917",
                format!(
                    "the {owner} cannot be overridden: its cluster answers, or no proven copy is at the {heir} ({})",
                    self.record.step.word()
                ),
                "bring the old cluster back, and run the command without the override",
            ));
        }
        // Its own commit is lost with the old owner, unless that one had let this copy follow.
        if self.record.step == Step::Proven {
            self.record.committed();
        }
        self.begin_epoch(coordinator);
        self.begin_at(heir, None, at, "was told by a user to take over without the word of the other side").await
    }

    async fn begin_at(
        &mut self,
        heir: Side,
        relinquished: Option<Box<Authority>>,
        at: Timestamp,
        what: &str,
    ) -> Result<(), Error> {
        let epoch = self.record.epoch;
        self.record.step = Step::Starting;
        self.record.happened(at, format!("the {heir} {what} in epoch {epoch}"));
        self.record.revision += 1;
        self.write(heir, Authority::Authoritative { epoch, relinquished }).await
    }
}
