//! The little DER this crate reads and writes itself: public keys, and the frame around them.
//!
//! Strict X.690 DER: definite lengths in the fewest bytes, tags below 31. Larger structures are
//! parsed with x509-parser.

pub(crate) const INTEGER: u8 = 0x02;
pub(crate) const BIT_STRING: u8 = 0x03;
pub(crate) const NULL: u8 = 0x05;
pub(crate) const OID: u8 = 0x06;
pub(crate) const SEQUENCE: u8 = 0x30;

/// Reads values one after another.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(input: &'a [u8]) -> Self {
        Self(input)
    }

    /// The content of the next value, which must have this tag.
    pub(crate) fn take(&mut self, tag: u8) -> Option<&'a [u8]> {
        let (found, content, rest) = next(self.0)?;
        if found != tag {
            return None;
        }
        self.0 = rest;
        Some(content)
    }

    /// The next value whole, with tag and length; it must have this tag.
    pub(crate) fn take_whole(&mut self, tag: u8) -> Option<&'a [u8]> {
        let before = self.0;
        self.take(tag)?;
        before.get(..before.len() - self.0.len())
    }

    /// The tag of the next value.
    pub(crate) fn peek(&self) -> Option<u8> {
        self.0.first().copied()
    }

    /// A positive integer as its bytes without the leading zero; more than the fewest bytes is refused.
    pub(crate) fn take_unsigned(&mut self) -> Option<&'a [u8]> {
        let bytes = self.take(INTEGER)?;
        match bytes {
            [0, rest @ ..] if rest.first().is_some_and(|byte| *byte >= 0x80) => Some(rest),
            [first, ..] if (1..0x80).contains(first) => Some(bytes),
            _ => None,
        }
    }

    /// What has not been read.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.0
    }

    /// Nothing more may follow.
    pub(crate) fn end(&self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

fn next(input: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = input.split_first()?;
    let (&first, rest) = rest.split_first()?;
    if tag & 0x1f == 0x1f {
        return None;
    }
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x83 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            let length = bytes
                .iter()
                .fold(0_usize, |length, byte| length << 8 | usize::from(*byte));
            if length < 0x80 || bytes[0] == 0 {
                return None;
            }
            (length, rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

/// Appends one value.
pub(crate) fn push(out: &mut Vec<u8>, tag: u8, content: &[u8]) {
    out.push(tag);
    let length = content.len().to_be_bytes();
    let significant = length.iter().position(|byte| *byte != 0).unwrap_or(length.len() - 1);
    let length = &length[significant..];
    if length.len() > 1 || length[0] >= 0x80 {
        out.push(0x80 | u8::try_from(length.len()).expect("a length has at most 8 bytes"));
    }
    out.extend_from_slice(length);
    out.extend_from_slice(content);
}

/// Appends a positive integer from big-endian bytes without leading zeros.
pub(crate) fn push_unsigned(out: &mut Vec<u8>, bytes: &[u8]) {
    if bytes.first().is_some_and(|byte| *byte < 0x80) {
        push(out, INTEGER, bytes);
    } else {
        let mut padded = Vec::with_capacity(bytes.len() + 1);
        padded.push(0);
        padded.extend_from_slice(bytes);
        push(out, INTEGER, &padded);
    }
}

/// An object identifier in dotted form.
pub(crate) fn dotted(oid: &[u8]) -> String {
    let mut text = String::new();
    let mut arc = 0_u64;
    for byte in oid.iter().take(64) {
        arc = arc.wrapping_shl(7) | u64::from(byte & 0x7f);
        if byte & 0x80 != 0 {
            continue;
        }
        if text.is_empty() {
            let top = (arc / 40).min(2);
            text = format!("{top}.{}", arc - top * 40);
        } else {
            text.push_str(&format!(".{arc}"));
        }
        arc = 0;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_shortest_length_is_read() {
        assert_eq!(Reader::new(&[0x04, 0x01, 7]).take(4), Some(&[7][..]));
        assert_eq!(Reader::new(&[0x04, 0x81, 1, 7]).take(4), None);
        assert_eq!(Reader::new(&[0x04, 0x80, 0, 0]).take(4), None);
        let mut long = vec![0x04, 0x82, 0x00, 0x80];
        long.extend([0; 128]);
        assert_eq!(Reader::new(&long).take(4), None);
        assert_eq!(Reader::new(&[0x04, 0x02, 7]).take(4), None);
    }

    #[test]
    fn what_is_written_is_read() {
        for length in [0, 1, 127, 128, 255, 256, 65_535, 65_536] {
            let mut out = Vec::new();
            push(&mut out, 4, &vec![1; length]);
            let mut reader = Reader::new(&out);
            assert_eq!(reader.take(4).unwrap().len(), length);
            assert!(reader.end().is_some());
        }
        for number in [&[1][..], &[0x7f], &[0x80], &[1, 0, 1]] {
            let mut out = Vec::new();
            push_unsigned(&mut out, number);
            assert_eq!(Reader::new(&out).take_unsigned(), Some(number));
        }
        assert_eq!(Reader::new(&[2, 1, 0x80]).take_unsigned(), None);
        assert_eq!(Reader::new(&[2, 1, 0]).take_unsigned(), None);
        assert_eq!(Reader::new(&[2, 2, 0, 1]).take_unsigned(), None);
    }

    #[test]
    fn an_object_identifier_is_shown_in_dotted_form() {
        assert_eq!(dotted(&[0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1]), "1.2.840.10045.2.1");
        assert_eq!(dotted(&[0x2b, 0x65, 0x70]), "1.3.101.112");
        assert_eq!(
            dotted(&[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 3, 0x11]),
            "2.16.840.1.101.3.4.3.17"
        );
    }
}
