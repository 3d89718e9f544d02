//! What a pass must look at, and what it moves.

use std::sync::Arc;

use tranship_engine::entry::Entry;
use tranship_engine::moves::{Move, Moves, Trace, traces};
use tranship_engine::overlay::{Dated, overlay};
use tranship_engine::plan::{Candidate, Scanned, candidates};
use tranship_engine::session::source::Planned;
use tranship_proto::entry::{Kind, Place};
use tranship_proto::message::{BasisChoice, Fidelity, Gap, GapKind, VolumeKind};

use super::read::Reading;
use super::structure::Structure;
use super::{Source, State, lock};
use crate::gaps::Gaps;
use crate::pass::{Counters, PassError, Scan};
use crate::remap::remap;
use crate::state::head::manifest_name;
use crate::state::sorter::Sorter;
use crate::state::{Entries, StateError, Store, finish_list, read_entries, read_list, write_list};

/// Beyond this many candidates it is cheaper to doubt everything after a crash than to record each intent.
const LISTED_INTENTS_MAX: u64 = 10_000;

/// What is known of both sides, as often as it is read.
struct Lists {
    store: Arc<dyn Store>,
    known: Option<String>,
    /// Without a list, what is held is what is known.
    held: Option<Held>,
}

/// What the destination holds.
enum Held {
    /// What it told, on top of what we know or of nothing.
    Surveyed { has_base: bool },
    /// This list.
    Listed(&'static str),
}

impl Lists {
    fn known(&self) -> Result<Entries, StateError> {
        read_entries(&*self.store, self.known.as_deref())
    }

    fn held(&self) -> Result<Option<Entries>, StateError> {
        Ok(match self.held {
            None => None,
            Some(Held::Listed(name)) => Some(read_entries(&*self.store, Some(name))?),
            Some(Held::Surveyed { has_base }) => {
                let nothing = || Box::new(std::iter::empty()) as Entries;
                let base = if has_base { self.known()? } else { nothing() };
                Some(match read_list::<Dated>(&*self.store, "survey.tmp")? {
                    Some(surveyed) => Box::new(overlay(base, surveyed)),
                    None => base,
                })
            }
        })
    }

    /// What both lists would be if the destination had always looked as it does after the moves; nothing if that cannot
    /// be written down.
    fn remapped(&self, moves: &Moves) -> Result<Option<Self>, StateError> {
        let mut fits = remap(&self.store, "known.tmp", moves, || self.known(), Some)?;
        if self.held.is_some() {
            let held = || Ok(self.held()?.expect("there is one"));
            fits &= remap(&self.store, "held.tmp", moves, held, Some)?;
        }
        let held = self.held.as_ref().map(|_| Held::Listed("held.tmp"));
        Ok(fits.then(|| Self { store: self.store.clone(), known: Some("known.tmp".to_owned()), held }))
    }
}

/// What left its place and what arrived at one, of which pairs are made when all are known.
struct Tracks {
    traces: Sorter<Trace>,
    left: u64,
    arrived: u64,
}

impl Tracks {
    fn new(store: Arc<dyn Store>) -> Self {
        Self { traces: Sorter::new(store, "traces", Trace::compare), left: 0, arrived: 0 }
    }

    fn observe(
        &mut self,
        found: Option<&Scanned>,
        known: Option<&Entry>,
        held: Option<&Entry>,
    ) -> Result<(), StateError> {
        for trace in traces(found, known, held).into_iter().flatten() {
            *(if trace.has_arrived { &mut self.arrived } else { &mut self.left }) += 1;
            self.traces.push(trace)?;
        }
        Ok(())
    }

    fn moves(self) -> Result<Moves, StateError> {
        let mut moves = Moves::default();
        if self.left == 0 || self.arrived == 0 {
            return Ok(moves);
        }
        let mut pairs = Sorter::<Move>::new(self.traces.store(), "moves", Move::compare);
        let mut left: Option<Trace> = None;
        for trace in self.traces.sorted()? {
            let trace = trace?;
            if !trace.has_arrived {
                left = Some(trace);
            } else if let Some(left) = left.take_if(|left| left.is_of(&trace)) {
                let is_directory = trace.is_directory();
                pairs.push(Move { from: left.place, to: trace.place, is_directory })?;
            }
        }
        for pair in pairs.sorted()? {
            moves.offer(pair?);
        }
        Ok(moves)
    }
}

impl Source {
    /// Finds the candidates.
    pub fn plan(&self, choice: BasisChoice) -> Result<Planned, PassError> {
        let state = self.state();
        let (scan, survey) = {
            let mut inner = lock(&self.inner);
            (inner.scan.take().expect("scanned before planned"), inner.survey.take())
        };
        let is_surveyed = survey.is_some();
        survey.map_or(Ok(()), |survey| survey.finish())?;
        self.ask_tracking(choice);
        // After a clean pass the destination holds what we know; else what it says, on top of that or on top of nothing.
        let is_clean = matches!(choice, BasisChoice::Common(_));
        let held = (!is_clean || is_surveyed).then_some(Held::Surveyed { has_base: is_clean });
        let lists = Lists { store: state.store.clone(), known: state.head.token.map(manifest_name), held };
        let (planned, moves) = self.plan_moves(&state, &scan, lists)?;
        let mut planned = Planned { entries: scan.entries, moves: moves.len() as u64, ..planned };
        planned.touches_everything = self.facts.kind == VolumeKind::Tree
            && (choice == BasisChoice::Nothing || planned.candidates > LISTED_INTENTS_MAX);
        Counters::add(&self.counters.entries_changed, planned.candidates);
        Counters::add(&self.counters.entries_moved, planned.moves);
        Counters::add(&self.counters.bytes_planned, planned.bytes);
        let mut inner = lock(&self.inner);
        inner.has_candidates = planned.candidates > 0 || planned.moves > 0;
        inner.structure = Some(Structure::new(state.store.clone(), &moves)?);
        inner.moves = moves;
        *lock(&self.reading) = Some(Reading::new(&*state.store)?);
        Ok(planned)
    }

    /// Writes the candidates: those beside the moves, if there are any.
    fn plan_moves(&self, state: &State, scan: &Scan, lists: Lists) -> Result<(Planned, Moves), PassError> {
        let mut tracks = Tracks::new(state.store.clone());
        let has_known = lists.known.is_some();
        let observe = |found: Option<&Scanned>, known: Option<&Entry>, held: Option<&Entry>| {
            if has_known { tracks.observe(found, known, held) } else { Ok(()) }
        };
        let (planned, gaps) = self.write_candidates(state, scan, &lists, observe)?;
        let moves = tracks.moves()?;
        let remapped = if moves.is_empty() { None } else { lists.remapped(&moves)? };
        let (planned, gaps, moves) = match remapped {
            None => (planned, gaps, Moves::default()),
            Some(lists) => {
                lock(&self.inner).base = lists.known.clone();
                let (planned, gaps) = self.write_candidates(state, scan, &lists, |_, _, _| Ok(()))?;
                (planned, gaps, moves)
            }
        };
        lock(&self.gaps).append(gaps);
        Ok((planned, moves))
    }

    fn write_candidates(
        &self,
        state: &State,
        scan: &Scan,
        lists: &Lists,
        observe: impl FnMut(Option<&Scanned>, Option<&Entry>, Option<&Entry>) -> Result<(), StateError>,
    ) -> Result<(Planned, Gaps), PassError> {
        let store = &*state.store;
        let (mut planned, mut gaps) = (Planned::default(), Gaps::default());
        let mut list = write_list::<Candidate>(store, "candidates.tmp")?;
        for candidate in candidates(scan.entries(store)?, lists.known()?, lists.held()?, observe) {
            let candidate = candidate?;
            if let Some(gap) = self.gap_alone(&candidate) {
                gaps.push(gap);
                continue;
            }
            planned.candidates += 1;
            if let Some(found) = &candidate.found
                && found.stat.kind.has_content()
                && found.leader.is_none()
            {
                planned.bytes += found.stat.size;
            }
            list.push(candidate)?;
        }
        finish_list(list)?;
        Ok((planned, gaps))
    }

    /// The gap of an object that the mode does not carry, if nothing stands in its place at the destination: it gives
    /// nothing to do.
    fn gap_alone(&self, candidate: &Candidate) -> Option<Gap> {
        let found = candidate.found.as_ref().filter(|_| candidate.held.is_none())?;
        self.gap_of(&candidate.place, found.stat.kind)
    }

    /// What an object of this kind is if the mode does not carry it.
    pub(super) fn gap_of(&self, place: &Place, kind: Kind) -> Option<Gap> {
        let (what, detail) = match kind {
            // A socket is a name that a running program listens on; it makes its own again.
            Kind::Socket => (GapKind::Socket, "not made"),
            Kind::CharDevice | Kind::BlockDevice if self.settings.contract.fidelity < Fidelity::Exact => {
                (GapKind::Device, "needs mode exact")
            }
            _ => return None,
        };
        Some(Gap { place: place.clone(), what, detail: detail.to_owned() })
    }
}
