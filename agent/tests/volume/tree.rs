//! What a tree promises.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};

use tranship_agent::volume::temporary::is_temporary;
use tranship_agent::volume::tree::Tree;
use tranship_agent::volume::{Access, Volume, VolumeError};
use tranship_proto::entry::{Kind, Meta, Name, Place, Time, Xattr};
use tranship_proto::message::{Fidelity, Gap, GapKind, VolumeKind};

use crate::support::{Mount, can, each_file_system, meta, place, run, walk};

fn kinds(gaps: &[Gap]) -> Vec<GapKind> {
    gaps.iter().map(|gap| gap.what).collect()
}

fn xattr(name: &str, value: &[u8]) -> Xattr {
    Xattr { name: name.as_bytes().into(), value: value.into() }
}

/// No file of ours is left over.
fn assert_tidy(tree: &Tree) {
    let (walked, _) = walk(tree);
    let left = walked.iter().find(|walked| walked.place.names().any(is_temporary));
    assert!(left.is_none(), "{left:?}");
}

#[test]
fn small_files_arrive_whole_with_their_metadata() {
    each_file_system(|kind, mount| {
        let tree = mount.tree();
        for bytes in [&b""[..], b"one", &[7; 70_000]] {
            let (stat, gaps) = tree.put(&place("file"), bytes, &meta(), Fidelity::Plain).unwrap();
            assert_eq!(gaps, [], "{kind}");
            assert_eq!(std::fs::read(mount.join("file")).unwrap(), bytes);
            assert_eq!((stat.mode, stat.mtime, stat.size), (0o640, meta().mtime, bytes.len() as u64));
            assert_eq!(tree.look(&place("file"), Fidelity::Plain).unwrap().stat, stat, "{kind}");
            assert_eq!(tree.look(&place("file"), Fidelity::Plain).unwrap().meta, meta());
        }
        assert_tidy(&tree);
    });
}

#[test]
fn anything_is_replaced_by_anything() {
    each_file_system(|_, mount| {
        let tree = mount.tree();
        let at = place("x");
        let put = || tree.put(&at, b"x", &meta(), Fidelity::Plain).map(drop);
        let link = || tree.make_symlink(&at, b"t", &meta(), Fidelity::Plain).map(drop);
        let fifo = || tree.make_special(&at, Kind::Fifo, 0, &meta(), Fidelity::Plain).map(drop);
        let folder = || {
            tree.make_directory(&at)?;
            tree.make_directory(&place("x/y"))?;
            tree.put(&place("x/y/z"), b"x", &meta(), Fidelity::Plain).map(drop)
        };
        let create = || tree.open(&at, Access::Create).map(drop);
        tree.put(&place("leader"), b"l", &meta(), Fidelity::Plain).unwrap();
        let hard = || tree.make_link(&at, &place("leader")).map(drop);
        type Make<'a> = &'a dyn Fn() -> Result<(), VolumeError>;
        let makers: [(Kind, Make<'_>); 6] = [
            (Kind::File, &put),
            (Kind::Symlink, &link),
            (Kind::Fifo, &fifo),
            (Kind::Directory, &folder),
            (Kind::File, &create),
            (Kind::File, &hard),
        ];
        for (_, before) in makers {
            for (kind, after) in makers {
                before().unwrap();
                after().unwrap();
                assert_eq!(tree.look(&at, Fidelity::Plain).unwrap().stat.kind, kind);
            }
        }
        assert_tidy(&tree);
    });
}

#[test]
fn names_are_bytes() {
    each_file_system(|_, mount| {
        let tree = mount.tree();
        for name in [&b"a\nb"[..], b"\xff\xfe", b" ", b"-rf", b"\x1b[2J", "e\u{301}\u{202e}".as_bytes(), &[b'n'; 255]] {
            let at = Place::root().join(Name::new(name).unwrap()).unwrap();
            tree.put(&at, name, &meta(), Fidelity::Plain).unwrap();
            assert_eq!(std::fs::read(mount.path.join(std::ffi::OsStr::from_bytes(name))).unwrap(), name);
        }
        let (walked, _) = walk(&tree);
        assert!(walked.is_sorted_by_key(|walked| walked.place.clone()));
        assert_eq!(walked.len() - walked.iter().filter(|walked| walked.stat.kind == Kind::Directory).count(), 7);
    });
}

#[test]
fn times_before_1970_and_in_nanoseconds_come_back() {
    each_file_system(|kind, mount| {
        let tree = mount.tree();
        for (seconds, nanos) in [(-1, 999_999_999), (-1_000_000_000, 1), (0, 0), (1 << 32, 123_456_789)] {
            let wanted = Meta { mtime: Time { seconds, nanos }, ..meta() };
            let (stat, gaps) = tree.put(&place("t"), b"", &wanted, Fidelity::Plain).unwrap();
            assert_eq!((stat.mtime, gaps), (wanted.mtime, vec![]), "{kind}");
            let link = tree.make_symlink(&place("l"), b"x", &wanted, Fidelity::Plain).unwrap();
            assert_eq!((link.0.mtime, link.1), (wanted.mtime, vec![]), "{kind}");
        }
        let beyond = Meta { mtime: Time { seconds: i64::MAX, nanos: 5 }, ..meta() };
        let (stat, gaps) = tree.put(&place("t"), b"", &beyond, Fidelity::Plain).unwrap();
        assert!(stat.mtime == beyond.mtime || kinds(&gaps) == [GapKind::Time], "{kind}");
    });
}

#[test]
fn owners_bits_acls_and_capabilities_make_the_round_trip() {
    if !can(&["mkfs.ext4", "setfacl", "setcap"]) {
        return;
    }
    let (from, to) = (Mount::new("ext4", 32 << 20), Mount::new("ext4", 32 << 20));
    let (source, destination) = (from.tree(), to.tree());
    let path = from.join("ping");
    std::fs::write(&path, "ping").unwrap();
    let name = path.to_str().unwrap();
    std::os::unix::fs::chown(&path, Some(1234), Some(4321)).unwrap();
    run("setfacl", &["-m", "u:99:rw,g:98:x", name]);
    run("setcap", &["cap_net_raw+ep", name]);
    run("chmod", &["6754", name]);
    for (mode, expected) in [
        (Fidelity::Plain, vec![GapKind::Capability, GapKind::Acl, GapKind::Mode, GapKind::Owner]),
        (Fidelity::Owner, vec![]),
        (Fidelity::Exact, vec![]),
    ] {
        let look = source.look(&place("ping"), mode).unwrap();
        assert_eq!(kinds(&look.gaps), expected);
        let open = source.open(&place("ping"), Access::Read).unwrap().look(mode).unwrap();
        assert_eq!(open, look);
        // What is there already is replaced: nothing of it stays.
        destination.remove(&place("ping")).unwrap();
        let (stat, gaps) = destination.put(&place("ping"), b"ping", &look.meta, mode).unwrap();
        assert_eq!(gaps, []);
        let there = destination.look(&place("ping"), mode).unwrap();
        assert_eq!((there.meta, there.gaps), (look.meta.clone(), vec![]), "{mode:?}");
        if mode != Fidelity::Plain {
            assert_eq!((stat.mode, stat.uid, stat.gid), (0o6754, 1234, 4321));
            assert_eq!(
                run("getcap", &["-n", to.join("ping").to_str().unwrap()]).split(' ').next_back(),
                Some("cap_net_raw=ep")
            );
            let (stat, gaps) = destination.set_meta(&place("ping"), Kind::File, &meta(), mode).unwrap();
            assert_eq!((stat.mode, gaps), (0o640, vec![]));
            assert_eq!(destination.look(&place("ping"), mode).unwrap().meta, meta());
        }
    }
}

#[test]
fn plain_takes_no_rights_from_a_peer() {
    each_file_system(|_, mount| {
        let capability = xattr("security.capability", &[1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let wanted =
            Meta { mode: 0o6755, uid: 1234, xattrs: vec![capability, xattr("security.selinux", b"x")], ..meta() };
        let (stat, gaps) = mount.tree().put(&place("x"), b"", &wanted, Fidelity::Plain).unwrap();
        assert_eq!((stat.mode, stat.uid), (0o755, 0));
        assert_eq!(gaps.len(), 2);
        assert_eq!(mount.tree().look(&place("x"), Fidelity::Exact).unwrap().meta.xattrs, []);
    });
}

#[test]
fn an_inherited_acl_does_not_stay() {
    if !can(&["mkfs.ext4", "setfacl"]) {
        return;
    }
    let mount = Mount::new("ext4", 16 << 20);
    run("setfacl", &["-d", "-m", "u:99:rwx", mount.path.to_str().unwrap()]);
    let tree = mount.tree();
    let (stat, gaps) = tree.put(&place("x"), b"", &meta(), Fidelity::Owner).unwrap();
    assert_eq!((stat.mode, gaps), (0o640, vec![]));
    assert_eq!(tree.look(&place("x"), Fidelity::Owner).unwrap().meta, meta());
}

#[test]
fn attributes_of_users_and_of_the_system_follow_the_mode() {
    each_file_system(|kind, mount| {
        let tree = mount.tree();
        let xattrs = vec![xattr("trusted.secret", b"\0\xff"), xattr("user.comment", &[9; 600])];
        let wanted = Meta { xattrs: xattrs.clone(), ..meta() };
        let (_, gaps) = tree.put(&place("x"), b"", &wanted, Fidelity::Exact).unwrap();
        assert_eq!(gaps, [], "{kind}");
        assert_eq!(tree.look(&place("x"), Fidelity::Exact).unwrap().meta.xattrs, xattrs);
        let plain = tree.look(&place("x"), Fidelity::Plain).unwrap();
        assert_eq!((plain.meta.xattrs, kinds(&plain.gaps)), (xattrs[1..].to_vec(), vec![GapKind::Xattr]));
        // Of a link, a FIFO and a directory too.
        tree.make_symlink(&place("l"), b"x", &Meta { xattrs: xattrs[..1].to_vec(), ..meta() }, Fidelity::Exact)
            .unwrap();
        assert_eq!(tree.look(&place("l"), Fidelity::Exact).unwrap().meta.xattrs, xattrs[..1]);
        let (_, gaps) = tree.make_symlink(&place("l"), b"x", &wanted, Fidelity::Exact).unwrap();
        assert_eq!(kinds(&gaps), [GapKind::Xattr], "a link has no user attributes");
        tree.make_directory(&place("d")).unwrap();
        let (_, gaps) = tree.set_meta(&place("d"), Kind::Directory, &wanted, Fidelity::Exact).unwrap();
        assert_eq!(gaps, []);
        // What is gone at the source goes.
        let (_, gaps) = tree.set_meta(&place("d"), Kind::Directory, &meta(), Fidelity::Exact).unwrap();
        assert_eq!(gaps, []);
        assert_eq!(tree.look(&place("d"), Fidelity::Exact).unwrap().meta.xattrs, []);
    });
}

#[test]
fn an_attribute_that_does_not_fit_is_a_gap_and_not_a_full_volume() {
    if !can(&["mkfs.ext4"]) {
        return;
    }
    let mount = Mount::new("ext4", 64 << 20);
    let wanted = Meta { xattrs: vec![xattr("user.large", &[1; 60_000])], ..meta() };
    let (_, gaps) = mount.tree().put(&place("x"), b"", &wanted, Fidelity::Plain).unwrap();
    assert_eq!(kinds(&gaps), [GapKind::Limit]);
}

#[test]
fn flags_that_no_mode_carries_are_gaps() {
    if !can(&["mkfs.ext4", "chattr"]) {
        return;
    }
    let mount = Mount::new("ext4", 16 << 20);
    std::fs::write(mount.join("x"), "").unwrap();
    run("chattr", &["+i", mount.join("x").to_str().unwrap()]);
    let tree = mount.tree();
    let look = tree.look(&place("x"), Fidelity::Exact).unwrap();
    assert_eq!(kinds(&look.gaps), [GapKind::Flags]);
    assert_eq!(look.gaps[0].detail, "immutable");
    // And what cannot be set because of them is a gap too.
    let (_, gaps) = tree.set_meta(&place("x"), Kind::File, &meta(), Fidelity::Exact).unwrap();
    assert_eq!(kinds(&gaps), [GapKind::Mode, GapKind::Time]);
    run("chattr", &["-i", mount.join("x").to_str().unwrap()]);
}

#[test]
fn a_full_volume_is_said_to_be_full() {
    each_file_system(|kind, mount| {
        let tree = mount.tree();
        let content = tree.open(&place("large"), Access::Create).unwrap();
        let piece = [1; 1 << 20];
        let error = (0..400).find_map(|at| content.write_at(&piece, at << 20).err()).expect("it is smaller than that");
        assert!(matches!(error, VolumeError::Full { .. }), "{kind}: {error:?}");
        assert_eq!(error.code(), "TS-E230");
    });
    if can(&["mkfs.ext4"]) {
        let mount = Mount::new("ext4", 8 << 20);
        let tree = mount.tree();
        let put = |at| tree.put(&place(&format!("{at}")), b"", &meta(), Fidelity::Plain).err();
        let error = (0..10_000).find_map(put).expect("it has fewer inodes");
        assert!(matches!(error, VolumeError::Full { .. }), "{error:?}");
    }
}

#[test]
fn mounts_and_lost_and_found_do_not_belong_to_the_volume() {
    if !can(&["mount", "mkfs.ext4"]) {
        return;
    }
    let mount = Mount::new("ext4", 16 << 20);
    for path in ["a", "b", "c", "a/lost+found"] {
        std::fs::create_dir(mount.join(path)).unwrap();
    }
    for path in ["c/file", "f", "g"] {
        std::fs::write(mount.join(path), "").unwrap();
    }
    let at = |path: &str| mount.join(path).to_str().unwrap().to_owned();
    assert!(!mount.tree().facts().unwrap().is_empty);
    run("mount", &["-t", "tmpfs", "tmpfs", &at("a")]);
    run("mount", &["--bind", &at("c"), &at("b")]);
    run("mount", &["--bind", &at("f"), &at("g")]);
    let tree = mount.tree();
    let (walked, left_out) = walk(&tree);
    let walked: Vec<_> = walked.iter().map(|walked| walked.place.to_string()).collect();
    assert_eq!(walked, [".", "c", "c/file", "f"]);
    let left_out: Vec<_> = left_out.iter().map(|left| (left.place.to_string(), left.why)).collect();
    let mounted = |name: &str| (name.to_owned(), "mount point");
    assert_eq!(left_out, [mounted("a"), mounted("b"), mounted("g"), ("lost+found".to_owned(), "lost+found")]);
    // Nothing is written or removed through a mount either.
    assert!(matches!(tree.open(&place("b/file"), Access::Read), Err(VolumeError::Replaced { .. })));
    assert!(matches!(tree.put(&place("b/x"), b"", &meta(), Fidelity::Plain), Err(VolumeError::Replaced { .. })));
    assert!(tree.remove(&place("b")).is_err());
    assert!(mount.join("c/file").exists());
}

#[test]
fn an_empty_volume_has_nothing_but_what_its_file_system_made() {
    each_file_system(|kind, mount| {
        let facts = mount.tree().facts().unwrap();
        assert!(facts.is_empty, "{kind}");
        assert_eq!(facts.kind, VolumeKind::Tree);
        assert!(facts.free_bytes > 0 && facts.free_bytes <= facts.capacity_bytes);
        assert_eq!(mount.tree().facts().unwrap().identity, facts.identity);
        for path in ["a", "b"] {
            std::fs::create_dir(mount.join(path)).unwrap();
        }
        let identity = |path: &str| Tree::open(&mount.join(path)).unwrap().facts().unwrap().identity;
        assert_ne!(identity("a"), identity("b"));
        let before = identity("a");
        std::fs::remove_dir(mount.join("a")).unwrap();
        std::fs::create_dir(mount.join("a")).unwrap();
        assert_ne!(identity("a"), before, "{kind}: a later directory at the same path is another volume");
        assert!(!mount.tree().facts().unwrap().is_empty);
    });
}

#[test]
fn a_read_only_source_can_be_settled_read_and_walked() {
    if !can(&["mount", "mkfs.ext4"]) {
        return;
    }
    let mount = Mount::new("ext4", 16 << 20);
    std::fs::write(mount.join("file"), "content").unwrap();
    run("mount", &["-o", "remount,ro", mount.path.to_str().unwrap()]);
    let tree = mount.tree();
    tree.settle().unwrap();
    let mut buffer = [0; 16];
    assert_eq!(tree.open(&place("file"), Access::ReadDevice).unwrap().read_at(&mut buffer, 0).unwrap(), 7);
    assert_eq!(walk(&tree).0.len(), 2);
    assert!(tree.put(&place("x"), b"", &meta(), Fidelity::Plain).is_err());
    // A destination that went read-only under us has lost what it had not written.
    assert!(tree.flush().is_err());
}

#[test]
fn contents_are_written_read_and_measured() {
    each_file_system(|kind, mount| {
        let tree = mount.tree();
        let content = tree.open(&place("f"), Access::Create).unwrap();
        let random: Vec<u8> = (0..3_000_001_u32).map(|at| at.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
        content.write_at(&random, 5).unwrap();
        content.set_size(4_000_000).unwrap();
        content.zero_at(100_000, 1_000_000).unwrap();
        let mut expected = vec![0; 4_000_000];
        expected[5..5 + random.len()].copy_from_slice(&random);
        expected[100_000..1_100_000].fill(0);
        tree.flush().unwrap();
        for access in [Access::Read, Access::ReadDevice, Access::Write] {
            let content = tree.open(&place("f"), access).unwrap();
            for (offset, length) in
                [(0, 4_000_000), (1, 5_000_000), (4095, 4097), (3_999_999, 10), (4_000_000, 1), (9_000_000, 9)]
            {
                let mut buffer = vec![0xaa; length];
                let read = content.read_at(&mut buffer, offset).unwrap();
                let there = &expected[(offset as usize).min(expected.len())..];
                assert!(buffer[..read] == there[..there.len().min(length)], "{kind} {access:?} {offset} {length}");
            }
        }
        // Beyond the end, zeros extend.
        content.zero_at(4_000_000, 123).unwrap();
        assert_eq!(content.stat().unwrap().size, 4_000_123);
        content.set_size(3).unwrap();
        assert_eq!(std::fs::read(mount.join("f")).unwrap(), [0, 0, 0]);
        content.zero_at(0, 0).unwrap();
        assert_eq!(content.stat().unwrap().size, 3);
    });
}

#[test]
fn holes_are_found_and_made() {
    each_file_system(|kind, mount| {
        let tree = mount.tree();
        let content = tree.open(&place("sparse"), Access::Create).unwrap();
        content.set_size(1 << 40).unwrap();
        assert_eq!(content.next_data(0).unwrap(), None, "{kind}");
        content.write_at(&[1; 4096], 1 << 30).unwrap();
        content.write_at(&[2; 1 << 20], 1 << 31).unwrap();
        assert_eq!(content.next_data(0).unwrap(), Some((1 << 30, (1 << 30) + 4096)), "{kind}");
        assert_eq!(content.next_data((1 << 30) + 100).unwrap(), Some(((1 << 30) + 100, (1 << 30) + 4096)), "{kind}");
        content.zero_at(1 << 30, 4096).unwrap();
        assert_eq!(content.next_data(0).unwrap().map(|data| data.0), Some(1 << 31), "{kind}");
        assert_eq!(content.next_data(1 << 40).unwrap(), None);
        tree.flush().unwrap();
        assert!(std::fs::metadata(mount.join("sparse")).unwrap().blocks() <= 2 * 1024 + 64, "{kind}");
    });
}

#[test]
fn links_lead_to_the_file_and_renames_move_it() {
    each_file_system(|_, mount| {
        let tree = mount.tree();
        let names = || {
            std::fs::read_dir(&mount.path)
                .unwrap()
                .filter(|name| name.as_ref().unwrap().file_name() != "lost+found")
                .count()
        };
        tree.put(&place("a"), b"a", &meta(), Fidelity::Plain).unwrap();
        let stat = tree.make_link(&place("b"), &place("a")).unwrap();
        assert_eq!(stat.links, 2);
        assert_eq!(tree.make_link(&place("b"), &place("a")).unwrap(), stat, "it is that already");
        // The kernel leaves both names of one file where they are.
        tree.rename(&place("a"), &place("b")).unwrap();
        assert_eq!((names(), std::fs::read(mount.join("b")).unwrap()), (1, b"a".to_vec()));
        tree.make_directory(&place("d")).unwrap();
        tree.put(&place("d/x"), b"x", &meta(), Fidelity::Plain).unwrap();
        tree.rename(&place("d"), &place("b")).unwrap();
        tree.put(&place("b/y"), b"y", &meta(), Fidelity::Plain).unwrap();
        assert_eq!((names(), std::fs::read(mount.join("b/y")).unwrap()), (1, b"y".to_vec()));
        assert!(tree.rename(&place("b"), &place("b/x/z")).is_err());
        assert!(tree.rename(&place("b/x"), &place("b")).is_err());
        assert!(matches!(tree.rename(&place("gone"), &place("b")), Err(VolumeError::Vanished { .. })));
        assert!(mount.join("b/y").exists());
        symlink("b", mount.join("link")).unwrap();
        assert_eq!(tree.make_link(&place("c"), &place("link")).unwrap().kind, Kind::Symlink, "itself, not its target");
        assert_eq!(std::fs::read_link(mount.join("c")).unwrap(), std::path::Path::new("b"));
        assert!(matches!(tree.make_link(&place("e"), &place("b")), Err(VolumeError::Replaced { .. })), "a directory");
        tree.remove(&place("link")).unwrap();
        tree.remove(&place("c")).unwrap();
        tree.remove(&place("b")).unwrap();
        tree.remove(&place("b")).unwrap();
        assert_eq!(names(), 0);
    });
}

#[test]
fn a_folder_that_holds_hundreds_of_full_folders_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    for number in 0..500 {
        std::fs::create_dir_all(folder.path().join(format!("a/{number}/b"))).unwrap();
    }
    Tree::open(folder.path()).unwrap().remove(&place("a")).unwrap();
    assert!(!folder.path().join("a").exists());
}

#[test]
fn special_files_are_made_where_the_mode_carries_them() {
    each_file_system(|_, mount| {
        let tree = mount.tree();
        let make = |kind, device, mode| tree.make_special(&place("x"), kind, device, &meta(), mode).unwrap();
        let (stat, gaps) = make(Kind::Fifo, 0, Fidelity::Plain);
        assert_eq!((stat.unwrap().mode, gaps), (0o640, vec![]));
        assert_eq!(kinds(&make(Kind::Socket, 0, Fidelity::Exact).1), [GapKind::Socket]);
        assert_eq!(kinds(&make(Kind::CharDevice, 0x103, Fidelity::Owner).1), [GapKind::Device]);
        assert!(std::fs::metadata(mount.join("x")).unwrap().file_type().is_fifo());
        let (stat, gaps) = make(Kind::CharDevice, 0x103, Fidelity::Exact);
        assert_eq!((stat.unwrap().device, gaps), (0x103, vec![]));
        assert_eq!(std::fs::metadata(mount.join("x")).unwrap().rdev(), 0x103);
        assert_eq!(std::fs::metadata(mount.join("x")).unwrap().permissions().mode() & 0o7777, 0o640);
    });
}

#[test]
fn symlinks_are_read_and_made_verbatim() {
    each_file_system(|_, mount| {
        let tree = mount.tree();
        for target in [&b"/etc/passwd"[..], b"..", b"\n\xff", &[b'x'; 1000]] {
            let wanted = Meta { uid: 77, gid: 88, mode: 0o777, ..meta() };
            let (stat, gaps) = tree.make_symlink(&place("l"), target, &wanted, Fidelity::Owner).unwrap();
            assert_eq!((stat.uid, stat.gid, gaps), (77, 88, vec![]));
            let look = tree.look(&place("l"), Fidelity::Owner).unwrap();
            assert_eq!((look.target.as_deref(), look.meta), (Some(target), wanted));
            assert_eq!(stat.size, target.len() as u64);
        }
    });
}

#[test]
fn deep_places_beyond_a_path_are_reached() {
    each_file_system(|kind, mount| {
        let tree = mount.tree();
        let long = "long-name-".repeat(20);
        let mut at = Place::root();
        for _ in 0..200 {
            at = at.join(Name::new(long.as_bytes()).unwrap()).unwrap();
            tree.make_directory(&at).unwrap();
        }
        let file = at.join(Name::new(b"file").unwrap()).unwrap();
        assert!(file.as_bytes().len() > 40_000);
        tree.put(&file, b"deep", &meta(), Fidelity::Plain).unwrap();
        let mut buffer = [0; 4];
        assert_eq!(tree.open(&file, Access::Read).unwrap().read_at(&mut buffer, 0).unwrap(), 4, "{kind}");
        let (walked, _) = walk(&tree);
        assert!(walked.iter().any(|walked| walked.place == file));
        tree.remove(&place(&long)).unwrap();
        assert!(tree.facts().unwrap().is_empty);
    });
}

#[test]
fn a_file_that_others_read_or_execute_is_replaced_and_not_changed() {
    each_file_system(|_, mount| {
        let tree = mount.tree();
        tree.put(&place("x"), b"old", &meta(), Fidelity::Plain).unwrap();
        let old = std::fs::File::open(mount.join("x")).unwrap();
        std::fs::hard_link(mount.join("x"), mount.join("other")).unwrap();
        tree.put(&place("x"), b"new", &meta(), Fidelity::Plain).unwrap();
        tree.open(&place("x"), Access::Create).unwrap().write_at(b"newer", 0).unwrap();
        assert_eq!(std::io::read_to_string(old).unwrap(), "old");
        assert_eq!(std::fs::read(mount.join("other")).unwrap(), b"old");
        assert_eq!(std::fs::read(mount.join("x")).unwrap(), b"newer");
    });
}

#[test]
fn reading_changes_no_access_time() {
    if !can(&["mkfs.ext4"]) {
        return;
    }
    let mount = Mount::new("ext4", 16 << 20);
    run("mount", &["-o", "remount,strictatime", mount.path.to_str().unwrap()]);
    std::fs::create_dir(mount.join("d")).unwrap();
    std::fs::write(mount.join("d/f"), "x").unwrap();
    let times = || {
        ["", "d", "d/f"].map(|path| std::fs::metadata(mount.join(path)).map(|m| (m.atime(), m.atime_nsec())).unwrap())
    };
    let before = times();
    let tree = mount.tree();
    walk(&tree);
    tree.facts().unwrap();
    tree.look(&place("d/f"), Fidelity::Exact).unwrap();
    tree.open(&place("d/f"), Access::Read).unwrap().read_at(&mut [0; 9], 0).unwrap();
    tree.open(&place("d/f"), Access::ReadDevice).unwrap().read_at(&mut [0; 9], 0).unwrap();
    assert_eq!(times(), before);
}

#[test]
fn large_reads_leave_the_page_cache_as_it_was() {
    if !can(&["mkfs.ext4", "fincore"]) {
        return;
    }
    let mount = Mount::new("ext4", 64 << 20);
    let path = mount.join("f");
    std::fs::write(&path, vec![3; 16 << 20]).unwrap();
    let tree = mount.tree();
    tree.flush().unwrap();
    let file = std::fs::File::open(&path).unwrap();
    let cached = || run("fincore", &["--bytes", "--noheadings", "--output", "RES", path.to_str().unwrap()]);
    let read = || {
        let content = tree.open(&place("f"), Access::Read).unwrap();
        let mut buffer = vec![0; 1 << 20];
        (0..16).for_each(|at| assert_eq!(content.read_at(&mut buffer, at << 20).unwrap(), 1 << 20));
        assert!(buffer.iter().all(|&byte| byte == 3));
    };
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    read();
    assert_eq!(cached(), "0");
    std::io::copy(&mut &file, &mut std::io::sink()).unwrap();
    read();
    assert_eq!(cached(), (16 << 20).to_string(), "what an application reads stays");
}

#[test]
fn what_the_device_holds_is_read_past_the_cache() {
    if !can(&["mkfs.ext4", "losetup"]) {
        return;
    }
    let device = crate::support::Loop::new(16 << 20);
    let image = device.image();
    run("mkfs.ext4", &["-qF", &device.device]);
    let mount = Mount::of(device);
    let tree = mount.tree();
    tree.put(&place("f"), &b"true".repeat(1024), &meta(), Fidelity::Plain).unwrap();
    tree.flush().unwrap();
    // The device's bytes change behind the file system's back.
    let bytes = std::fs::read(&image).unwrap();
    let at = bytes.windows(4096).position(|window| window == b"true".repeat(1024)).expect("it was flushed");
    let mut held = std::fs::File::open(mount.join("f")).unwrap();
    std::io::copy(&mut held, &mut std::io::sink()).unwrap();
    std::os::unix::fs::FileExt::write_at(
        &std::fs::OpenOptions::new().write(true).open(&image).unwrap(),
        b"lies",
        at as u64,
    )
    .unwrap();
    let read = |access| {
        let mut buffer = [0; 4];
        tree.open(&place("f"), access).unwrap().read_at(&mut buffer, 0).unwrap();
        buffer
    };
    assert_eq!(&read(Access::Read), b"true", "from the cache");
    assert_eq!(&read(Access::ReadDevice), b"lies");
}

#[test]
fn a_stranger_meets_gaps_where_rights_are_missing_and_errors_where_content_is() {
    each_file_system(|kind, mount| {
        for (path, mode) in [("mine", "0644"), ("foreign", "0644"), ("secret", "0600")] {
            std::fs::write(mount.join(path), path).unwrap();
            run("chmod", &[mode, mount.join(path).to_str().unwrap()]);
        }
        run("setfattr", &["-n", "user.x", "-v", "y", mount.join("secret").to_str().unwrap()]);
        for path in ["mine", ""] {
            std::os::unix::fs::chown(mount.join(path), Some(1234), Some(1234)).unwrap();
        }
        let stranger = || {
            // Of this thread only, as the kernel has it.
            rustix::thread::set_thread_groups(&[]).unwrap();
            rustix::thread::set_thread_gid(rustix::process::Gid::from_raw(1234)).unwrap();
            rustix::thread::set_thread_uid(rustix::process::Uid::from_raw(1234)).unwrap();
            let tree = mount.tree();
            let gaps = |path| kinds(&tree.look(&place(path), Fidelity::Plain).unwrap().gaps);
            assert_eq!(gaps("mine"), []);
            assert_eq!(gaps("foreign"), [GapKind::Owner]);
            assert_eq!(gaps("secret"), [GapKind::Unreadable, GapKind::Owner], "{kind}");
            assert!(matches!(tree.open(&place("secret"), Access::Read), Err(VolumeError::Io { .. })));
            tree.open(&place("foreign"), Access::Read).unwrap().read_at(&mut [0; 9], 0).unwrap();
            let wanted = Meta { uid: 5, gid: 6, xattrs: vec![xattr("trusted.x", b"y")], ..meta() };
            let (_, gaps) = tree.put(&place("new"), b"", &wanted, Fidelity::Exact).unwrap();
            assert_eq!(kinds(&gaps), [GapKind::Owner, GapKind::Xattr], "{kind}");
            tree.make_link(&place("also"), &place("new")).unwrap();
            let (stat, gaps) =
                tree.make_special(&place("node"), Kind::CharDevice, 0x103, &meta(), Fidelity::Exact).unwrap();
            assert_eq!((stat, kinds(&gaps)), (None, vec![GapKind::Device]));
            assert_tidy(&tree);
        };
        std::thread::scope(|scope| scope.spawn(stranger).join().unwrap());
    });
}
