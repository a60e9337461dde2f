//! Whether bytes are DER as strict as it is written: known tags, shortest lengths, nothing left over. x509-parser
//! forgives some of that.

const OCTET_STRING: u8 = 0x04;
/// Elements nest less deep than this in a certificate.
const MAX_DEPTH: u8 = 12;

/// Whether `bytes` are a sequence of whole elements, down to the leaves. The content of an octet string inside an
/// extension is DER as well (RFC 5280 §4.2); what is inside that is not looked at.
pub(super) fn is_canonical(bytes: &[u8]) -> bool {
    walk(bytes, true, MAX_DEPTH)
}

fn walk(mut bytes: &[u8], wrapped: bool, depth: u8) -> bool {
    if depth == 0 {
        return false;
    }
    while let Some((tag, content, rest)) = split(bytes) {
        let sound = match tag {
            // SEQUENCE, SET, and the explicit tags of version and extensions.
            0x30 | 0x31 => (!wrapped || starts_well(content)) && walk(content, wrapped, depth - 1),
            0xa0 | 0xa3 => wrapped && walk(content, true, depth - 1),
            OCTET_STRING if wrapped => walk(content, false, depth - 1),
            // BOOLEAN, INTEGER, BIT STRING, OCTET STRING, NULL, OID, UTF8String, PrintableString, UTCTime,
            // GeneralizedTime.
            0x01 => content == [0xff],
            0x02 => !matches!(content, [] | [0, 0..=0x7f, ..] | [0xff, 0x80..=0xff, ..]),
            0x03 => matches!(content, [0..=7, ..]),
            0x05 => content.is_empty(),
            OCTET_STRING | 0x06 | 0x0c | 0x13 | 0x17 | 0x18 => !content.is_empty(),
            // Inside extensions: the key identifier of an authority; DNS name, URI and IP address of alternative names.
            0x80 | 0x82 | 0x86 | 0x87 => !wrapped && !content.is_empty(),
            _ => false,
        };
        if !sound {
            return false;
        }
        bytes = rest;
    }
    bytes.is_empty()
}

/// Every sequence and set of a certificate's frame begins with an object identifier, a time, or another sequence, set
/// or `[0]`: what holds an identifier cannot hold something else in its place, which x509-parser would read as one.
fn starts_well(content: &[u8]) -> bool {
    matches!(content, [0x06 | 0x17 | 0x18 | 0x30 | 0x31 | 0xa0, ..])
}

/// The first element's tag and content, and what follows it; `None` where there is none, or its length is not the
/// shortest form.
fn split(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81 => match rest {
            [low @ 0x80..=0xff, rest @ ..] => (usize::from(*low), rest),
            _ => return None,
        },
        0x82 => match rest {
            [high @ 1..=0xff, low, rest @ ..] => (usize::from(*high) << 8 | usize::from(*low), rest),
            _ => return None,
        },
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_der_forbids_is_not_canonical() {
        for good in [
            &b"\x30\x03\x06\x01\x05"[..],
            b"\x01\x01\xff",
            b"\x05\x00",
            b"\x04\x03\x02\x01\x05",
            b"",
        ] {
            assert!(is_canonical(good), "{good:x?}");
        }
        let bad = [
            &b"\x30\x81\x03\x02\x01\x05"[..],
            b"\x30\x80\x00\x00",
            b"\x30\x04\x02\x01\x05",
            b"\x30\x02\x02\x01\x05",
            b"\x10\x03\x02\x01\x05",
            b"\x30\x03\x02\x01\x05",
            b"\x02\x02\x00\x05",
            b"\x02\x00",
            b"\x01\x01\x01",
            b"\x03\x01\x08",
            b"\x04\x03\x02\x02\x05",
        ];
        for bad in bad {
            assert!(!is_canonical(bad), "{bad:x?}");
        }
        assert!(!is_canonical(&[0x30, 0x80].repeat(100)));
    }
}
