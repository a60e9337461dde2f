//! Go's literals: strings, characters and numbers, and how a text is quoted.

use super::node::Number;

/// What a quoted string or a raw one says, quotes included in `text`.
///
/// # Errors
/// That the syntax is wrong, or that it says bytes that are not UTF-8.
pub(super) fn unquote(text: &str) -> Result<String, String> {
    let inner = |quote| text.strip_prefix(quote)?.strip_suffix(quote);
    if text.len() < 2 {
        return Err("invalid syntax".into());
    }
    if let Some(raw) = inner('`') {
        return match raw.contains('`') {
            true => Err("invalid syntax".into()),
            false => Ok(raw.replace('\r', "")),
        };
    }
    let Some(mut rest) = inner('"').filter(|rest| !rest.contains('\n')) else {
        return Err("invalid syntax".into());
    };
    let mut bytes = Vec::with_capacity(rest.len());
    while !rest.is_empty() {
        let (unit, tail) = unquote_char(rest, '"')?;
        match unit {
            Unit::Char(c) => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            Unit::Byte(byte) => bytes.push(byte),
        }
        rest = tail;
    }
    String::from_utf8(bytes).map_err(|_| format!("{text} says bytes that are not UTF-8, which are not supported"))
}

/// The value of a character constant, quotes included in `text`.
///
/// # Errors
/// That the syntax is wrong.
pub(super) fn character(text: &str) -> Result<Number, String> {
    let rest = text.get(1..).unwrap_or_default();
    let (unit, tail) = unquote_char(rest, '\'')?;
    if tail != "'" {
        return Err(format!("malformed character constant: {text}"));
    }
    let value = match unit {
        Unit::Char(c) => u32::from(c),
        Unit::Byte(byte) => byte.into(),
    };
    Ok(Number {
        text: text.into(),
        int: Some(value.into()),
        uint: Some(value.into()),
        float: Some(value.into()),
    })
}

/// What one character or one escape stands for: an escape of two or three digits is a byte, not a character.
enum Unit {
    Char(char),
    Byte(u8),
}

fn unquote_char(text: &str, quote: char) -> Result<(Unit, &str), String> {
    let wrong = || "invalid syntax".to_owned();
    let mut chars = text.chars();
    let first = chars.next().ok_or_else(wrong)?;
    if first == quote {
        return Err(wrong());
    }
    if first != '\\' {
        return Ok((Unit::Char(first), chars.as_str()));
    }
    let escape = chars.next().ok_or_else(wrong)?;
    let rest = chars.as_str();
    let digits = |count: usize, radix: u32, text| -> Option<(u32, &str)> {
        let digits: &str = str::get(text, ..count)?;
        let all = digits.chars().all(|c| c.is_digit(radix));
        let value = u32::from_str_radix(digits, radix).ok().filter(|_| all)?;
        Some((value, str::get(text, count..)?))
    };
    let unit = match escape {
        'a' => Unit::Char('\x07'),
        'b' => Unit::Char('\x08'),
        'f' => Unit::Char('\x0c'),
        'n' => Unit::Char('\n'),
        'r' => Unit::Char('\r'),
        't' => Unit::Char('\t'),
        'v' => Unit::Char('\x0b'),
        '\\' => Unit::Char('\\'),
        '\'' | '"' if escape == quote => Unit::Char(escape),
        'x' => {
            let (value, rest) = digits(2, 16, rest).ok_or_else(wrong)?;
            return Ok((Unit::Byte(u8::try_from(value).map_err(|_| wrong())?), rest));
        }
        'u' | 'U' => {
            let (value, rest) = digits(if escape == 'u' { 4 } else { 8 }, 16, rest).ok_or_else(wrong)?;
            return Ok((Unit::Char(char::from_u32(value).ok_or_else(wrong)?), rest));
        }
        '0'..='7' => {
            let octal = text.get(1..).unwrap_or_default();
            let (value, rest) = digits(3, 8, octal).ok_or_else(wrong)?;
            return Ok((Unit::Byte(u8::try_from(value).map_err(|_| wrong())?), rest));
        }
        _ => return Err(wrong()),
    };
    Ok((unit, rest))
}

/// The value of a number.
///
/// # Errors
/// That the syntax is wrong, that it does not fit, or that it is complex.
pub(super) fn number(text: &str) -> Result<Number, String> {
    if text.ends_with('i') {
        return Err(format!("complex number {text:?} is not supported"));
    }
    let mut number = Number {
        text: text.into(),
        int: parse_int(text),
        uint: parse_uint(text),
        float: None,
    };
    if number.int == Some(0) {
        number.uint = Some(0); // in case of -0
    }
    #[expect(clippy::cast_precision_loss, reason = "as Go converts them")]
    if let Some(int) = number.int {
        number.float = Some(int as f64);
    } else if let Some(uint) = number.uint {
        number.float = Some(uint as f64);
    } else if let Some(float) = parse_float(text) {
        if !text.contains(['.', 'e', 'E', 'p', 'P']) {
            return Err(format!("integer overflow: {text:?}"));
        }
        number.float = Some(float);
        number.int = whole(float);
        number.uint = whole_unsigned(float);
    } else {
        return Err(format!("illegal number syntax: {text:?}"));
    }
    Ok(number)
}

#[expect(clippy::cast_possible_truncation, reason = "the bounds are checked")]
fn whole(float: f64) -> Option<i64> {
    let fits = (-9_223_372_036_854_775_808.0..9_223_372_036_854_775_808.0).contains(&float);
    (fits && float.fract() == 0.0).then_some(float as i64)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the bounds are checked"
)]
fn whole_unsigned(float: f64) -> Option<u64> {
    let fits = (0.0..18_446_744_073_709_551_616.0).contains(&float);
    (fits && float.fract() == 0.0).then_some(float as u64)
}

/// Go's `strconv.ParseUint(text, 0, 64)`.
fn parse_uint(text: &str) -> Option<u64> {
    let lower = text.to_ascii_lowercase();
    let (digits, radix) = match lower.as_bytes() {
        [b'0', b'x', ..] => (lower.get(2..)?, 16),
        [b'0', b'b', ..] => (lower.get(2..)?, 2),
        [b'0', b'o', ..] => (lower.get(2..)?, 8),
        [b'0', _, ..] => (lower.get(1..)?, 8),
        _ => (&*lower, 10),
    };
    if text.contains('_') && !underscores_are_fine(text) {
        return None;
    }
    let digits = digits.replace('_', "");
    let all = !digits.is_empty() && digits.chars().all(|c| c.is_digit(radix));
    u64::from_str_radix(&digits, radix).ok().filter(|_| all)
}

/// Go's `strconv.ParseInt(text, 0, 64)`.
fn parse_int(text: &str) -> Option<i64> {
    let (is_negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, text.get(1..)?),
        b'+' => (false, text.get(1..)?),
        _ => (false, text),
    };
    let magnitude = i128::from(parse_uint(digits)?);
    i64::try_from(if is_negative { -magnitude } else { magnitude }).ok()
}

/// Underscores only between digits, or between the prefix of a base and a digit.
fn underscores_are_fine(text: &str) -> bool {
    let mut before = '^';
    let rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    let mut rest = rest;
    let mut is_hex = false;
    if let [b'0', base, ..] = rest.as_bytes()
        && matches!(base.to_ascii_lowercase(), b'b' | b'o' | b'x')
    {
        is_hex = base.eq_ignore_ascii_case(&b'x');
        before = '0';
        rest = rest.get(2..).unwrap_or_default();
    }
    for c in rest.chars() {
        if c.is_ascii_digit() || is_hex && c.is_ascii_hexdigit() {
            before = '0';
        } else if c == '_' {
            if before != '0' {
                return false;
            }
            before = '_';
        } else {
            if before == '_' {
                return false;
            }
            before = '!';
        }
    }
    before != '_'
}

/// Go's `strconv.ParseFloat(text, 64)`, without its hexadecimal numbers.
fn parse_float(text: &str) -> Option<f64> {
    if text.contains('_') {
        // Underscores are for numbers with the prefix of a base, which only hexadecimal floats have.
        return None;
    }
    let plain = |c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.' | 'e' | 'E');
    let float: f64 = text.parse().ok().filter(|_| text.chars().all(plain))?;
    float.is_finite().then_some(float)
}

/// Go's `strconv.Quote` and `QuoteRune`: `text` between quotes, with what cannot be printed escaped; for `ascii`, all that is not ASCII, too.
pub(super) fn quote(text: &str, quote: char, ascii: bool) -> String {
    use std::fmt::Write as _;
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push(quote);
    for c in text.chars() {
        let _ = match c {
            '\\' => write!(quoted, "\\\\"),
            c if c == quote => write!(quoted, "\\{c}"),
            c if is_print(c) && (c.is_ascii() || !ascii) => write!(quoted, "{c}"),
            '\x07' => write!(quoted, "\\a"),
            '\x08' => write!(quoted, "\\b"),
            '\x0c' => write!(quoted, "\\f"),
            '\n' => write!(quoted, "\\n"),
            '\r' => write!(quoted, "\\r"),
            '\t' => write!(quoted, "\\t"),
            '\x0b' => write!(quoted, "\\v"),
            c if c < ' ' || c == '\x7f' => write!(quoted, "\\x{:02x}", u32::from(c)),
            c if u32::from(c) < 0x1_0000 => write!(quoted, "\\u{:04x}", u32::from(c)),
            c => write!(quoted, "\\U{:08x}", u32::from(c)),
        };
    }
    quoted.push(quote);
    quoted
}

/// Go's `unicode.IsPrint`, as far as the standard library of this language knows.
pub(super) fn is_print(c: char) -> bool {
    match c {
        ' '..='~' => true,
        '\0'..='\x7f' => false,
        // Marks that the standard library escapes when they stand alone are printable.
        c => !c.is_control() && !c.is_whitespace() && (c.is_alphanumeric() || c.escape_debug().count() == 1),
    }
}
