//! The command line of the process that runs a pass.
//!
//! Every value that came from a coordinator stands behind the `=` of its flag, so that none can be a flag itself, and a
//! secret never stands there.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::num::NonZeroU64;

use tranship_agent::link::{Fingerprint, Secret, Ticket};
use tranship_proto::control::{Meeting, Order, Purpose, Role, Secret as Text};

use super::options::Place;

/// What is typed, and the ticket for its standard input if it dials.
pub(super) struct Typed {
    pub(super) arguments: Vec<OsString>,
    pub(super) ticket: Option<String>,
}

/// The command of an order; `relay` is where its process dials if the other side cannot be reached, `share` what it may
/// send in bits per second. An error says what is wrong with the order.
pub(super) fn typed(
    order: &Order,
    place: &Place,
    relay: Option<SocketAddr>,
    share: Option<NonZeroU64>,
) -> Result<Typed, &'static str> {
    let compares = order.purpose == Purpose::Comparison;
    let command = match order.role {
        _ if order.purpose == Purpose::Probe => "probe",
        Role::Source if compares => "verify",
        Role::Source => "sync",
        Role::Destination => "receive",
    };
    let mut flags: Vec<OsString> = ["--output=json", command, "--attached"].map(OsString::from).into();
    // A comparison leaves nothing to remember at the source.
    flags.extend((command != "verify").then(|| joined("--state=", place.state.as_os_str())));
    // The relay carries connections, and no datagrams.
    let transport = if relay.is_some() { "tcp" } else { &order.transport };
    flags.push(format!("--transport={transport}").into());
    flags.extend(share.map(|share| format!("--bandwidth={}", rate(share)).into()));
    let ticket = match &order.meeting {
        Meeting::Listen { port } => {
            flags.push(format!("--listen=[::]:{port}").into());
            None
        }
        Meeting::Dial { addresses, fingerprint, secret } => Some(ticket(addresses, fingerprint, secret)?),
        Meeting::Relayed { fingerprint, secret, .. } => Some(ticket(relay.as_slice(), fingerprint, secret)?),
    };
    if command == "probe" {
        let role = if order.role == Role::Source { "source" } else { "destination" };
        flags.push(format!("--role={role}").into());
        flags.push("--".into());
        flags.push(place.path.clone().into());
        flags.extend(ticket.is_some().then(|| "-".into()));
    } else if order.role == Role::Source {
        flags.extend(source_flags(order));
        flags.push("--".into());
        flags.push(place.path.clone().into());
        flags.extend(ticket.is_some().then(|| "-".into()));
    } else {
        flags.push("--once".into());
        flags.extend(ticket.is_some().then(|| "--connect=-".into()));
        flags.push("--".into());
        flags.push(place.path.clone().into());
    }
    Ok(Typed { arguments: flags, ticket })
}

fn source_flags(order: &Order) -> Vec<OsString> {
    let mut flags = vec![format!("--mode={}", order.mode)];
    if order.purpose != Purpose::Comparison {
        flags.push(format!("--compress={}", order.compress));
        flags.extend(order.accept_gaps.iter().map(|kind| format!("--accept-gap={kind}")));
    }
    match &order.purpose {
        Purpose::Final { level } => flags.extend(["--final".to_owned(), format!("--verify={level}")]),
        Purpose::Stage { reads_back } => flags.extend(reads_back.then(|| "--verify=tracked".to_owned())),
        Purpose::Comparison | Purpose::Probe => {}
    }
    flags.extend(order.exclude.iter().map(|pattern| format!("--exclude={pattern}")));
    flags.into_iter().map(OsString::from).collect()
}

fn ticket(addresses: &[SocketAddr], fingerprint: &str, secret: &Text) -> Result<String, &'static str> {
    let fingerprint: Fingerprint = fingerprint.parse().map_err(|_| "the fingerprint is not 64 hexadecimal digits")?;
    let secret = blake3::Hash::from_hex(&secret.0).map_err(|_| "the secret is not 64 hexadecimal digits")?;
    let secret = Secret::from_bytes(*secret.as_bytes());
    Ok(Ticket { addresses: addresses.to_vec(), fingerprint, secret }.to_string())
}

/// As `--bandwidth` and the file `bandwidth` take it.
pub(super) fn rate(bits_per_second: NonZeroU64) -> String {
    // A byte per second is the least that there is.
    format!("{}bit/s", bits_per_second.get().max(8))
}

fn joined(flag: &str, value: &std::ffi::OsStr) -> OsString {
    let mut flag = OsString::from(flag);
    flag.push(value);
    flag
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use clap::Parser;
    use tranship_proto::control::VolumeKind;
    use tranship_proto::message::Level;

    use super::*;
    use crate::args::{self, Command};
    use crate::options::{Destination, Environment, Origin, ReceiveOptions, SyncOptions};

    const FINGERPRINT: [u8; 32] = [0xab; 32];

    fn order(role: Role, meeting: Meeting) -> Order {
        Order {
            pass: "1".into(),
            volume: "data".into(),
            role,
            meeting,
            purpose: Purpose::Final { level: "tracked".into() },
            mode: "owner".into(),
            accept_gaps: vec!["device".into(), "acl".into()],
            exclude: vec!["--final".into(), "*.tmp".into()],
            compress: "zstd:5".into(),
            transport: "quic".into(),
            bits_per_second: None,
            kind: VolumeKind::Tree,
        }
    }

    fn dial() -> Meeting {
        let addresses = vec!["192.0.2.7:7401".parse().expect("an address")];
        Meeting::Dial { addresses, fingerprint: "ab".repeat(32), secret: Text("cd".repeat(32)) }
    }

    fn place() -> Place {
        Place { name: "data".into(), path: "/-odd volume".into(), state: "/state/data".into() }
    }

    /// The command as the process will understand it.
    fn meant(order: &Order, relay: Option<SocketAddr>, share: u64) -> (Option<SyncOptions>, Option<ReceiveOptions>) {
        let typed = typed(order, &place(), relay, NonZeroU64::new(share)).expect("a command");
        let line = typed.ticket.unwrap_or_default() + "\n";
        let env = Environment::default();
        let arguments = [OsString::from("tranship")].into_iter().chain(typed.arguments);
        match args::Typed::try_parse_from(arguments).expect("it is understood").command {
            Command::Sync(args) => {
                (args.validate(&env, &mut BufReader::new(line.as_bytes())).map(Some).expect("a pass"), None)
            }
            Command::Receive(args) => {
                (None, args.validate(&env, &mut BufReader::new(line.as_bytes())).map(Some).expect("a pass"))
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_source_is_told_all_of_its_order() {
        let (options, _) = meant(&order(Role::Source, Meeting::Listen { port: 7401 }), None, 20_000);
        let options = options.expect("a source");
        assert_eq!((options.source.to_str(), options.state.to_str()), (Some("/-odd volume"), Some("/state/data")));
        assert_eq!(options.destination, Destination::Listen("[::]:7401".parse().expect("an address")));
        assert_eq!(options.exclude, ["--final", "*.tmp"]);
        assert_eq!((options.accepted_gaps.len(), options.is_final), (2, true));
        assert_eq!(options.link.bandwidth.expect("a share").bytes_per_second().get(), 2_500);
    }

    #[test]
    fn a_stage_is_told_how_the_final_pass_will_be_proven() {
        for (reads_back, level) in [(true, Level::Tracked), (false, Level::Full)] {
            let order = Order { purpose: Purpose::Stage { reads_back }, ..order(Role::Source, dial()) };
            let options = meant(&order, None, 0).0.expect("a source");
            assert_eq!((options.is_final, options.level), (false, level));
        }
    }

    #[test]
    fn whoever_dials_gets_the_ticket_and_nobody_sees_it() {
        for role in [Role::Source, Role::Destination] {
            let command = typed(&order(role, dial()), &place(), None, None).expect("a command");
            let ticket: Ticket = command.ticket.expect("it dials").parse().expect("a ticket");
            assert_eq!((ticket.fingerprint, ticket.addresses.len()), (Fingerprint(FINGERPRINT), 1));
            assert!(!command.arguments.iter().any(|argument| argument.to_string_lossy().contains("tranship1-")));
        }
        let (_, options) = meant(&order(Role::Destination, dial()), None, 0);
        let options = options.expect("a destination");
        assert!(options.is_once && matches!(options.source, Origin::Dial(_)), "{options:?}");
        let (options, _) = meant(&order(Role::Source, dial()), None, 0);
        assert!(matches!(options.expect("a source").destination, Destination::Dial(_)));
    }

    #[test]
    fn a_relayed_pass_dials_the_relay_over_tcp() {
        let meeting = Meeting::Relayed { port: 7402, fingerprint: "ab".repeat(32), secret: Text("cd".repeat(32)) };
        let relay = "127.0.0.1:4000".parse().ok();
        let (options, _) = meant(&order(Role::Source, meeting.clone()), relay, 0);
        assert_eq!(options.expect("a source").link.transport, crate::options::Transport::Tcp);
        let command = typed(&order(Role::Source, meeting), &place(), relay, None).expect("a command");
        let ticket: Ticket = command.ticket.expect("it dials").parse().expect("a ticket");
        assert_eq!(ticket.addresses, relay.as_slice());
    }

    #[test]
    fn a_comparison_is_told_what_counts_and_remembers_nothing() {
        let order = |role| Order { purpose: Purpose::Comparison, ..order(role, dial()) };
        let command = typed(&order(Role::Source), &place(), None, None).expect("a command");
        let mut line = BufReader::new(command.ticket.as_deref().expect("it dials").as_bytes());
        let arguments = [OsString::from("tranship")].into_iter().chain(command.arguments.clone());
        let Command::Verify(args) = args::Typed::try_parse_from(arguments).expect("it is understood").command else {
            panic!("{:?}", command.arguments);
        };
        let options = args.validate(&mut line).expect("a comparison");
        assert_eq!(
            (options.a.to_str(), options.exclude),
            (Some("/-odd volume"), vec!["--final".into(), "*.tmp".into()])
        );
        let (_, options) = meant(&order(Role::Destination), None, 0);
        assert!(options.expect("a destination").is_once);
    }

    #[test]
    fn a_probe_is_told_its_role_and_where_the_other_side_is() {
        for (role, meeting, dials) in
            [(Role::Source, dial(), true), (Role::Destination, Meeting::Listen { port: 7401 }, false)]
        {
            let order = Order { purpose: Purpose::Probe, ..order(role, meeting) };
            let command = typed(&order, &place(), None, NonZeroU64::new(20_000)).expect("a command");
            let line = command.ticket.unwrap_or_default() + "\n";
            let arguments = [OsString::from("tranship")].into_iter().chain(command.arguments);
            let Command::Probe(args) = args::Typed::try_parse_from(arguments).expect("it is understood").command else {
                panic!("it is no probe");
            };
            let options =
                args.validate(&Environment::default(), &mut BufReader::new(line.as_bytes())).expect("a probe");
            assert_eq!((options.role, matches!(options.peer, Origin::Dial(_))), (role, dials));
            assert_eq!(options.path.to_str(), Some("/-odd volume"));
            assert_eq!(options.link.bandwidth.expect("a share").bytes_per_second().get(), 2_500);
        }
    }

    #[test]
    fn keys_that_are_none_are_named() {
        let meeting = |fingerprint: &str, secret: &str| Meeting::Dial {
            addresses: vec!["192.0.2.7:1".parse().expect("an address")],
            fingerprint: fingerprint.into(),
            secret: Text(secret.into()),
        };
        let fine = "ab".repeat(32);
        for meeting in [meeting("", &fine), meeting(&fine, ""), meeting(&fine, &"zz".repeat(32))] {
            assert!(typed(&order(Role::Source, meeting), &place(), None, None).is_err());
        }
    }
}
