//! Rust source as the rules see it: code apart from comments and texts, product apart from tests.
//!
//! This is no parser. It knows just enough of the lexical rules to blank what is not code, and to match braces.

/// One source file.
#[derive(Debug)]
pub(super) struct Source<'a> {
    /// Relative to the workspace.
    pub(super) path: &'a str,
    /// As it was written.
    text: &'a str,
    /// The code with comments and the insides of literals as spaces; lines are where they were.
    pub(super) code: String,
    /// The same without test modules. Empty for a file that is a test as a whole.
    pub(super) product: String,
}

impl<'a> Source<'a> {
    pub(super) fn new(path: &'a str, text: &'a str) -> Self {
        let code = blank_non_code(text);
        let is_test = path.starts_with("tests/") || path.ends_with("/tests.rs") || path.contains("/tests/");
        let product = if is_test { blank(&code) } else { blank_test_modules(&code) };
        Self { path, text, code, product }
    }

    /// The test code alone.
    pub(super) fn tests(&self) -> String {
        let pairs = self.code.chars().zip(self.product.chars());
        pairs.map(|(code, product)| if product == ' ' || code == '\n' { code } else { ' ' }).collect()
    }

    /// Lines of the product as they were written, literals included, with their numbers; without lines of comment.
    pub(super) fn product_lines(&self) -> impl Iterator<Item = (usize, &'a str)> {
        // What was a space in the code is not taken for one that a test module left.
        let kept = if self.product.trim().is_empty() { String::new() } else { self.code.replace(' ', "~") };
        let is_product: Vec<bool> = blank_test_modules(&kept).lines().map(|line| !line.trim().is_empty()).collect();
        let lines = self.text.lines().zip(is_product).enumerate();
        let lines = lines.filter(|(_, (line, is_product))| *is_product && !line.trim_start().starts_with("//"));
        lines.map(|(at, (line, _))| (at + 1, line))
    }

    /// Lines that are not test modules; comments and blank lines count.
    pub(super) fn lines(&self) -> usize {
        let kept = blank_test_modules(&self.code);
        let is_tests_only = |(code, kept): (&str, &str)| !code.trim().is_empty() && kept.trim().is_empty();
        self.text.lines().count() - self.code.lines().zip(kept.lines()).filter(|pair| is_tests_only(*pair)).count()
    }
}

/// Where `token` stands in `code` as a whole, as line numbers from 1. Paths are also found in `use` with braces.
pub(super) fn lines_with(code: &str, token: &str) -> Vec<usize> {
    let is_word = |char: Option<char>| char.is_some_and(|char| char.is_alphanumeric() || char == '_');
    let (begins_word, ends_word) = (is_word(token.chars().next()), is_word(token.chars().next_back()));
    let is_whole = |at: usize| {
        let (before, after) = (code[..at].chars().next_back(), code[at + token.len()..].chars().next());
        !(begins_word && is_word(before) || ends_word && is_word(after))
    };
    let found = code.match_indices(token).filter(|(at, _)| is_whole(*at));
    let mut lines: Vec<usize> = found.map(|(at, _)| line_of(code, at)).collect();
    if token.contains("::") {
        let is_it = |path: &str| path == token || path.strip_prefix(token).is_some_and(|rest| rest.starts_with("::"));
        lines.extend(imports(code).into_iter().filter(|(_, path)| is_it(path)).map(|(line, _)| line));
    }
    lines.sort_unstable();
    lines.dedup();
    lines
}

/// Every path that a `use` with braces brings in, with the line of its `use`.
fn imports(code: &str) -> Vec<(usize, String)> {
    let mut paths = Vec::new();
    for (at, _) in code.match_indices("use ") {
        let is_statement =
            code[..at].chars().next_back().is_none_or(|char| char.is_whitespace() || "{};".contains(char));
        if let (true, Some(end)) = (is_statement, code[at..].find(';')) {
            let tree: String = code[at + 4..at + end].split_whitespace().collect();
            let mut found = Vec::new();
            expand("", &tree, &mut found);
            paths.extend(found.into_iter().map(|path| (line_of(code, at), path)));
        }
    }
    paths
}

fn expand(prefix: &str, tree: &str, paths: &mut Vec<String>) {
    let Some(open) = tree.find('{') else {
        paths.push(format!("{prefix}{tree}"));
        return;
    };
    let inner = tree[open + 1..].strip_suffix('}').unwrap_or(&tree[open + 1..]);
    let (mut depth, mut start) = (0usize, 0);
    for (at, char) in inner.char_indices().chain([(inner.len(), ',')]) {
        match char {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                expand(&format!("{prefix}{}", &tree[..open]), &inner[start..at], paths);
                start = at + 1;
            }
            _ => {}
        }
    }
}

fn line_of(code: &str, at: usize) -> usize {
    code[..at].matches('\n').count() + 1
}

/// Comments, and what is inside of literals, as spaces.
fn blank_non_code(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = literal_end(&chars, at).unwrap_or(at + 1);
        if end == at + 1 {
            code.push(chars[at]);
        } else {
            code.extend(chars[at..end].iter().map(|&char| if char == '\n' { '\n' } else { ' ' }));
        }
        at = end;
    }
    code
}

/// Where the comment or literal ends that begins here, if one does.
fn literal_end(chars: &[char], at: usize) -> Option<usize> {
    let next = |offset: usize| chars.get(at + offset).copied();
    let is_inside_word = at > 0 && (chars[at - 1].is_alphanumeric() || chars[at - 1] == '_');
    match chars[at] {
        '/' if next(1) == Some('/') => Some((at..chars.len()).find(|&i| chars[i] == '\n').unwrap_or(chars.len())),
        '/' if next(1) == Some('*') => Some(block_comment_end(chars, at)),
        '"' => Some(quoted_end(chars, at + 1, '"')),
        'r' if !is_inside_word || chars[at - 1] == 'b' => {
            let hashes = chars[at + 1..].iter().take_while(|&&char| char == '#').count();
            (next(1 + hashes) == Some('"')).then(|| raw_end(chars, at + 2 + hashes, hashes))
        }
        // A character, unless it is a lifetime: those have no second quote after their first character.
        '\'' if next(1) == Some('\\') => Some(quoted_end(chars, at + 1, '\'')),
        '\'' if next(2) == Some('\'') => Some(at + 3),
        _ => None,
    }
}

fn quoted_end(chars: &[char], mut at: usize, quote: char) -> usize {
    while at < chars.len() && chars[at] != quote {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(chars.len())
}

fn raw_end(chars: &[char], start: usize, hashes: usize) -> usize {
    let is_end =
        |at: usize| chars[at] == '"' && chars[at + 1..].iter().take(hashes).filter(|&&c| c == '#').count() == hashes;
    (start..chars.len()).find(|&at| is_end(at)).map_or(chars.len(), |at| at + 1 + hashes)
}

fn block_comment_end(chars: &[char], mut at: usize) -> usize {
    let mut depth = 0;
    while at < chars.len() {
        match (chars[at], chars.get(at + 1)) {
            ('/', Some('*')) => (depth, at) = (depth + 1, at + 2),
            ('*', Some('/')) => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    chars.len()
}

fn blank(code: &str) -> String {
    code.chars().map(|char| if char == '\n' { '\n' } else { ' ' }).collect()
}

/// Items behind `#[cfg(test)]` as spaces, attribute and all.
fn blank_test_modules(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut product = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(start) = rest.find(MARK) {
        let end = start + item_end(&rest[start..]);
        product.push_str(&rest[..start]);
        product.push_str(&blank(&rest[start..end]));
        rest = &rest[end..];
    }
    product + rest
}

/// Where the item ends that begins here: at its closing brace, or at a semicolon before any brace.
fn item_end(code: &str) -> usize {
    let mut depth = 0usize;
    for (at, char) in code.char_indices() {
        match char {
            '{' => depth += 1,
            '}' if depth == 1 => return at + 1,
            '}' => depth = depth.saturating_sub(1),
            ';' if depth == 0 => return at + 1,
            _ => {}
        }
    }
    code.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_no_code() {
        for (text, code) in [
            ("a // unsafe\nb", "a          \nb"),
            ("a /* x /* y */ z */ b", "a                   b"),
            (r#"a("un\"safe") b"#, r#"a(          ) b"#),
            ("a(r#\"x\"y\"#) b", "a(        ) b"),
            ("a('\"', '\\'', b'\\\\') 'a b", "a(   ,     , b    ) 'a b"),
            ("fn a<'a>(b: &'a str)", "fn a<'a>(b: &'a str)"),
        ] {
            assert_eq!(Source::new("a.rs", text).code, code, "{text}");
        }
    }

    #[test]
    fn test_modules_are_no_product() {
        let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() { c {} }\n}\nfn d() {}\n";
        let source = Source::new("agent/src/a.rs", text);
        assert_eq!(lines_with(&source.product, "b"), [0usize; 0]);
        assert_eq!(lines_with(&source.product, "d"), [6]);
        assert_eq!(lines_with(&source.tests(), "b"), [4]);
        assert_eq!(lines_with(&source.tests(), "a"), [0usize; 0]);
        assert_eq!(source.lines(), 2);
        assert_eq!(source.product_lines().map(|(line, _)| line).collect::<Vec<_>>(), [1, 6]);
        assert_eq!(Source::new("tests/wire/a.rs", text).product.trim(), "");
    }

    #[test]
    fn lines_of_the_product_keep_their_literals_and_lose_their_comments() {
        let text = "fn a() {\n    // no\n    \"b\"\n}\n#[cfg(test)]\nmod tests {\n    fn c() {\n    \"d\"\n    }\n}\n";
        let lines: Vec<_> = Source::new("agent/src/a.rs", text).product_lines().collect();
        assert_eq!(lines, [(1, "fn a() {"), (3, "    \"b\""), (4, "}")]);
        assert_eq!(Source::new("tests/wire/a.rs", text).product_lines().count(), 0);
    }

    #[test]
    fn tokens_are_found_whole_and_in_braces() {
        let code =
            "use std::{io, fs::{self, File}};\nuse std::net;\nfn unsafely() { std::fs::read() }\nmy_std::fs();\n";
        assert_eq!(lines_with(code, "std::fs"), [1, 3]);
        assert_eq!(lines_with(code, "std::net"), [2]);
        assert_eq!(lines_with(code, "unsafe"), [0usize; 0]);
        assert_eq!(lines_with(code, "std::thread"), [0usize; 0]);
    }
}
