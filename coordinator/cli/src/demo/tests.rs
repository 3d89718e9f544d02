use std::process::Command;

use tranship_agent::report::{Basis, Digest, Kind, Level, Proof, Report, Versions};

use super::*;
use crate::args::Output;
use crate::paint::Paint;

const SEED: u64 = 11;

/// Copies with `cp -a`, and then does to the copy whatever a test wants. It always claims a proof.
struct Copier {
    damage: fn(&Volume, bool),
}

impl Mover for Copier {
    type Receiver = ();

    async fn ready(&self, _: &Volume) -> Result<(), RunError> {
        Ok(())
    }

    async fn pass(
        &self,
        volume: &Volume,
        (): (),
        is_final: bool,
        _: Arc<Monitor>,
        _: &Stop,
    ) -> Result<Passed, RunError> {
        if is_final {
            let status = Command::new("cp").arg("-a").arg(&volume.source).arg(&volume.destination).status();
            assert!(status.expect("cp runs").success());
        }
        (self.damage)(volume, is_final);
        Ok(claim(is_final))
    }
}

fn claim(is_final: bool) -> Passed {
    let digest = Digest([3; 32]);
    let mut report = Report::new(1, is_final, Kind::Tree, Basis::Nothing);
    report.predicted_final_seconds = Some(1.0);
    (report.digest_source, report.digest_destination) = (Some(digest), Some(digest));
    report.proof = Some(Proof {
        level: Level::Full,
        mode: tranship_agent::report::Fidelity::Plain,
        canonical: digest,
        challenge: digest,
        entries: 1,
        bytes: 1,
        read_source_bytes: 1,
        read_destination_bytes: 1,
        read_at: 0,
        versions: Versions { source: String::new(), destination: String::new() },
    });
    Passed { is_proven: report.is_proven(), report: serde_json::to_value(report).expect("serialises") }
}

async fn demonstrate<M: Mover>(mover: M, stop: Stop) -> Result<Exit, RunError> {
    let folder = tempfile::tempdir().expect("temporary folder");
    let printer = Printer { output: Output::Text, paint: Paint::off() };
    let story = Story::new(printer, true);
    let demo = Demo { mover, show: Show::Nothing, story, stop, volumes: volumes(folder.path()) };
    demo.run(SEED, 1 << 20).await
}

#[tokio::test]
async fn a_mover_that_copies_everything_succeeds() {
    let exit = demonstrate(Copier { damage: |_, _| {} }, Stop::new()).await;
    assert_eq!(exit.expect("succeeds"), Exit::Done);
}

#[tokio::test]
async fn a_mover_that_claims_a_proof_and_loses_something_fails() {
    let damage = |volume: &Volume, is_final: bool| {
        if is_final && volume.name == "tree" {
            std::fs::remove_file(volume.destination.join("latest")).expect("removed");
        }
    };
    let error = demonstrate(Copier { damage }, Stop::new()).await.expect_err("something is missing");
    assert_eq!(error.exit(), Exit::Failed);
    assert!(error.to_text().contains("TS-D501") && error.to_text().contains("latest"), "{}", error.to_text());
}

#[tokio::test]
async fn a_mover_without_a_proof_fails_whatever_it_copied() {
    struct Unproven;
    impl Mover for Unproven {
        type Receiver = ();
        async fn ready(&self, _: &Volume) -> Result<(), RunError> {
            Ok(())
        }
        async fn pass(
            &self,
            volume: &Volume,
            (): (),
            is_final: bool,
            monitor: Arc<Monitor>,
            stop: &Stop,
        ) -> Result<Passed, RunError> {
            let passed = Copier { damage: |_, _| {} }.pass(volume, (), is_final, monitor, stop).await?;
            Ok(Passed { is_proven: false, ..passed })
        }
    }
    let error = demonstrate(Unproven, Stop::new()).await.expect_err("nothing is proven");
    assert!(error.to_text().contains("TS-D500"), "{}", error.to_text());
}

#[tokio::test]
async fn a_stop_ends_it_with_the_source_authoritative() {
    let stop = Stop::new();
    stop.set();
    let error = demonstrate(Copier { damage: |_, _| {} }, stop).await.expect_err("it was stopped");
    assert_eq!(error.exit(), Exit::Failed);
    assert!(error.to_text().contains("TS-P109"));
}
