//! `fmt.Sprintf`: the format, its flags, widths, precisions and numbered arguments.

use super::super::value::Value;
use super::{Flags, Printer, Result};

impl Printer {
    pub(super) fn printf(&mut self, format: &str, args: &[Value<'_>]) -> Result {
        let bytes = format.as_bytes();
        let at = |i: usize| bytes.get(i).copied();
        let (mut i, mut next) = (0, 0);
        'format: while i < bytes.len() {
            self.is_good_number = true;
            let percent = format.get(i..).and_then(|rest| rest.find('%')).map(|found| i + found);
            let end = percent.unwrap_or(bytes.len());
            self.write(format.get(i..end).unwrap_or_default())?;
            i = end + 1;
            if percent.is_none() {
                break;
            }
            self.flags = Flags::default();
            while let Some(c) = at(i) {
                match c {
                    b'#' => self.flags.sharp = true,
                    b'0' => self.flags.zero = true,
                    b'+' => self.flags.plus = true,
                    b'-' => self.flags.minus = true,
                    b' ' => self.flags.space = true,
                    b'a'..=b'z' if next < args.len() => {
                        self.verb(&args[next], c.into())?;
                        next += 1;
                        i += 1;
                        continue 'format;
                    }
                    _ => break,
                }
                i += 1;
            }
            let mut after_index;
            (next, i, after_index) = self.argument_number(next, format, i, args.len());
            if at(i) == Some(b'*') {
                i += 1;
                match integer_of(args, &mut next) {
                    Some(width) => {
                        self.flags.width = Some(width.unsigned_abs());
                        if width < 0 {
                            self.flags.minus = true;
                            self.flags.zero = false;
                        }
                    }
                    None => self.write("%!(BADWIDTH)")?,
                }
                after_index = false;
            } else {
                (self.flags.width, i) = number(bytes, i, bytes.len());
                if after_index && self.flags.width.is_some() {
                    self.is_good_number = false;
                }
            }
            if i + 1 < bytes.len() && at(i) == Some(b'.') {
                i += 1;
                if after_index {
                    self.is_good_number = false;
                }
                (next, i, after_index) = self.argument_number(next, format, i, args.len());
                if at(i) == Some(b'*') {
                    i += 1;
                    self.flags.precision = integer_of(args, &mut next).and_then(|value| usize::try_from(value).ok());
                    if self.flags.precision.is_none() {
                        self.write("%!(BADPREC)")?;
                    }
                    after_index = false;
                } else {
                    let (precision, behind) = number(bytes, i, bytes.len());
                    self.flags.precision = Some(precision.unwrap_or(0));
                    i = behind;
                }
            }
            if !after_index {
                (next, i, _) = self.argument_number(next, format, i, args.len());
            }
            let Some(verb) = format.get(i..).and_then(|rest| rest.chars().next()) else {
                self.write("%!(NOVERB)")?;
                break;
            };
            i += verb.len_utf8();
            match args.get(next) {
                _ if verb == '%' => self.write("%")?,
                _ if !self.is_good_number => self.write(&format!("%!{verb}(BADINDEX)"))?,
                None => self.write(&format!("%!{verb}(MISSING)"))?,
                Some(arg) => {
                    self.verb(arg, verb)?;
                    next += 1;
                }
            }
        }
        if !self.reordered && next < args.len() {
            self.flags = Flags::default();
            self.write("%!(EXTRA ")?;
            for (at, arg) in args.iter().skip(next).enumerate() {
                if at > 0 {
                    self.write(", ")?;
                }
                if arg.ty().is_some() {
                    self.write(arg.type_name())?;
                    self.write("=")?;
                }
                self.print(arg, 'v')?;
            }
            self.write(")")?;
        }
        Ok(())
    }

    fn verb(&mut self, arg: &Value<'_>, verb: char) -> Result {
        if matches!(verb, 'v' | 'w') {
            self.flags.go_syntax = std::mem::take(&mut self.flags.sharp);
            self.flags.plus = false;
        }
        self.print(arg, verb)
    }

    fn argument_number(&mut self, next: usize, format: &str, i: usize, count: usize) -> (usize, usize, bool) {
        let Some(rest) = format.as_bytes().get(i..).filter(|rest| rest.starts_with(b"[")) else {
            return (next, i, false);
        };
        self.reordered = true;
        let close = rest
            .iter()
            .skip(1)
            .position(|byte| *byte == b']')
            .map(|found| found + 1);
        let Some(close) = close.filter(|_| rest.len() >= 3) else {
            self.is_good_number = false;
            return (next, i + 1, false);
        };
        let (named, end) = number(rest, 1, close);
        let named = named.filter(|_| end == close);
        match named.and_then(|named| named.checked_sub(1)) {
            Some(index) if index < count => (index, i + close + 1, true),
            _ => {
                self.is_good_number = false;
                (next, i + close + 1, named.is_some())
            }
        }
    }
}

/// Go's `parsenum`: a number from `start`, and where it ends.
fn number(text: &[u8], start: usize, end: usize) -> (Option<usize>, usize) {
    let (mut value, mut i) = (None, start);
    while let Some(digit) = text.get(i).filter(|byte| i < end && byte.is_ascii_digit()) {
        if value.is_some_and(|value| value > 1_000_000) {
            return (None, end);
        }
        value = Some(value.unwrap_or(0) * 10 + usize::from(digit - b'0'));
        i += 1;
    }
    (value, i)
}

/// Go's `intFromArg`, for `*`.
fn integer_of(args: &[Value<'_>], next: &mut usize) -> Option<isize> {
    let value = match args.get(*next)? {
        Value::Int(value, _) => isize::try_from(*value).ok(),
        Value::Uint(value, _) => isize::try_from(*value).ok(),
        _ => None,
    };
    *next += 1;
    value.filter(|value| value.unsigned_abs() <= 1_000_000)
}
