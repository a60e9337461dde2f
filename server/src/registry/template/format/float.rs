//! Go's floats as text: `strconv.FormatFloat` of a number that is not negative.

/// The text of `value` in `form` (`e`, `f` or `g`), as short as is exact without a precision.
pub(super) fn float(value: f64, form: char, precision: Option<usize>) -> String {
    let exponential = |precision: Option<usize>| match precision {
        Some(precision) => format!("{value:.precision$e}"),
        None => format!("{value:e}"),
    };
    match form {
        'f' => match precision {
            Some(precision) => format!("{value:.precision$}"),
            None => format!("{value}"),
        },
        'e' | 'E' => go_exponent(&exponential(precision), form),
        _ => {
            let precision = precision.map(|precision| precision.max(1));
            let written = exponential(precision.map(|precision| precision - 1));
            let (mantissa, exponent) = written.split_once('e').unwrap_or((&written, "0"));
            let exponent: i32 = exponent.parse().unwrap_or(0);
            let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
            let digits = match digits.trim_end_matches('0') {
                "" => "0",
                digits => digits,
            };
            let count = i32::try_from(digits.len()).unwrap_or(i32::MAX);
            // Without a precision, 6 decides.
            let mut limit = precision.map_or(6, |precision| i32::try_from(precision).unwrap_or(i32::MAX));
            if precision.is_some() && limit > count && count > exponent {
                limit = count;
            }
            if exponent < -4 || exponent >= limit {
                let mut short = digits.to_owned();
                if short.len() > 1 {
                    short.insert(1, '.');
                }
                return go_exponent(&format!("{short}e{exponent}"), if form == 'G' { 'E' } else { 'e' });
            }
            let decimals = usize::try_from(count - exponent - 1).unwrap_or(0);
            format!("{value:.decimals$}")
        }
    }
}

/// At least two digits in the exponent, and its sign.
fn go_exponent(written: &str, letter: char) -> String {
    let (mantissa, exponent) = written.split_once('e').unwrap_or((written, "0"));
    let (sign, digits) = match exponent.strip_prefix('-') {
        Some(digits) => ('-', digits),
        None => ('+', exponent),
    };
    format!("{mantissa}{letter}{sign}{digits:0>2}")
}
