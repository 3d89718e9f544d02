//! What is typed: the one binary.
//!
//! `args` is what was typed, `options` what it means, `run` where it meets the agent; `print`, `progress` and `error`
//! are what is seen of it. `agent` is the role beside volumes in a cluster: it starts passes as a user would.

mod agent;
mod args;
mod confined;
mod demo;
mod error;
mod exit;
mod human;
mod migrate;
mod options;
mod paint;
mod print;
mod progress;
mod rate;
mod receiver;
mod run;
mod signals;
mod so_far;
mod ticket;

use std::ffi::OsString;
use std::io::{self, BufReader};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use tranship_agent::monitor::Monitor;

use crate::args::{Command, Global, Output, ProbeArgs, ReceiveArgs, SyncArgs, Typed, VerifyArgs};
use crate::confined::{ConfinedDestination, ConfinedReader, ConfinedSource, Meeting};
use crate::error::RunError;
use crate::exit::Exit;
use crate::options::{Compared, Environment, LinkOptions};
use crate::paint::Paint;
use crate::print::Printer;
use crate::progress::{Progress, Show};
use crate::run::{Context, Stop};

fn main() -> ExitCode {
    tranship_agent::link::install_provider();
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let is_wiped = ticket::wipe_arguments(&arguments);
    let typed = match Typed::try_parse_from(&arguments) {
        Ok(typed) => typed,
        Err(error) => return refuse_typed(&error, &arguments).into(),
    };
    let printer = Printer { output: typed.global.output, paint: Paint::for_stdout() };
    log(&typed.global);
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "started");
    if !is_wiped {
        tracing::warn!("the ticket stays visible in the list of processes; give it as @FILE or - instead");
    }
    let exit = execute(typed, printer).unwrap_or_else(|error| {
        printer.error(&error);
        error.exit()
    });
    exit.into()
}

fn execute(typed: Typed, printer: Printer) -> Result<Exit, RunError> {
    let Typed { global, command } = typed;
    match command {
        Command::Sync(args) => sync(args, &global, printer),
        Command::Receive(args) => receive(args, &global, printer),
        Command::Verify(args) => match args.migration()? {
            Some(named) => clusters(&global, printer, async |context| migrate::verify(named, context).await),
            None => verify(args, &global, printer),
        },
        Command::Demo(args) => {
            let options = args.validate()?;
            run(async { demo::run(options, &global, printer, watched_stop(&global)?).await })
        }
        Command::Agent(args) if !args.self_test => agent::run(args.validate()?, printer),
        Command::Create(args) => clusters(&global, printer, async |context| migrate::create(*args, context).await),
        Command::Preflight(args) => clusters(&global, printer, async |context| migrate::preflight(args, context).await),
        Command::Stage(args) => clusters(&global, printer, async |context| migrate::stage(args, context).await),
        Command::Set(args) => clusters(&global, printer, async |context| migrate::set(args, context).await),
        Command::Cancel(args) => clusters(&global, printer, async |context| migrate::cancel(args, context).await),
        Command::Cutover(args) => clusters(&global, printer, async |context| migrate::cut_over(args, context).await),
        Command::Rollback(args) => clusters(&global, printer, async |context| migrate::roll_back(args, context).await),
        Command::Status(args) => clusters(&global, printer, async |context| migrate::status(args, context).await),
        Command::Receipt(args) => clusters(&global, printer, async |context| migrate::receipt(args, context).await),
        Command::Finish(args) => clusters(&global, printer, async |context| migrate::end(args, context).await),
        Command::Cleanup(args) => clusters(&global, printer, async |context| migrate::clean_up(args, context).await),
        Command::Agent(_) => {
            confined::self_test()?.iter().for_each(|line| printer.line(line));
            Ok(Exit::Done)
        }
        Command::Probe(args) => probe(args, &global, printer),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Typed::command(), "tranship", &mut script);
            io::Write::write_all(&mut io::stdout(), &script)
                .map_err(|error| RunError::refused("TS-U002", "cannot write the script").because(error))?;
            Ok(Exit::Done)
        }
    }
}

/// The asynchronous part of a command. Whoever is to be confined is so before.
fn run(command: impl Future<Output = Result<Exit, RunError>>) -> Result<Exit, RunError> {
    let threads = tranship_agent::parallel::processors();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build();
    runtime.map_err(|error| RunError::refused("TS-U002", "cannot start").because(error))?.block_on(command)
}

/// A command that works on clusters.
fn clusters(
    global: &Global,
    printer: Printer,
    command: impl AsyncFnOnce(migrate::Context) -> Result<Exit, RunError>,
) -> Result<Exit, RunError> {
    run(async { command(migrate::Context { global: *global, printer, stop: watched_stop(global)? }).await })
}

fn sync(args: SyncArgs, global: &Global, printer: Printer) -> Result<Exit, RunError> {
    let is_attached = args.attached;
    let options = args.validate(&Environment::of_process(), &mut BufReader::new(io::stdin()))?;
    let confined = ConfinedSource::enter(&options)?;
    run(async {
        let context = attached_context(is_attached, &options.link, &options.state, global, printer)?;
        let show = if is_attached { Show::Relayed } else { Show::of(global) };
        let progress = Progress::start(show, vec![("sync".to_owned(), Arc::clone(&context.monitor))]);
        let result = run::sync(options, confined, context).await;
        drop(progress);
        let report = result?;
        printer.report(&report);
        Ok(Exit::of_report(&report))
    })
}

fn receive(args: ReceiveArgs, global: &Global, printer: Printer) -> Result<Exit, RunError> {
    let is_attached = args.attached;
    let options = args.validate(&Environment::of_process(), &mut BufReader::new(io::stdin()))?;
    let confined = ConfinedDestination::enter(&options)?;
    run(async {
        let context = attached_context(is_attached, &options.link, &options.state, global, printer)?;
        let progress = Progress::start(Show::of(global), vec![("receive".to_owned(), Arc::clone(&context.monitor))]);
        let result = run::receive(options, confined, context).await;
        drop(progress);
        printer.received(&result?);
        Ok(Exit::Done)
    })
}

fn verify(args: VerifyArgs, global: &Global, printer: Printer) -> Result<Exit, RunError> {
    let is_attached = args.attached;
    let options = args.validate(&mut BufReader::new(io::stdin()))?;
    let confined = ConfinedReader::enter(&options)?;
    run(async {
        let context = context(tokio::sync::watch::channel(options.link.bandwidth).1, global, printer)?;
        if is_attached {
            signals::watch_stdin(context.stop.clone());
        }
        let show = if is_attached { Show::Relayed } else { Show::of(global) };
        let progress = Progress::start(show, vec![("verify".to_owned(), Arc::clone(&context.monitor))]);
        let result = match (options.b.clone(), confined) {
            (Compared::Local(b), _) => run::verify(options, b, context).await,
            (_, confined) => run::verify_afar(options, confined.expect("it was entered for a link"), context).await,
        };
        drop(progress);
        let verdict = result?;
        printer.verdict(&verdict);
        Ok(if verdict.is_equal() { Exit::Done } else { Exit::Different })
    })
}

fn probe(args: ProbeArgs, global: &Global, printer: Printer) -> Result<Exit, RunError> {
    let is_attached = args.attached;
    let options = args.validate(&Environment::of_process(), &mut BufReader::new(io::stdin()))?;
    let meeting = Meeting::of_probe(&options)?;
    run(async {
        let context = attached_context(is_attached, &options.link, &options.state, global, printer)?;
        let progress = Progress::start(Show::of(global), vec![("probe".to_owned(), Arc::clone(&context.monitor))]);
        let result = run::probe(options, meeting, context).await;
        drop(progress);
        printer.json(&result?);
        Ok(Exit::Done)
    })
}

/// The context of passes whose bandwidth may change, and which end with the process that started them if they are
/// attached to one.
fn attached_context(
    is_attached: bool,
    link: &LinkOptions,
    state: &Path,
    global: &Global,
    printer: Printer,
) -> Result<Context, RunError> {
    let bandwidth = signals::watch_bandwidth(link.bandwidth, state).map_err(no_signals)?;
    let context = context(bandwidth, global, printer)?;
    if is_attached {
        signals::watch_stdin(context.stop.clone());
    }
    Ok(context)
}

fn context(
    bandwidth: tokio::sync::watch::Receiver<Option<rate::Rate>>,
    global: &Global,
    printer: Printer,
) -> Result<Context, RunError> {
    Ok(Context {
        monitor: Arc::new(Monitor::new()),
        stop: watched_stop(global)?,
        bandwidth,
        announce: Arc::new(move |ticket| printer.ticket(ticket)),
    })
}

fn watched_stop(global: &Global) -> Result<Stop, RunError> {
    let stop = Stop::new();
    signals::watch_stop(stop.clone(), global.quiet).map_err(no_signals)?;
    Ok(stop)
}

fn no_signals(error: io::Error) -> RunError {
    RunError::refused("TS-U002", "cannot listen for signals").because(error)
}

/// Prints what clap says: help and version are no errors; scripts get theirs as JSON.
fn refuse_typed(error: &clap::Error, arguments: &[OsString]) -> Exit {
    let is_help = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    let wants_json = arguments.windows(2).any(|pair| pair[0] == "--output" && pair[1] == "json")
        || arguments.iter().any(|argument| argument == "--output=json");
    if wants_json && !is_help {
        let text = error.render().to_string();
        let message = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
        let printer = Printer { output: Output::Json, paint: Paint::for_stdout() };
        printer.error(&RunError::usage(message, "see `tranship --help`"));
    } else {
        // There is nowhere to complain about an output that is gone.
        let _ = error.print();
    }
    if is_help { Exit::Done } else { Exit::Usage }
}

fn log(global: &Global) {
    let level = match global.verbose {
        _ if global.quiet => "error",
        0 => "warn",
        1 => "info",
        2 => "debug",
        _ => "trace",
    };
    // What comes of a call to a cluster is ours to tell; the library would tell each try of it, as an error.
    let level = if global.verbose == 0 { format!("{level},kube_client=off") } else { level.to_owned() };
    let builder = tracing_subscriber::fmt().with_writer(io::stderr).with_env_filter(level);
    match global.output {
        Output::Text => builder.with_target(false).init(),
        Output::Json | Output::Yaml => builder.json().init(),
    }
}
