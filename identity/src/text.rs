//! How a value from outside is shown in an error: quoted, escaped and short.

/// The longest part of a value that an error repeats, in characters.
const SHOWN: usize = 80;

/// The value in quotes with control characters escaped, cut after [`SHOWN`] characters.
pub(crate) fn excerpt(value: &str) -> String {
    match value.char_indices().nth(SHOWN) {
        None => format!("{value:?}"),
        Some((cut, _)) => format!(
            "{:?} (cut; {} bytes)",
            format_args!("{}…", &value[..cut]).to_string(),
            value.len()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_value_is_cut_on_a_character_and_says_how_long_it_was() {
        assert_eq!(excerpt("a\nb"), r#""a\nb""#);
        let long = "ü".repeat(500);
        let shown = excerpt(&long);
        assert!(shown.ends_with("ü…\" (cut; 1000 bytes)"), "{shown}");
        assert_eq!(shown.matches('ü').count(), SHOWN);
    }
}
