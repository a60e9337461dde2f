//! A selector is read back, and a set of them answers as a set does.
#![no_main]

use std::collections::BTreeSet;

use libfuzzer_sys::fuzz_target;
use mintmark_identity::{Selector, Selectors};

fuzz_target!(|text: &str| {
    let (left, right) = text.split_once("\n\n").unwrap_or((text, ""));
    let read =
        |lines: &str| -> BTreeSet<Selector> { lines.lines().filter_map(|line| Selector::parse(line).ok()).collect() };
    let (left, right) = (read(left), read(right));
    for selector in &left {
        assert_eq!(Selector::new(selector.kind(), selector.value()).as_ref(), Ok(selector));
    }
    let set = |selectors: &BTreeSet<Selector>| selectors.iter().cloned().collect::<Selectors>();
    assert_eq!(set(&left).is_subset(&set(&right)), left.is_subset(&right));
});
