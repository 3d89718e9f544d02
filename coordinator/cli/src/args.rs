//! What was typed. The doc comments are the help text; what it means is in [`crate::options`].

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use tranship_agent::link::CONNECTIONS_MAX;
use tranship_agent::report::GapKind;
use tranship_proto::control;

use crate::migrate::args::{
    CleanupArgs, CreateArgs, CutoverArgs, FinishArgs, NamedArgs, PlaceArgs, PreflightArgs, RollbackArgs, SetArgs,
    StageArgs, StatusArgs,
};
use crate::rate::Rate;

/// Moves volumes (folder trees, block devices) between hosts: in stages while the application runs, then in one short
/// last pass that ends with a proof.
#[derive(Debug, Parser)]
#[command(name = "tranship", version, term_width = 100, after_help = crate::exit::HELP)]
#[command(disable_help_subcommand = true, propagate_version = false)]
pub(crate) struct Typed {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Heading of the flags that every command has.
const SHOWN: &str = "What is printed";

/// Flags of every command.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Global {
    /// Form of what is printed: for people, or one JSON value per line
    #[arg(long, short, global = true, value_enum, default_value_t = Output::Text, value_name = "FORM", help_heading = SHOWN)]
    pub(crate) output: Output,
    /// Print results and errors only
    #[arg(long, short, global = true, conflicts_with = "verbose", help_heading = SHOWN)]
    pub(crate) quiet: bool,
    /// Say more of what happens; twice for everything
    #[arg(long, short, global = true, action = clap::ArgAction::Count, help_heading = SHOWN)]
    pub(crate) verbose: u8,
}

/// The form of what is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// Sentences and tables
    Text,
    /// Results as one line of JSON on standard output, progress as one line per second on standard error
    Json,
    /// The same results as documents of YAML
    Yaml,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run one pass from a folder or a device to another, or to a receiver; repeat at will
    Sync(SyncArgs),
    /// Listen for a source, print the ticket for it, and take pass after pass
    Receive(ReceiveArgs),
    /// Read two volumes, or both sides of a migration, and compare them by digest; names what differs
    Verify(VerifyArgs),
    /// Show it all on this machine: a writing application, two agents, stages, the last pass, the proof
    Demo(DemoArgs),
    /// Plan a migration between two clusters: look at everything that could stand in the way, and write its record
    Create(Box<CreateArgs>),
    /// Look again at everything that could stand in the way; changes nothing
    Preflight(PreflightArgs),
    /// Copy what changed, while the application runs; as often as wanted
    Stage(StageArgs),
    /// Change what is set while it runs
    Set(SetArgs),
    /// Stop the passes that run; the next ones go on from there
    Cancel(NamedArgs),
    /// Stop the application, copy the last changes, prove that both sides are equal, start it on the other side
    Cutover(CutoverArgs),
    /// Bring the application home: before the commit by undoing, after it with what it wrote since
    Rollback(RollbackArgs),
    /// Show where a migration stands, and what to do next
    Status(StatusArgs),
    /// Print the history, with the proof of each cutover
    Receipt(NamedArgs),
    /// End a migration: everything of ours goes, but for the fence around what was left and, of an application that is at home,
    /// the copies of its volumes
    Finish(FinishArgs),
    /// Find what migrations have left behind in a namespace
    Cleanup(CleanupArgs),
    /// The role beside a volume in a cluster
    #[command(hide = true)]
    Agent(AgentArgs),
    /// What an agent runs to measure the ways to another one
    #[command(hide = true)]
    Probe(ProbeArgs),
    /// Print a completion script for a shell
    Completions {
        /// Which shell
        shell: Shell,
    },
}

/// `sync`.
#[derive(Debug, Args)]
#[command(after_help = "\
Send SIGHUP to make a running pass read the file `bandwidth` in the state folder again: one line such as `50Mbit/s`, or \
`none`. Ctrl-C stops a pass in a state from which the next one goes on; a second Ctrl-C ends at once.

A ticket lets whoever holds it be the other side. Given as `-` it is read from standard input, as `@FILE` from a file; \
given literally it is wiped from the process list as soon as it was read.")]
pub(crate) struct SyncArgs {
    /// Folder, device or image with the truth; it is only read
    #[arg(value_name = "SRC")]
    pub(crate) source: OsString,
    /// Folder, device or image that receives it; or a receiver's ticket, `-` or `@FILE`
    #[arg(value_name = "DST|TICKET")]
    pub(crate) destination: Option<OsString>,
    /// Listen for the destination instead, and print the ticket for `receive --connect`
    #[arg(long, value_name = "ADDR", num_args = 0..=1, require_equals = true, default_missing_value = ANY_ADDRESS)]
    pub(crate) listen: Option<String>,
    /// The last pass: nothing writes to SRC any more, and both sides are proven equal
    #[arg(long = "final")]
    pub(crate) is_final: bool,
    /// How much a final pass reads again for the proof; for `tracked`, stages read back what they wrote [default: full]
    #[arg(long, value_enum, value_name = "LEVEL")]
    pub(crate) verify: Option<LevelWord>,
    /// What is carried of owners, access lists and devices [default: exact for root, else plain]
    #[arg(long, value_enum, value_name = "MODE")]
    pub(crate) mode: Option<ModeWord>,
    /// A kind of thing that a final pass may leave behind; several with commas, or repeat the flag
    #[arg(long, value_name = "KIND", value_delimiter = ',', value_parser = gap_words())]
    pub(crate) accept_gap: Vec<String>,
    /// Leave out what matches, as in a .gitignore; repeat the flag for more
    #[arg(long, value_name = "PATTERN")]
    pub(crate) exclude: Vec<String>,
    /// Compress what is sent: auto, none, lz4, zstd or zstd:LEVEL
    #[arg(long, value_name = "CODEC", default_value = "auto")]
    pub(crate) compress: String,
    /// Keep track of writes to the source device until the next pass with --track, which then reads only what was written
    #[arg(long)]
    pub(crate) track: bool,
    /// End when standard input does, and say often how far it is: whoever started this process shows it
    #[arg(long, hide = true)]
    pub(crate) attached: bool,
    #[command(flatten)]
    pub(crate) link: LinkArgs,
    #[command(flatten)]
    pub(crate) state: StateArgs,
}

/// `receive`.
#[derive(Debug, Args)]
#[command(after_help = "\
The ticket is the first line on standard output. Send SIGHUP to make a running pass read the file `bandwidth` in the \
state folder again: one line such as `50Mbit/s`, or `none`.")]
pub(crate) struct ReceiveArgs {
    /// Folder, device or image that receives; a folder is made if nothing is there
    #[arg(value_name = "DST")]
    pub(crate) destination: OsString,
    /// If nothing is there, make an image file instead of a folder
    #[arg(long)]
    pub(crate) image: bool,
    /// Address to listen on: IP:PORT, IP or PORT [default: any address, any free port]
    #[arg(long, value_name = "ADDR", conflicts_with = "connect")]
    pub(crate) listen: Option<String>,
    /// Connect to a source that listens (`sync SRC --listen`); `-` reads the ticket from standard input, `@FILE` from a
    /// file
    #[arg(long, value_name = "TICKET")]
    pub(crate) connect: Option<OsString>,
    /// End after one pass, or one comparison; otherwise the same ticket is good for pass after pass, until Ctrl-C
    #[arg(long)]
    pub(crate) once: bool,
    /// End when standard input does: whoever started this process is gone
    #[arg(long, hide = true)]
    pub(crate) attached: bool,
    #[command(flatten)]
    pub(crate) link: LinkArgs,
    #[command(flatten)]
    pub(crate) state: StateArgs,
}

/// `verify`.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// One folder, device or image; alone, the name of a migration, whose volumes are compared
    #[arg(value_name = "A|NAME")]
    pub(crate) a: OsString,
    /// The other; or the ticket of a running `receive`, `-` or `@FILE`, to compare with what it holds
    #[arg(value_name = "B|TICKET")]
    pub(crate) b: Option<OsString>,
    /// Listen for the receiver instead, and print the ticket for `receive --connect`
    #[arg(long, value_name = "ADDR", num_args = 0..=1, require_equals = true, default_missing_value = ANY_ADDRESS)]
    #[arg(conflicts_with = "b")]
    pub(crate) listen: Option<String>,
    /// What counts of owners, access lists and devices [default: exact for root, else plain]
    #[arg(long, value_enum, value_name = "MODE")]
    pub(crate) mode: Option<ModeWord>,
    /// Leave out what matches, as in a .gitignore; repeat the flag for more
    #[arg(long, value_name = "PATTERN")]
    pub(crate) exclude: Vec<String>,
    /// End when standard input does, and say often how far it is: whoever started this process shows it
    #[arg(long, hide = true)]
    pub(crate) attached: bool,
    #[command(flatten)]
    pub(crate) clusters: PlaceArgs,
    #[command(flatten)]
    pub(crate) link: LinkArgs,
}

/// `demo`.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Bytes that the application starts with, in its tree and its image together
    #[arg(long, value_name = "SIZE", default_value = "96MiB")]
    pub(crate) size: String,
    /// Seed of everything that the application does [default: random, and printed]
    #[arg(long, value_name = "NUMBER")]
    pub(crate) seed: Option<u64>,
    /// Keep the folder with both sides, and print where it is
    #[arg(long)]
    pub(crate) keep: bool,
}

/// `probe`.
#[derive(Debug, Args)]
pub(crate) struct ProbeArgs {
    /// A folder; all that is taken from it is what this process may see
    #[arg(value_name = "PATH")]
    pub(crate) path: PathBuf,
    /// The ticket of whoever listens, `-` or `@FILE`
    #[arg(value_name = "TICKET")]
    pub(crate) ticket: Option<OsString>,
    /// Listen instead, and print the ticket
    #[arg(long, value_name = "ADDR", conflicts_with = "ticket", required_unless_present = "ticket")]
    pub(crate) listen: Option<String>,
    /// Which side this is: a source sends what is measured
    #[arg(long, value_enum, value_name = "ROLE")]
    pub(crate) role: RoleWord,
    /// End when standard input does
    #[arg(long)]
    pub(crate) attached: bool,
    #[command(flatten)]
    pub(crate) link: LinkArgs,
    #[command(flatten)]
    pub(crate) state: StateArgs,
}

/// `agent`.
#[derive(Debug, Args)]
pub(crate) struct AgentArgs {
    /// Show that the confinement of a pass holds, and end
    #[arg(long)]
    pub(crate) self_test: bool,
    /// Loopback address at which the coordinator is heard
    #[arg(long, value_name = "ADDR", default_value_t = SocketAddr::from((Ipv4Addr::LOCALHOST, control::PORT)))]
    pub(crate) control: SocketAddr,
    /// The migration that is served
    #[arg(long, value_name = "ID", required_unless_present = "self_test")]
    pub(crate) migration: Option<String>,
    /// File with the secret that a coordinator has to show
    #[arg(long, value_name = "FILE", required_unless_present = "self_test")]
    pub(crate) secret_file: Option<PathBuf>,
    /// BLAKE3 of that file; with another one the agent does not start
    #[arg(long, value_name = "HEX")]
    pub(crate) secret_hash: Option<String>,
    /// A volume and its name; repeat the flag for more
    #[arg(long, value_name = "NAME=PATH", required_unless_present = "self_test")]
    pub(crate) volume: Vec<OsString>,
    /// Folder for what has to outlive this process; each volume gets its own folder in it
    #[arg(long, value_name = "DIR", required_unless_present = "self_test")]
    pub(crate) state: Option<PathBuf>,
    /// Stay for so long without a pass and without a word from a coordinator
    #[arg(long, value_name = "TIME", default_value = "60s")]
    pub(crate) idle: String,
    /// Where to leave a summary at the end [default: /dev/termination-log, if that is there]
    #[arg(long, value_name = "FILE")]
    pub(crate) termination_file: Option<PathBuf>,
}

/// How the other side is reached.
#[derive(Debug, Args)]
#[command(next_help_heading = "Link")]
pub(crate) struct LinkArgs {
    /// Most that is sent, such as 50Mbit/s or 10MB/s [default: no limit]
    #[arg(long, value_name = "RATE")]
    pub(crate) bandwidth: Option<Rate>,
    /// QUIC or TCP; auto takes QUIC where UDP comes through, and TCP for contents where it is faster [default: auto]
    #[arg(long, value_enum, value_name = "NAME")]
    pub(crate) transport: Option<TransportWord>,
    /// How QUIC finds its pace; wan does not take loss for congestion [default: auto]
    #[arg(long, value_enum, value_name = "NAME")]
    pub(crate) congestion: Option<CongestionWord>,
    /// QUIC connections that carry contents, 1 to 8; the side that dials decides [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=i64::from(CONNECTIONS_MAX)))]
    pub(crate) connections: Option<u8>,
    /// Wait for the other side until it can be reached, and for a volume that another pass uses
    #[arg(long)]
    pub(crate) wait: bool,
}

/// Where manifests live between passes.
#[derive(Debug, Args)]
#[command(next_help_heading = "State")]
pub(crate) struct StateArgs {
    /// Folder for what is known of a volume between passes, outside the volume
    /// [default: $XDG_STATE_HOME/tranship, else ~/.local/state/tranship]
    #[arg(long, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
}

/// What `--listen` without an address means.
pub(crate) const ANY_ADDRESS: &str = "[::]:0";

/// How much is read for the proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LevelWord {
    /// Every byte on both sides
    Full,
    /// What changed since the pass that read it, and a sample of the rest
    Tracked,
}

/// How much metadata is carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ModeWord {
    /// Content, names, modes, times and user attributes; owners as whoever runs the destination
    Plain,
    /// And all owners, access lists and file capabilities
    Owner,
    /// And device nodes and trusted attributes
    Exact,
}

/// Which side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RoleWord {
    Source,
    Destination,
}

/// How packets travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TransportWord {
    Auto,
    Quic,
    Tcp,
}

/// How QUIC finds its pace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum CongestionWord {
    Auto,
    Cubic,
    Wan,
}

/// The kinds of gaps that can be accepted.
pub(crate) fn gap_words() -> PossibleValuesParser {
    PossibleValuesParser::new(GapKind::ALL.iter().map(|kind| kind.word()))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_grammar_has_no_contradiction() {
        Typed::command().debug_assert();
    }
}
