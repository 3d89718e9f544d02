//! Hearing of every pod of a namespace as it changes.

use std::io::BufReader;
use std::process::{Child, Stdio};
use std::thread;

use serde_json::Value;

use super::place::Place;

/// kubectl, which tells of pods until this is dropped.
pub struct Watch(Child);

impl Watch {
    /// Gives every event of pods with these labels to `heard`; of all pods, if that is empty.
    pub fn start(place: &Place, labels: &str, mut heard: impl FnMut(&Value) + Send + 'static) -> Self {
        let words = ["get", "pods", "--selector", labels, "--watch", "--output-watch-events", "--output", "json"];
        let mut child = place.command(&words).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("kubectl");
        let told = BufReader::new(child.stdout.take().expect("it is piped"));
        thread::spawn(move || {
            let events = serde_json::Deserializer::from_reader(told).into_iter::<Value>();
            events.map_while(Result::ok).for_each(|event| heard(&event));
        });
        Self(child)
    }

    /// # Panics
    /// When it has ended: what came afterwards was not heard.
    pub fn is_listening(&mut self) {
        assert!(self.0.try_wait().expect("it is our child").is_none(), "the witness looked away");
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
