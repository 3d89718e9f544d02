//! What the user wants left out, in gitignore's syntax.

use ignore::gitignore::{Gitignore, GitignoreBuilder};
use thiserror::Error;
use tranship_proto::entry::{Kind, Place};
use tranship_proto::limit::{PATTERN_BYTES_MAX, PATTERNS_MAX};

/// Compiled patterns; the same on both sides, so that what is left out is neither sent, nor deleted, nor proven.
#[derive(Debug, Clone)]
pub struct Excludes {
    matcher: Gitignore,
}

/// Why patterns are refused.
#[derive(Debug, Error)]
pub enum ExcludeError {
    /// Too many, or one too long.
    #[error("at most {PATTERNS_MAX} patterns of at most {PATTERN_BYTES_MAX} bytes can be given")]
    Limit,
    /// Not gitignore's syntax.
    #[error("pattern {pattern:?} cannot be understood")]
    Syntax {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        source: ignore::Error,
    },
}

impl Excludes {
    /// Compiles `patterns`, of which later ones override earlier ones.
    pub fn new(patterns: &[String]) -> Result<Self, ExcludeError> {
        if patterns.len() > PATTERNS_MAX || patterns.iter().any(|pattern| pattern.len() > PATTERN_BYTES_MAX) {
            return Err(ExcludeError::Limit);
        }
        let mut builder = GitignoreBuilder::new("");
        for pattern in patterns {
            let syntax = |source| ExcludeError::Syntax { pattern: pattern.clone(), source };
            builder.add_line(None, pattern).map_err(syntax)?;
        }
        let syntax = |source| ExcludeError::Syntax { pattern: patterns.join(" "), source };
        Ok(Self { matcher: builder.build().map_err(syntax)? })
    }

    /// Whether `place` is left out, if its parents are not. The root never is.
    pub fn excludes(&self, place: &Place, kind: Kind) -> bool {
        if self.matcher.is_empty() || place.is_root() {
            return false;
        }
        let path: Vec<u8> = place.as_bytes().iter().map(|&byte| if byte == 0 { b'/' } else { byte }).collect();
        let path = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(&path);
        self.matcher.matched(path, kind == Kind::Directory).is_ignore()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_what_they_mean_to_git() {
        let excludes = Excludes::new(&["*.tmp", "/cache/", "!keep.tmp"].map(str::to_owned)).expect("valid");
        for (path, kind, is_excluded) in [
            ("a.tmp", Kind::File, true),
            ("deep/er/a.tmp", Kind::File, true),
            ("keep.tmp", Kind::File, false),
            ("cache", Kind::Directory, true),
            ("cache", Kind::File, false),
            ("deep/cache", Kind::Directory, false),
            ("a", Kind::File, false),
        ] {
            let place = Place::from_bytes(path.replace('/', "\0").into_bytes()).expect("valid");
            assert_eq!(excludes.excludes(&place, kind), is_excluded, "{path}");
        }
    }

    #[test]
    fn what_cannot_be_understood_is_refused() {
        assert!(matches!(Excludes::new(&["[b-a]".to_owned()]), Err(ExcludeError::Syntax { .. })));
        assert!(matches!(Excludes::new(&vec!["a".to_owned(); PATTERNS_MAX + 1]), Err(ExcludeError::Limit)));
    }
}
