//! The rules of the house, each a line of failure when it is broken.
//!
//! What rustc, clippy and rustfmt can hold is theirs. Here is what they do not know: which crate may use which, what a
//! layer must not touch, what must not be written, which packages must not be locked, and that links and error codes lead
//! somewhere.

mod codes;
mod crates;
mod links;
mod lock;
mod rules;
mod source;

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;
use std::process::{Command, ExitCode};

use source::Source;

/// One broken rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    /// File, relative to the workspace.
    path: String,
    /// Line from 1; 0 for the file as a whole.
    line: usize,
    /// What is wrong and what would be right.
    what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.path, self.what),
            line => write!(f, "{}:{line}: {}", self.path, self.what),
        }
    }
}

/// A file of the workspace.
#[derive(Debug)]
struct File {
    /// Relative to the workspace, with `/`.
    path: String,
    /// What is in it.
    text: String,
}

/// Checks everything and prints what is broken.
pub(crate) fn run(root: &Path) -> ExitCode {
    let findings = match check(root) {
        Ok(findings) => findings,
        Err(error) => {
            eprintln!("tidy cannot look: {error}");
            return ExitCode::FAILURE;
        }
    };
    for finding in &findings {
        println!("{finding}");
    }
    match findings.len() {
        0 => ExitCode::SUCCESS,
        count => {
            eprintln!("tidy: {count} rule(s) broken");
            ExitCode::FAILURE
        }
    }
}

fn check(root: &Path) -> io::Result<Vec<Finding>> {
    let files = files(root)?;
    let mut findings = Vec::new();
    findings.extend(crates::check(&metadata(root)?).map_err(io::Error::other)?);
    findings.extend(rules::check_words(&files));
    let sources = sources(&files);
    findings.extend(rules::check_sources(&sources));
    findings.extend(codes::check(&files, &sources));
    findings.extend(links::check(root, &files));
    findings.extend(lock::check(&fs::read_to_string(root.join("Cargo.lock"))?));
    findings.extend(lock::check_built(&built(root)?));
    findings.sort();
    findings.dedup();
    Ok(findings)
}

fn sources(files: &[File]) -> Vec<Source<'_>> {
    files.iter().filter(|file| file.path.ends_with(".rs")).map(|file| Source::new(&file.path, &file.text)).collect()
}

/// Every text file of the workspace, ordered by path; build results and what begins with a dot are left out, but for
/// the automation of ours that does.
fn files(root: &Path) -> io::Result<Vec<File>> {
    let mut files = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let path = entry.path();
            let relative = path.strip_prefix(root).expect("found beneath it").to_string_lossy().into_owned();
            let is_ours = !relative.starts_with('.') || [".ci", ".cargo"].iter().any(|ours| relative.starts_with(ours));
            let kind = entry.file_type()?;
            if !is_ours || relative == "target" || relative.starts_with("tests/corpus/") {
                continue;
            }
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file()
                && let Ok(text) = String::from_utf8(fs::read(&path)?)
            {
                files.push(File { path: relative, text });
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

/// What cargo knows about our own crates.
fn metadata(root: &Path) -> io::Result<serde_json::Value> {
    let json = cargo(root, &["metadata", "--format-version", "1", "--no-deps", "--offline"])?;
    serde_json::from_str(&json).map_err(io::Error::other)
}

/// Packages that are built for the targets that we ship, one a line. The lock file alone does not tell: it also names
/// what only other targets would need.
fn built(root: &Path) -> io::Result<String> {
    let mut arguments = vec!["tree", "--workspace", "--offline", "--prefix", "none", "--format", "{p}"];
    arguments.extend(["--edges", "normal,build,dev", "--target", "x86_64-unknown-linux-gnu"]);
    cargo(root, &arguments)
}

fn cargo(root: &Path, arguments: &[&str]) -> io::Result<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo).current_dir(root).args(arguments).output()?;
    if !output.status.success() {
        return Err(io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned()));
    }
    String::from_utf8(output.stdout).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_found_beneath_folders_but_not_in_build_results() {
        let root = tempfile::tempdir().expect("a folder");
        for path in ["a.md", "src/b.rs", "target/c.rs", ".git/d", ".ci/run", "tests/corpus/frame/e"] {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("it has one")).expect("made");
            fs::write(path, "text").expect("written");
        }
        fs::write(root.path().join("binary"), [0xff, 0xfe]).expect("written");
        let paths: Vec<_> = files(root.path()).expect("read").into_iter().map(|file| file.path).collect();
        assert_eq!(paths, [".ci/run", "a.md", "src/b.rs"]);
    }

    #[test]
    fn this_workspace_is_tidy() {
        let findings = check(&crate::root()).expect("checked");
        assert!(findings.is_empty(), "{}", findings.iter().map(|f| format!("{f}\n")).collect::<String>());
    }
}
