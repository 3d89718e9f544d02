//! Who is compared, and how each is asked for a copy.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use tranship_tests::processes::{DEADLINE, Running, binary, wait_for};

use crate::measure::{Cost, Server, Side, measure};

const RSYNC_PORT: u16 = 8730;
const TLS_PORT: u16 = 8740;
const TUNNEL_PORT: u16 = 8741;

/// A way to copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contestant {
    /// Us, encrypted.
    Tranship,
    /// The same with other choices than our own.
    TranshipWith(&'static [&'static str]),
    /// rsync's daemon, in the clear.
    Rsync(&'static [&'static str]),
    /// rsync's daemon behind stunnel with TLS 1.3 on both sides.
    RsyncTls(&'static [&'static str]),
    /// diskrsync through a pipe, in the clear.
    Diskrsync,
}

impl Contestant {
    pub(crate) fn name(self) -> String {
        match self {
            Self::Tranship => "tranship".into(),
            Self::TranshipWith(options) => format!("tranship {}", options.join(" ")),
            Self::Rsync(options) => format!("rsync {}", options.join(" ")),
            Self::RsyncTls(options) => format!("rsync {} + stunnel", options.join(" ")),
            Self::Diskrsync => "diskrsync (pipe)".into(),
        }
    }
}

/// Where copies are made: the peers' servers run here.
pub(crate) struct Place {
    folder: TempDir,
    diskrsync: Option<PathBuf>,
    rsync: Running,
    tls_client: Running,
    tls_server: Running,
}

impl Place {
    /// Starts the peers' servers and waits until they listen.
    pub(crate) fn prepare(diskrsync: Option<PathBuf>) -> io::Result<Self> {
        let folder = TempDir::new()?;
        let file = |name: &str| folder.path().join(name);
        // Any path is a path beneath the one module.
        let module = "use chroot = no\n[all]\npath = /\nread only = no\nuid = root\ngid = root\n";
        fs::write(file("rsyncd.conf"), module)?;
        make_certificate(&file("certificate.pem"))?;
        let common = "foreground = yes\npid =\nsslVersionMin = TLSv1.3\ndebug = 3\n";
        let server = format!(
            "{common}[server]\naccept = 127.0.0.1:{TLS_PORT}\nconnect = 127.0.0.1:{RSYNC_PORT}\ncert = {}\n",
            file("certificate.pem").display()
        );
        let client = format!(
            "{common}[client]\nclient = yes\naccept = 127.0.0.1:{TUNNEL_PORT}\nconnect = 127.0.0.1:{TLS_PORT}\n"
        );
        fs::write(file("server.conf"), server)?;
        fs::write(file("client.conf"), client)?;
        let mut daemon = Command::new("rsync");
        daemon.args(["--daemon", "--no-detach", "--address=127.0.0.1"]);
        daemon.arg(format!("--port={RSYNC_PORT}")).arg("--config").arg(file("rsyncd.conf"));
        let place = Self {
            rsync: Running::start(&mut daemon),
            tls_server: Running::start(Command::new("stunnel").arg(file("server.conf"))),
            tls_client: Running::start(Command::new("stunnel").arg(file("client.conf"))),
            folder,
            diskrsync,
        };
        for port in [RSYNC_PORT, TLS_PORT, TUNNEL_PORT] {
            wait_for("a server that listens", DEADLINE, || TcpStream::connect(("127.0.0.1", port)).ok());
        }
        Ok(place)
    }

    /// Brings `target` to the state of `source`; both are files, or both folders. `state` belongs to this pair.
    pub(crate) fn copy(&self, who: Contestant, source: &Path, target: &Path, state: &Path) -> io::Result<Cost> {
        match who {
            Contestant::Tranship => self.copy_by_tranship(&[], source, target, state),
            Contestant::TranshipWith(options) => self.copy_by_tranship(options, source, target, state),
            Contestant::Rsync(options) => {
                let servers = [Server { id: self.rsync.id(), side: Side::Destination }];
                measure(&mut rsync(options, RSYNC_PORT, source, target), &servers, None)
            }
            Contestant::RsyncTls(options) => {
                let server = |running: &Running, side| Server { id: running.id(), side };
                let servers = [
                    server(&self.rsync, Side::Destination),
                    server(&self.tls_server, Side::Destination),
                    server(&self.tls_client, Side::Source),
                ];
                let cost = measure(&mut rsync(options, TUNNEL_PORT, source, target), &servers, None)?;
                // The same bytes cross the loopback before, in, and behind the tunnel.
                Ok(cost.over_hops(3))
            }
            Contestant::Diskrsync => {
                let program =
                    self.diskrsync.as_ref().ok_or_else(|| io::Error::other("missing: diskrsync is not here"))?;
                // It prints progress only if asked.
                measure(Command::new(program).arg("--no-compress").arg(source).arg(target), &[], target.parent())
            }
        }
    }

    fn copy_by_tranship(&self, options: &[&str], source: &Path, target: &Path, state: &Path) -> io::Result<Cost> {
        let option = |side: &str| -> [OsString; 2] { ["--state".into(), state.join(side).into()] };
        let mut arguments = [vec![OsString::from(target)], option("destination").to_vec()].concat();
        if source.is_file() {
            arguments.push("--image".into());
        }
        let mut running = Running::start(Command::new(binary()).arg("receive").args(arguments));
        let Some(ticket) = running.line(DEADLINE) else {
            return Err(io::Error::other(format!("no ticket came: {}", running.kill().stderr.trim())));
        };
        let server = Server { id: running.id(), side: Side::Destination };
        let mut sync = Command::new(binary());
        sync.arg("sync")
            .arg(source)
            .arg(&ticket)
            .args(option("source"))
            .args(["--mode", "owner", "--output", "json"])
            .args(options);
        // It acknowledges what is durable, so there is nothing to add.
        let cost = measure(&mut sync, &[server], None);
        // It may want to listen on for another pass, but not in the middle of this one.
        let left = if cost.is_ok() && running.ends(Duration::from_secs(2)) {
            running.finish(DEADLINE)
        } else {
            running.kill()
        };
        cost.map_err(|error| io::Error::other(format!("{error}; {}", left.stderr.lines().last().unwrap_or_default())))
    }

    /// A folder for states, gone with the place.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }
}

fn rsync(options: &[&str], port: u16, source: &Path, target: &Path) -> Command {
    let mut command = Command::new("rsync");
    command.args(options).arg("--fsync");
    // With a slash, the folder's contents and not the folder.
    let slash = if source.is_dir() { "/" } else { "" };
    command.arg(format!("{}{slash}", source.display()));
    command.arg(format!("rsync://127.0.0.1:{port}/all{}{slash}", target.display()));
    command
}

fn make_certificate(path: &Path) -> io::Result<()> {
    let mut command = Command::new("openssl");
    command.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]);
    let status =
        command.arg("-keyout").arg(path).arg("-out").arg(path.with_extension("crt")).stderr(Stdio::null()).status()?;
    if !status.success() {
        return Err(io::Error::other("openssl made no certificate"));
    }
    let certificate = fs::read_to_string(path.with_extension("crt"))?;
    fs::write(path, fs::read_to_string(path)? + &certificate)
}

/// diskrsync on the path, or built from its release with Go; nothing without either.
pub(crate) fn find_diskrsync() -> Option<PathBuf> {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let built = std::env::current_exe().ok()?.with_file_name("peers").join("diskrsync");
    let candidates = std::env::split_paths(&paths).map(|folder| folder.join("diskrsync")).chain([built.clone()]);
    if let Some(found) = candidates.into_iter().find(|path| path.is_file()) {
        return Some(found);
    }
    build_diskrsync(&built).ok().filter(|()| built.is_file()).map(|()| built)
}

/// Builds it within a module that needs it: `go install` would also ask for what it does not use.
fn build_diskrsync(to: &Path) -> io::Result<()> {
    const PACKAGE: &str = "github.com/dop251/diskrsync";
    let module = TempDir::new()?;
    let text = format!("module peers\n\ngo 1.21\n\nrequire {PACKAGE} v1.3.0\n");
    fs::write(module.path().join("go.mod"), text)?;
    let mut go = Command::new("go");
    go.args(["build", "-mod=mod", "-o"]).arg(to).arg(format!("{PACKAGE}/diskrsync")).current_dir(module.path());
    match go.env("GOTOOLCHAIN", "local").status()?.success() {
        true => Ok(()),
        false => Err(io::Error::other("go did not build it")),
    }
}
