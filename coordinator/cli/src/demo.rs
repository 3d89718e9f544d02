//! The main job on this machine, to be filled.

use crate::args::Global;
use crate::error::RunError;
use crate::exit::Exit;
use crate::options::DemoOptions;
use crate::print::Printer;
use crate::run::Stop;

/// Runs the demonstration to its end.
pub(crate) async fn run(_: DemoOptions, _: &Global, _: Printer, _: Stop) -> Result<Exit, RunError> {
    Err(RunError::not_built("demonstrate"))
}
