//! Looking on while pods come and go, without asking again and again.

use std::io::BufReader;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::Value;

use super::lab::Side;
use super::place::Place;

/// Watches pods until it is dropped.
pub struct Watch {
    watching: Vec<Child>,
}

impl Watch {
    /// Gives each event of pods with these labels to `take`, with the side on which it was.
    pub fn start(places: [&Place; 2], labels: &str, take: impl FnMut(Side, &Value) + Send + 'static) -> Self {
        let take = Arc::new(Mutex::new(take));
        let sides = [Side::Source, Side::Destination];
        let watch = |(side, place): (Side, &Place)| {
            let words = ["get", "pods", "--selector", labels, "--watch", "--output-watch-events", "--output", "json"];
            let mut child = place.command(&words).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("kubectl");
            let told = BufReader::new(child.stdout.take().expect("it is piped"));
            let take = Arc::clone(&take);
            thread::spawn(move || {
                let events = serde_json::Deserializer::from_reader(told).into_iter::<Value>();
                for event in events.map_while(Result::ok) {
                    let Ok(mut take) = take.lock() else { return };
                    take(side, &event);
                }
            });
            child
        };
        Self { watching: sides.into_iter().zip(places).map(watch).collect() }
    }

    /// Whether it has seen everything until now.
    pub fn is_whole(&mut self) -> bool {
        self.watching.iter_mut().all(|child| child.try_wait().is_ok_and(|ended| ended.is_none()))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        for child in &mut self.watching {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
