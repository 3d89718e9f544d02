//! A tree with everything in it, on every file system, through its whole life.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;
use tranship_tests::changes::Changes;
use tranship_tests::filesystems::{FileSystem, Kind};
use tranship_tests::processes::{DEADLINE, Running};
use tranship_tests::variety::Variety;
use tranship_tests::walker::{Contract, Tree, differences, walk};

use crate::host::{LONG, Pair, expect_idle, expect_proof, is_root, let_clocks_tick, sync_command};

const SYSTEM_BYTES: u64 = 512 << 20;

/// A first copy, a pass without changes, passes with changes of every kind, and a final one, each compared.
fn live(pair: &Pair, arguments: &[&str], contract: &Contract) {
    let unchanged = |before: &Tree, when: &str| {
        let lines = differences(before, &walk(pair.source()).expect("walked"), &Contract::everything());
        assert!(lines.is_empty(), "{when} changed the source:\n{}", lines.join("\n"));
    };
    let_clocks_tick(pair.source());
    let before = walk(pair.source()).expect("walked");
    let first = pair.stage(arguments);
    assert_eq!(first.json()["basis"], "nothing", "{first:#?}");
    pair.expect_equal(contract);
    // What no mode carries is looked at each time, and so is what claims to have been written in the future.
    let second = pair.stage(arguments);
    assert!(second.number("entries_changed") < 20 && second.number("bytes_read_source") < 100, "{second:#?}");
    for key in ["bytes_literal", "bytes_read_destination", "bytes_written_destination"] {
        assert_eq!(second.number(key), 0, "{key} in {second:#?}");
    }
    unchanged(&before, "a stage");

    let mut changes = Changes::new(pair.source(), 11);
    for _ in 0..3 {
        changes.make(60).expect("made");
        let_clocks_tick(pair.source());
        let stage = pair.stage(arguments);
        assert_eq!(stage.json()["basis"], "common", "{stage:#?}");
        pair.expect_equal(contract);
    }
    let before = walk(pair.source()).expect("walked");
    // Mode owner leaves out device nodes and trusted attributes, and says so for each, also where nothing changed.
    let accepted = if arguments.contains(&"owner") { "socket,device,xattr" } else { "socket" };
    expect_proof(&pair.stage(&[&["--final", "--accept-gap", accepted], arguments].concat()));
    pair.expect_equal(contract);
    unchanged(&before, "the final pass");
}

fn lives_on(kind: Kind, missing: &[&str], arguments: &[&str], contract: &Contract) {
    if !is_root() {
        return;
    }
    let pair = Pair::mounted(kind, kind, SYSTEM_BYTES);
    Variety::make(pair.source()).expect("made").expect_all_but(missing);
    live(&pair, arguments, contract);
}

#[test]
fn everything_on_ext4_arrives_and_stays_the_same() {
    lives_on(Kind::Ext4, &[], &[], &Contract::exact());
}

#[test]
fn everything_on_xfs_arrives_and_stays_the_same() {
    lives_on(Kind::Xfs, &["longest-symlink"], &[], &Contract::exact());
}

#[test]
fn everything_on_btrfs_arrives_and_stays_the_same() {
    lives_on(Kind::Btrfs, &[], &["--mode", "exact"], &Contract::exact());
}

#[test]
fn everything_on_tmpfs_that_mode_owner_carries_arrives_and_stays_the_same() {
    lives_on(Kind::Tmpfs, &[], &["--mode", "owner"], &Contract::owner());
}

#[test]
fn everything_that_anybody_can_make_is_carried_by_anybody() {
    if !is_root() {
        return;
    }
    // What a user can read, on a file system where they own the root.
    let user = 12_345;
    let pair = Pair::mounted(Kind::Ext4, Kind::Xfs, SYSTEM_BYTES);
    let items = ["files-of-edge-sizes", "directories", "symlinks", "hard-links", "fifo", "names", "user-xattrs"];
    Variety::make_only(pair.source(), &items).expect("made").expect_all_but(&[]);
    let state = TempDir::new().expect("made");
    for path in [pair.source(), pair.destination(), state.path()] {
        let chown = Command::new("chown").args(["-Rh", &format!("{user}:{user}")]).arg(path).status();
        assert!(chown.expect("started").success());
    }
    open_way_to(&[pair.source(), pair.destination(), state.path()]);
    let as_user = |arguments: &[&str]| {
        let command = sync_command(pair.source(), pair.destination(), state.path(), arguments);
        let mut setpriv = Command::new("setpriv");
        setpriv.args(["--reuid", &user.to_string(), "--regid", &user.to_string(), "--clear-groups"]);
        Running::start(setpriv.arg(command.get_program()).args(command.get_args())).finish(LONG)
    };
    let_clocks_tick(pair.source());
    assert_eq!(as_user(&[]).expect_code(0).json()["basis"], "nothing");
    pair.expect_equal(&Contract::owner());
    expect_idle(&as_user(&[]).expect_code(0));
    expect_proof(&as_user(&["--final"]).expect_code(0));
}

/// As a cluster makes volumes: their root is not the user's, who may write there by a group.
#[test]
fn a_root_that_belongs_to_another_keeps_nobody_from_a_proof() {
    if !is_root() {
        return;
    }
    let user = 12_345;
    let pair = Pair::mounted(Kind::Ext4, Kind::Xfs, SYSTEM_BYTES);
    std::fs::write(pair.source().join("file"), "content").expect("written");
    let state = TempDir::new().expect("made");
    let run = |words: &[&str], path: &Path| {
        let (program, words) = words.split_first().expect("a program");
        assert!(Command::new(program).args(words).arg(path).status().expect("started").success());
    };
    run(&["chown", "-R", &format!("{user}:{user}")], pair.source());
    run(&["chown", &format!("{user}:{user}")], state.path());
    for root in [pair.source(), pair.destination()] {
        run(&["chown", &format!("0:{user}")], root);
        run(&["chmod", "2775"], root);
    }
    open_way_to(&[pair.source(), pair.destination(), state.path()]);
    let mut setpriv = Command::new("setpriv");
    setpriv.args(["--reuid", &user.to_string(), "--regid", &user.to_string(), "--clear-groups"]);
    let command = sync_command(pair.source(), pair.destination(), state.path(), &["--final"]);
    let_clocks_tick(pair.source());
    let outcome = Running::start(setpriv.arg(command.get_program()).args(command.get_args())).finish(LONG);
    expect_proof(&outcome.expect_code(0));
}

/// Folders of temporary things are private to root; who runs the pass has to get through.
fn open_way_to(paths: &[&Path]) {
    use std::os::unix::fs::PermissionsExt;
    for parent in paths.iter().filter_map(|path| path.parent()).filter(|parent| *parent != std::env::temp_dir()) {
        fs::set_permissions(parent, fs::Permissions::from_mode(0o755)).expect("set");
    }
}

#[test]
fn a_life_in_folders_of_one_file_system_follows_its_seed() {
    let pair = Pair::of(FileSystem::folder().expect("made"), FileSystem::folder().expect("made"));
    let mut changes = Changes::new(pair.source(), 23);
    changes.make(200).expect("made");
    pair.stage(&[]);
    for _ in 0..6 {
        changes.make(50).expect("made");
        pair.stage(&[]);
    }
    let contract = if rustix::process::geteuid().is_root() { Contract::exact() } else { Contract::plain() };
    pair.finish(&[]);
    pair.expect_equal(&contract);
    let verify = Running::start(
        Command::new(tranship_tests::processes::binary())
            .args(["--output", "json", "verify"])
            .args([pair.source(), pair.destination()]),
    );
    verify.finish(DEADLINE).expect_code(0);
}

#[test]
fn with_level_tracked_each_pass_reads_back_what_it_wrote_and_no_more() {
    const MIB: u64 = 1 << 20;
    let pair = Pair::of_folders();
    let tracked = ["--verify", "tracked"];
    let large = pair.source().join("large");
    fs::write(&large, vec![7; 24 * MIB as usize]).expect("written");
    fs::write(pair.source().join("small"), [7; 100]).expect("written");
    let_clocks_tick(pair.source());
    assert_eq!(pair.stage(&tracked).number("bytes_read_destination"), 24 * MIB + 100);
    expect_idle(&pair.stage(&tracked));
    let change =
        |at| File::options().write(true).open(&large).expect("opened").write_all_at(&[8; 100], at).expect("written");
    change(5 * MIB);
    let_clocks_tick(pair.source());
    assert_eq!(pair.stage(&tracked).number("bytes_read_destination"), MIB);
    change(7 * MIB);
    change(9 * MIB);
    let_clocks_tick(pair.source());
    assert_eq!(pair.finish(&tracked).number("bytes_read_destination"), 2 * MIB);
    pair.expect_equal(&Contract::plain());
    // Where all else was read back a stage for level `full` goes on with it: else all of it would have to be read again.
    change(11 * MIB);
    let_clocks_tick(pair.source());
    assert_eq!(pair.stage(&[]).number("bytes_read_destination"), MIB);
    assert_eq!(pair.finish(&tracked).number("bytes_read_destination"), 0);
    pair.expect_equal(&Contract::plain());
}
