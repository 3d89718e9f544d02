//! The versions of the protocol, what each changed, and how two sides choose one.

/// What ALPN says: the family of the protocol. The number changes only when the greeting itself must.
pub const ALPN: &[u8] = b"tranship/1";

/// First bytes of every greeting, frozen for ever.
pub const MAGIC: [u8; 8] = *b"tranship";

/// The oldest version that this build speaks.
pub const OLDEST: u32 = 1;

/// The newest version that this build speaks. The list is the change log:
///
/// 1. First version.
pub const NEWEST: u32 = 1;

/// The newest version that both sides speak, if there is one.
pub fn choose(ours: (u32, u32), theirs: (u32, u32)) -> Option<u32> {
    let newest = ours.1.min(theirs.1);
    (newest >= ours.0.max(theirs.0)).then_some(newest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_common_version_wins() {
        assert_eq!(choose((1, 4), (2, 3)), Some(3));
        assert_eq!(choose((1, 1), (1, 9)), Some(1));
        assert_eq!(choose((1, 2), (3, 4)), None);
    }
}
