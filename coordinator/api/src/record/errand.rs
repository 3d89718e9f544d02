//! A cutover that was left to a coordinator in the cluster.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Record, Step, Timeline};

/// The cutover that `resident` is to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Errand {
    /// When it is to begin.
    pub at: Timestamp,
    /// Whether one has begun since it was left. What has begun is gone on with, and never begun again.
    #[serde(default)]
    pub has_begun: bool,
}

impl Record {
    /// A cutover begins: its first step. In the same write it uses up what was left to a coordinator in the cluster, whoever
    /// makes it, so that no pod can take one that was taken back for one that is still to come.
    pub fn begins(&mut self, at: Timestamp) {
        self.step = Step::Fencing;
        self.timeline = Timeline::default();
        if let Some(errand) = &mut self.errand {
            errand.has_begun = true;
        }
        self.happened(at, format!("a cutover from the {} began", self.owner));
    }

    /// The cutover that a coordinator in the cluster is still to begin.
    pub fn awaited(&self) -> Option<Errand> {
        let awaits = self.step == Step::Staging && self.is_led_by_resident();
        self.errand.filter(|errand| awaits && !errand.has_begun)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::migration::{Migration, Mode};

    fn record() -> Record {
        let migration = Migration::new("move", "shop");
        Record::new(String::new(), String::new(), migration, Default::default(), Mode::Plain, vec![])
    }

    #[test]
    fn a_cutover_that_begins_uses_up_what_was_left_whoever_makes_it() {
        let mut record = record();
        record.begins(Timestamp::UNIX_EPOCH);
        assert_eq!((record.step, record.errand), (Step::Fencing, None));
        let errand = Errand { at: Timestamp::UNIX_EPOCH, has_begun: false };
        let left = Record { step: Step::Staging, resident: Some("pod".to_owned()), errand: Some(errand), ..record };
        assert_eq!(left.awaited(), None, "somebody has taken over");
        let mut left = Record { coordinator: "pod".to_owned(), ..left };
        assert_eq!(left.awaited(), Some(errand));
        left.begins(Timestamp::UNIX_EPOCH);
        assert_eq!((left.errand.map(|errand| errand.has_begun), left.awaited()), (Some(true), None));
        left.step = Step::Staging;
        assert_eq!(left.awaited(), None, "what was taken back is not to come");
    }

    #[test]
    fn a_record_from_before_there_were_errands_is_read() {
        let mut stored = serde_json::to_value(record()).expect("JSON");
        stored.as_object_mut().and_then(|fields| fields.remove("errand")).expect("it is stored");
        assert_eq!(serde_json::from_value::<Record>(stored.clone()).expect("a record").errand, None);
        stored["errand"] = Value::Null;
        assert_eq!(serde_json::from_value::<Record>(stored).expect("a record").errand, None);
    }
}
