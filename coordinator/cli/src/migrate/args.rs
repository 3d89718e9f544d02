//! What was typed about migrations between clusters. The doc comments are the help text.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use tranship_api::migration::{Endpoint, Limits, Listen, Mode, Quiesce, Resources, Verify};

use crate::args::gap_words;
use crate::rate::Rate;

/// Flags of `create` that say what a file with a Migration says: beside one they would be passed over.
const IN_THE_FILE: [&str; 22] = [
    "from",
    "to",
    "namespace",
    "pvc",
    "selector",
    "storage_class",
    "access_mode",
    "size",
    "mode",
    "accept_gap",
    "exclude",
    "listen",
    "endpoint",
    "bandwidth",
    "passes",
    "passes_per_node",
    "max_downtime",
    "verify",
    "quiesce",
    "resources",
    "hook",
    "image",
];

/// `create`.
#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// The migration's name; with -f it may be left out
    #[arg(value_name = "NAME", required_unless_present = "file")]
    pub(crate) name: Option<String>,
    /// Take everything from a file with a Migration, `-` for standard input
    #[arg(long, short, value_name = "FILE", conflicts_with_all = IN_THE_FILE)]
    pub(crate) file: Option<PathBuf>,
    /// Context of the cluster where the application runs [default: the current one]
    #[arg(long, value_name = "CONTEXT")]
    pub(crate) from: Option<String>,
    /// Context of the cluster where it is to run; the same one to move to another namespace, or storage class, in it
    #[arg(long, value_name = "CONTEXT", required_unless_present = "file")]
    pub(crate) to: Option<String>,
    /// The application's namespace, and what it is called at the destination if that differs
    #[arg(long, short, value_name = "NS[:NEW]", required_unless_present = "file")]
    pub(crate) namespace: Option<String>,
    /// A claim, and what it is called at the destination if that differs; repeat for more [default: all]
    #[arg(long, value_name = "CLAIM[:NEW]")]
    pub(crate) pvc: Vec<String>,
    /// Claims with these labels, where none are named
    #[arg(long, value_name = "LABELS", conflicts_with = "pvc")]
    pub(crate) selector: Option<String>,
    /// A storage class of the source and the one that takes its place; `*` for all others
    #[arg(long, value_name = "CLASS:NEW")]
    pub(crate) storage_class: Vec<String>,
    /// Access mode of a claim at the destination, such as data=ReadWriteOnce
    #[arg(long, value_name = "CLAIM=MODE")]
    pub(crate) access_mode: Vec<String>,
    /// Size of a claim at the destination, such as data=20Gi, where it is to be larger than at the source
    #[arg(long, value_name = "CLAIM=SIZE")]
    pub(crate) size: Vec<String>,
    /// What is carried of owners, access lists and capabilities [default: the best that both namespaces admit]
    #[arg(long, value_enum, value_name = "MODE")]
    pub(crate) mode: Option<FidelityWord>,
    /// A kind of thing that a cutover may leave behind; several with commas, or repeat the flag
    #[arg(long, value_name = "KIND", value_delimiter = ',', value_parser = gap_words())]
    pub(crate) accept_gap: Vec<String>,
    /// Leave out what matches, as in a .gitignore; repeat the flag for more
    #[arg(long, value_name = "PATTERN")]
    pub(crate) exclude: Vec<String>,
    /// Which side listens
    #[arg(long, value_enum, value_name = "SIDE", default_value = "auto")]
    pub(crate) listen: ListenWord,
    /// Where the listener is reached
    #[arg(long, value_enum, value_name = "WAY", default_value = "auto")]
    pub(crate) endpoint: EndpointWord,
    /// Most that all agents send together, such as 50Mbit/s [default: no limit]
    #[arg(long, value_name = "RATE")]
    pub(crate) bandwidth: Option<Rate>,
    /// Volumes to which passes are run at once
    #[arg(long, value_name = "N", default_value_t = Limits::default().passes)]
    pub(crate) passes: u32,
    /// Of these, volumes that are used on the same node
    #[arg(long, value_name = "N", default_value_t = Limits::default().passes_per_node)]
    pub(crate) passes_per_node: u32,
    /// Longest downtime that a cutover may be predicted to take, such as 30s [default: any]
    #[arg(long, value_name = "TIME")]
    pub(crate) max_downtime: Option<String>,
    /// How much a cutover reads again for the proof
    #[arg(long, value_enum, value_name = "LEVEL", default_value = "full")]
    pub(crate) verify: VerifyWord,
    /// Which workloads a cutover stops
    #[arg(long, value_enum, value_name = "WHICH", default_value = "users")]
    pub(crate) quiesce: QuiesceWord,
    /// What comes along with the claims
    #[arg(long, value_enum, value_name = "WHAT", default_value = "users")]
    pub(crate) resources: ResourcesWord,
    /// A program that a cutover runs and waits for: before-stop, after-stop, before-start or after-ready, with an image and
    /// what it runs, such as 'before-stop=postgres:17 psql -h db -c CHECKPOINT'; repeat the flag for more
    #[arg(long, value_name = "POINT=IMAGE [COMMAND]")]
    pub(crate) hook: Vec<String>,
    /// Image of the agents, on both sides or as SIDE=IMAGE [default: the one of this version]
    #[arg(long, value_name = "[SIDE=]IMAGE")]
    pub(crate) image: Vec<String>,
    #[command(flatten)]
    pub(crate) handshake: HandshakeArgs,
    /// Print the migration as it would be, and make nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// Whether the ways between the clusters are tried.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct HandshakeArgs {
    /// Do not try the ways between the clusters; else two pods are made for it and taken away again, which takes seconds
    #[arg(long)]
    pub(crate) no_handshake: bool,
}

/// `preflight`.
#[derive(Debug, Args)]
pub(crate) struct PreflightArgs {
    #[command(flatten)]
    pub(crate) named: NamedArgs,
    #[command(flatten)]
    pub(crate) handshake: HandshakeArgs,
}

/// How a migration is found.
#[derive(Debug, Clone, Args)]
pub(crate) struct NamedArgs {
    /// The migration's name
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
}

/// Where a migration lies.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
#[command(next_help_heading = "Where the migration lies")]
pub(crate) struct PlaceArgs {
    /// Context of the source cluster [default: as this machine remembers it, else as the record says]
    #[arg(long, value_name = "CONTEXT")]
    pub(crate) from: Option<String>,
    /// Context of the destination cluster [the same]
    #[arg(long, value_name = "CONTEXT")]
    pub(crate) to: Option<String>,
    /// The application's namespace, and what it is called at the destination if that differs [the same]
    #[arg(long, short, value_name = "NS[:NEW]")]
    pub(crate) namespace: Option<String>,
}

/// `stage`.
#[derive(Debug, Args)]
pub(crate) struct StageArgs {
    #[command(flatten)]
    pub(crate) named: NamedArgs,
    /// Begin another one so long after each began, until Ctrl-C or --until
    #[arg(long, value_name = "TIME", conflicts_with = "detach")]
    pub(crate) every: Option<String>,
    /// End when this is true, such as projected<30s
    #[arg(long, value_name = "CONDITION", conflicts_with = "detach")]
    pub(crate) until: Option<String>,
    /// Begin at this time, such as 2026-12-24T03:00:00Z
    #[arg(long, value_name = "TIME", conflicts_with = "detach")]
    pub(crate) at: Option<String>,
    /// Begin one pass over each volume and leave it to the agents
    #[arg(long, conflicts_with = "in_cluster")]
    pub(crate) detach: bool,
    #[command(flatten)]
    pub(crate) resident: ResidentArgs,
}

/// A coordinator in the cluster, of whoever makes it and of its pod.
#[derive(Debug, Args)]
pub(crate) struct ResidentArgs {
    /// Leave all of it to a coordinator in the source's cluster; shows what that is given there, and asks
    #[arg(long)]
    pub(crate) in_cluster: bool,
    /// A kubeconfig whose current context leads from the source's cluster to the destination [default: as from here]
    #[arg(long, value_name = "FILE", requires = "in_cluster")]
    pub(crate) destination_kubeconfig: Option<PathBuf>,
    /// Do not ask
    #[arg(long, short, requires = "in_cluster")]
    pub(crate) yes: bool,
    /// Be the coordinator of this name, as long as the record says so
    #[arg(long, hide = true, value_name = "NAME", conflicts_with = "in_cluster")]
    pub(crate) as_coordinator: Option<String>,
}

/// `cutover`.
#[derive(Debug, Args)]
pub(crate) struct CutoverArgs {
    #[command(flatten)]
    pub(crate) course: CourseArgs,
    #[command(flatten)]
    pub(crate) resident: ResidentArgs,
}

/// How a cutover or a rollback goes.
#[derive(Debug, Args)]
pub(crate) struct CourseArgs {
    #[command(flatten)]
    pub(crate) named: NamedArgs,
    /// Run stages until the predicted downtime is below this, such as 30s [default: as the migration says]
    #[arg(long, value_name = "TIME")]
    pub(crate) max_downtime: Option<String>,
    /// Begin at this time, such as 2026-12-24T03:00:00Z
    #[arg(long, value_name = "TIME")]
    pub(crate) at: Option<String>,
    /// How long the application may take to let go of its volumes
    #[arg(long, value_name = "TIME", default_value = "10m")]
    pub(crate) patience: String,
    /// How long it may take to become ready on the other side
    #[arg(long, value_name = "TIME", default_value = "5m")]
    pub(crate) start_patience: String,
    /// A kind of thing that may be left behind, beside those of the migration; several with commas, or repeat the flag
    #[arg(long, value_name = "KIND", value_delimiter = ',', value_parser = gap_words())]
    pub(crate) accept_gap: Vec<String>,
    /// Go on without admission policies, where they may not be made: new users are then seen, not kept away
    #[arg(long)]
    pub(crate) accept_weak_fence: bool,
    /// The old cluster is lost for good after it may have given up: start without its word. Asks for the name
    #[arg(long)]
    pub(crate) override_lost_owner: bool,
    /// The migration's name, typed again for what cannot be taken back
    #[arg(long, value_name = "NAME")]
    pub(crate) confirm: Option<String>,
}

/// `rollback`.
#[derive(Debug, Args)]
pub(crate) struct RollbackArgs {
    #[command(flatten)]
    pub(crate) course: CourseArgs,
    /// Give up what was written at the destination, and move nothing. Asks for the name
    #[arg(long)]
    pub(crate) discard_destination_writes: bool,
}

/// `status`.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    pub(crate) named: NamedArgs,
    /// Show it again whenever it changes, until Ctrl-C
    #[arg(long, short)]
    pub(crate) watch: bool,
}

/// `finish`.
#[derive(Debug, Args)]
pub(crate) struct FinishArgs {
    #[command(flatten)]
    pub(crate) named: NamedArgs,
    /// Let the old claims be used again; also later, once the migration is finished
    #[arg(long)]
    pub(crate) lift_fence: bool,
    /// Delete the claims of the side that was left, or, where the application is at home, those with its copies at the
    /// destination. Asks for the name
    #[arg(long, visible_alias = "delete-left")]
    pub(crate) delete_source: bool,
    /// The migration's name, typed again for what cannot be taken back
    #[arg(long, value_name = "NAME")]
    pub(crate) confirm: Option<String>,
}

/// `cleanup`.
#[derive(Debug, Args)]
pub(crate) struct CleanupArgs {
    /// Context of a cluster; repeat for more [default: the current one]
    #[arg(long, value_name = "CONTEXT")]
    pub(crate) context: Vec<String>,
    /// Namespace
    #[arg(long, short, value_name = "NAMESPACE")]
    pub(crate) namespace: String,
    /// Remove what was found, and not only show it. What an application has, or may have, only loses our mark
    #[arg(long)]
    pub(crate) remove: bool,
}

/// `set`.
#[derive(Debug, Args)]
pub(crate) struct SetArgs {
    #[command(flatten)]
    pub(crate) named: NamedArgs,
    /// Most that all agents send together, such as 50Mbit/s, or none
    #[arg(long, value_name = "RATE")]
    pub(crate) bandwidth: String,
}

/// What is carried of owners.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum FidelityWord {
    /// Nothing: agents run as the application's user, in any namespace
    Plain,
    /// All of it: agents run as root with few capabilities
    Owner,
}

/// Which side listens.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum ListenWord {
    /// The destination, and if it cannot be reached the source
    Auto,
    Source,
    Destination,
}

/// Where a listener is reached.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum EndpointWord {
    /// Whatever answers first
    Auto,
    /// The pod's own address
    Pod,
    /// A port of the nodes
    NodePort,
    /// A load balancer's address
    LoadBalancer,
    /// Through both API servers
    Relay,
}

/// How much is read for the proof.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum VerifyWord {
    /// Every byte on both sides
    Full,
    /// What changed since the pass that read it, and a sample of the rest
    Tracked,
}

/// Which workloads are stopped.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum QuiesceWord {
    /// Those that use the claims
    Users,
    /// All of the namespace
    All,
}

/// What comes along.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum ResourcesWord {
    /// The workloads that use the claims, and what they refer to
    Users,
    /// Nothing
    None,
}

macro_rules! words {
    ($($word:ident => $meaning:ident { $($name:ident),+ })+) => {
        $(impl From<$word> for $meaning {
            fn from(word: $word) -> Self {
                match word {
                    $($word::$name => Self::$name,)+
                }
            }
        })+
    };
}

words! {
    FidelityWord => Mode { Plain, Owner }
    ListenWord => Listen { Auto, Source, Destination }
    EndpointWord => Endpoint { Auto, Pod, NodePort, LoadBalancer, Relay }
    VerifyWord => Verify { Full, Tracked }
    QuiesceWord => Quiesce { Users, All }
    ResourcesWord => Resources { Users, None }
}
