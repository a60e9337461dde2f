//! Go's `fmt` for the values of templates: a port of `print.go` and `format.go`.

mod float;
mod printf;

use std::sync::Arc;

use super::MAX_TEXT;
use super::data::Data;
use super::literal::{is_print, quote};
use super::types::{Shape, Ty};
use super::value::Value;

/// Why something is not printed although Go would.
pub(super) type Refusal = String;
type Result<T = ()> = std::result::Result<T, Refusal>;

/// `fmt.Sprint`: spaces between operands when neither is a text.
pub(super) fn sprint(args: &[Value<'_>]) -> Result<String> {
    let mut printer = Printer::default();
    let mut was_text = false;
    for (at, arg) in args.iter().enumerate() {
        let is_text = matches!(arg, Value::Text(..));
        if at > 0 && !is_text && !was_text {
            printer.write(" ")?;
        }
        printer.print(arg, 'v')?;
        was_text = is_text;
    }
    Ok(printer.out)
}

/// `fmt.Sprintln`: spaces always, and a new line.
pub(super) fn sprintln(args: &[Value<'_>]) -> Result<String> {
    let mut printer = Printer::default();
    for (at, arg) in args.iter().enumerate() {
        if at > 0 {
            printer.write(" ")?;
        }
        printer.print(arg, 'v')?;
    }
    printer.write("\n")?;
    Ok(printer.out)
}

/// `fmt.Sprintf`.
pub(super) fn sprintf(format: &str, args: &[Value<'_>]) -> Result<String> {
    let mut printer = Printer::default();
    printer.printf(format, args)?;
    Ok(printer.out)
}

/// Go's `2006-01-02 15:04:05 +0000 UTC` of a time in JSON.
pub(super) fn time(data: &Data) -> String {
    match data {
        Data::Text(text) => match text.strip_suffix('Z').and_then(|text| text.split_once('T')) {
            Some((day, time)) => format!("{day} {time} +0000 UTC"),
            None => text.to_string(),
        },
        _ => "0001-01-01 00:00:00 +0000 UTC".into(),
    }
}

#[derive(Default)]
struct Printer {
    out: String,
    flags: Flags,
    /// Arguments were named by number.
    reordered: bool,
    is_good_number: bool,
}

#[derive(Default, Clone, Copy)]
struct Flags {
    width: Option<usize>,
    precision: Option<usize>,
    plus: bool,
    minus: bool,
    sharp: bool,
    space: bool,
    zero: bool,
    /// `%#v`
    go_syntax: bool,
}

impl Printer {
    fn write(&mut self, text: &str) -> Result {
        if self.out.len() + text.len() > MAX_TEXT {
            return Err(format!("a text of more than {MAX_TEXT} bytes is too long"));
        }
        self.out.push_str(text);
        Ok(())
    }

    fn padding(&mut self, count: usize) -> Result {
        let pad = if self.flags.zero && !self.flags.minus { "0" } else { " " };
        match count <= MAX_TEXT {
            true => self.write(&pad.repeat(count)),
            false => self.write(&pad.repeat(MAX_TEXT + 1)),
        }
    }

    fn pad(&mut self, text: &str) -> Result {
        let missing = self.flags.width.unwrap_or(0).saturating_sub(text.chars().count());
        if self.flags.minus {
            self.write(text)?;
            return self.padding(missing);
        }
        self.padding(missing)?;
        self.write(text)
    }

    /// [`Self::pad`] with spaces only.
    fn pad_with_spaces(&mut self, text: &str) -> Result {
        let zero = std::mem::replace(&mut self.flags.zero, false);
        let padded = self.pad(text);
        self.flags.zero = zero;
        padded
    }

    fn print(&mut self, arg: &Value<'_>, verb: char) -> Result {
        if matches!(arg, Value::Invalid) {
            return match verb {
                'T' | 'v' => self.pad("<nil>"),
                _ => self.write(&format!("%!{verb}(<nil>)")),
            };
        }
        match verb {
            'T' => self.text(arg.type_name(), 's', arg),
            'p' => match arg {
                Value::Pointer(None, _) | Value::Map(None, _) | Value::List(None, _) => {
                    self.flags.sharp = !self.flags.sharp;
                    let printed = self.integer(0, false, 'x', arg);
                    self.flags.sharp = !self.flags.sharp;
                    printed
                }
                Value::Pointer(..) | Value::Map(..) | Value::List(..) => Err(address(arg)),
                _ => self.bad_verb(verb, arg),
            },
            _ => self.value(arg, verb),
        }
    }

    fn value(&mut self, arg: &Value<'_>, verb: char) -> Result {
        match arg {
            Value::Invalid => self.write("<nil>"),
            Value::Bool(value, _) => match verb {
                't' | 'v' => self.pad(if *value { "true" } else { "false" }),
                _ => self.bad_verb(verb, arg),
            },
            Value::Int(value, _) => self.integer(value.unsigned_abs(), *value < 0, verb, arg),
            Value::Uint(value, _) => self.integer(*value, false, verb, arg),
            Value::Float(value, _) => self.float(*value, verb, arg),
            Value::Text(text, _) => self.text(text, verb, arg),
            Value::List(list, ty) => {
                let Shape::Slice(element) = ty.shape() else {
                    return Err(unprintable(arg));
                };
                self.open(*ty, list.is_none(), "[")?;
                if list.is_none() && self.flags.go_syntax {
                    return Ok(());
                }
                for (at, data) in list.unwrap_or_default().iter().enumerate() {
                    self.separate(at)?;
                    self.value(&Value::new(*element, data), verb)?;
                }
                self.close()
            }
            Value::Map(map, ty) => {
                let Shape::Map(key, element) = ty.shape() else {
                    return Err(unprintable(arg));
                };
                self.open(*ty, map.is_none(), "map[")?;
                if map.is_none() && self.flags.go_syntax {
                    return Ok(());
                }
                for (at, (name, data)) in map.unwrap_or_default().iter().enumerate() {
                    self.separate(at)?;
                    let name = Value::Text(super::value::Text::Lent(name), *key);
                    self.value(&name, verb)?;
                    self.write(":")?;
                    self.value(&Value::new(*element, data), verb)?;
                }
                self.close()
            }
            // Its String method would be called.
            Value::Pointer(None, ty) if matches!(ty.shape(), Shape::Pointer(to) if to.fields().is_some()) => {
                Err(unprintable(arg))
            }
            // Its String method, too, which fails for want of a time.
            Value::Pointer(None, ty)
                if matches!(ty.shape(), Shape::Pointer(to) if matches!(to.shape(), Shape::Time))
                    && matches!(verb, 'v' | 's' | 'x' | 'X' | 'q') =>
            {
                self.write("<nil>")
            }
            Value::Pointer(None, ty) => match verb {
                'v' if self.flags.go_syntax => self.write(&format!("({ty})(nil)")),
                'v' => self.pad("<nil>"),
                'b' | 'o' | 'd' | 'x' | 'X' => self.integer(0, false, verb, arg),
                _ => self.bad_verb(verb, arg),
            },
            Value::Pointer(..) => Err(address(arg)),
            Value::Opaque(data, ty) if matches!(ty.shape(), Shape::Time) && !self.flags.go_syntax => match verb {
                'v' | 's' | 'x' | 'X' | 'q' => self.text(&time(data), verb, arg),
                _ => Err(unprintable(arg)),
            },
            Value::Struct(..) | Value::Opaque(..) => Err(unprintable(arg)),
        }
    }

    fn open(&mut self, ty: Ty, is_nil: bool, bracket: &str) -> Result {
        match (self.flags.go_syntax, is_nil) {
            (true, true) => self.write(&format!("{ty}(nil)")),
            (true, false) => self.write(&format!("{ty}{{")),
            (false, _) => self.write(bracket),
        }
    }

    fn separate(&mut self, at: usize) -> Result {
        match (at, self.flags.go_syntax) {
            (0, _) => Ok(()),
            (_, true) => self.write(", "),
            (_, false) => self.write(" "),
        }
    }

    fn close(&mut self) -> Result {
        self.write(if self.flags.go_syntax { "}" } else { "]" })
    }

    fn bad_verb(&mut self, verb: char, arg: &Value<'_>) -> Result {
        self.write(&format!("%!{verb}({}=", arg.type_name()))?;
        self.value(arg, 'v')?;
        self.write(")")
    }

    fn text(&mut self, text: &str, verb: char, arg: &Value<'_>) -> Result {
        match verb {
            'v' if self.flags.go_syntax => self.quoted(text),
            'v' | 's' => self.pad(self.truncated(text)),
            'x' => self.hex(text, false),
            'X' => self.hex(text, true),
            'q' => self.quoted(text),
            _ => self.bad_verb(verb, arg),
        }
    }

    fn truncated<'t>(&self, text: &'t str) -> &'t str {
        let cut = self.flags.precision.and_then(|count| text.char_indices().nth(count));
        cut.map_or(text, |(at, _)| text.get(..at).unwrap_or(text))
    }

    fn quoted(&mut self, text: &str) -> Result {
        let text = self.truncated(text);
        let is_raw = |c: char| c == '\t' || c != '`' && c != '\u{feff}' && c != '\x7f' && c >= ' ';
        match self.flags.sharp && text.chars().all(is_raw) {
            true => self.pad(&format!("`{text}`")),
            false => self.pad(&quote(text, '"', self.flags.plus)),
        }
    }

    fn hex(&mut self, text: &str, upper: bool) -> Result {
        let bytes = text.as_bytes();
        let bytes = bytes.get(..self.flags.precision.unwrap_or(usize::MAX)).unwrap_or(bytes);
        if bytes.is_empty() {
            return self.padding(self.flags.width.unwrap_or(0));
        }
        let prefix = if upper { "0X" } else { "0x" };
        let mut hex = String::new();
        for (at, byte) in bytes.iter().enumerate() {
            if at > 0 && self.flags.space {
                hex.push(' ');
            }
            if self.flags.sharp && (at == 0 || self.flags.space) {
                hex.push_str(prefix);
            }
            let digits = if upper {
                format!("{byte:02X}")
            } else {
                format!("{byte:02x}")
            };
            hex.push_str(&digits);
        }
        self.pad(&hex)
    }

    fn integer(&mut self, magnitude: u64, is_negative: bool, verb: char, arg: &Value<'_>) -> Result {
        let is_signed = matches!(arg, Value::Int(..));
        let digits = match verb {
            'v' if self.flags.go_syntax && !is_signed => {
                let sharp = std::mem::replace(&mut self.flags.sharp, true);
                let printed = self.digits(format!("{magnitude:x}"), is_negative, 'x', magnitude);
                self.flags.sharp = sharp;
                return printed;
            }
            'v' | 'd' => magnitude.to_string(),
            'b' => format!("{magnitude:b}"),
            'o' | 'O' => format!("{magnitude:o}"),
            'x' => format!("{magnitude:x}"),
            'X' => format!("{magnitude:X}"),
            'c' => return self.pad(character(magnitude, is_negative).encode_utf8(&mut [0; 4])),
            'q' => {
                let c = character(magnitude, is_negative).to_string();
                return self.pad(&quote(&c, '\'', self.flags.plus));
            }
            'U' => return self.unicode(magnitude, is_negative),
            _ => return self.bad_verb(verb, arg),
        };
        self.digits(digits, is_negative, verb, magnitude)
    }

    fn digits(&mut self, mut digits: String, is_negative: bool, verb: char, magnitude: u64) -> Result {
        let has_sign = is_negative || self.flags.plus || self.flags.space;
        let mut least = 0;
        if let Some(precision) = self.flags.precision {
            if precision == 0 && magnitude == 0 {
                let zero = std::mem::replace(&mut self.flags.zero, false);
                let padded = self.padding(self.flags.width.unwrap_or(0));
                self.flags.zero = zero;
                return padded;
            }
            least = precision;
        } else if let Some(width) = self.flags.width.filter(|_| self.flags.zero && !self.flags.minus) {
            least = width.saturating_sub(usize::from(has_sign));
        }
        if least > digits.len() {
            let zeros = (least - digits.len()).min(MAX_TEXT);
            digits.insert_str(0, &"0".repeat(zeros));
        }
        if self.flags.sharp {
            match verb {
                'b' => digits.insert_str(0, "0b"),
                'o' | 'O' if !digits.starts_with('0') => digits.insert(0, '0'),
                'x' => digits.insert_str(0, "0x"),
                'X' => digits.insert_str(0, "0X"),
                _ => {}
            }
        }
        if verb == 'O' {
            digits.insert_str(0, "0o");
        }
        if is_negative {
            digits.insert(0, '-');
        } else if self.flags.plus {
            digits.insert(0, '+');
        } else if self.flags.space {
            digits.insert(0, ' ');
        }
        self.pad_with_spaces(&digits)
    }

    fn unicode(&mut self, magnitude: u64, is_negative: bool) -> Result {
        let value = if is_negative {
            magnitude.wrapping_neg()
        } else {
            magnitude
        };
        let least = self.flags.precision.unwrap_or(0).clamp(4, MAX_TEXT);
        let mut text = format!("U+{value:0least$X}");
        let c = u32::try_from(value).ok().and_then(char::from_u32);
        if let Some(c) = c.filter(|c| self.flags.sharp && is_print(*c)) {
            text.push_str(&format!(" '{c}'"));
        }
        self.pad_with_spaces(&text)
    }

    fn float(&mut self, value: f64, verb: char, arg: &Value<'_>) -> Result {
        let (form, precision) = match verb {
            'v' => ('g', None),
            'g' | 'G' => (verb, None),
            'e' | 'E' => (verb, Some(6)),
            'f' | 'F' => ('f', Some(6)),
            'b' | 'x' | 'X' => return Err(format!("%{verb} of a float is not supported")),
            _ => return self.bad_verb(verb, arg),
        };
        if self.flags.sharp || self.flags.go_syntax {
            return Err("%# of a float is not supported".into());
        }
        let precision = self.flags.precision.or(precision);
        if precision.is_some_and(|precision| precision > 1000) {
            return Err("a float of more than 1000 digits is not supported".into());
        }
        let text = float::float(value.abs(), form, precision);
        let sign = match (value.is_sign_negative(), self.flags.plus, self.flags.space) {
            (true, _, _) => "-",
            (false, true, _) => "+",
            (false, false, true) => " ",
            (false, false, false) => "",
        };
        let width = self.flags.width.unwrap_or(0);
        let zeros = self.flags.zero && !self.flags.minus;
        if zeros && !sign.is_empty() && width > text.len() + 1 {
            self.write(sign)?;
            self.padding(width - text.len() - 1)?;
            return self.write(&text);
        }
        self.pad(&format!("{sign}{text}"))
    }
}

fn address(arg: &Value<'_>) -> Refusal {
    let name = arg.type_name();
    format!("a value of type {name} would be printed as an address: use it in an action of its own, or look inside")
}

fn unprintable(arg: &Value<'_>) -> Refusal {
    format!(
        "a value of type {} cannot be printed: name one of its fields",
        arg.type_name()
    )
}

fn character(magnitude: u64, is_negative: bool) -> char {
    let c = u32::try_from(magnitude).ok().filter(|_| !is_negative);
    c.and_then(char::from_u32).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// As an action prints it: pointers lead to what they point to.
pub(super) fn printable<'d>(value: &Value<'d>) -> Value<'d> {
    match value.indirect().0 {
        Value::Invalid => Value::made("<no value>".into()),
        // Its String method, which only what stands in place has.
        Value::Opaque(data, ty) if matches!(ty.shape(), Shape::IntOrString) => match data {
            Data::Text(text) => Value::Text(super::value::Text::Made(Arc::clone(text)), Ty::STRING),
            Data::Int(number) => Value::made(number.to_string()),
            _ => Value::made("0".into()),
        },
        value => value,
    }
}

/// As `html`, `js` and `urlquery` print their arguments.
pub(super) fn sprint_printable(args: &[Value<'_>]) -> Result<String> {
    let args = args.iter().map(|value| match value {
        Value::Opaque(..) => value.clone(),
        value => printable(value),
    });
    sprint(&args.collect::<Vec<_>>())
}
