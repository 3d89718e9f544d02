//! Programs that are built from Go modules, and kept.

use std::fs;
use std::path::{Path, PathBuf};

use crate::command::{command, run};
use crate::{LabError, Layout};

/// The oldest Go that builds all of them.
const GO: (u32, u32) = (1, 26);
/// The one that is taken if there is none: a module like any other, so that nothing but the module proxy is needed.
const TOOLCHAIN: &str = "golang.org/toolchain@v0.0.1-go1.26.8.linux-amd64";

/// A program of one module.
pub(crate) struct Program<'a> {
    /// The folder of the module that names it.
    pub(crate) module: &'a str,
    /// The file in it that names its dependencies, without `.mod`.
    pub(crate) dependencies: &'a str,
    /// The package of its `main`, as seen from there.
    pub(crate) package: &'a str,
    /// What it is called when it is built.
    pub(crate) name: String,
    /// Values that the linker writes into variables, as `package.variable=value`.
    pub(crate) variables: Vec<String>,
}

/// Builds `program` unless that was done before from the same files.
pub(crate) fn build(layout: &Layout, program: &Program<'_>, say: &dyn Fn(&str)) -> Result<PathBuf, LabError> {
    let module = layout.go().join(program.module);
    let cache = layout.cache();
    fs::create_dir_all(&cache).map_err(LabError::io(&cache))?;
    let built = cache.join(format!("{}-{}", program.name, &fingerprint(&module, program)?[..16]));
    if built.exists() {
        return Ok(built);
    }
    say(&format!("building {}", program.name));
    let variables: String = program.variables.iter().map(|variable| format!(" -X {variable}")).collect();
    let unfinished = built.with_extension("new");
    let mut go = command(&go(&cache, say)?, ["build", "-trimpath", "-buildvcs=false"]);
    go.arg(format!("-modfile={}.mod", program.dependencies));
    go.arg(format!("-ldflags=-s -w{variables}")).arg("-o").arg(&unfinished).arg(program.package);
    run(go.current_dir(&module).env("CGO_ENABLED", "0").env("GOTOOLCHAIN", "local"))?;
    fs::rename(&unfinished, &built).map_err(LabError::io(&built))?;
    Ok(built)
}

fn fingerprint(module: &Path, program: &Program<'_>) -> Result<String, LabError> {
    let mut hasher = blake3::Hasher::new();
    let files = fs::read_dir(module).map_err(LabError::io(module))?.flatten().map(|file| file.path());
    let is_code = |file: &PathBuf| file.extension().is_some_and(|extension| extension == "go");
    let mut files: Vec<PathBuf> = files.filter(is_code).collect();
    files.sort();
    files.extend(["mod", "sum"].map(|kind| module.join(format!("{}.{kind}", program.dependencies))));
    for file in &files {
        hasher.update(&fs::read(file).map_err(LabError::io(file))?).update(&[0]);
    }
    hasher.update(program.package.as_bytes()).update(program.variables.join("\0").as_bytes());
    Ok(hasher.finalize().to_hex().to_string())
}

/// A Go that is new enough.
fn go(cache: &Path, say: &dyn Fn(&str)) -> Result<String, LabError> {
    if run(&mut command("go", ["env", "GOVERSION"])).is_ok_and(|version| is_new_enough(&version)) {
        return Ok("go".to_owned());
    }
    let toolchain = cache.join("toolchain");
    let go = toolchain.join("bin/go");
    if !go.exists() {
        say("fetching Go");
        fetch_toolchain(&toolchain)?;
    }
    Ok(go.to_string_lossy().into_owned())
}

fn is_new_enough(version: &str) -> bool {
    let numbers: Vec<u32> = version.trim().trim_start_matches("go").split('.').map_while(|n| n.parse().ok()).collect();
    matches!(numbers[..], [major, minor, ..] if (major, minor) >= GO)
}

/// Debian's Go is too old, but knows how to fetch a module; what it unpacks lacks the permission to be run.
fn fetch_toolchain(to: &Path) -> Result<(), LabError> {
    run(command("apt-get", ["install", "--yes", "--no-install-recommends", "-qq", "golang-go"])
        .env("DEBIAN_FRONTEND", "noninteractive"))?;
    let told = run(command("go", ["mod", "download", "-json", TOOLCHAIN]).current_dir("/"))?;
    let told: serde_json::Value = serde_json::from_str(&told).unwrap_or_default();
    let unpacked = told["Dir"].as_str().ok_or_else(|| LabError::Machine("Go told of no folder".to_owned()))?;
    let unfinished = to.with_extension("new");
    let _ = fs::remove_dir_all(&unfinished);
    run(command("cp", ["--recursive", "--no-preserve=mode", unpacked]).arg(&unfinished))?;
    for folder in ["bin", "pkg/tool/linux_amd64"] {
        run(command("chmod", ["--recursive", "a+x"]).arg(unfinished.join(folder)))?;
    }
    fs::rename(&unfinished, to).map_err(LabError::io(to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_go_are_compared_by_their_numbers() {
        for (version, is_fine) in
            [("go1.26.8\n", true), ("go1.30", true), ("go1.19.8", false), ("go1.3", false), ("", false)]
        {
            assert_eq!(is_new_enough(version), is_fine, "{version:?}");
        }
    }
}
