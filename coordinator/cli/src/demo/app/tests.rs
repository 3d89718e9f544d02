use std::fs;
use std::process::Command;

use super::*;
use crate::demo::app::index::Entry;

const SEED: u64 = 7;
const BYTES: u64 = 1 << 20;

/// Two volumes that an application has written to and left.
struct Scene {
    folder: tempfile::TempDir,
    summary: Summary,
}

impl Scene {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        let (tree, image) = (folder.path().join("tree"), folder.path().join("image"));
        fs::create_dir(&tree).expect("tree");
        let app = App::start(&tree, &image, SEED, BYTES).expect("started");
        let begun = app.counter();
        app.wait_beyond(begun + 150).expect("wrote");
        let summary = app.stop().expect("stopped");
        Self { folder, summary }
    }

    fn tree(&self) -> PathBuf {
        self.folder.path().join("tree")
    }

    fn image(&self) -> PathBuf {
        self.folder.path().join("image")
    }

    fn check(&self) -> Result<Checked, Broken> {
        App::check(&self.tree(), &self.image(), &self.summary)
    }

    fn index(&self) -> Index {
        Index::load(&self.tree()).expect("index").0
    }

    /// The path of the first entry that is wanted.
    fn find(&self, wanted: impl Fn(&str, &Entry) -> bool) -> PathBuf {
        let index = self.index();
        let path = index.tree.files.iter().find(|(path, entry)| wanted(path, entry)).expect("there is one").0.clone();
        self.tree().join(path)
    }
}

/// Plants a damage in a copy that was intact, and expects it to be found and named.
#[track_caller]
fn check_damage(damage: impl FnOnce(&Scene), is_named: impl Fn(&Broken) -> bool) {
    let scene = Scene::new();
    scene.check().expect("intact");
    damage(&scene);
    let Err(broken) = scene.check() else { panic!("seed {SEED}, {:?}: the damage was not found", scene.summary) };
    assert!(is_named(&broken), "seed {SEED}, {:?}: {broken}", scene.summary);
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).expect("read");
    bytes[at] ^= 1;
    fs::write(path, bytes).expect("written");
}

fn is_document(_: &str, entry: &Entry) -> bool {
    matches!(entry, Entry::Document { .. })
}

#[test]
fn a_true_copy_passes_and_the_application_goes_on_there() {
    let scene = Scene::new();
    let copy = scene.folder.path().join("copy");
    fs::create_dir(&copy).expect("made");
    let status = Command::new("cp").args(["-a", "tree", "image", "copy"]).current_dir(scene.folder.path()).status();
    assert!(status.expect("cp runs").success());
    let (tree, image) = (copy.join("tree"), copy.join("image"));
    let checked = App::check(&tree, &image, &scene.summary).expect("a true copy");
    assert_eq!(
        (checked.counter, checked.files, checked.blocks),
        (scene.summary.counter, scene.summary.files, scene.summary.blocks)
    );

    let app = App::resume(&tree, &image, checked).expect("goes on");
    app.wait_beyond(scene.summary.counter + 50).expect("wrote");
    let later = app.stop().expect("stopped");
    assert!(later.counter > scene.summary.counter);
    App::check(&tree, &image, &later).expect("one unbroken chain over both");
    // What is left behind is not what the application has now.
    assert!(App::check(&scene.tree(), &scene.image(), &later).is_err());
}

#[test]
fn a_flipped_bit_in_any_kind_of_file_is_found() {
    for wanted in [
        is_document as fn(&str, &Entry) -> bool,
        |_, entry| matches!(entry, Entry::Log { .. }),
        |_, entry| matches!(entry, Entry::Sparse { .. }),
        |_, entry| matches!(entry, Entry::Link { .. }),
    ] {
        check_damage(|scene| flip(&scene.find(wanted), 5), |broken| matches!(broken, Broken::File { .. }));
    }
}

#[test]
fn a_lost_end_of_the_journal_is_found() {
    check_damage(
        |scene| {
            let path = scene.tree().join(journal::NAME);
            let text = fs::read_to_string(&path).expect("read");
            let (kept, _) = text.trim_end().rsplit_once('\n').expect("lines");
            fs::write(path, format!("{kept}\n")).expect("written");
        },
        |broken| matches!(broken, Broken::Journal { .. }),
    );
}

#[test]
fn a_changed_record_of_the_journal_is_found() {
    check_damage(
        |scene| {
            let path = scene.tree().join(journal::NAME);
            let text = fs::read_to_string(&path).expect("read").replacen("mkdir", "mkdar", 1);
            fs::write(path, text).expect("written");
        },
        |broken| matches!(broken, Broken::Journal { line: 1.., .. }),
    );
}

#[test]
fn a_block_that_is_whole_but_old_is_found() {
    check_damage(
        |scene| {
            let (&slot, &sequence) = scene.index().image.iter().next().expect("written");
            let file = OpenOptions::new().write(true).open(scene.image()).expect("image");
            file.write_all_at(&block(SEED, slot, sequence - 1), slot * BLOCK_BYTES as u64).expect("written");
        },
        |broken| matches!(broken, Broken::Image { why } if why.contains("written last")),
    );
}

#[test]
fn a_block_where_none_was_written_is_found() {
    check_damage(
        |scene| {
            let (slots, count) = (scene.index().image, scene.index().image_bytes / BLOCK_BYTES as u64);
            let slot = (0..count).find(|slot| !slots.contains_key(slot)).expect("a hole");
            let file = OpenOptions::new().write(true).open(scene.image()).expect("image");
            file.write_all_at(&[1], slot * BLOCK_BYTES as u64).expect("written");
        },
        |broken| matches!(broken, Broken::Image { why } if why.contains("never written")),
    );
}

#[test]
fn an_image_that_is_cut_off_is_found() {
    check_damage(
        |scene| {
            let file = OpenOptions::new().write(true).open(scene.image()).expect("image");
            file.set_len(BYTES / 2 - 1).expect("cut");
        },
        |broken| matches!(broken, Broken::Image { .. }),
    );
}

#[test]
fn a_hard_link_that_became_a_copy_is_found() {
    check_damage(
        |scene| {
            let link = scene.find(|_, entry| matches!(entry, Entry::Link { .. }));
            let bytes = fs::read(&link).expect("read");
            fs::remove_file(&link).expect("removed");
            fs::write(link, bytes).expect("written");
        },
        |broken| matches!(broken, Broken::File { why, .. } if why.contains("same file")),
    );
}

#[test]
fn a_missing_file_and_one_too_many_are_found() {
    check_damage(
        |scene| fs::remove_file(scene.find(is_document)).expect("removed"),
        |broken| matches!(broken, Broken::File { why, .. } if why.contains("missing")),
    );
    check_damage(
        |scene| fs::write(scene.tree().join("data/stray"), "").expect("written"),
        |broken| matches!(broken, Broken::File { why, .. } if why.contains("should not")),
    );
}

#[test]
fn a_document_that_is_whole_but_old_is_found() {
    check_damage(
        |scene| {
            let path = scene.find(is_document);
            let key = path.strip_prefix(scene.tree()).expect("inside").to_str().expect("ASCII").to_owned();
            let Some(&Entry::Document { id, generation, body_bytes }) = scene.index().tree.files.get(&key) else {
                panic!("not a document");
            };
            fs::write(path, content::document(SEED, id, generation - 1, body_bytes as usize)).expect("written");
        },
        |broken| matches!(broken, Broken::File { .. }),
    );
}

#[test]
fn an_older_index_with_its_own_checksum_is_found() {
    check_damage(
        |scene| {
            let mut index = scene.index();
            index.counter -= 1;
            index.store(&scene.tree()).expect("stored");
        },
        |broken| matches!(broken, Broken::Index { why } if why.contains("wrote last")),
    );
}
