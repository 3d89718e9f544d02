//! The lab, by hand.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a tool for people talks on a terminal")]

mod units;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser};
use tranship_lab::{
    LabError, Link, Profile, TRANSHIP, TRANSHIP_VERSION, Version, Weather, down, image, load_as, relay, status, tails,
    up,
};

/// Two real clusters on this machine, for tests. Needs root on Debian.
#[derive(Parser)]
#[command(name = "cargo xtask lab")]
enum Lab {
    /// Bring both clusters up.
    Up {
        /// The first one runs the oldest version of Kubernetes that is tested instead of the newest.
        #[arg(long)]
        mixed: bool,
    },
    /// Take everything of them down.
    Down,
    /// Tell which nodes there are.
    Status,
    /// Build the image of the product anew and give it to every node of the running lab.
    Load {
        /// As users get it.
        #[arg(long)]
        release: bool,
    },
    /// Write the image of the product to a file, for `docker load`, `ctr images import` and the like.
    Image {
        /// Where to.
        #[arg(long, default_value = "target/tranship-image.tar")]
        out: PathBuf,
        /// With the compilation of the tests instead of that of users.
        #[arg(long)]
        debug: bool,
    },
    /// Set the weather between the clusters, all of it at once; without options, tell it.
    Link(LinkOptions),
    /// Be the relay between the clusters.
    #[command(hide = true)]
    Relay,
}

#[derive(Args)]
struct LinkOptions {
    /// What each packet comes later, in both directions, as in 25ms.
    #[arg(long, value_parser = units::duration)]
    delay: Option<Duration>,
    /// Which share of packets is lost, as in 0.5%.
    #[arg(long, value_parser = units::share)]
    loss: Option<f64>,
    /// What passes in each direction, as in 50Mbit.
    #[arg(long, value_parser = units::rate)]
    rate: Option<u64>,
    /// Nothing passes.
    #[arg(long)]
    cut: bool,
    /// No UDP passes.
    #[arg(long)]
    no_udp: bool,
    /// Everything passes at once again.
    #[arg(long, conflicts_with_all = ["delay", "loss", "rate", "cut", "no_udp"])]
    clear: bool,
}

fn main() -> ExitCode {
    let lab = Lab::parse();
    match act(&lab) {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            if matches!(lab, Lab::Up { .. }) {
                eprint!("{}", tails(root()));
            }
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("the lab lies in the workspace")
}

fn act(lab: &Lab) -> Result<String, LabError> {
    let root = root();
    match lab {
        Lab::Up { mixed } => {
            let older = if *mixed { Version::OLDER } else { Version::NEWER };
            up(root, [older, Version::NEWER], &|line| println!("{line}")).map(|_| String::new())
        }
        Lab::Down => down(root).map(|()| String::new()),
        Lab::Status => status(root),
        Lab::Load { release } => {
            load_as(root, if *release { Profile::Release } else { Profile::Dev })?;
            Ok(format!("{TRANSHIP} is on every node\n"))
        }
        Lab::Image { out, debug } => {
            image(root, out, if *debug { Profile::Dev } else { Profile::Release })?;
            Ok(format!("{}: {TRANSHIP_VERSION}, {TRANSHIP}\n", out.display()))
        }
        Lab::Link(options) => weather(&Link::new(root), options),
        Lab::Relay => relay(root).map(|()| String::new()),
    }
}

fn weather(link: &Link, options: &LinkOptions) -> Result<String, LabError> {
    let LinkOptions { delay, loss, rate, cut, no_udp, clear } = options;
    let weather = Weather {
        delay: delay.unwrap_or_default(),
        loss: loss.unwrap_or_default(),
        bits_per_second: *rate,
        is_cut: *cut,
        blocks_udp: *no_udp,
    };
    if *clear || !weather.is_clear() {
        link.set(weather)?;
    }
    Ok(format!("{}\n", link.weather()?))
}
