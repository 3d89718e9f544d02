//! A client outside of both clusters that commits one number after the other, and notes which were acknowledged, when and
//! by whom. It speaks PostgreSQL's protocol itself: no process has to start before it can ask again.

use std::collections::BTreeSet;
use std::io::{self, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tranship_tests::cluster::{Side, until};

/// Between two commits, and between two attempts to find a database: how exactly a downtime is known.
const PAUSE: Duration = Duration::from_millis(10);

/// How long one side may take to take a connection.
const CONNECT_MAX: Duration = Duration::from_millis(250);

/// How long an answer may take before it counts as lost.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// The longest message that a database may send.
const MESSAGE_BYTES_MAX: usize = 64 << 10;

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

/// A commit that was acknowledged.
#[derive(Debug, Clone, Copy)]
struct Commit {
    number: u64,
    at_ms: u64,
    by: Side,
}

/// The client, which runs.
pub(crate) struct Commits {
    stop: Sender<()>,
    noted: Arc<Mutex<Vec<Commit>>>,
    thread: JoinHandle<()>,
}

impl Commits {
    /// Begins with the number 1. The addresses are those of the two databases, of which only one answers at a time.
    pub(crate) fn start(addresses: [(Side, SocketAddr); 2]) -> Self {
        let (stop, stopped) = mpsc::channel::<()>();
        let noted = Arc::new(Mutex::new(Vec::new()));
        let notes = Arc::clone(&noted);
        let is_over = move || stopped.recv_timeout(PAUSE) != Err(mpsc::RecvTimeoutError::Timeout);
        let thread = thread::spawn(move || {
            let mut number = 0;
            for (by, address) in addresses.into_iter().cycle() {
                let mut session = Session::open(address);
                while !is_over() {
                    let Ok(open) = &mut session else { break };
                    number += 1;
                    // One without an answer may be there or not; its number is not used again.
                    if open.commit(number).is_err() {
                        break;
                    }
                    let commit = Commit { number, at_ms: now_ms(), by };
                    notes.lock().unwrap_or_else(PoisonError::into_inner).push(commit);
                }
                if is_over() {
                    return;
                }
            }
        });
        Self { stop, noted, thread }
    }

    /// Waits until so many more are acknowledged.
    pub(crate) fn await_more(&self, commits: usize) {
        let wanted = self.with(|noted| noted.len()) + commits;
        until(&format!("{wanted} commits"), || self.with(|noted| noted.len() >= wanted).then_some(()));
    }

    /// When the last one was acknowledged by the source and the first one by the destination, which is waited for.
    pub(crate) fn outage_ms(&self) -> [u64; 2] {
        until("a commit at the destination", || {
            self.with(|noted| {
                let there = noted.iter().position(|commit| commit.by == Side::Destination)?;
                Some([noted[..there].last()?.at_ms, noted[there].at_ms])
            })
        })
    }

    /// Ends it, and gives the numbers that were acknowledged.
    pub(crate) fn end(self) -> BTreeSet<u64> {
        drop(self.stop);
        self.thread.join().expect("a client does not panic");
        self.noted.lock().unwrap_or_else(PoisonError::into_inner).iter().map(|commit| commit.number).collect()
    }

    fn with<T>(&self, look: impl FnOnce(&[Commit]) -> T) -> T {
        look(&self.noted.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// One connection, as the user `postgres`, who is not asked for a password.
struct Session {
    answers: BufReader<TcpStream>,
}

impl Session {
    fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, CONNECT_MAX)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_MAX))?;
        let mut session = Self { answers: BufReader::new(stream) };
        let mut hello = 0x0003_0000u32.to_be_bytes().to_vec();
        hello.extend(b"user\0postgres\0\0");
        session.send(b"", &hello)?;
        session.await_ready().map(|()| session)
    }

    fn commit(&mut self, number: u64) -> io::Result<()> {
        self.send(b"Q", format!("insert into commits values ({number})\0").as_bytes())?;
        self.await_ready()
    }

    fn send(&mut self, kind: &[u8], body: &[u8]) -> io::Result<()> {
        let bytes = (4 + body.len()) as u32;
        self.answers.get_mut().write_all(&[kind, &bytes.to_be_bytes(), body].concat())
    }

    /// Reads until the database waits for the next query; an error if it says one.
    fn await_ready(&mut self) -> io::Result<()> {
        loop {
            let mut head = [0; 5];
            self.answers.read_exact(&mut head)?;
            let bytes = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
            if !(4..=MESSAGE_BYTES_MAX).contains(&bytes) {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let mut body = vec![0; bytes - 4];
            self.answers.read_exact(&mut body)?;
            match head[0] {
                b'E' => return Err(io::Error::other(String::from_utf8_lossy(&body).into_owned())),
                b'Z' => return Ok(()),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// A database that takes so many commits and then is gone.
    fn database(commits: usize) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            for _ in 0..=commits {
                let _ = stream.read(&mut [0; 256]).expect("asked");
                stream.write_all(b"C\0\0\0\x05xZ\0\0\0\x05I").expect("answered");
            }
            stream.write_all(b"E\0\0\0\x05x").expect("answered");
        });
        address
    }

    #[test]
    fn an_outage_lies_between_two_databases() {
        let commits = Commits::start([(Side::Source, database(3)), (Side::Destination, database(100))]);
        let [last, first] = commits.outage_ms();
        assert!(last <= first && now_ms() - first < 60_000, "{last} to {first}");
        commits.await_more(2);
        let numbers = commits.end();
        // The fourth was asked for, and never acknowledged.
        assert!([1, 2, 3, 5, 6].iter().all(|n| numbers.contains(n)) && !numbers.contains(&4), "{numbers:?}");
    }
}
