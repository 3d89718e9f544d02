//! What must not be written where.

use super::source::{Source, lines_with};
use super::{File, Finding};

/// Lines of a file beyond which nobody reads it as a whole; test modules do not count.
const FILE_LINES_MAX: usize = 700;

/// Tokens that a part of the house must not hold.
struct Rule {
    /// Which code is looked at.
    part: Part,
    /// Beginnings of the paths that it holds for; empty for all.
    within: &'static [&'static str],
    /// Beginnings of the paths that it does not hold for.
    except: &'static [&'static str],
    tokens: &'static [&'static str],
    why: &'static str,
}

#[derive(Clone, Copy)]
enum Part {
    Product,
    Tests,
    Both,
}

const RULES: &[Rule] = &[
    Rule {
        part: Part::Product,
        within: &["proto/", "agent/engine/"],
        except: &[],
        tokens: &[
            "Instant::now",
            "SystemTime",
            "std::thread",
            "thread::spawn",
            "std::net",
            "std::fs",
            "std::process",
            "std::env",
            "tokio",
        ],
        why: "proto and engine decide only; time, randomness and bytes are arguments",
    },
    Rule {
        part: Part::Product,
        within: &["agent/src/"],
        // The last three read and write what the kernel makes: /proc, /sys, tracefs, and what confinement forbids.
        except: &[
            "agent/src/volume/",
            "agent/src/volume.rs",
            "agent/src/state",
            "agent/src/confine/",
            "agent/src/link/interfaces.rs",
            "agent/src/track/",
        ],
        tokens: &[
            "std::fs",
            "tokio::fs",
            "rustix::fs::open",
            "rustix::fs::CWD",
            "fs::CWD",
            ".canonicalize(",
            ".read_dir(",
            ".read_link(",
            ".symlink_metadata(",
            ".try_exists(",
            ".exists()",
        ],
        why: "only the volume and the state module open by path",
    },
    Rule { part: Part::Both, within: &[], except: &[], tokens: &["unsafe"], why: "there is no unsafe code here" },
    Rule {
        part: Part::Both,
        within: &[],
        except: &[],
        tokens: &["todo!", "unimplemented!", "dbg!"],
        why: "what is here is finished",
    },
    Rule {
        part: Part::Both,
        within: &[],
        except: &[],
        tokens: &["#[ignore"],
        why: "a test that does not run promises nothing",
    },
    Rule { part: Part::Tests, within: &[], except: &[], tokens: &["sleep("], why: "tests wait for a condition" },
];

/// Words that must not stand in any file, put together here so that they do not stand in this one.
const WORDS: &[(&str, &str)] = &[
    (concat!("TO", "DO"), "open work is an issue, not a comment"),
    (concat!("FIX", "ME"), "open work is an issue, not a comment"),
    (concat!("/wo", "rk/"), "a folder of one machine"),
    (concat!("/ro", "ot/"), "a folder of one machine"),
    (concat!("/ho", "me/"), "a folder of one machine"),
    (concat!("index.crates", ".io"), "the host of a registry"),
    (concat!("static.crates", ".io"), "the host of a registry"),
    (concat!("proxy.golang", ".org"), "the host of a registry"),
    (concat!("registry.npmjs", ".org"), "the host of a registry"),
    (concat!("pypi", ".org"), "the host of a registry"),
    (concat!("pythonhosted", ".org"), "the host of a registry"),
    (concat!("deb.debian", ".org"), "the host of a registry"),
];

/// Finds words that belong in no file.
pub(super) fn check_words(files: &[File]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in files {
        for (at, line) in file.text.lines().enumerate() {
            for (word, why) in WORDS.iter().filter(|(word, _)| holds_word(line, word)) {
                findings.push(Finding { path: file.path.clone(), line: at + 1, what: format!("{word:?}: {why}") });
            }
        }
    }
    findings
}

/// Whether `word` stands in `line` by itself: not as the end of a longer word, nor in the middle of a relative path.
fn holds_word(line: &str, word: &str) -> bool {
    let is_part = |char: char| char.is_alphanumeric() || "_-.*~$}".contains(char);
    line.match_indices(word).any(|(at, _)| {
        let is_whole = word.ends_with('/') || !line[at + word.len()..].starts_with(char::is_alphanumeric);
        is_whole && !line[..at].ends_with(is_part)
    })
}

/// Finds code that stands where it must not, and files that are too long.
pub(super) fn check_sources(sources: &[Source<'_>]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources {
        let mut broken = Vec::new();
        for rule in RULES.iter().filter(|rule| rule.holds_for(source.path)) {
            let code = match rule.part {
                Part::Product => &source.product,
                Part::Tests => &source.tests(),
                Part::Both => &source.code,
            };
            for token in rule.tokens {
                let lines = lines_with(code, token);
                broken.extend(lines.into_iter().map(|line| (line, format!("`{token}`: {}", rule.why))));
            }
        }
        let lines = source.lines();
        if lines > FILE_LINES_MAX {
            broken.push((0, format!("{lines} lines without its tests, {FILE_LINES_MAX} are allowed")));
        }
        let path = source.path;
        findings.extend(broken.into_iter().map(|(line, what)| Finding { path: path.to_owned(), line, what }));
    }
    findings
}

impl Rule {
    fn holds_for(&self, path: &str) -> bool {
        let begins = |beginnings: &[&str]| beginnings.iter().any(|beginning| path.starts_with(beginning));
        (self.within.is_empty() || begins(self.within)) && !begins(self.except)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, text: &str) -> Vec<Finding> {
        check_sources(&[Source::new(path, text)])
    }

    #[test]
    fn each_rule_finds_its_breach_and_nothing_else() {
        for (path, text, is_fine) in [
            ("proto/src/a.rs", "use std::time::{Duration, SystemTime};", false),
            ("proto/src/a.rs", "use std::time::Duration;", true),
            ("proto/src/a.rs", "// SystemTime is an argument", true),
            ("proto/src/a.rs", "#[cfg(test)]\nmod tests { use std::fs; }", true),
            ("agent/engine/src/a.rs", "let now = Instant::now();", false),
            ("agent/engine/src/a.rs", "use std::{fs, io};", false),
            ("agent/engine/src/a.rs", "use std::thread;", false),
            ("agent/engine/src/a.rs", "use std::net::IpAddr;", false),
            ("agent/src/a.rs", "let now = Instant::now();", true),
            ("agent/src/a.rs", "std::fs::read(path)", false),
            ("agent/src/a.rs", "use tokio::{fs, net};", false),
            ("agent/src/a.rs", "if path.exists() {}", false),
            ("agent/src/a.rs", "use rustix::fs::{CWD, openat};", false),
            ("agent/src/volume/tree.rs", "std::fs::read(path)", true),
            ("agent/src/state.rs", "std::fs::read(path)", true),
            ("agent/src/a.rs", "unsafe { f() }", false),
            ("agent/src/a.rs", "#![forbid(unsafe_code)]", true),
            ("agent/src/a.rs", "fn a() { todo!() }", false),
            ("tests/src/a.rs", "fn a() { dbg!(1) }", false),
            ("tests/src/a.rs", "#[ignore = \"slow\"]\nfn a() {}", false),
            ("tests/src/a.rs", "fn a() { thread::sleep(SECOND) }", false),
            ("agent/src/a.rs", "fn a() { sleep(SECOND) }", true),
            ("agent/src/a.rs", "#[cfg(test)]\nmod tests { fn a() { sleep(SECOND) } }", false),
        ] {
            assert_eq!(check(path, text).is_empty(), is_fine, "{path}: {text}");
        }
    }

    #[test]
    fn a_long_file_is_a_finding_and_its_tests_do_not_count() {
        let (short, long) = ("fn a() {}\n".to_owned(), "fn a() {}\n".repeat(FILE_LINES_MAX + 1));
        assert_eq!(check("a.rs", &short).len(), 0);
        assert_eq!(check("a.rs", &long).len(), 1);
        let tested = format!("fn a() {{}}\n#[cfg(test)]\nmod tests {{\n{long}}}\n");
        assert_eq!(check("a.rs", &tested).len(), 0);
    }

    #[test]
    fn words_are_found_in_any_file_by_themselves() {
        for (text, count) in [
            (format!("# {}: later", WORDS[0].0), 1),
            (format!("see {}x/y", WORDS[2].0), 1),
            (format!("a{}x is relative", WORDS[2].0), 0),
            (format!("cp {}a {}b", WORDS[3].0, WORDS[4].0), 2),
            (format!("https://{}/x", WORDS[5].0), 1),
            ("MASTODON, homework".to_owned(), 0),
        ] {
            let files = [File { path: "a.md".into(), text: text.clone() }];
            assert_eq!(check_words(&files).len(), count, "{text}");
        }
    }
}
