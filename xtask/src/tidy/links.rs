//! Links between documents lead somewhere.

use std::path::Path;

use super::{File, Finding};

/// Finds links in Markdown files to local files that are not there.
pub(super) fn check(root: &Path, files: &[File]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in files.iter().filter(|file| file.path.ends_with(".md")) {
        let folder = root.join(&file.path).parent().expect("a file lies in a folder").to_owned();
        for (line, target) in targets(&file.text) {
            if !folder.join(&target).exists() {
                let what = format!("the link to {target:?} leads nowhere");
                findings.push(Finding { path: file.path.clone(), line, what });
            }
        }
    }
    findings
}

/// Local targets of inline links and of reference definitions, with their lines; code is left out.
fn targets(text: &str) -> Vec<(usize, String)> {
    let mut targets = Vec::new();
    let mut is_code = false;
    for (at, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            is_code = !is_code;
            continue;
        }
        if is_code {
            continue;
        }
        // Every second part between backticks is code.
        let prose: String = line.split('`').step_by(2).collect::<Vec<_>>().join("`");
        let inline = prose.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target);
        let definition = prose.strip_prefix('[').and_then(|rest| rest.split_once("]: ")).map(|(_, target)| target);
        for target in inline.chain(definition) {
            let target = target.split_whitespace().next().unwrap_or_default();
            let file = target.split('#').next().unwrap_or_default();
            if !file.is_empty() && !file.contains("://") && !file.starts_with("mailto:") {
                targets.push((at + 1, file.to_owned()));
            }
        }
    }
    targets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_links_to_missing_local_files_are_found() {
        let root = tempfile::tempdir().expect("a folder");
        std::fs::create_dir_all(root.path().join("docs")).expect("made");
        std::fs::write(root.path().join("docs/there.md"), "").expect("written");
        for (text, missing) in [
            ("[a](there.md) and [b](there.md#part \"title\")", 0),
            ("[a](../docs/there.md) [b](#part) [c](https://example.org/x)", 0),
            ("[a](gone.md) [b](there.md) [c](gone/)", 2),
            ("`[a](gone.md)`\n```\n[a](gone.md)\n```\n", 0),
            ("[a]: gone.md\n[b]: there.md", 1),
        ] {
            let files = [File { path: "docs/a.md".into(), text: text.into() }];
            assert_eq!(check(root.path(), &files).len(), missing, "{text}");
        }
    }
}
