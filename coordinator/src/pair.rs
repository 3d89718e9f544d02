//! A pair of agents, one beside the volumes that are read and one beside those that are written, and its passes.
//!
//! What a pair needs in the clusters is made if it is not there and left for the next pass: claims in which the agents
//! remember, a port of the nodes, leave to use it. The pods end by themselves. Bringing up a pair changes neither volume; a
//! pass changes the destination's only, and whatever interrupts it, the next one goes on from there.

mod made;
mod meeting;
mod outcome;
mod probe;
mod relay;
mod throwaway;

use futures_util::future::join_all;
use jiff::Timestamp;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::timeout;
use tranship_api::migration::Verify;
use tranship_api::record::Path;
use tranship_api::{Record, Side, quantity};
use tranship_proto::control::{Ended, Event, Order, PassState, Purpose, Request, Role, VolumeFacts, VolumeKind};

pub use made::PairPlan;
pub use outcome::{Outcome, is_proof};
pub use probe::{Tried, try_ways};

use crate::agents::volume_key;
use crate::control::{Agent, PassEvent};
use crate::ledger::Ledger;
use crate::watch::{Update, Watch};
use crate::{Cluster, Error};
use meeting::{ALONE_MAX, Attempt};

/// What names a comparison among passes.
const COMPARISON: &str = "comparison";

/// Two agents that have a coordinator's ear.
pub struct Pair {
    plan: PairPlan,
    from: Agent,
    to: Agent,
    clusters: [Cluster; 2],
}

/// What a pass is to be.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Wanted {
    /// What comes of it.
    pub purpose: Purpose,
    /// Bits per second that all passes may send together.
    pub bits_per_second: Option<u64>,
    /// Whether it is left to the agents once they have met.
    pub detaches: bool,
}

impl Pair {
    /// Makes what is missing of the pair, and greets both agents in the record's epoch.
    pub async fn bring_up(ledger: &Ledger, plan: PairPlan, watch: &Watch) -> Result<Self, Error> {
        let (from, to) =
            tokio::try_join!(made::bring_up(ledger, &plan.from, watch), made::bring_up(ledger, &plan.to, watch))?;
        let clusters = Side::ALL.map(|side| ledger.cluster(side).clone());
        Ok(Self { plan, from, to, clusters })
    }

    /// Volumes of this pair, as indexes in the record.
    pub fn volumes(&self) -> &[usize] {
        &self.plan.from.volumes
    }

    /// Runs one pass over each volume, as many side by side as `turns`, which all pairs share, and the migration's limit for
    /// a node allow; there is no outcome of one that is left to the agents. A pass that is under way already, since another
    /// coordinator began it, is followed to its end, and counts if a stage is wanted.
    pub async fn run(
        &self,
        record: &Record,
        wanted: &Wanted,
        turns: &Semaphore,
        watch: &Watch,
    ) -> Vec<Result<Option<Outcome>, Error>> {
        let here = Semaphore::new(record.migration.spec.limits.passes_per_node as usize);
        let passes = (0..self.volumes().len()).map(async |place| {
            // Neither is ever closed.
            let _turn = (here.acquire().await, turns.acquire().await);
            self.pass(record, place, wanted, watch).await
        });
        join_all(passes).await
    }

    /// Tells the agent that has read that there is nothing more to do.
    pub fn dismiss_reader(&self) {
        self.from.say(Request::Leave);
    }

    /// Limits what this pair sends, from now on.
    pub fn limit(&self, bits_per_second: Option<u64>) {
        self.from.say(Request::Bandwidth { bits_per_second });
        // What goes back is little; what matters to that side is that somebody is there.
        self.to.say(Request::Bandwidth { bits_per_second });
    }

    /// An error if a volume holds more than the other side has room for, as the kernels tell it on both sides.
    pub fn check_room(&self, record: &Record) -> Result<(), Error> {
        // What is left out is counted, too, and nobody knows how much it is.
        if !record.migration.spec.exclude.is_empty() {
            return Ok(());
        }
        for &volume in self.volumes() {
            let key = volume_key(volume);
            let [read, written] =
                [&self.from, &self.to].map(|agent| agent.welcome.volumes.iter().find(|facts| facts.name == key));
            if let Some(lack) = read.zip(written).and_then(|(read, written)| lack_of_room(read, written)) {
                let side = self.plan.to.side;
                let claim = &record.volumes[volume].claim(side).name;
                return Err(Error::refused(
                    "TS-K957",
                    format!("{side}: claim {}/{claim} has too little room: {lack}", record.namespace(side)),
                    "expand the claim, if its class allows that, or finish the migration and create it with --size",
                ));
            }
        }
        Ok(())
    }

    /// How passes ended of which the record does not know, since nobody was there to hear it.
    pub fn missed(&self, record: &Record) -> Vec<Outcome> {
        // Of a comparison nothing is remembered.
        let is_known = |pass: &str| is_comparison(pass) || record.stages.iter().any(|stage| stage.pass == pass);
        let outcome = |&volume: &usize| {
            let key = volume_key(volume);
            let of_volume = |state: &&PassState| state.volume == key && state.role == Role::Source;
            let mut ended = self.from.welcome.passes.iter().filter(of_volume).filter_map(|state| state.ended.as_ref());
            let ended = ended.find(|ended| !is_known(&ended.pass))?;
            let is_final = ended.report.as_ref().is_some_and(|report| report["final"] == true);
            let purpose = if is_final { Purpose::Final { level: String::new() } } else { Purpose::default() };
            let wanted = Wanted { purpose, ..Wanted::default() };
            Some(Outcome::of(record, volume, began(&ended.pass), ended, None, &wanted))
        };
        self.volumes().iter().filter_map(outcome).collect()
    }

    async fn pass(
        &self,
        record: &Record,
        place: usize,
        wanted: &Wanted,
        watch: &Watch,
    ) -> Result<Option<Outcome>, Error> {
        let volume = self.volumes()[place];
        let key = volume_key(volume);
        let [read, written] = [&self.from, &self.to].map(|agent| agent.running(&key));
        match (read, written) {
            (Some(read), Some(written)) if read.pass == written.pass && read.role == Role::Source => {
                watch.note(format!(
                    "{}: a pass is under way already",
                    record.volumes[volume].claim(self.plan.from.side).name
                ));
                if wanted.detaches {
                    return Ok(None);
                }
                let began = began(&read.pass);
                let ended = self.follow(volume, self.from.follow(&read.pass), watch).await?;
                if timeout(ALONE_MAX, self.to.until_over(&read.pass)).await.is_err() {
                    self.to.end(&read.pass).await?;
                }
                if matches!(wanted.purpose, Purpose::Stage { .. }) && !is_comparison(&read.pass) {
                    return Ok(Some(Outcome::of(record, volume, began, &ended, None, wanted)));
                }
            }
            // Half of a pass waits for a peer that does not come.
            (read, written) => {
                for (agent, state) in [(&self.from, read), (&self.to, written)] {
                    if let Some(state) = state {
                        agent.end(&state.pass).await?;
                    }
                }
            }
        }
        let mut last = None;
        let (link, is_final) = (&record.migration.spec.link, wanted.purpose.level().is_some());
        // Through the API servers nothing passes without somebody who brings it.
        let paths = meeting::paths(link, record.path_of(volume), self.plan.from.side, is_final).into_iter();
        for path in paths.filter(|path| !(wanted.detaches && path.is_relayed)) {
            let attempt = Attempt::new(self, record, place, path.clone(), wanted);
            match attempt.run(watch).await? {
                meeting::End::Over { began, ended, path } => {
                    return Ok(Some(Outcome::of(record, volume, began, &ended, Some(path), wanted)));
                }
                meeting::End::Left => return Ok(None),
                meeting::End::Unreachable { began, ended } => {
                    watch.note(format!(
                        "{}: no way {}",
                        record.volumes[volume].claim(self.plan.from.side).name,
                        say(&path)
                    ));
                    last = Some((began, ended));
                }
            }
        }
        let (began, ended) = last.ok_or_else(|| {
            Error::refused(
                "TS-K935",
                "the agents can only meet through the API servers, and a pass cannot be left to them there",
                "run the stage without --detach, or choose another --endpoint",
            )
        })?;
        Ok(Some(Outcome::of(record, volume, began, &ended, None, wanted)))
    }

    /// Hears a pass to its end.
    async fn follow(
        &self,
        volume: usize,
        mut events: UnboundedReceiver<PassEvent>,
        watch: &Watch,
    ) -> Result<Ended, Error> {
        loop {
            match hear(&mut events, self.plan.from.side).await? {
                Event::Progress(progress) => watch.show(Update::Progress(volume, Box::new(progress))),
                Event::Note { text, .. } => watch.note(text),
                Event::Ended(ended) => {
                    watch.show(Update::Passed(volume));
                    return Ok(ended);
                }
                _ => {}
            }
        }
    }

    fn order(&self, record: &Record, place: usize, wanted: &Wanted, pass: &str, role: Role) -> Order {
        let volume = self.volumes()[place];
        let spec = &record.migration.spec;
        Order {
            pass: pass.to_owned(),
            volume: volume_key(volume),
            role,
            meeting: tranship_proto::control::Meeting::Listen { port: 0 },
            purpose: match &wanted.purpose {
                // What it writes has to be read back, where the proof will believe it.
                Purpose::Stage { .. } => Purpose::Stage { reads_back: spec.cutover.verify == Verify::Tracked },
                purpose => purpose.clone(),
            },
            mode: record.mode.word().to_owned(),
            accept_gaps: spec.accept_gaps.clone(),
            exclude: spec.exclude.clone(),
            compress: "auto".to_owned(),
            transport: "auto".to_owned(),
            bits_per_second: None,
            kind: if record.volumes[volume].is_block { VolumeKind::Block } else { VolumeKind::Tree },
        }
    }
}

/// The next event of a pass. What an agent does not follow, and an agent that is lost, are errors.
async fn hear(events: &mut UnboundedReceiver<PassEvent>, side: Side) -> Result<Event, Error> {
    match events.recv().await {
        Some(PassEvent::Said(event)) => match *event {
            Event::Rejected { code, message, .. } => Err(Error::Agent { side, code, what: message }),
            event => Ok(event),
        },
        Some(PassEvent::Lost(error)) => Err(error),
        None => Err(Error::Agent { side, code: "TS-K930".to_owned(), what: "it is gone".to_owned() }),
    }
}

/// What of `read` does not fit into `written`, if anything. Counts of 0 are not known.
fn lack_of_room(read: &VolumeFacts, written: &VolumeFacts) -> Option<String> {
    let lack = |held: u64, room: u64, say: fn(u64) -> String| {
        (room > 0 && held > room).then(|| format!("{} are to be carried, and it has {}", say(held), say(room)))
    };
    lack(read.bytes_used, written.bytes_total, quantity::text)
        .or_else(|| lack(read.inodes_used, written.inodes_total, |inodes| format!("{inodes} inodes")))
}

/// A name that no pass had before.
fn pass_name(epoch: u64, volume: usize, purpose: &Purpose, began: Timestamp) -> String {
    let key = volume_key(volume);
    match purpose {
        Purpose::Comparison => format!("{epoch}-{key}-{COMPARISON}-{}", began.as_nanosecond()),
        Purpose::Stage { .. } | Purpose::Final { .. } | Purpose::Probe => {
            format!("{epoch}-{key}-{}", began.as_nanosecond())
        }
    }
}

/// Whether a pass of this name only compared: it outlives the coordinator that began it, and is no stage then either.
fn is_comparison(pass: &str) -> bool {
    pass.rsplit('-').nth(1) == Some(COMPARISON)
}

/// When a pass of this name began; now, where it does not tell.
fn began(pass: &str) -> Timestamp {
    let nanoseconds = pass.rsplit('-').next().and_then(|text| text.parse().ok());
    nanoseconds.and_then(|at| Timestamp::from_nanosecond(at).ok()).unwrap_or_else(Timestamp::now)
}

fn say(path: &Path) -> String {
    match path.is_relayed {
        true => "through the API servers".to_owned(),
        false => format!("to the {} agent", path.listen),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_known_before_it_is_copied() {
        let facts = |bytes_total, bytes_used, inodes_total, inodes_used| VolumeFacts {
            name: "0".to_owned(),
            kind: VolumeKind::Tree,
            bytes_total,
            bytes_used,
            inodes_total,
            inodes_used,
        };
        let read = facts(100, 60, 10, 5);
        for (written, is_lacking) in [
            (facts(60, 1, 5, 1), false),
            (facts(59, 1, 5, 1), true),
            (facts(60, 1, 4, 1), true),
            (facts(0, 0, 0, 0), false),
        ] {
            assert_eq!(lack_of_room(&read, &written).is_some(), is_lacking, "{written:?}");
        }
    }

    #[test]
    fn the_name_of_a_pass_tells_when_it_began() {
        let at: Timestamp = "2026-01-01T00:00:00.5Z".parse().expect("it is a time");
        let name = |volume, purpose| pass_name(7, volume, &purpose, at);
        assert_eq!(began(&name(2, Purpose::default())), at);
        assert_ne!(name(2, Purpose::default()), name(1, Purpose::default()));
        assert_eq!(began(&name(2, Purpose::Comparison)), at);
        assert_eq!(
            [Purpose::default(), Purpose::Comparison].map(|purpose| is_comparison(&name(2, purpose))),
            [false, true]
        );
    }
}
