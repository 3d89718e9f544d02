//! A CSI driver for clusters whose nodes are all one machine: a volume is an image file, and a node has it by a loop
//! device. Controller and nodes share the folder of the volumes.

mod capability;
mod command;
mod controller;
mod device;
mod error;
mod filesystem;
mod identity;
mod messages;
mod mounts;
mod node;
mod registration;
mod router;
mod socket;
mod volume;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing_subscriber::EnvFilter;

use crate::controller::Controller;
use crate::node::Node;
use crate::router::Router;
use crate::socket::{Socket, SocketError};
use crate::volume::Volumes;

/// A CSI driver for clusters whose nodes are all one machine.
#[derive(Debug, Parser)]
#[command(version)]
enum Role {
    /// Makes, publishes, grows and deletes volumes. One for each cluster.
    Controller {
        #[command(flatten)]
        shared: Shared,
    },
    /// Attaches and mounts volumes. One for each node; root, and in the mount namespace of its kubelet.
    Node {
        #[command(flatten)]
        shared: Shared,
        /// The node's name in its cluster.
        #[arg(long)]
        node: String,
        /// The folder that the kubelet watches for plugins: `plugins_registry` in its root directory.
        #[arg(long)]
        plugins_registry: PathBuf,
    },
}

#[derive(Debug, clap::Args)]
struct Shared {
    /// Where to be called; made anew.
    #[arg(long)]
    socket: PathBuf,
    /// The folder of the volumes, shared by controller and nodes.
    #[arg(long)]
    volumes: PathBuf,
}

fn main() -> ExitCode {
    let role = Role::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    match run(role) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(cause = error.source(), "{error}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn run(role: Role) -> Result<(), Box<dyn Error>> {
    // Before the sockets are there: who sees them may already stop us.
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let (tell, stop) = watch::channel(false);
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        // Nobody to tell: all have ended.
        let _ = tell.send(true);
    });
    match role {
        Role::Controller { shared } => controller(shared, stop).await?,
        Role::Node { shared, node, plugins_registry } => serve_node(shared, node, plugins_registry, stop).await?,
    }
    Ok(())
}

async fn controller(shared: Shared, stop: watch::Receiver<bool>) -> Result<(), Box<dyn Error>> {
    let controller = Controller::new(Volumes::open(&shared.volumes)?);
    let socket = Socket::listen(&shared.socket)?;
    Ok(socket.serve(controller.serve(identity::serve(Router::default())), stop).await?)
}

async fn serve_node(
    shared: Shared,
    name: String,
    plugins_registry: PathBuf,
    stop: watch::Receiver<bool>,
) -> Result<(), Box<dyn Error>> {
    let endpoint = std::path::absolute(&shared.socket)?;
    let node = Node::new(name, Volumes::open(&shared.volumes)?);
    let socket = Socket::listen(&endpoint)?;
    // Last: the kubelet calls the endpoint as soon as it sees this one.
    let registration = Socket::listen(&registration::socket_in(&plugins_registry))?;
    let serve = socket.serve(node.serve(identity::serve(Router::default())), stop.clone());
    let register = registration.serve(registration::serve(&endpoint), stop);
    tokio::try_join!(serve, register).map(drop).map_err(|error: SocketError| error.into())
}
