use clap::Parser;

use super::*;
use crate::args::{Command, Typed};
use crate::exit::Exit;

enum Meant {
    Sync(SyncOptions),
    Receive(ReceiveOptions),
    Other,
}

fn environment() -> Environment {
    Environment { xdg_state_home: None, home: Some("/somewhere/u".into()) }
}

/// What a command line means; `Err` holds the message.
fn meant(line: &str) -> Result<Meant, String> {
    let typed = Typed::try_parse_from(line.split_whitespace()).map_err(|error| error.to_string())?;
    let mut stdin = &b"tranship1-stdin\n"[..];
    let result = match typed.command {
        Command::Sync(args) => args.validate(&environment(), &mut stdin).map(Meant::Sync),
        Command::Receive(args) => args.validate(&environment(), &mut stdin).map(Meant::Receive),
        Command::Verify(args) => args.validate(&mut stdin).map(|_| Meant::Other),
        Command::Demo(args) => args.validate().map(|_| Meant::Other),
        _ => Ok(Meant::Other),
    };
    result.map_err(|error| {
        assert_eq!(error.exit(), Exit::Usage, "{line}");
        error.to_text()
    })
}

fn sync(line: &str) -> SyncOptions {
    match meant(line) {
        Ok(Meant::Sync(options)) => options,
        Ok(_) => panic!("not sync: {line}"),
        Err(error) => panic!("{line}: {error}"),
    }
}

fn receive(line: &str) -> ReceiveOptions {
    match meant(line) {
        Ok(Meant::Receive(options)) => options,
        Ok(_) => panic!("not receive: {line}"),
        Err(error) => panic!("{line}: {error}"),
    }
}

fn ticket(text: &str) -> Ticket {
    Ticket::parse(text, String::new()).expect("ticket")
}

#[test]
fn what_is_not_typed_has_the_safe_meaning() {
    let options = sync("tranship sync /a /b");
    assert_eq!(options.destination, Destination::Local("/b".into()));
    let all_we_can = if rustix::process::geteuid().is_root() { Fidelity::Exact } else { Fidelity::Plain };
    assert_eq!((options.is_final, options.level, options.fidelity), (false, Level::Full, all_we_can));
    assert_eq!((options.compression, options.link), (Compression::Auto, LinkOptions::default()));
    assert_eq!(options.state, Path::new("/somewhere/u/.local/state/tranship"));
    assert!(options.accepted_gaps.is_empty() && options.exclude.is_empty() && !options.tracks_writes);
    let last = sync("tranship sync /a /b --final");
    assert_eq!((last.is_final, last.level), (true, Level::Full));
    let stage = sync("tranship sync /a /b --verify tracked");
    assert_eq!((stage.is_final, stage.level), (false, Level::Tracked));
}

#[test]
fn every_flag_arrives() {
    let options = sync(
        "tranship sync /a tranship1-x --final --verify tracked --mode exact --accept-gap acl,owner --exclude *.tmp \
         --state /s --bandwidth 50Mbit/s --compress zstd:7 --transport quic --congestion wan --connections 4 --wait \
         --track",
    );
    assert_eq!(options.destination, Destination::Dial(ticket("tranship1-x")));
    assert_eq!((options.is_final, options.level, options.fidelity), (true, Level::Tracked, Fidelity::Exact));
    assert_eq!(options.accepted_gaps, [GapKind::Owner, GapKind::Acl]);
    assert_eq!(options.exclude, ["*.tmp"]);
    assert_eq!((options.compression, options.tracks_writes), (Compression::Zstd(7), true));
    assert_eq!((options.link.transport, options.link.congestion), (Transport::Quic, Congestion::Wan));
    assert_eq!((options.link.connections, options.link.waits), (Some(4), true));
    assert_eq!(options.link.bandwidth.map(|rate| rate.bytes_per_second().get()), Some(6_250_000));
}

#[test]
fn either_side_may_listen() {
    assert_eq!(sync("tranship sync /a --listen").destination, Destination::Listen("[::]:0".parse().expect("address")));
    let listens = |text: &str| match receive(&format!("tranship receive /b --listen {text}")).source {
        Origin::Listen(address) => address.to_string(),
        Origin::Dial(_) => panic!("dials"),
    };
    assert_eq!(
        ["4433", "127.0.0.1", "[::1]:7", "::1", "10.0.0.1:9"].map(listens),
        ["[::]:4433", "127.0.0.1:0", "[::1]:7", "[::1]:0", "10.0.0.1:9"]
    );
    assert_eq!(receive("tranship receive /b --connect -").source, Origin::Dial(ticket("tranship1-stdin")));
    assert_eq!(sync("tranship sync /a -").destination, Destination::Dial(ticket("tranship1-stdin")));
}

#[test]
fn a_combination_without_meaning_is_refused_and_says_what_to_do() {
    for (line, part) in [
        ("tranship sync /a", "`tranship receive DST` prints"),
        ("tranship sync /a /b --listen", "both a destination and --listen"),
        ("tranship sync tranship1-x /b", "receive DST --connect"),
        ("tranship sync /a /b --transport tcp", "leave out --transport"),
        ("tranship sync /a - --transport tcp --congestion wan", "--congestion is for QUIC"),
        ("tranship sync /usr /usr/../usr", "same volume"),
        ("tranship sync /usr /usr/none", "DST is inside SRC"),
        ("tranship sync /usr/bin /usr", "SRC is inside DST"),
        ("tranship sync /usr - --state /usr/state", "the state folder is inside SRC"),
        ("tranship receive /srv --state /srv/state", "the state folder is inside DST"),
        ("tranship receive tranship1-x", "receive DST --connect"),
        ("tranship receive /b --connect nonsense", "not a ticket"),
        ("tranship receive /b --listen nonsense", "an address or a port"),
        ("tranship sync /a /b --compress zstd:99", "zstd:1 to zstd:19"),
        ("tranship sync /a /b --exclude ../x", "outside the volume"),
        ("tranship sync /a /b --exclude **", "leave out everything"),
        ("tranship verify tranship1-x /a", "verify PATH TICKET"),
        ("tranship verify /a /b --transport tcp", "leave out --transport"),
        ("tranship verify /usr /usr", "same volume"),
        ("tranship demo --size 1MiB", "between 8MiB and 16GiB"),
    ] {
        let error = meant(line).err().unwrap_or_else(|| panic!("{line} was taken"));
        assert!(error.contains(part) && error.contains("what to do: "), "{line}\n{error}");
    }
}

#[test]
fn a_word_that_is_unknown_is_refused_with_the_words_that_are_not() {
    for (line, part) in [
        ("tranship sync /a /b --accept-gap colour", "capability"),
        ("tranship sync /a /b --mode best", "exact"),
        ("tranship sync /a /b --bandwidth 10", "50Mbit/s"),
        ("tranship sync /a /b --connections 9", "1..=8"),
        ("tranship sync /a /b --quiet -v", "cannot be used with"),
        ("tranship receive /b --listen 1 --connect -", "cannot be used with"),
        ("tranship agent", "--secret-file"),
    ] {
        let error = meant(line).err().unwrap_or_else(|| panic!("{line} was taken"));
        assert!(error.contains(part), "{line}\n{error}");
    }
}

#[test]
fn the_state_is_kept_where_xdg_says() {
    let folder = |xdg: &str, home: &str| {
        let path = |text: &str| (!text.is_empty()).then(|| PathBuf::from(text));
        Environment { xdg_state_home: path(xdg), home: path(home) }.state_folder()
    };
    assert_eq!(folder("/x", "/h"), Some("/x/tranship".into()));
    assert_eq!(folder("relative", "/h"), Some("/h/.local/state/tranship".into()));
    assert_eq!(folder("", ""), None);
}
