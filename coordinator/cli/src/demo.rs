//! The main job on this machine: an application that keeps writing, two agents that receive, stages, the last pass and
//! its proof, and the application again on the other side.
//!
//! The demonstration succeeds only if the proof of both volumes and the application's own check agree. It leaves
//! nothing behind unless it was asked to; what fails or is stopped removes its folder and its processes too.

mod app;
mod pair;
mod story;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tranship_agent::monitor::Monitor;

use self::app::{App, Checked, Summary};
use self::pair::AgentPair;
use self::story::Story;
use crate::args::Global;
use crate::error::RunError;
use crate::exit::Exit;
use crate::options::DemoOptions;
use crate::print::Printer;
use crate::progress::{Progress, Show};
use crate::run::Stop;

/// Stages before the last pass.
const STAGES: u64 = 3;

/// Acts of the application between two stages, and on the destination before it is checked again.
const ACTS_BETWEEN: u64 = 150;

/// One of the two volumes that the application writes to.
#[derive(Debug, Clone)]
struct Volume {
    /// What it is called in tables.
    name: &'static str,
    source: PathBuf,
    destination: PathBuf,
    /// Folder for the manifests of both sides, each in one of its own.
    state: PathBuf,
}

/// Whatever carries a pass: two agents, or in tests something simpler.
trait Mover {
    /// A destination that waits for its source.
    type Receiver;

    /// Makes a destination ready, which takes time that is no downtime.
    async fn ready(&self, volume: &Volume) -> Result<Self::Receiver, RunError>;

    /// Runs one pass into it.
    async fn pass(
        &self,
        volume: &Volume,
        receiver: Self::Receiver,
        is_final: bool,
        monitor: Arc<Monitor>,
        stop: &Stop,
    ) -> Result<Passed, RunError>;
}

/// One pass over one volume.
#[derive(Debug, Clone)]
struct Passed {
    /// The source's report, as it printed it.
    report: Value,
    /// Whether it was a final pass that ended with a proof, and with success.
    is_proven: bool,
}

/// One pass over both volumes.
struct Passes {
    tree: Passed,
    image: Passed,
    duration: Duration,
}

/// Runs the demonstration to its end.
pub(crate) async fn run(options: DemoOptions, global: &Global, printer: Printer, stop: Stop) -> Result<Exit, RunError> {
    let show = Show::of(global);
    let story = Story::new(printer, global.quiet);
    let folder = tempfile::Builder::new().prefix("tranship-demo-").tempdir().map_err(no_folder)?;
    let seed = match options.seed {
        Some(seed) => seed,
        None => getrandom::u64().map_err(|error| no_folder(error.into()))?,
    };
    let path = folder.path().to_owned();
    // A kept folder is given up from the start, so that a failure can be looked at too.
    let removed_at_end = if options.keeps {
        // It is where `path` says.
        let _ = folder.keep();
        None
    } else {
        Some(folder)
    };
    story.begin(seed, options.size_bytes, options.keeps.then_some(&path));
    let demo = Demo { mover: AgentPair, show, story, stop, volumes: volumes(&path) };
    let result = demo.run(seed, options.size_bytes).await;
    drop(removed_at_end);
    result
}

struct Demo<M> {
    mover: M,
    show: Show,
    story: Story,
    stop: Stop,
    volumes: [Volume; 2],
}

impl<M: Mover> Demo<M> {
    async fn run(&self, seed: u64, bytes: u64) -> Result<Exit, RunError> {
        make_folders(&self.volumes).map_err(no_folder)?;
        let (tree, image) = (self.volumes[0].source.clone(), self.volumes[1].source.clone());
        let app = blocking(move || App::start(&tree, &image, seed, bytes)).await?.map_err(app_failed)?;
        self.story.application_runs(app.counter());

        let mut predicted = None;
        for stage in 1..=STAGES {
            let passes = self.both(self.receivers().await?, false).await?;
            predicted = passes.predicted_seconds();
            self.story.stage(stage, &passes);
            self.let_write(&app).await?;
        }
        self.story.prediction(predicted);

        // The destinations wait already: making them ready is no downtime.
        let receivers = self.receivers().await?;
        let stopped = Instant::now();
        let summary = blocking(move || app.stop()).await?.map_err(app_failed)?;
        self.story.stopped(&summary);
        let last = self.both(receivers, true).await?;
        let downtime = stopped.elapsed();
        self.story.last_pass(&last, predicted, downtime);
        if !(last.tree.is_proven && last.image.is_proven) {
            return Err(RunError::failed("TS-D500", "the destination is not proven to hold what the source holds"));
        }
        let checked = self.check(summary).await?;
        self.story.checked(&checked);
        let continued = self.continue_there(checked).await?;
        self.story.proven(&last, &continued, downtime);
        Ok(Exit::Done)
    }

    /// Both destinations, ready.
    async fn receivers(&self) -> Result<[M::Receiver; 2], RunError> {
        let [tree, image] = &self.volumes;
        let both = async { tokio::try_join!(self.mover.ready(tree), self.mover.ready(image)) };
        tokio::select! {
            receivers = both => receivers.map(|(tree, image)| [tree, image]),
            () = self.stop.wait() => Err(stopped()),
        }
    }

    /// One pass over both volumes at the same time. A stop is the passes' own business: they end in order.
    async fn both(&self, receivers: [M::Receiver; 2], is_final: bool) -> Result<Passes, RunError> {
        let started = Instant::now();
        let monitors = [Arc::new(Monitor::new()), Arc::new(Monitor::new())];
        let watched = self.volumes.iter().zip(&monitors);
        let watched = watched.map(|(volume, monitor)| (volume.name.to_owned(), Arc::clone(monitor))).collect();
        let progress = Progress::start(self.show, watched);
        let ([tree, image], [tree_monitor, image_monitor]) = (receivers, monitors);
        let result = tokio::join!(
            self.mover.pass(&self.volumes[0], tree, is_final, tree_monitor, &self.stop),
            self.mover.pass(&self.volumes[1], image, is_final, image_monitor, &self.stop),
        );
        drop(progress);
        if self.stop.is_set() {
            return Err(stopped());
        }
        Ok(Passes { tree: result.0?, image: result.1?, duration: started.elapsed() })
    }

    /// Gives the application time to change something.
    async fn let_write(&self, app: &App) -> Result<(), RunError> {
        let wanted = app.counter() + ACTS_BETWEEN;
        let mut tick = tokio::time::interval(Duration::from_millis(20));
        while app.counter() < wanted {
            if app.has_failed() {
                return Err(app_failed(io::Error::other("one of its threads has ended")));
            }
            tokio::select! {
                _ = tick.tick() => {}
                () = self.stop.wait() => return Err(stopped()),
            }
        }
        Ok(())
    }

    /// The application's own check of the destination.
    async fn check(&self, expected: Summary) -> Result<Checked, RunError> {
        let (tree, image) = (self.volumes[0].destination.clone(), self.volumes[1].destination.clone());
        let result = blocking(move || App::check(&tree, &image, &expected)).await?;
        result.map_err(|broken| {
            RunError::failed("TS-D501", "the application does not find on the destination what it wrote at the source")
                .hint("this is a defect of tranship: run it again with --keep and the same --seed, and report it")
                .because(broken)
        })
    }

    /// Starts the application on the destination, lets it write, stops it and checks the whole chain again.
    async fn continue_there(&self, checked: Checked) -> Result<Checked, RunError> {
        let (tree, image) = (self.volumes[0].destination.clone(), self.volumes[1].destination.clone());
        let app = blocking(move || App::resume(&tree, &image, checked)).await?.map_err(app_failed)?;
        self.let_write(&app).await?;
        let summary = blocking(move || app.stop()).await?.map_err(app_failed)?;
        self.check(summary).await
    }
}

impl Passed {
    /// A number in the report, or in an object within it; 0 where there is none.
    fn number(&self, pointer: &str) -> f64 {
        self.report.pointer(pointer).and_then(Value::as_f64).unwrap_or_default()
    }
}

impl Passes {
    fn each(&self) -> [&Passed; 2] {
        [&self.tree, &self.image]
    }

    fn sum(&self, pointer: &str) -> f64 {
        self.each().into_iter().map(|passed| passed.number(pointer)).sum()
    }

    /// Both passes run at the same time: the longer one counts, and only if both can tell.
    fn predicted_seconds(&self) -> Option<f64> {
        let [tree, image] = self.each().map(|passed| passed.report["predicted_final_seconds"].as_f64());
        Some(tree?.max(image?))
    }
}

fn volumes(folder: &Path) -> [Volume; 2] {
    ["tree", "image"].map(|name| Volume {
        name,
        source: folder.join("source").join(name),
        destination: folder.join("destination").join(name),
        state: folder.join("state").join(name),
    })
}

/// The receivers make their own volumes; the application expects a folder.
fn make_folders(volumes: &[Volume; 2]) -> io::Result<()> {
    std::fs::create_dir_all(&volumes[0].source)?;
    for volume in volumes {
        for parent in [&volume.source, &volume.destination].into_iter().filter_map(|path| path.parent()) {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::create_dir_all(volume.source_state())?;
        std::fs::create_dir_all(volume.destination_state())?;
    }
    Ok(())
}

impl Volume {
    fn is_image(&self) -> bool {
        self.name == "image"
    }

    fn source_state(&self) -> PathBuf {
        self.state.join("source")
    }

    fn destination_state(&self) -> PathBuf {
        self.state.join("destination")
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, RunError> {
    let result = tokio::task::spawn_blocking(work).await;
    result.map_err(|error| app_failed(io::Error::other(error)))
}

fn app_failed(error: io::Error) -> RunError {
    RunError::failed("TS-U080", "the demonstration's application failed")
        .hint("see that the folder for temporary files (TMPDIR) has room")
        .because(error)
}

fn no_folder(error: io::Error) -> RunError {
    RunError::refused("TS-U081", "cannot prepare the demonstration")
        .hint("see that the folder for temporary files (TMPDIR) is writable and has room")
        .because(error)
}

fn stopped() -> RunError {
    RunError::stopped("the demonstration was stopped").hint("nothing of it is left; run `tranship demo` to begin again")
}

#[cfg(test)]
mod tests;
