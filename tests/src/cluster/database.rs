//! PostgreSQL, and a client outside the cluster who notes which of its commits were acknowledged.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::{Value, json};

use super::place::Place;
use super::wait::until;

/// psql in the database's pod.
const PSQL: &[&str] = &["psql", "-h", "/tmp", "-U", "postgres", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"];

/// Between two commits of a client.
const PAUSE: Duration = Duration::from_millis(5);

/// A StatefulSet `db` with one pod, and the claim `data-db-0`.
pub struct Database;

impl Database {
    /// Labels of its pod.
    pub const LABELS: &str = "app=db";
    /// The claim with its data.
    pub const CLAIM: &str = "data-db-0";

    /// Makes it, with a table for commits and pgbench's own, and waits until it answers.
    pub fn start(place: &Place) {
        Self::start_with(place, 1, "1Gi");
    }

    /// The same with pgbench's tables at this scale, 15 MiB each, on a claim of this size.
    pub fn start_with(place: &Place, scale: u32, claim: &str) {
        place.make(&Self::objects(claim, 1));
        place.await_ready(Self::LABELS, 1);
        Self::ask(place, "create table commits (n bigint primary key)");
        let words = ["exec", "db-0", "--", "pgbench", "-h", "/tmp", "-U", "postgres", "-i", "-q", "-s"];
        place.kubectl(&[&words[..], &[&scale.to_string()]].concat());
    }

    /// What is made of it; with no replicas it is there and does not run.
    pub fn objects(claim: &str, replicas: u32) -> [Value; 2] {
        let labels = json!({"app": "db"});
        let stop = "/usr/lib/postgresql/*/bin/pg_ctl stop -D $PGDATA -m fast";
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "db"},
            "spec": {"clusterIP": "None", "selector": labels, "ports": [{"port": 5432}]}});
        let set = json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "db"}, "spec": {
            "replicas": replicas, "serviceName": "db", "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {
                "terminationGracePeriodSeconds": 30,
                "securityContext": {"runAsUser": 999, "runAsGroup": 999, "fsGroup": 999,
                    "fsGroupChangePolicy": "OnRootMismatch"},
                "containers": [{"name": "db", "image": tranship_lab::POSTGRES, "imagePullPolicy": "IfNotPresent",
                    "readinessProbe": {"exec": {"command": ["pg_isready", "-q", "-h", "/tmp"]}, "periodSeconds": 1},
                    "lifecycle": {"preStop": {"exec": {"command": ["sh", "-c", stop]}}},
                    "volumeMounts": [{"name": "data", "mountPath": "/data"}]}]}},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {
                "accessModes": ["ReadWriteOnce"], "storageClassName": "xfs",
                "resources": {"requests": {"storage": claim}}}}]}});
        [service, set]
    }

    /// Has pgbench load it until it stops.
    pub fn load(place: &Place) -> Load {
        let words = ["exec", "db-0", "--", "pgbench", "-h", "/tmp", "-U", "postgres", "-c", "2", "-T", "3600"];
        let mut command = place.command(&words);
        Load(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("kubectl runs"))
    }

    /// What a query gives, line by line.
    pub fn ask(place: &Place, query: &str) -> Vec<String> {
        let words = [&["exec", "db-0", "--"], PSQL, &["-c", query]].concat();
        place.kubectl(&words).lines().map(str::to_owned).collect()
    }

    /// The commits that are there.
    pub fn commits(place: &Place) -> BTreeSet<u64> {
        let lines = Self::ask(place, "select n from commits");
        lines.iter().map(|line| line.parse().expect("a number")).collect()
    }

    /// Everything that can be read must be readable: checksums of pages are verified on the way.
    pub fn check(place: &Place) {
        Self::ask(place, "select count(*), sum(abalance) from pgbench_accounts");
        Self::ask(place, "reindex table commits");
    }
}

/// pgbench, which runs.
pub struct Load(Child);

impl Drop for Load {
    fn drop(&mut self) {
        // It ended with the database, if that has.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A client that commits one number after the other, and goes on with the next one when its connection breaks.
pub struct Client {
    stop: Sender<()>,
    last: Arc<AtomicU64>,
    acknowledged: Arc<Mutex<BTreeSet<u64>>>,
    thread: JoinHandle<()>,
}

impl Client {
    /// Begins with the number `first`.
    pub fn start(place: &Place, first: u64) -> Self {
        let (stop, stopped) = mpsc::channel();
        let (last, acknowledged) = (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(BTreeSet::new())));
        let (noted_last, noted, place) = (Arc::clone(&last), Arc::clone(&acknowledged), place.clone());
        let thread = thread::spawn(move || {
            let mut next = first;
            let is_over = |pause| !matches!(stopped.recv_timeout(pause), Err(mpsc::RecvTimeoutError::Timeout));
            loop {
                let mut session = Session::start(&place);
                while !is_over(PAUSE) {
                    next += 1;
                    if !session.commit(next - 1) {
                        break;
                    }
                    noted.lock().unwrap_or_else(PoisonError::into_inner).insert(next - 1);
                    noted_last.store(next - 1, Ordering::Relaxed);
                }
                drop(session);
                // A second word to stop is none that anybody sent: the sender is gone, or the first was heard above.
                if is_over(Duration::from_millis(200)) {
                    return;
                }
            }
        });
        Self { stop, last, acknowledged, thread }
    }

    /// Waits until so many more commits are acknowledged.
    pub fn await_more(&self, commits: usize) {
        let count = || self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).len();
        let wanted = count() + commits;
        until(&format!("{wanted} commits"), || (count() >= wanted).then_some(()));
    }

    /// Ends it, and gives the commits that were acknowledged.
    pub fn end(self) -> BTreeSet<u64> {
        let Self { stop, acknowledged, thread, last } = self;
        drop(stop);
        thread.join().expect("a client does not panic");
        let acknowledged = std::mem::take(&mut *acknowledged.lock().unwrap_or_else(PoisonError::into_inner));
        assert_eq!(acknowledged.last().copied().unwrap_or_default(), last.load(Ordering::Relaxed));
        acknowledged
    }
}

/// One connection.
struct Session {
    child: Child,
    answers: BufReader<std::process::ChildStdout>,
}

impl Session {
    fn start(place: &Place) -> Self {
        let mut command = place.command(&[&["exec", "-i", "db-0", "--"], PSQL].concat());
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("kubectl runs");
        let answers = BufReader::new(child.stdout.take().expect("it is piped"));
        Self { child, answers }
    }

    /// Whether a commit was acknowledged. If not, it may be there or not.
    fn commit(&mut self, n: u64) -> bool {
        let stdin = self.child.stdin.as_mut().expect("it is piped");
        let asked = writeln!(stdin, "insert into commits values ({n}) returning n;").and_then(|()| stdin.flush());
        let mut answer = String::new();
        asked.is_ok() && self.answers.read_line(&mut answer).is_ok() && answer.trim() == n.to_string()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // It ended with the database, if that has.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
