//! Images of containers, made of Debian's packages and files of this machine: no registry is asked.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tempfile::TempDir;

use crate::command::{command, run};
use crate::layout::write;
use crate::{LabError, Layout};

/// The image whose process holds the namespaces of a pod, and which serves as a shell besides.
pub const BUSYBOX: &str = "docker.io/lab/busybox:1";

/// A database server with its tools, pgbench among them: it keeps its data in `$PGDATA`, as user 999.
pub const POSTGRES: &str = "docker.io/lab/postgres:1";

/// rsync, ssh and its server, and what copies a device: what people copy volumes with. It waits until it is told to do
/// something.
pub const RSYNC: &str = "docker.io/lab/rsync:1";

/// How the server of RSYNC lets root in: by a key, and without the rest of a system around it.
const SSHD_CONFIG: &str = "PermitRootLogin prohibit-password\nStrictModes no\nUsePAM no\nPidFile none\n";

/// What a container of POSTGRES runs: it makes a database where there is none, and is never asked for a password.
const START_POSTGRES: &str = r#"#!/bin/sh
set -eu
bin=$(echo /usr/lib/postgresql/*/bin)
[ -s "$PGDATA/PG_VERSION" ] || "$bin/initdb" --username=postgres --auth=trust --locale=C --encoding=UTF8 --data-checksums
exec "$bin/postgres" -c listen_addresses='*' -c unix_socket_directories=/tmp "$@"
"#;

/// What packages bring along and no container needs: two thirds of their bytes.
const LEFT_OUT: &[&str] = &[
    "./usr/lib/*/gconv",
    "./usr/lib/*/libLLVM*",
    "./usr/lib/*/libperl*",
    "./usr/lib/*/libz3*",
    "./usr/lib/*/perl*",
    "./usr/lib/locale",
    "./usr/lib/postgresql/*/lib/bitcode",
    "./usr/lib/postgresql/*/lib/llvmjit*",
    "./usr/share/doc",
    "./usr/share/i18n",
    "./usr/share/locale",
    "./usr/share/man",
    "./usr/share/perl*",
];

/// Makes the archives of all images that are not there yet.
pub(crate) fn build_all(layout: &Layout, say: &dyn Fn(&str)) -> Result<Vec<PathBuf>, LabError> {
    Ok(vec![build(layout, "busybox", busybox, say)?, build(layout, "postgres", postgres, say)?])
}

/// Makes the archive of RSYNC, which only a comparison needs, if it is not there yet.
pub(crate) fn build_rsync(layout: &Layout, say: &dyn Fn(&str)) -> Result<PathBuf, LabError> {
    build(layout, "rsync", rsync, say)
}

fn build(
    layout: &Layout,
    name: &str,
    make: fn(&Path) -> Result<(), LabError>,
    say: &dyn Fn(&str),
) -> Result<PathBuf, LabError> {
    let folder = layout.cache().join("images");
    fs::create_dir_all(&folder).map_err(LabError::io(&folder))?;
    let archive = folder.join(format!("{name}.tar"));
    if !archive.exists() {
        say(&format!("making the image {name}"));
        make(&archive)?;
    }
    Ok(archive)
}

/// Makes an archive that depends on contents, names and permissions alone.
const REPRODUCIBLE: &[&str] =
    &["--create", "--sort=name", "--format=gnu", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner"];

/// What a container of an image runs, and from which files.
pub(crate) struct Image<'a> {
    /// Its full names with a tag.
    pub(crate) names: &'a [&'a str],
    /// The folder that is its root.
    pub(crate) root: &'a Path,
    /// Program and arguments.
    pub(crate) entrypoint: &'a [&'a str],
    /// Variables, as `NAME=value`.
    pub(crate) variables: &'a [&'a str],
}

impl Image<'_> {
    /// Writes it as an archive that `ctr image import` reads, in the form of `docker save`. Who makes it and when does not
    /// show in it.
    pub(crate) fn archive(&self, to: &Path) -> Result<(), LabError> {
        let beside = std::path::absolute(to).map_err(LabError::io(to))?;
        let folder =
            tempfile::tempdir_in(beside.parent().expect("a file lies in a folder")).map_err(LabError::io(to))?;
        let layer = folder.path().join("layer.tar");
        run(command("tar", REPRODUCIBLE).arg("--file").arg(&layer).arg("--directory").arg(self.root).arg("."))?;
        let sum = run(&mut command("sha256sum", [&layer]))?;
        let sum = sum.split_whitespace().next().unwrap_or_default();
        let mut variables = vec!["PATH=/usr/local/bin:/usr/bin:/bin"];
        variables.extend(self.variables);
        let config = serde_json::json!({
            "architecture": "amd64",
            "os": "linux",
            "config": {"Entrypoint": self.entrypoint, "Env": variables},
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{sum}")]},
        });
        let manifest = serde_json::json!([{"Config": "config.json", "RepoTags": self.names, "Layers": ["layer.tar"]}]);
        write(&folder.path().join("config.json"), config.to_string())?;
        write(&folder.path().join("manifest.json"), manifest.to_string())?;
        let unfinished = folder.path().join("image.tar");
        let mut tar = command("tar", REPRODUCIBLE);
        tar.arg("--file").arg(&unfinished).arg("--directory").arg(folder.path());
        run(tar.args(["manifest.json", "config.json", "layer.tar"]))?;
        fs::rename(&unfinished, to).map_err(LabError::io(to))
    }
}

fn busybox(archive: &Path) -> Result<(), LabError> {
    let root = empty_root()?;
    let bin = root.path().join("usr/bin");
    let program = bin.join("busybox");
    fs::copy("/bin/busybox", &program).map_err(LabError::io(&program))?;
    for applet in run(&mut command("/bin/busybox", ["--list"]))?.lines().filter(|applet| *applet != "busybox") {
        let applet = bin.join(applet);
        symlink("busybox", &applet).map_err(LabError::io(&applet))?;
    }
    let entrypoint = &["/bin/sleep", "2147483647"];
    Image { names: &[BUSYBOX], root: root.path(), entrypoint, variables: &[] }.archive(archive)
}

fn postgres(archive: &Path) -> Result<(), LabError> {
    let root = empty_root()?;
    unpack_packages(&["postgresql", "postgresql-contrib", "coreutils", "dash", "grep", "sed"], root.path())?;
    let file = |name: &str| root.path().join(name);
    write(&file("etc/passwd"), "root:x:0:0::/root:/bin/sh\npostgres:x:999:999::/tmp:/bin/sh\n")?;
    write(&file("etc/group"), "root:x:0:\npostgres:x:999:\n")?;
    let start = file("usr/local/bin/start-postgres");
    fs::create_dir_all(file("usr/local/bin")).map_err(LabError::io(&start))?;
    write(&start, START_POSTGRES)?;
    fs::set_permissions(&start, Permissions::from_mode(0o755)).map_err(LabError::io(&start))?;
    link_shell(root.path())?;
    // Debian's wrappers want a whole system around them.
    let programs = fs::read_dir(file("usr/lib/postgresql")).map_err(LabError::io(&file("usr/lib/postgresql")))?;
    let version =
        programs.flatten().next().ok_or_else(|| LabError::Machine("no PostgreSQL was unpacked".to_owned()))?;
    let bin = Path::new("/usr/lib/postgresql").join(version.file_name()).join("bin");
    for program in ["psql", "pgbench", "pg_isready"] {
        let (from, to) = (bin.join(program), file("usr/local/bin").join(program));
        symlink(&from, &to).map_err(LabError::io(&to))?;
    }
    let (entrypoint, variables) =
        (&["/usr/local/bin/start-postgres"], &["PGDATA=/data/postgres", "PGHOST=/tmp", "PGUSER=postgres"]);
    Image { names: &[POSTGRES], root: root.path(), entrypoint, variables }.archive(archive)
}

fn rsync(archive: &Path) -> Result<(), LabError> {
    let root = empty_root()?;
    unpack_packages(&["rsync", "openssh-client", "openssh-server", "coreutils", "dash"], root.path())?;
    let file = |name: &str| root.path().join(name);
    write(&file("etc/passwd"), "root:x:0:0::/root:/bin/sh\nsshd:x:100:65534::/run/sshd:/bin/false\n")?;
    write(&file("etc/group"), "root:x:0:\nnogroup:x:65534:\n")?;
    write(&file("etc/ssh/sshd_config"), SSHD_CONFIG)?;
    let separated = file("run/sshd");
    fs::create_dir_all(&separated).map_err(LabError::io(&separated))?;
    link_shell(root.path())?;
    let entrypoint = &["/usr/bin/sleep", "2147483647"];
    Image { names: &[RSYNC], root: root.path(), entrypoint, variables: &[] }.archive(archive)
}

/// The shell, where what would make the link was not run.
fn link_shell(root: &Path) -> Result<(), LabError> {
    let shell = root.join("usr/bin/sh");
    if shell.exists() { Ok(()) } else { symlink("dash", &shell).map_err(LabError::io(&shell)) }
}

/// A root with nothing in it but the folders that every one has.
fn empty_root() -> Result<TempDir, LabError> {
    let root = tempfile::tempdir().map_err(LabError::io(Path::new("a temporary folder")))?;
    for folder in ["usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "tmp", "etc", "proc", "sys", "dev", "root", "var"] {
        let folder = root.path().join(folder);
        fs::create_dir_all(&folder).map_err(LabError::io(&folder))?;
    }
    for link in ["bin", "sbin", "lib", "lib64"] {
        let link = root.path().join(link);
        let target = Path::new("usr").join(link.file_name().expect("it has just been joined"));
        symlink(target, &link).map_err(LabError::io(&link))?;
    }
    for (folder, mode) in [("", 0o755), ("tmp", 0o1777)] {
        let folder = root.path().join(folder);
        fs::set_permissions(&folder, Permissions::from_mode(mode)).map_err(LabError::io(&folder))?;
    }
    Ok(root)
}

/// Unpacks these packages, and all that they depend on, without running anything of them.
fn unpack_packages(packages: &[&str], root: &Path) -> Result<(), LabError> {
    let mut depends = command("apt-cache", ["depends", "--recurse"]);
    for kind in ["recommends", "suggests", "conflicts", "breaks", "replaces", "enhances"] {
        depends.arg(format!("--no-{kind}"));
    }
    let told = run(depends.args(packages))?;
    // Lines that do not begin with a space are packages; those in angle brackets only stand for others.
    let is_package = |line: &&str| line.starts_with(|first: char| first.is_ascii_alphanumeric()) && !line.contains(':');
    let wanted: Vec<&str> = told.lines().filter(is_package).collect();
    let downloads = tempfile::tempdir().map_err(LabError::io(root))?;
    // apt gives up its rights for a download, and then has to be able to write.
    fs::set_permissions(downloads.path(), Permissions::from_mode(0o777)).map_err(LabError::io(downloads.path()))?;
    run(command("apt-get", ["download", "-qq"]).args(wanted).current_dir(downloads.path()))?;
    for package in fs::read_dir(downloads.path()).map_err(LabError::io(downloads.path()))?.flatten() {
        let mut files = command("dpkg-deb", ["--fsys-tarfile".as_ref(), package.path().as_os_str()]);
        let mut unpacking = files.stdout(Stdio::piped()).spawn().map_err(LabError::io(&package.path()))?;
        let tar = unpacking.stdout.take().expect("it is piped");
        let mut unpack = command("tar", ["--extract", "--keep-directory-symlink"]);
        unpack.args(LEFT_OUT.iter().map(|pattern| format!("--exclude={pattern}")));
        run(unpack.arg("--directory").arg(root).stdin(tar))?;
        if !unpacking.wait().map_err(LabError::io(&package.path()))?.success() {
            return Err(LabError::Machine(format!("{} cannot be unpacked", package.path().display())));
        }
    }
    Ok(())
}
