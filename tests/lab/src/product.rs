//! Images of programs of this workspace: one static file each, and an empty folder for what is temporary.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::command::{command, run};
use crate::image::Image;
use crate::{LabError, Layout};

/// The product, as pods of the lab name it.
pub const TRANSHIP: &str = "tranship.io/tranship:dev";

/// The same, under the version that is built.
pub const TRANSHIP_VERSION: &str = concat!("tranship.io/tranship:", env!("CARGO_PKG_VERSION"));

/// The product as users get it, whatever the lab runs its tests with: for figures.
pub const TRANSHIP_RELEASE: &str = "tranship.io/tranship:release";

/// Applications that never stop writing: `files write|check FOLDER` and `blocks write|check DEVICE`.
pub const WRITER: &str = "tranship.io/lab-writer:dev";

/// How a program is compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Profile {
    /// As `cargo build` does it: what is ours is optimised a little, what is not is optimised fully.
    #[default]
    Dev,
    /// As users get it.
    Release,
}

/// Builds the image of the product, and writes it to `archive`. The same program makes the same archive.
pub fn image(root: &Path, archive: &Path, profile: Profile) -> Result<(), LabError> {
    let names = &[TRANSHIP_VERSION, TRANSHIP];
    Program { package: "tranship", binary: "tranship", names }.image(&Layout::new(root), archive, profile)
}

/// Archives of all images of programs of this workspace, built anew.
pub(crate) fn build_all(layout: &Layout, profile: Profile, say: &dyn Fn(&str)) -> Result<Vec<PathBuf>, LabError> {
    let folder = layout.cache().join("images");
    fs::create_dir_all(&folder).map_err(LabError::io(&folder))?;
    let (tranship, writer) = (folder.join("tranship.tar"), folder.join("lab-writer.tar"));
    say("making the image tranship");
    image(layout.root(), &tranship, profile)?;
    say("making the image lab-writer");
    // What it costs to write is no figure of ours.
    Program { package: "tranship-lab-writer", binary: "lab-writer", names: &[WRITER] }.image(
        layout,
        &writer,
        Profile::Dev,
    )?;
    Ok(vec![tranship, writer])
}

/// An archive of [`TRANSHIP_RELEASE`], built anew.
pub(crate) fn build_release(layout: &Layout, say: &dyn Fn(&str)) -> Result<PathBuf, LabError> {
    let archive = layout.cache().join("images/tranship-release.tar");
    fs::create_dir_all(layout.cache().join("images")).map_err(LabError::io(&archive))?;
    say("making the image tranship, as users get it");
    let program = Program { package: "tranship", binary: "tranship", names: &[TRANSHIP_RELEASE] };
    program.image(layout, &archive, Profile::Release).map(|()| archive)
}

struct Program<'a> {
    package: &'a str,
    binary: &'a str,
    names: &'a [&'a str],
}

impl Program<'_> {
    fn image(&self, layout: &Layout, archive: &Path, profile: Profile) -> Result<(), LabError> {
        let root = self.build(layout, profile)?;
        let entrypoint = format!("/{}", self.binary);
        Image { names: self.names, root: root.path(), entrypoint: &[&entrypoint], variables: &[] }.archive(archive)
    }

    /// Builds it, as the only file of a root.
    ///
    /// Only the crate of the program itself is compiled for a static file: the objects of all others are the same for
    /// both kinds, so that those of the tests serve here too. Build scripts and macros never see the flag, which they
    /// could not be built with.
    fn build(&self, layout: &Layout, profile: Profile) -> Result<TempDir, LabError> {
        let mut cargo = command("cargo", ["rustc", "--quiet", "--locked", "--package", self.package]);
        let folder = match profile {
            Profile::Dev => "debug",
            Profile::Release => {
                cargo.arg("--release");
                "release"
            }
        };
        // Symbols stay, for the sake of a backtrace; the rest of what a debugger reads is most of the file.
        cargo.args(["--bin", self.binary, "--", "-C", "target-feature=+crt-static", "-C", "strip=debuginfo"]);
        run(cargo.current_dir(layout.root()))?;
        let built = layout.root().join("target").join(folder).join(self.binary);
        let root = tempfile::tempdir().map_err(LabError::io(&built))?;
        let program = root.path().join(self.binary);
        fs::copy(&built, &program).map_err(LabError::io(&built))?;
        let temporary = root.path().join("tmp");
        fs::create_dir(&temporary).map_err(LabError::io(&temporary))?;
        for (path, mode) in [(root.path(), 0o755), (&program, 0o755), (&temporary, 0o1777)] {
            fs::set_permissions(path, Permissions::from_mode(mode)).map_err(LabError::io(path))?;
        }
        let bytes = fs::read(&program).map_err(LabError::io(&program))?;
        match asks_for_interpreter(&bytes) {
            Some(false) => Ok(root),
            _ => Err(LabError::Machine(format!("{} is not a static program", built.display()))),
        }
    }
}

/// Whether a program cannot run without another one, the dynamic linker; none if it is no program for 64 bits.
fn asks_for_interpreter(elf: &[u8]) -> Option<bool> {
    const INTERPRETER: u64 = 3;
    let number = |at: usize, bytes: usize| {
        let field = elf.get(at..at.checked_add(bytes)?)?;
        Some(field.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    };
    // The mark, 64 bits, the lower byte first.
    if !elf.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let (table, length, count) = (number(32, 8)? as usize, number(54, 2)? as usize, number(56, 2)? as usize);
    for n in 0..count {
        if number(table.checked_add(n * length)?, 4)? == INTERPRETER {
            return Some(true);
        }
    }
    (count > 0).then_some(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_needs_a_dynamic_linker_is_told_from_one_that_does_not() {
        let this = fs::read(std::env::current_exe().expect("a path")).expect("read");
        assert_eq!(asks_for_interpreter(&this), Some(true));
        let mut without = this.clone();
        let table = u64::from_le_bytes(this[32..40].try_into().expect("eight bytes")) as usize;
        let count = u16::from_le_bytes(this[56..58].try_into().expect("two bytes")) as usize;
        for n in 0..count {
            without[table + n * 56] = 1;
        }
        assert_eq!(asks_for_interpreter(&without), Some(false));
        for no_program in [&b""[..], b"#!/bin/sh", &this[..40], &this[..table + 1]] {
            assert_eq!(asks_for_interpreter(no_program), None);
        }
    }
}
