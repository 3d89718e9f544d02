//! A network between the two sides that goes away and comes back.

use std::fs;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use tranship_agent::link::Ticket;
use tranship_tests::processes::{DEADLINE, Running, binary, receive, wait_for};
use tranship_tests::random::Random;
use tranship_tests::walker::Contract;

use crate::host::{LONG, Pair, expect_proof, let_clocks_tick, receive_arguments};

/// A way to a listener that can be shut. Its threads end with the tests.
struct Gate {
    address: SocketAddr,
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    is_shut: AtomicBool,
    turned_away: AtomicUsize,
    passing: Mutex<Vec<TcpStream>>,
}

impl Gate {
    fn before(listener: SocketAddr) -> Self {
        let gate = TcpListener::bind("127.0.0.1:0").expect("bound");
        let address = gate.local_addr().expect("told");
        let inner = Arc::new(Inner::default());
        let shared = inner.clone();
        thread::spawn(move || {
            for coming in gate.incoming().flatten() {
                shared.pass(coming, listener);
            }
        });
        Self { address, inner }
    }

    fn shut(&self) {
        let passing = &mut *self.inner.passing.lock().expect("nobody panics while it is held");
        self.inner.is_shut.store(true, Ordering::SeqCst);
        passing.drain(..).for_each(|stream| drop(stream.shutdown(Shutdown::Both)));
    }

    fn open(&self) {
        self.inner.is_shut.store(false, Ordering::SeqCst);
    }

    fn turned_away(&self) -> usize {
        self.inner.turned_away.load(Ordering::SeqCst)
    }
}

impl Inner {
    fn pass(&self, coming: TcpStream, listener: SocketAddr) {
        let passing = &mut *self.passing.lock().expect("nobody panics while it is held");
        if self.is_shut.load(Ordering::SeqCst) {
            self.turned_away.fetch_add(1, Ordering::SeqCst);
            return;
        }
        let going = TcpStream::connect(listener).expect("the listener is there");
        for [from, to] in [[&coming, &going], [&going, &coming]] {
            let [mut from, mut to] = [from, to].map(|stream| stream.try_clone().expect("cloned"));
            thread::spawn(move || {
                // However one end goes, the other one hears of it.
                let _ = io::copy(&mut from, &mut to);
                let _ = to.shutdown(Shutdown::Write);
            });
        }
        passing.extend([coming, going]);
    }
}

#[test]
fn a_pass_whose_link_stays_away_for_several_dials_is_taken_up() {
    let pair = Pair::of_folders();
    for number in 0..20 {
        fs::write(pair.source().join(number.to_string()), Random::new(number).bytes(500_000)).expect("written");
    }
    let_clocks_tick(pair.source());
    let state = |side: &str| pair.state.path().join(side);
    let arguments = receive_arguments(pair.destination(), &state("theirs"), &["--once", "--transport", "tcp"]);
    let receiving = receive(arguments);
    let mut ticket: Ticket = receiving.ticket.parse().expect("a ticket");
    let gate = Gate::before(ticket.addresses[0]);
    ticket.addresses = vec![gate.address];
    let mut command = Command::new(binary());
    command.args(["--output", "json", "--quiet", "sync", "--final", "--transport", "tcp", "--bandwidth", "16Mbit/s"]);
    command.arg("--state").arg(state("ours")).arg(pair.source()).arg(ticket.to_string());
    let source = Running::start(&mut command);
    let has_begun = || fs::read_dir(pair.destination()).map_or(0, |names| names.count()) > 3;
    wait_for("the first files", LONG, || has_begun().then_some(()));
    gate.shut();
    wait_for("dials in vain", LONG, || (gate.turned_away() >= 3).then_some(()));
    gate.open();
    let outcome = source.finish(LONG).expect_code(0);
    expect_proof(&outcome);
    assert_eq!(outcome.number("reconnects"), 1, "{outcome:#?}");
    receiving.running.finish(DEADLINE).expect_code(0);
    pair.expect_equal(&Contract::plain());
}
