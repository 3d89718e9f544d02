//! Agents as pods run them, and the connections of their coordinators.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tranship_proto::control::{
    self, Ended, Event, Hello, Listening, Meeting, Order, Progress, Purpose, Request, Role, Secret, VolumeKind, Welcome,
};
use tranship_tests::processes::{DEADLINE, Outcome, Running, binary};
use tranship_tests::random::Random;

use crate::host::{LONG, Pair, let_clocks_tick};

pub(crate) const MIGRATION: &str = "shop";

/// A pod's agent.
pub(crate) struct Agent {
    pub(crate) running: Running,
    pub(crate) address: SocketAddr,
    pub(crate) folder: PathBuf,
}

impl Agent {
    /// Starts one with its state in `folder`.
    pub(crate) fn start(folder: &Path, volumes: &[(&str, &Path)], arguments: &[&str]) -> Self {
        fs::create_dir_all(folder).expect("made");
        let secret = folder.join("secret");
        fs::write(&secret, secret_of(folder)).expect("written");
        let mut command = Command::new(binary());
        command.args(["--output", "json", "agent", "--control", "127.0.0.1:0", "--migration", MIGRATION]);
        command.arg("--secret-file").arg(&secret);
        command.args(["--secret-hash", &blake3::hash(secret_of(folder).as_bytes()).to_hex()]);
        command.arg("--state").arg(folder.join("state")).arg("--termination-file").arg(folder.join("last-word"));
        for (name, path) in volumes {
            command.arg(format!("--volume={name}={}", path.display()));
        }
        let mut running = Running::start(command.args(arguments));
        let line = running.line(DEADLINE).expect("it says where it listens");
        let said: Value = serde_json::from_str(&line).expect("JSON");
        let address = said["control"].as_str().and_then(|text| text.parse().ok()).expect("an address");
        Self { running, address, folder: folder.to_owned() }
    }

    /// A coordinator with this epoch that is let in.
    pub(crate) fn connect(&self, epoch: u64) -> (Client, Welcome) {
        let mut client = Client::new(self.address);
        client.say(&hello(&secret_of(&self.folder), epoch));
        match client.hear() {
            Some(Event::Welcome(welcome)) => (client, welcome),
            other => panic!("not let in: {other:?}"),
        }
    }

    /// What it leaves, as its pod would show it.
    pub(crate) fn last_word(&self) -> Value {
        let text = fs::read_to_string(self.folder.join("last-word")).expect("it left one");
        assert!(text.len() <= 4_096, "{text}");
        serde_json::from_str(&text).expect("JSON")
    }

    /// Waits for its end.
    pub(crate) fn finish(self, within: Duration) -> (Outcome, Value) {
        assert!(self.running.ends(within), "not finished within {within:?}");
        let word = self.last_word();
        (self.running.finish(within), word)
    }
}

/// 64 digits that are different for each folder.
pub(crate) fn secret_of(folder: &Path) -> String {
    blake3::hash(folder.as_os_str().as_encoded_bytes()).to_hex().to_string()
}

pub(crate) fn hello(secret: &str, epoch: u64) -> Request {
    let (migration, coordinator) = (MIGRATION.to_owned(), "a test".to_owned());
    Request::Hello(Hello {
        version: control::VERSION,
        secret: Secret(secret.into()),
        migration,
        epoch,
        coordinator,
        observes: false,
    })
}

/// A coordinator's connection.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    lines: BufReader<TcpStream>,
}

impl Client {
    pub(crate) fn new(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("it listens");
        stream.set_read_timeout(Some(LONG)).expect("set");
        Self { lines: BufReader::new(stream.try_clone().expect("cloned")), stream }
    }

    pub(crate) fn say(&mut self, request: &Request) {
        self.stream.write_all(&control::encode(request).expect("short")).expect("it is heard");
    }

    /// The next event; nothing at the end.
    pub(crate) fn hear(&mut self) -> Option<Event> {
        let mut line = Vec::new();
        self.lines.read_until(b'\n', &mut line).expect("it says something in time");
        (!line.is_empty()).then(|| control::decode(&line).expect("an event"))
    }

    /// The first event that is wanted, and nothing of those before.
    pub(crate) fn until<T>(&mut self, mut wanted: impl FnMut(&Event) -> Option<T>) -> T {
        let mut before = Vec::new();
        loop {
            let event = self.hear().unwrap_or_else(|| panic!("it hung up after {before:#?}"));
            if let Some(found) = wanted(&event) {
                return found;
            }
            if !matches!(event, Event::Progress(_)) {
                before.push(event);
            }
        }
    }

    pub(crate) fn begin(&mut self, order: Order) {
        self.say(&Request::Begin(order));
    }

    /// Begins a pass that listens, and says how it is met.
    pub(crate) fn listen(&mut self, order: Order) -> Listening {
        let wanted = order.pass.clone();
        self.begin(order);
        self.until(|event| match event {
            Event::Listening(listening) if listening.pass == wanted => Some(listening.clone()),
            Event::Rejected { pass: Some(pass), .. } if *pass == wanted => panic!("it does not listen: {event:?}"),
            Event::Ended(ended) if ended.pass == wanted => panic!("it does not listen: {event:?}"),
            _ => None,
        })
    }

    pub(crate) fn ended(&mut self, wanted: &str) -> Ended {
        self.until(|event| match event {
            Event::Ended(ended) if ended.pass == wanted => Some(ended.clone()),
            Event::Rejected { pass: Some(pass), code, .. } if pass == wanted && code != control::code::PASS => {
                panic!("it was not begun: {event:?}")
            }
            _ => None,
        })
    }

    /// Ends a pass, which may have ended by itself.
    pub(crate) fn stop(&mut self, pass: &str) -> Ended {
        self.say(&Request::Stop { pass: pass.into() });
        self.ended(pass)
    }

    pub(crate) fn progress(&mut self, mut is_wanted: impl FnMut(&Progress) -> bool) {
        self.until(|event| match event {
            Event::Progress(progress) => is_wanted(progress).then_some(()),
            Event::Ended(_) | Event::Rejected { .. } => panic!("it is over: {event:?}"),
            _ => None,
        });
    }

    pub(crate) fn rejected(&mut self) -> (Option<String>, String) {
        self.until(|event| match event {
            Event::Rejected { pass, code, .. } => Some((pass.clone(), code.clone())),
            _ => None,
        })
    }
}

pub(crate) fn order(pass: &str, volume: &str, role: Role, meeting: Meeting) -> Order {
    Order {
        pass: pass.into(),
        volume: volume.into(),
        role,
        meeting,
        purpose: Purpose::default(),
        mode: "plain".into(),
        accept_gaps: Vec::new(),
        exclude: Vec::new(),
        compress: "none".into(),
        transport: "auto".into(),
        bits_per_second: None,
        kind: VolumeKind::Tree,
    }
}

pub(crate) const LISTEN: Meeting = Meeting::Listen { port: 0 };

pub(crate) fn dial(listening: &Listening) -> Meeting {
    let addresses = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, listening.port))];
    Meeting::Dial { addresses, fingerprint: listening.fingerprint.clone(), secret: listening.secret.clone() }
}

pub(crate) fn last(order: Order) -> Order {
    Order { purpose: Purpose::Final { level: "full".into() }, ..order }
}

/// Two agents and their coordinators, beside two folders.
pub(crate) struct Pods {
    pub(crate) pair: Pair,
    pub(crate) source: Agent,
    pub(crate) destination: Agent,
    pub(crate) from: Client,
    pub(crate) to: Client,
}

impl Pods {
    pub(crate) fn new(bytes: usize) -> Self {
        let pair = filled(bytes);
        let source = Agent::start(&pair.state.path().join("a"), &[("data", pair.source())], &[]);
        let destination = Agent::start(&pair.state.path().join("b"), &[("data", pair.destination())], &[]);
        let (from, to) = (source.connect(1).0, destination.connect(1).0);
        Self { pair, source, destination, from, to }
    }

    /// Begins a pass of which the destination listens.
    pub(crate) fn begin(&mut self, pass: &str, change: impl Fn(Order) -> Order) {
        let listening = self.to.listen(change(order(pass, "data", Role::Destination, LISTEN)));
        self.from.begin(change(order(pass, "data", Role::Source, dial(&listening))));
    }

    /// One that is done, and proven if it is the last.
    pub(crate) fn run(&mut self, pass: &str, change: impl Fn(Order) -> Order) -> Ended {
        self.begin(pass, change);
        let ended = done(self.from.ended(pass));
        done(self.to.ended(pass));
        ended
    }
}

pub(crate) fn done(ended: Ended) -> Ended {
    assert_eq!((ended.exit, &ended.error), (0, &None), "{ended:#?}");
    ended
}

pub(crate) fn expect_proof(ended: &Ended) {
    let report = ended.report.as_ref().expect("a report");
    assert!(report["proof"]["canonical"].is_string(), "{report}");
    assert_eq!(report["digest_source"], report["proof"]["canonical"], "{report}");
    assert_eq!(report["digest_destination"], report["proof"]["canonical"], "{report}");
}

pub(crate) fn error_code(ended: &Ended) -> &str {
    ended.error.as_ref().and_then(|error| error["code"].as_str()).unwrap_or_else(|| panic!("no error: {ended:#?}"))
}

pub(crate) fn filled(bytes: usize) -> Pair {
    let pair = Pair::of_folders();
    for number in 0..20 {
        fs::write(pair.source().join(number.to_string()), Random::new(number).bytes(bytes / 20)).expect("written");
    }
    let_clocks_tick(pair.source());
    pair
}

/// Whether a process was told of this path.
pub(crate) fn is_used(path: &Path) -> bool {
    let holds = |line: Vec<u8>| line.split(|&byte| byte == 0).any(|word| word == path.as_os_str().as_encoded_bytes());
    let mut processes = fs::read_dir("/proc").expect("listed").flatten();
    processes.any(|process| fs::read(process.path().join("cmdline")).is_ok_and(holds))
}
