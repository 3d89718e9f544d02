//! Every error code has its line in the manual, and no line is about a code that nothing says.

use std::collections::BTreeMap;

use super::source::Source;
use super::{File, Finding};

/// Where users look a code up: in a table whose rows begin with the code.
const TABLE: &str = "docs/operations.md";

/// Finds codes that the table lacks, has twice, or has for nothing.
pub(super) fn check(files: &[File], sources: &[Source<'_>]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut listed: BTreeMap<&str, usize> = BTreeMap::new();
    for (line, code) in files.iter().filter(|file| file.path == TABLE).flat_map(|file| rows(&file.text)) {
        if listed.insert(code, line).is_some() {
            findings.push(finding(TABLE, line, format!("{code} has a second row")));
        }
    }
    let mut lack = |path: &str, line: usize, code: &str| {
        if !listed.contains_key(code) {
            findings.push(finding(path, line, format!("{code} has no row in the table of {TABLE}")));
        }
    };
    let mut said = Vec::new();
    for source in sources.iter().filter(|source| !source.path.starts_with("xtask/")) {
        for (line, text) in source.product_lines() {
            for code in codes(text) {
                lack(source.path, line, code);
                said.push(code);
            }
        }
    }
    for file in files.iter().filter(|file| file.path.ends_with(".md")) {
        for (at, text) in file.text.lines().enumerate() {
            codes(text).for_each(|code| lack(&file.path, at + 1, code));
        }
    }
    let idle = listed.into_iter().filter(|(code, _)| !said.contains(code));
    findings.extend(idle.map(|(code, line)| finding(TABLE, line, format!("nothing says {code}"))));
    findings
}

fn finding(path: &str, line: usize, what: String) -> Finding {
    Finding { path: path.to_owned(), line, what }
}

/// The codes that rows of tables begin with, and their lines.
fn rows(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let row = |(at, line): (usize, &'_ str)| line.starts_with("| `TS-").then_some(at + 1);
    text.lines().enumerate().filter_map(move |(at, line)| Some((row((at, line))?, codes(line).next()?)))
}

/// All codes in a text: `TS-`, a capital letter and three digits.
fn codes(text: &str) -> impl Iterator<Item = &str> {
    const BEGINNING: &str = "TS-";
    const CODE_BYTES: usize = BEGINNING.len() + 4;
    text.match_indices(BEGINNING).filter_map(|(at, _)| {
        let code = text.get(at..at + CODE_BYTES)?;
        let (letter, number) = code.as_bytes()[BEGINNING.len()..].split_first()?;
        (letter.is_ascii_uppercase() && number.iter().all(u8::is_ascii_digit)).then_some(code)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_the_table_agree_in_both_directions() {
        let table = "| code | meaning |\n|---|---|\n| `TS-P100` | one |\n| `TS-E250` | another |\n";
        let twice = format!("{table}| `TS-P100` | again |\n");
        let both = "fn a() { b(\"TS-P100\", \"TS-E250\") }";
        for (table, code, notes, count) in [
            (table, both, "see TS-E250", 0),
            (table, "fn a() { b(\"TS-P100\") }", "", 1),
            (table, "fn a() { b(\"TS-P100\", \"TS-E250\", \"TS-S600\") }", "", 1),
            (table, both, "see TS-S600, not TS-1", 1),
            (&twice, both, "", 1),
            ("", both, "", 2),
            // What only tests and comments say does not count.
            (
                table,
                "// TS-E250\nfn a() { b(\"TS-P100\") }\n#[cfg(test)]\nmod tests { fn a() { b(\"TS-E250\") } }",
                "",
                1,
            ),
        ] {
            let files = [(TABLE, table), ("notes.md", notes)];
            let files = files.map(|(path, text)| File { path: path.into(), text: text.into() });
            let findings = check(&files, &[Source::new("agent/src/a.rs", code)]);
            assert_eq!(findings.len(), count, "{code} {notes}: {findings:?}");
        }
    }
}
