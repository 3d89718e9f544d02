//! A list of entries as it would be if everything that moves in a pass had always been where it goes.

use std::sync::Arc;

use tranship_engine::entry::Entry;
use tranship_engine::moves::{Moves, fits};

use crate::state::sorter::Sorter;
use crate::state::{Entries, StateError, Store, finish_list, write_list};

/// Writes the list under `name`, with each entry as `adjust` leaves it, if it does. Only what moves is sorted again.
/// Tells whether all places are within the limits; if not, there is no list.
pub fn remap(
    store: &Arc<dyn Store>,
    name: &str,
    moves: &Moves,
    entries: impl Fn() -> Result<Entries, StateError>,
    adjust: impl Fn(Entry) -> Option<Entry>,
) -> Result<bool, StateError> {
    let mut moved = Sorter::<Entry>::new(store.clone(), "moved", |a, b| a.place.cmp(&b.place));
    for entry in entries()? {
        let entry = entry?;
        if moves.departure(&entry.place).is_none() {
            continue;
        }
        if let Some(entry) = moves.entry_of(entry) {
            if !fits(&entry.place) {
                return Ok(false);
            }
            adjust(entry).map_or(Ok(()), |entry| moved.push(entry))?;
        }
    }
    let mut moved = moved.sorted()?.peekable();
    let mut list = write_list::<Entry>(&**store, name)?;
    for entry in entries()? {
        let entry = entry?;
        if moves.departure(&entry.place).is_some() {
            continue;
        }
        let Some(entry) = moves.entry_of(entry) else { continue };
        while let Some(before) = moved.next_if(|moved| moved.as_ref().map_or(true, |moved| moved.place < entry.place)) {
            list.push(before?)?;
        }
        list.push(entry)?;
    }
    for entry in moved {
        list.push(entry?)?;
    }
    finish_list(list)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tranship_engine::moves::Move;
    use tranship_proto::entry::{Kind, Place};
    use tranship_proto::limit::NAME_BYTES_MAX;

    use crate::state::memory::MemoryStore;
    use crate::state::read_entries;

    fn place(path: &str) -> Place {
        Place::from_bytes(path.replace('/', "\0").into_bytes()).expect("valid")
    }

    fn entry(path: &str) -> Entry {
        let (stat, meta, content, map, leader) = (None, None, None, None, None);
        Entry { place: place(path), kind: Kind::File, size: 0, stat, meta, content, map, leader, is_read_back: false }
    }

    fn remapped(paths: &[&str], moved: &[(&str, &str)]) -> Option<Vec<String>> {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        let mut moves = Moves::default();
        for (from, to) in moved {
            moves.push(Move { from: place(from), to: place(to), is_directory: true });
        }
        let entries =
            || Ok(Box::new(paths.iter().map(|path| Ok(entry(path))).collect::<Vec<_>>().into_iter()) as Entries);
        remap(&store, "list", &moves, entries, Some).expect("memory").then(|| {
            let list = read_entries(&*store, Some("list")).expect("memory");
            list.map(|entry| entry.expect("whole").place.to_string()).collect()
        })
    }

    #[test]
    fn what_moves_is_in_order_among_what_stays() {
        let paths = ["", "a", "a/x", "b", "b/y", "c", "d", "d/z"];
        let list = remapped(&paths, &[("a", "c"), ("b", "a"), ("d/z", "c/x")]).expect("short");
        assert_eq!(list, [".", "a", "a/y", "c", "c/x", "d"]);
    }

    #[test]
    fn a_place_that_becomes_too_deep_for_us_keeps_everything_where_it_is() {
        let deep = "d/".repeat(4_000) + "d";
        let (inner, outer) = (format!("a/{deep}"), format!("b/{}/a", "e/".repeat(200) + "e"));
        assert_eq!(remapped(&["a", &inner], &[("a", &outer)]), None);
        assert!(outer.len() < NAME_BYTES_MAX * 4);
        assert!(remapped(&["a", &inner], &[("a", "b")]).is_some());
    }
}
