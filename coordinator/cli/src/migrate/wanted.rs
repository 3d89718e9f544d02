//! From what was typed to a migration.

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use tranship_api::hook::{Hook, Point};
use tranship_api::migration::{Limits, Migration, Volume};

use super::args::CreateArgs;
use crate::error::RunError;
use crate::rate::Rate;

/// Bytes of a file with a migration.
const FILE_BYTES_MAX: u64 = 1 << 20;

impl CreateArgs {
    /// The migration that was typed, or that stands in the file.
    pub(crate) fn migration(&self) -> Result<Migration, RunError> {
        let mut migration = match &self.file {
            Some(path) => read(path)?,
            None => self.typed()?,
        };
        if let (Some(name), Some(_)) = (&self.name, &self.file) {
            migration.metadata.name.clone_from(name);
        }
        match migration.complaint() {
            Some(complaint) => Err(RunError::usage(complaint, "see `tranship create --help`")),
            None => Ok(migration),
        }
    }

    fn typed(&self) -> Result<Migration, RunError> {
        let (namespace, renamed) = renamed(self.namespace.as_deref().unwrap_or_default());
        let mut migration = Migration::new(self.name.as_deref().unwrap_or_default(), &namespace);
        let spec = &mut migration.spec;
        spec.source.context.clone_from(&self.from);
        spec.destination.context.clone_from(&self.to);
        spec.destination.namespace = renamed;
        spec.selector.clone_from(&self.selector);
        spec.volumes = self.volumes()?;
        for pair in &self.storage_class {
            let (class, new) = split(pair, ':', "--storage-class takes CLASS:NEW")?;
            spec.storage_classes.insert(class, new);
        }
        spec.mode = self.mode.map(Into::into);
        spec.accept_gaps.clone_from(&self.accept_gap);
        spec.exclude.clone_from(&self.exclude);
        spec.link.listen = self.listen.into();
        spec.link.endpoint = self.endpoint.into();
        spec.link.bits_per_second = self.bandwidth.map(bits_of);
        spec.limits = Limits { passes: self.passes, passes_per_node: self.passes_per_node };
        self.max_downtime.as_deref().map(|text| duration("--max-downtime", text)).transpose()?;
        spec.cutover.max_downtime.clone_from(&self.max_downtime);
        spec.cutover.verify = self.verify.into();
        spec.cutover.quiesce = self.quiesce.into();
        spec.cutover.resources = self.resources.into();
        spec.cutover.hooks = self.hook.iter().map(|text| hook(text)).collect::<Result<_, _>>()?;
        for image in &self.image {
            match image.split_once('=') {
                Some(("source", image)) => spec.agents.source.image = Some(image.to_owned()),
                Some(("destination", image)) => spec.agents.destination.image = Some(image.to_owned()),
                _ => {
                    spec.agents.source.image = Some(image.clone());
                    spec.agents.destination.image = Some(image.clone());
                }
            }
        }
        Ok(migration)
    }

    fn volumes(&self) -> Result<Vec<Volume>, RunError> {
        let volume = |claim: String, to: Option<String>| Volume {
            claim,
            to,
            storage_class: None,
            access_mode: None,
            size: None,
        };
        let mut volumes: Vec<Volume> =
            self.pvc.iter().map(|pvc| renamed(pvc)).map(|(claim, to)| volume(claim, to)).collect();
        let of = |claim: &str, flag: &str| -> Result<usize, RunError> {
            volumes.iter().position(|volume| volume.claim == claim).ok_or_else(|| {
                RunError::usage(format!("{flag} is for {claim}, which no --pvc names"), format!("add --pvc {claim}"))
            })
        };
        let mut wishes = Vec::new();
        for (flag, pairs) in [("--access-mode", &self.access_mode), ("--size", &self.size)] {
            for pair in pairs {
                let (claim, value) = split(pair, '=', &format!("{flag} takes CLAIM=VALUE"))?;
                wishes.push((of(&claim, flag)?, flag, value));
            }
        }
        for (at, flag, value) in wishes {
            let slot = if flag == "--size" { &mut volumes[at].size } else { &mut volumes[at].access_mode };
            *slot = Some(value);
        }
        Ok(volumes)
    }
}

/// `POINT=IMAGE [COMMAND]`; whatever has spaces of its own is for a file.
fn hook(text: &str) -> Result<Hook, RunError> {
    let hint = format!("write it as POINT=IMAGE COMMAND, with one of {}", Point::ALL.map(Point::word).join(", "));
    let (word, program) = split(text, '=', &hint)?;
    let at = Point::ALL.into_iter().find(|point| point.word() == word);
    let mut words = program.split_whitespace().map(str::to_owned);
    let (Some(at), Some(image)) = (at, words.next()) else {
        return Err(RunError::usage(format!("--hook {text:?} is none"), hint));
    };
    Ok(Hook { at, image, command: words.collect(), service_account: None, run_as_user: None, timeout_seconds: None })
}

/// `A[:B]`.
pub(crate) fn renamed(text: &str) -> (String, Option<String>) {
    match text.split_once(':') {
        Some((name, new)) if new != name => (name.to_owned(), Some(new.to_owned())),
        Some((name, _)) => (name.to_owned(), None),
        None => (text.to_owned(), None),
    }
}

/// A length of time as people write it: `90s`, `10m`, `1h 30m`.
pub(crate) fn duration(flag: &str, text: &str) -> Result<Duration, RunError> {
    let wrong = || RunError::usage(format!("{flag} {text:?} is not a length of time"), "write it as 30s, 10m or 1h30m");
    let span: jiff::SignedDuration = text.parse().map_err(|_| wrong())?;
    Duration::try_from(span).map_err(|_| wrong())
}

/// A bandwidth as the agents are told it.
pub(crate) fn bits_of(rate: Rate) -> u64 {
    rate.bytes_per_second().get().saturating_mul(8)
}

fn split(pair: &str, by: char, hint: &str) -> Result<(String, String), RunError> {
    match pair.split_once(by) {
        Some((left, right)) if !left.is_empty() && !right.is_empty() => Ok((left.to_owned(), right.to_owned())),
        _ => Err(RunError::usage(format!("{pair:?} is not a pair"), hint)),
    }
}

fn read(path: &Path) -> Result<Migration, RunError> {
    let fail = |error: Box<dyn std::error::Error + Send + Sync>| {
        RunError::usage(
            format!("{} holds no migration", path.display()),
            "see `tranship create … --dry-run` for its form",
        )
        .because(error)
    };
    let mut text = String::new();
    let reader: Box<dyn Read> = match path.as_os_str() == "-" {
        true => Box::new(std::io::stdin()),
        false => Box::new(std::fs::File::open(path).map_err(|error| fail(error.into()))?),
    };
    reader.take(FILE_BYTES_MAX).read_to_string(&mut text).map_err(|error| fail(error.into()))?;
    tranship_coordinator::yaml::read(&text).map_err(fail)
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        create: CreateArgs,
    }

    fn typed(line: &str) -> Result<Migration, RunError> {
        let words = ["create"].into_iter().chain(line.split(' '));
        Line::try_parse_from(words).expect("the grammar allows it").create.migration()
    }

    #[test]
    fn what_is_typed_becomes_a_migration_that_reads_back_from_yaml() {
        let line = "shop --from a --to b -n shop:store --pvc data:db --pvc media --size data=20Gi \
                    --storage-class ext4:xfs --bandwidth 50Mbit/s --max-downtime 30s --listen source --image x/y:1 \
                    --hook after-ready=x/z:1";
        let migration = typed(line).expect("it means something");
        assert_eq!(migration.spec.destination.namespace.as_deref(), Some("store"));
        assert_eq!(migration.spec.volumes[0].to.as_deref(), Some("db"));
        assert_eq!(migration.spec.volumes[0].size.as_deref(), Some("20Gi"));
        assert_eq!(migration.spec.storage_classes["ext4"], "xfs");
        let command = hook("before-stop=x/z:1 psql -c CHECKPOINT").expect("a hook").command;
        assert_eq!(command, ["psql", "-c", "CHECKPOINT"]);
        assert!(hook("at-noon=x/z:1").is_err() && hook("before-stop=").is_err());
        let text = tranship_coordinator::yaml::write(&migration).expect("it can be written");
        assert_eq!(tranship_coordinator::yaml::read::<Migration>(&text).expect("it reads back"), migration);
    }

    #[test]
    fn beside_a_file_nothing_is_taken_that_stands_in_it() {
        let command = Line::command();
        let file = command.get_arguments().find(|arg| arg.get_id() == "file").expect("the flag");
        let conflicts = command.get_arg_conflicts_with(file);
        let is_taken = |arg: &&clap::Arg| !conflicts.iter().any(|one| one.get_id() == arg.get_id());
        let taken: Vec<&str> = command.get_arguments().filter(is_taken).map(|arg| arg.get_id().as_str()).collect();
        assert_eq!(taken, ["name", "file", "no_handshake", "dry_run"]);
        for flag in ["--bandwidth=1Mbit/s", "--listen=auto", "--passes=4", "--max-downtime=30s"] {
            let error = Line::try_parse_from(["create", "-f", "shop.yaml", flag]).map(|_| ()).expect_err(flag);
            assert!(error.to_string().contains(flag.split('=').next().unwrap_or_default()), "{error}");
        }
        assert!(Line::try_parse_from(["create", "shop", "-f", "shop.yaml", "--dry-run", "--no-handshake"]).is_ok());
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for line in
            ["shop --to b -n shop --size data=1Gi", "Shop --to b -n shop", "shop --to b -n shop --max-downtime x"]
        {
            assert!(typed(line).is_err(), "{line}");
        }
    }

    #[test]
    fn lengths_of_time_are_read_as_people_write_them() {
        for (text, seconds) in [("30s", 30), ("10m", 600), ("1h30m", 5_400), ("1h 30m", 5_400)] {
            assert_eq!(duration("--every", text).expect(text), Duration::from_secs(seconds));
        }
        assert!(duration("--every", "-3s").is_err());
    }
}
