//! The writer of files: a journal beside them says what was begun, and what is done.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::Found;
use crate::error::WriterError;
use crate::journal::{Entry, Journal};
use crate::noise;
use crate::pace::Pace;
use crate::tree::{Act, FOLDERS, Tree};

/// What a file is called until it is whole.
const UNFINISHED: &str = ".new";

/// Writes into `folder` for as long as it is time.
pub(crate) fn write(folder: &Path, pace: &mut Pace) -> Result<(), WriterError> {
    let (mut journal, entries) = Journal::open(&journal_in(folder))?;
    let mut state = if entries.is_empty() {
        let run = noise::new_run();
        journal.append(&Entry::Start(run.clone()))?;
        sync_folder(folder)?;
        State { tree: Tree::new(&run), last: 0, begun: None }
    } else {
        let state = State::replay(folder, entries)?;
        state.compare(folder)?;
        state
    };
    for n in 0..FOLDERS {
        let path = folder.join(format!("d{n:02}"));
        fs::create_dir_all(&path).map_err(WriterError::io(&path))?;
    }
    sync_folder(folder)?;
    while state.begun.is_some() || pace.wait() {
        let number = state.last + 1;
        let act = match state.begun.take() {
            // Each act can be done once more, however far it had come.
            Some(act) => act,
            None => {
                let act = state.tree.choose(number);
                journal.append(&Entry::Begin(number, act.clone()))?;
                act
            }
        };
        carry_out(folder, &state.tree, number, &act)?;
        journal.append(&Entry::Done(number))?;
        state.tree.apply(number, &act);
        state.last = number;
        pace.acknowledge(number)?;
    }
    Ok(())
}

/// Compares what is in `folder` with its journal.
pub(crate) fn check(folder: &Path) -> Result<Found, WriterError> {
    let journal = journal_in(folder);
    if !journal.try_exists().map_err(WriterError::io(&journal))? {
        return Err(WriterError::Empty(folder.to_owned()));
    }
    State::replay(folder, Journal::read(&journal)?)?.compare(folder)
}

fn journal_in(folder: &Path) -> PathBuf {
    folder.join("journal")
}

/// What the journal says.
struct State {
    tree: Tree,
    last: u64,
    /// What was begun after the last act that is done.
    begun: Option<Act>,
}

impl State {
    fn replay(folder: &Path, entries: Vec<Entry>) -> Result<Self, WriterError> {
        let mut entries = entries.into_iter().enumerate();
        let Some((_, Entry::Start(run))) = entries.next() else {
            return Err(WriterError::Empty(folder.to_owned()));
        };
        let mut state = Self { tree: Tree::new(&run), last: 0, begun: None };
        for (at, entry) in entries {
            let next = state.last + 1;
            match (entry, state.begun.take()) {
                (Entry::Begin(number, act), None) if number == next && act == state.tree.choose(number) => {
                    state.begun = Some(act);
                }
                (Entry::Done(number), Some(act)) if number == next => {
                    state.tree.apply(number, &act);
                    state.last = number;
                }
                _ => return Err(WriterError::Journal { line: at + 1 }),
            }
        }
        Ok(state)
    }

    fn compare(&self, folder: &Path) -> Result<Found, WriterError> {
        let mut there = read_all(folder)?;
        let mut after = self.tree.clone();
        let wrong = |name: &str, what| Err(WriterError::File { name: name.to_owned(), what });
        if let Some(act) = &self.begun {
            after.apply(self.last + 1, act);
            if let Act::Put { name, .. } = act {
                there.remove(&format!("{name}{UNFINISHED}"));
            }
            if let Act::Rename { from, to } = act
                && there.contains_key(from) == there.contains_key(to)
            {
                return wrong(from, "is there under both of its names, or under none");
            }
        }
        let touched = self.begun.as_ref().map(Act::names).unwrap_or_default();
        for (name, before) in self.tree.files() {
            if !touched.contains(&name.as_str()) && there.get(name) != Some(before) {
                return wrong(name, if there.contains_key(name) { "is not what was written" } else { "is missing" });
            }
        }
        for (name, content) in &there {
            let (before, after) = (self.tree.files().get(name), after.files().get(name));
            if before.is_none() && after.is_none() {
                return wrong(name, "was never written, or had gone");
            }
            if touched.contains(&name.as_str()) && !is_between(content, before, after) {
                return wrong(name, "is neither what was written nor on its way there");
            }
        }
        for name in touched {
            // What is replaced or changed is never away.
            let is_away = !there.contains_key(name);
            if is_away && self.tree.files().contains_key(name) && after.files().contains_key(name) {
                return wrong(name, "is missing");
            }
        }
        let bytes = there.values().map(|content| content.len() as u64).sum();
        Ok(Found { last: self.last, is_interrupted: self.begun.is_some(), items: there.len(), bytes })
    }
}

/// Whether a file on its way from one content to another may look like this.
fn is_between(content: &[u8], before: Option<&Vec<u8>>, after: Option<&Vec<u8>>) -> bool {
    if before.is_some_and(|before| before == content) || after.is_some_and(|after| after == content) {
        return true;
    }
    let (Some(before), Some(after)) = (before, after) else { return false };
    let is_either = |(at, byte): (usize, &u8)| before.get(at) == Some(byte) || after.get(at) == Some(byte);
    content.len() >= before.len() && content.len() <= after.len() && content.iter().enumerate().all(is_either)
}

fn read_all(folder: &Path) -> Result<BTreeMap<String, Vec<u8>>, WriterError> {
    let mut files = BTreeMap::new();
    for n in 0..FOLDERS {
        let path = folder.join(format!("d{n:02}"));
        let entries = match fs::read_dir(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            entries => entries.map_err(WriterError::io(&path))?,
        };
        for entry in entries {
            let file = entry.map_err(WriterError::io(&path))?.path();
            let name = file.strip_prefix(folder).expect("it lies in there").to_string_lossy().into_owned();
            files.insert(name, fs::read(&file).map_err(WriterError::io(&file))?);
        }
    }
    Ok(files)
}

/// Does it, again if need be; after that it is durable.
fn carry_out(folder: &Path, tree: &Tree, number: u64, act: &Act) -> Result<(), WriterError> {
    let path = |name: &str| folder.join(name);
    match act {
        Act::Put { name, bytes } => {
            let unfinished = path(&format!("{name}{UNFINISHED}"));
            let mut file = File::create(&unfinished).map_err(WriterError::io(&unfinished))?;
            file.write_all(&tree.content(number, *bytes)).map_err(WriterError::io(&unfinished))?;
            file.sync_all().map_err(WriterError::io(&unfinished))?;
            fs::rename(&unfinished, path(name)).map_err(WriterError::io(&unfinished))?;
        }
        Act::Patch { name, offset, bytes } => {
            let path = path(name);
            let file = OpenOptions::new().write(true).open(&path).map_err(WriterError::io(&path))?;
            file.write_all_at(&tree.content(number, *bytes), *offset as u64).map_err(WriterError::io(&path))?;
            file.sync_all().map_err(WriterError::io(&path))?;
        }
        Act::Rename { from, to } => ignore_missing(fs::rename(path(from), path(to)), &path(from))?,
        Act::Delete { name } => ignore_missing(fs::remove_file(path(name)), &path(name))?,
    }
    act.names().into_iter().try_for_each(|name| sync_folder(path(name).parent().expect("it has just been joined")))
}

/// What is missing was done before.
fn ignore_missing(done: std::io::Result<()>, path: &Path) -> Result<(), WriterError> {
    match done {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(WriterError::io(path)(error)),
        _ => Ok(()),
    }
}

fn sync_folder(path: &Path) -> Result<(), WriterError> {
    File::open(path).and_then(|folder| folder.sync_all()).map_err(WriterError::io(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write_some(folder: &Path, acts: u64) {
        write(folder, &mut Pace::new(0, acts, Box::new(std::io::sink())).expect("a pace")).expect("written");
    }

    #[test]
    fn a_writer_goes_on_where_another_stopped_and_everything_is_found() {
        let folder = tempfile::tempdir().expect("a folder");
        write_some(folder.path(), 150);
        write_some(folder.path(), 50);
        let found = check(folder.path()).expect("all is there");
        assert_eq!((found.last, found.is_interrupted), (200, false));
        assert!(found.items > 10 && found.bytes > 0, "{found:?}");
    }

    #[test]
    fn one_wrong_byte_and_a_file_too_many_or_too_few_are_found() {
        let folder = tempfile::tempdir().expect("a folder");
        write_some(folder.path(), 100);
        let (name, content) =
            read_all(folder.path()).expect("read").into_iter().find(|(_, content)| !content.is_empty()).expect("one");
        let path = folder.path().join(&name);
        let mut changed = content.clone();
        changed[0] ^= 1;
        fs::write(&path, &changed).expect("written");
        assert!(check(folder.path()).is_err());
        fs::write(&path, &content).expect("written");
        check(folder.path()).expect("as before");
        fs::remove_file(&path).expect("removed");
        assert!(check(folder.path()).is_err());
        fs::write(&path, &content).expect("written");
        fs::write(folder.path().join("d00/other"), "").expect("written");
        assert!(check(folder.path()).is_err());
    }

    #[test]
    fn an_act_that_was_cut_off_may_be_done_half_done_or_not_and_is_finished_later() {
        for seen in 0..12 {
            let folder = tempfile::tempdir().expect("a folder");
            write_some(folder.path(), 20 + seen);
            let (mut journal, entries) = Journal::open(&journal_in(folder.path())).expect("opened");
            let state = State::replay(folder.path(), entries).expect("replayed");
            let number = state.last + 1;
            let act = state.tree.choose(number);
            journal.append(&Entry::Begin(number, act.clone())).expect("appended");
            assert!(check(folder.path()).expect("not done").is_interrupted);
            carry_out(folder.path(), &state.tree, number, &act).expect("done");
            assert!(check(folder.path()).expect("done").is_interrupted, "{act}");
            write_some(folder.path(), 1);
            assert_eq!(check(folder.path()).expect("finished").last, number + 1, "{act}");
        }
        let (before, after) = (vec![1, 1, 1], vec![1, 2, 2, 2]);
        for (content, is_fine) in [(&[1, 2, 1][..], true), (&[1, 1, 2, 2], true), (&[1, 3, 1], false), (&[1, 2], false)]
        {
            assert_eq!(is_between(content, Some(&before), Some(&after)), is_fine, "{content:?}");
        }
    }
}
