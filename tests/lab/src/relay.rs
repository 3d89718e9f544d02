//! The process through which packets between the clusters go while there is weather.
//!
//! Packets come from a TUN device and go back to it. The device is held by socat, which hands them on through sockets:
//! to make one takes a system call that cannot be done without `unsafe`.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use crate::lane::{Lane, destination};
use crate::{LabError, Layout, Weather};

/// The longest packet of IPv4.
const PACKET_BYTES_MAX: usize = 65_536;
/// Packets that are on their way in one direction; more are lost.
const PACKETS_MAX: usize = 100_000;

/// Where the relay is spoken to.
#[derive(Debug, Clone)]
pub(crate) struct Sockets {
    folder: PathBuf,
}

impl Sockets {
    pub(crate) fn new(layout: &Layout) -> Result<Self, LabError> {
        Ok(Self { folder: layout.folder("link")? })
    }

    /// Where it takes packets.
    pub(crate) fn relay(&self) -> PathBuf {
        self.folder.join("relay.sock")
    }

    /// Where it gives them back.
    pub(crate) fn device(&self) -> PathBuf {
        self.folder.join("device.sock")
    }

    /// Where it is told of the weather: a line for a line. An empty one only asks.
    pub(crate) fn control(&self) -> PathBuf {
        self.folder.join("control.sock")
    }
}

/// Relays until it is killed. The lab runs it as a process of its own.
pub fn relay(root: &Path) -> Result<(), LabError> {
    let sockets = Sockets::new(&Layout::new(root))?;
    for path in [sockets.relay(), sockets.control()] {
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(LabError::io(&path)(error)),
            _ => {}
        }
    }
    let packets = UnixDatagram::bind(sockets.relay()).map_err(LabError::io(&sockets.relay()))?;
    let control = UnixListener::bind(sockets.control()).map_err(LabError::io(&sockets.control()))?;
    let (weather, directions) = (Mutex::default(), [Direction::default(), Direction::default()]);
    thread::scope(|scope| {
        scope.spawn(|| control.incoming().flatten().for_each(|stream| drop(converse(&stream, &weather))));
        for direction in &directions {
            scope.spawn(|| direction.deliver(&packets, &sockets.device()));
        }
        take(&packets, &weather, &directions).map_err(LabError::io(&sockets.relay()))
    })
}

fn converse(mut stream: &UnixStream, weather: &Mutex<Weather>) -> io::Result<()> {
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    let mut weather = lock(weather);
    if !line.trim().is_empty() {
        *weather = line.parse().map_err(io::Error::other)?;
    }
    writeln!(stream, "{weather}")
}

/// Takes packets for ever.
fn take(packets: &UnixDatagram, weather: &Mutex<Weather>, directions: &[Direction; 2]) -> io::Result<()> {
    let mut lanes = [Lane::new(Instant::now(), 1), Lane::new(Instant::now(), 2)];
    let mut buffer = vec![0; PACKET_BYTES_MAX];
    loop {
        let bytes = packets.recv(&mut buffer)?;
        let packet = &buffer[..bytes];
        // Clusters have the numbers 1 and 2.
        let Some(at) = destination(packet).and_then(|cluster| usize::from(cluster).checked_sub(1)) else { continue };
        let (Some(lane), Some(direction)) = (lanes.get_mut(at), directions.get(at)) else { continue };
        let weather = *lock(weather);
        if let Some(due) = lane.pass(&weather, packet, Instant::now()) {
            direction.put(due, packet);
        }
    }
}

/// Packets on their way to one cluster, in order.
#[derive(Default)]
struct Direction {
    queue: Mutex<VecDeque<(Instant, Vec<u8>)>>,
    has_more: Condvar,
}

impl Direction {
    fn put(&self, due: Instant, packet: &[u8]) {
        let mut queue = lock(&self.queue);
        if queue.len() < PACKETS_MAX {
            queue.push_back((due, packet.to_owned()));
            self.has_more.notify_one();
        }
    }

    /// Gives each packet back when it is due, for ever.
    fn deliver(&self, packets: &UnixDatagram, device: &Path) {
        loop {
            let packet = self.next();
            // While there is no device, packets are lost.
            let _ = packets.send_to(&packet, device);
        }
    }

    fn next(&self) -> Vec<u8> {
        let mut queue = lock(&self.queue);
        loop {
            let due = queue.front().map(|(due, _)| due.saturating_duration_since(Instant::now()));
            queue = match due {
                None => self.has_more.wait(queue).unwrap_or_else(PoisonError::into_inner),
                Some(left) if left.is_zero() => return queue.pop_front().map(|(_, packet)| packet).unwrap_or_default(),
                Some(left) => self.has_more.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0,
            };
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
