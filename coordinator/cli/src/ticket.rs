//! Tickets as they come in: as an argument, from standard input, from a file.
//!
//! A ticket is a secret, and arguments can be read by everyone on a machine. One that was typed literally is wiped from
//! this process's arguments; `-` and `@FILE` never put it there. What is in a ticket, only the agent knows.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufRead, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;

use thiserror::Error;

/// What every ticket starts with.
pub(crate) const PREFIX: &str = "tranship1-";

/// Bytes in a ticket, of which a well-formed one needs a fraction.
const TICKET_BYTES_MAX: usize = 4_096;

/// A ticket that was given by the user; whether it is well-formed, the agent says.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Ticket(String);

/// Why there is no ticket.
#[derive(Debug, Error)]
pub(crate) enum TicketError {
    /// It could not be read.
    #[error("cannot read the ticket from {origin}")]
    Read {
        /// Standard input, or the file.
        origin: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// It is something else.
    #[error("what {origin} holds is not a ticket: a ticket starts with {PREFIX} and is one word of ASCII")]
    Malformed {
        /// Standard input, the file, or the argument.
        origin: String,
    },
}

impl Ticket {
    /// Whether an argument names a ticket rather than a path.
    pub(crate) fn is_meant_by(argument: &OsStr) -> bool {
        let bytes = argument.as_bytes();
        bytes == b"-" || bytes.starts_with(b"@") || bytes.starts_with(PREFIX.as_bytes())
    }

    /// The ticket that an argument names.
    pub(crate) fn read(argument: &OsStr, stdin: &mut dyn BufRead) -> Result<Self, TicketError> {
        let bytes = argument.as_bytes();
        if bytes == b"-" {
            return Self::read_line("standard input".to_owned(), stdin);
        }
        if let Some(path) = bytes.strip_prefix(b"@") {
            let path = Path::new(OsStr::from_bytes(path));
            let origin = path.display().to_string();
            let file = File::open(path).map_err(|source| TicketError::Read { origin: origin.clone(), source })?;
            return Self::read_line(origin, &mut io::BufReader::new(file));
        }
        let text = argument.to_str().ok_or(TicketError::Malformed { origin: "the argument".to_owned() })?;
        Self::parse(text, "the argument".to_owned())
    }

    /// As a receiver printed it.
    pub(crate) fn parse(text: &str, origin: String) -> Result<Self, TicketError> {
        let text = text.trim();
        let is_ticket = text.starts_with(PREFIX)
            && text.len() <= TICKET_BYTES_MAX
            && text.bytes().all(|byte| byte.is_ascii_graphic());
        if is_ticket { Ok(Self(text.to_owned())) } else { Err(TicketError::Malformed { origin }) }
    }

    fn read_line(origin: String, reader: &mut dyn BufRead) -> Result<Self, TicketError> {
        let mut line = String::new();
        let mut bounded = reader.take(TICKET_BYTES_MAX as u64 + 2);
        bounded.read_line(&mut line).map_err(|source| TicketError::Read { origin: origin.clone(), source })?;
        Self::parse(&line, origin)
    }

    /// The text, for the agent.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ticket({PREFIX}…)")
    }
}

/// Overwrites every literal ticket among this process's own arguments, where other users could read it.
///
/// The arguments stay where the kernel put them; `/proc/self/mem` reaches them without a pointer (`proc(5)`). Returns
/// whether none can be seen any more. Only the process itself is looked at: the shell's history is the user's.
pub(crate) fn wipe_arguments(arguments: &[OsString]) -> bool {
    let tickets: Vec<&OsString> =
        arguments.iter().filter(|a| find(a.as_bytes(), PREFIX.as_bytes(), 0).is_some()).collect();
    tickets.is_empty() || overwrite().is_ok_and(|()| !is_visible())
}

fn overwrite() -> io::Result<()> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    // The command's name is in parentheses and may hold anything; the fields are counted behind it, from the third on.
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_ascii_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    let (Some(start), Some(end)) = (field(48), field(49)) else {
        return Err(io::Error::other("the kernel does not tell where the arguments are"));
    };
    let memory = File::options().read(true).write(true).open("/proc/self/mem")?;
    let mut bytes = vec![0; usize::try_from(end.saturating_sub(start)).map_err(io::Error::other)?];
    memory.read_exact_at(&mut bytes, start)?;
    let mut from = 0;
    while let Some(at) = find(&bytes, PREFIX.as_bytes(), from) {
        let length = bytes[at..].iter().position(|&byte| byte == 0).unwrap_or(bytes.len() - at);
        memory.write_all_at(&vec![b'*'; length], start + at as u64)?;
        from = at + length;
    }
    Ok(())
}

fn is_visible() -> bool {
    // What cannot be looked at counts as visible.
    fs::read("/proc/self/cmdline").map_or(true, |bytes| find(&bytes, PREFIX.as_bytes(), 0).is_some())
}

fn find(bytes: &[u8], needle: &[u8], from: usize) -> Option<usize> {
    bytes.get(from..)?.windows(needle.len()).position(|window| window == needle).map(|at| from + at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(argument: &str, stdin: &str) -> Result<Ticket, TicketError> {
        Ticket::read(OsStr::new(argument), &mut stdin.as_bytes())
    }

    #[test]
    fn a_ticket_comes_from_an_argument_a_file_or_standard_input() {
        let file = tempfile::NamedTempFile::new().expect("temporary file");
        fs::write(file.path(), "tranship1-abc\n").expect("written");
        let expected = Ticket("tranship1-abc".to_owned());
        assert_eq!(read("tranship1-abc", "").expect("argument"), expected);
        assert_eq!(read("-", "tranship1-abc\nmore").expect("standard input"), expected);
        assert_eq!(read(&format!("@{}", file.path().display()), "").expect("file"), expected);
    }

    #[test]
    fn what_is_not_a_ticket_is_refused_without_being_repeated() {
        for text in ["", "tranship2-abc", "tranship1-a b", "tranship1-\u{e9}"] {
            let error = read("-", text).expect_err(text);
            assert!(matches!(error, TicketError::Malformed { .. }), "{text}");
        }
        let long = format!("{PREFIX}{}", "a".repeat(TICKET_BYTES_MAX));
        let error = read(&long, "").expect_err("too long");
        assert!(!error.to_string().contains("aaa"));
        assert_eq!(format!("{:?}", Ticket("tranship1-secret".into())), "Ticket(tranship1-…)");
    }

    #[test]
    fn a_path_is_not_a_ticket_and_an_absolute_one_never_is() {
        assert!(!Ticket::is_meant_by(OsStr::new("/srv/data")));
        assert!(!Ticket::is_meant_by(OsStr::new("./@data")));
        assert!(Ticket::is_meant_by(OsStr::new("@file")));
    }
}
