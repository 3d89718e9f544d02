//! Names of objects that are not finished.
//!
//! What replaces something is made beside it under such a name and then renamed, so that a place holds the old or the
//! new and never a part. A crash leaves these names behind; a walk at the destination meets them and removes them.

use rustix::io::Errno;
use tranship_proto::entry::{Name, Place};

/// How all temporary names start. The rest is 16 hexadecimal digits.
pub const TEMPORARY_PREFIX: &str = ".tranship-";

/// Hexadecimal digits after the prefix: enough that nobody guesses one, or makes one by chance.
const DIGITS: usize = 16;

/// Whether this is the name of something that was not finished: the whole form must fit, so that no file of a user is
/// taken for one because of a prefix.
pub fn is_temporary(name: Name<'_>) -> bool {
    name.as_bytes()
        .strip_prefix(TEMPORARY_PREFIX.as_bytes())
        .is_some_and(|rest| rest.len() == DIGITS && rest.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')))
}

/// A name that nobody can have foreseen.
pub(super) fn name() -> Result<String, Errno> {
    let random = getrandom::u64().map_err(|_| Errno::NOSYS)?;
    Ok(format!("{TEMPORARY_PREFIX}{random:016x}"))
}

/// A name in the root of a volume for something that moves, which follows from `seed`: whoever does not know that cannot
/// foresee it either.
pub fn slot(seed: &str) -> Place {
    let digest = blake3::hash(seed.as_bytes()).to_hex();
    Place::from_bytes(format!("{TEMPORARY_PREFIX}{}", &digest[..DIGITS]).into_bytes()).expect("it is a short name")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_form_is_temporary() {
        let is = |name: &str| is_temporary(Name::new(name.as_bytes()).unwrap());
        assert!(is(&name().unwrap()));
        assert!(is(".tranship-0123456789abcdef"));
        assert!(slot("0").names().all(is_temporary) && slot("0") != slot("1"));
        for other in
            [".tranship-", ".tranship-0123456789abcde", ".tranship-0123456789ABCDEF", ".tranship-notes-of-today1"]
        {
            assert!(!is(other), "{other}");
        }
    }
}
