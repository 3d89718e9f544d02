//! What is remembered is lost or damaged, or the destination is changed behind our back.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use tranship_tests::changes::Changes;
use tranship_tests::random::Random;
use tranship_tests::walker::Contract;

use crate::host::{Pair, error_text, expect_proof, files_beneath, let_clocks_tick, notes};

/// A tree that was staged, so that both sides remember it.
fn staged() -> Pair {
    let pair = Pair::of_folders();
    fs::create_dir(pair.source().join("folder")).expect("made");
    for number in 0..30 {
        let bytes = Random::new(number).bytes(2_000 + number as usize);
        fs::write(pair.source().join("folder").join(number.to_string()), bytes).expect("written");
    }
    fs::write(pair.source().join("large"), Random::new(77).bytes(5 << 20)).expect("written");
    fs::hard_link(pair.source().join("large"), pair.source().join("large-too")).expect("linked");
    let_clocks_tick(pair.source());
    pair.stage(&[]);
    pair
}

fn change_a_little(pair: &Pair, seed: u64) {
    Changes::new(pair.source(), seed).make(10).expect("made");
}

fn contract() -> Contract {
    if rustix::process::geteuid().is_root() { Contract::exact() } else { Contract::plain() }
}

/// State folders of this side.
fn state_of(pair: &Pair, side: &str) -> Vec<std::path::PathBuf> {
    let names = fs::read_dir(pair.state.path()).expect("it can be listed");
    let paths = names.map(|entry| entry.expect("it can be listed").path());
    paths.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(side))).collect()
}

fn lost(side: &str) {
    let pair = staged();
    change_a_little(&pair, 5);
    let folders = state_of(&pair, side);
    assert_eq!(folders.len(), 1, "{folders:?}");
    fs::remove_dir_all(&folders[0]).expect("removed");
    let stage = pair.stage(&[]);
    assert_eq!(stage.json()["basis"], "survey", "{stage:#?}");
    pair.expect_equal(&contract());
    // What the destination has already is compared and not sent.
    assert!(stage.number("bytes_literal") < 5 << 20, "{stage:#?}");
    pair.finish(&[]);
    pair.expect_equal(&contract());
}

#[test]
fn a_source_that_forgot_everything_compares() {
    lost("volume-");
}

#[test]
fn a_destination_that_forgot_everything_compares() {
    lost("destination-");
}

#[test]
fn a_flipped_bit_in_any_file_of_the_state_costs_time_and_nothing_else() {
    let pair = staged();
    let mut random = Random::new(Random::seed_or(9));
    let files = files_beneath(pair.state.path());
    assert!(files.len() >= 6, "{files:?}");
    for (number, name) in files.iter().map(|path| path.file_name().expect("a name").to_owned()).enumerate() {
        // Names change with each pass: the one that is like it now.
        let stem = |name: &std::ffi::OsStr| name.to_string_lossy().split('-').next().unwrap_or_default().to_owned();
        let side = files[number].parent().expect("a folder");
        let beside = files_beneath(side);
        let Some(path) = beside.iter().find(|path| stem(path.file_name().expect("a name")) == stem(&name)) else {
            continue;
        };
        let size = fs::metadata(path).expect("it is there").len();
        if size == 0 {
            continue;
        }
        let file = File::options().read(true).write(true).open(path).expect("opened");
        let at = random.below(size);
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).expect("read");
        file.write_all_at(&[byte[0] ^ (1 << random.below(8))], at).expect("written");
        change_a_little(&pair, number as u64 + 100);
        let outcome = pair.sync(&[]);
        assert_eq!(outcome.code, Some(0), "a flip at {at} in {}: {outcome:#?}", path.display());
        let lines = tranship_tests::walker::compare(pair.source(), pair.destination(), &contract()).expect("walked");
        assert!(lines.is_empty(), "a flip at {at} in {}:\n{}", path.display(), lines.join("\n"));
    }
    pair.finish(&[]);
}

#[test]
fn a_state_that_is_cut_short_costs_time_and_nothing_else() {
    for name in ["head", "manifest", "map", "journal"] {
        for side in ["volume-", "destination-"] {
            let pair = staged();
            let folder = state_of(&pair, side).remove(0);
            let is_it = |path: &&std::path::PathBuf| {
                path.file_name().is_some_and(|file| file.to_string_lossy().starts_with(name))
            };
            for path in files_beneath(&folder).iter().filter(is_it) {
                let size = fs::metadata(path).expect("it is there").len();
                File::options().write(true).open(path).and_then(|file| file.set_len(size / 2)).expect("cut");
            }
            change_a_little(&pair, 3);
            let outcome = pair.sync(&[]);
            assert_eq!(outcome.code, Some(0), "{name} of {side} cut: {outcome:#?}");
            pair.expect_equal(&contract());
            pair.finish(&[]);
        }
    }
}

#[test]
fn a_destination_that_was_made_anew_is_filled_again() {
    let pair = staged();
    fs::remove_dir_all(pair.destination()).expect("removed");
    pair.stage(&[]);
    pair.expect_equal(&contract());
    for entry in fs::read_dir(pair.destination()).expect("it can be listed") {
        let path = entry.expect("it can be listed").path();
        if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) }.expect("removed");
    }
    pair.stage(&[]);
    pair.expect_equal(&contract());
    fs::remove_dir_all(pair.destination()).expect("removed");
    fs::create_dir(pair.destination()).expect("made");
    pair.finish(&[]);
    pair.expect_equal(&contract());
}

/// Runs final passes until one is proven: the first heals what stats show, the second what only the proof can show.
fn heals(pair: &Pair, path: &str) {
    let first = pair.sync(&["--final"]);
    match first.code {
        Some(0) => expect_proof(&first),
        Some(4) => {
            let said = format!("{} {}", notes(&first), error_text(&first));
            assert!(said.contains(path), "{path} is not named: {first:#?}");
            pair.finish(&[]);
        }
        _ => panic!("{first:#?}"),
    }
    pair.expect_equal(&contract());
}

#[test]
fn content_changed_at_the_destination_is_healed() {
    let pair = staged();
    fs::write(pair.destination().join("folder/7"), "somebody else's").expect("written");
    let outcome = pair.finish(&[]);
    assert!(notes(&outcome).contains("1 entries had been changed at the destination"), "{outcome:#?}");
    pair.expect_equal(&contract());
}

#[test]
fn content_changed_at_the_destination_under_the_old_time_is_healed() {
    for name in ["folder/7", "large"] {
        let pair = staged();
        let path = pair.destination().join(name);
        let before = fs::metadata(&path).and_then(|about| about.modified()).expect("told");
        let file = File::options().write(true).open(&path).expect("opened");
        file.write_all_at(b"!", 1_000).expect("written");
        file.set_modified(before).expect("set");
        heals(&pair, name);
    }
}

#[test]
fn a_file_deleted_at_the_destination_comes_back() {
    for name in ["folder/7", "large", "large-too"] {
        let pair = staged();
        fs::remove_file(pair.destination().join(name)).expect("removed");
        heals(&pair, name);
    }
}

#[test]
fn a_folder_deleted_at_the_destination_comes_back() {
    let pair = staged();
    fs::remove_dir_all(pair.destination().join("folder")).expect("removed");
    heals(&pair, "folder");
}

#[test]
fn a_file_added_at_the_destination_goes_away() {
    let pair = staged();
    fs::write(pair.destination().join("folder/extra"), "extra").expect("written");
    heals(&pair, "extra");
}

#[test]
fn metadata_changed_at_the_destination_is_healed() {
    use std::os::unix::fs::PermissionsExt;
    let pair = staged();
    for name in ["folder/7", "folder", "large"] {
        fs::set_permissions(pair.destination().join(name), fs::Permissions::from_mode(0o700)).expect("set");
    }
    heals(&pair, "folder");
}

#[test]
fn a_stage_that_meets_another_destination_than_it_remembers_loses_nothing() {
    let pair = staged();
    // Names that the next stage needs are taken, and those that it builds on are gone.
    fs::remove_file(pair.destination().join("large")).expect("removed");
    fs::create_dir(pair.destination().join("large")).expect("made");
    fs::remove_dir_all(pair.destination().join("folder")).expect("removed");
    fs::write(pair.destination().join("folder"), "a file now").expect("written");
    let large = File::options().write(true).open(pair.source().join("large")).expect("opened");
    large.write_all_at(b"new", 2 << 20).expect("written");
    fs::write(pair.source().join("folder/7"), "new").expect("written");
    fs::write(pair.source().join("folder/new"), "new").expect("written");
    let_clocks_tick(pair.source());
    let stage = pair.sync(&[]);
    assert!(matches!(stage.code, Some(0 | 4)), "{stage:#?}");
    heals(&pair, "");
}

#[test]
fn a_block_volume_changed_behind_our_back_is_healed() {
    let folder = tempfile::TempDir::new().expect("made");
    let path = |name: &str| folder.path().join(name);
    let (source, destination, state) = (path("source"), path("destination"), path("state"));
    fs::write(&source, Random::new(1).bytes(5 << 20)).expect("written");
    let run = |arguments: &[&str]| crate::host::sync(&source, &destination, &state, arguments);
    run(&[]).expect_code(0);
    let before = fs::metadata(&destination).and_then(|about| about.modified()).expect("told");
    let file = File::options().write(true).open(&destination).expect("opened");
    file.write_all_at(b"!", 3 << 20).expect("written");
    file.set_modified(before).expect("set");
    let is_equal = |path: &Path| fs::read(&source).expect("read") == fs::read(path).expect("read");
    let first = run(&["--final"]);
    if first.code != Some(0) {
        expect_proof(&run(&["--final"]).expect_code(0));
    }
    assert!(is_equal(&destination), "{first:#?}");
}
