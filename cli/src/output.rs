//! How an answer looks: text for people, JSON for scripts.
//!
//! In: what a command has to tell. Out: standard output; what is beside the answer goes to standard error.
#![allow(clippy::print_stderr, reason = "this is where it is printed")]

pub mod certificates;
mod json;
mod progress;
mod table;
mod when;

use std::fmt::Display;
use std::io::{self, IsTerminal as _, Write as _};

use prost::{Message, Name};
use serde::Serialize;

use crate::args::Format;
use crate::failure::Failure;

pub use json::message as message_json;
pub use progress::Progress;
pub use table::{Fields, Table, count};
pub use when::{ago_or_in, span, stamp, stamp_and_distance};

/// Where answers go.
pub struct Output {
    format: Format,
}

impl Output {
    /// In this format.
    pub fn new(format: Format) -> Self {
        Self { format }
    }

    /// Whether scripts read it.
    pub fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Whether a person sees standard output.
    pub fn is_terminal(&self) -> bool {
        io::stdout().is_terminal()
    }

    /// The answer: as JSON `message` itself, as text what `text` makes of it.
    pub fn message<M: Message + Name>(&self, message: &M, text: impl FnOnce(&M) -> String) -> Result<(), Failure> {
        if self.is_json() {
            self.json(&json::message(message)?)
        } else {
            self.text(&text(message))
        }
    }

    /// The answer of our own making: as JSON `value`, as text what `text` makes of it.
    pub fn value<T: Serialize>(&self, value: &T, text: impl FnOnce(&T) -> String) -> Result<(), Failure> {
        if self.is_json() {
            self.json(value)
        } else {
            self.text(&text(value))
        }
    }

    /// One line of JSON.
    pub fn json<T: Serialize>(&self, value: &T) -> Result<(), Failure> {
        let mut line = serde_json::to_string(value).map_err(io::Error::other)?;
        line.push('\n');
        write(&line)
    }

    /// Text, ended by a newline if it has none; nothing for nothing.
    pub fn text(&self, text: &str) -> Result<(), Failure> {
        if text.is_empty() || text.ends_with('\n') {
            write(text)
        } else {
            write(&format!("{text}\n"))
        }
    }

    /// Something beside the answer, for people.
    pub fn aside(&self, text: impl Display) {
        eprintln!("{text}");
    }
}

fn write(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}

/// Why a command failed, on standard error.
pub fn complain(why: impl Display) {
    eprintln!("mintmark: {why}");
}
