//! As much of DER as a certificate's frame needs: definite lengths, and the two time types of X.509.

pub(super) const INTEGER: u8 = 0x02;
pub(super) const BIT_STRING: u8 = 0x03;
pub(super) const OCTET_STRING: u8 = 0x04;
pub(super) const UTC_TIME: u8 = 0x17;
pub(super) const GENERALIZED_TIME: u8 = 0x18;
pub(super) const SEQUENCE: u8 = 0x30;
pub(super) const SET: u8 = 0x31;
/// `[3]` around the extensions of a certificate.
pub(super) const EXPLICIT_3: u8 = 0xa3;
/// `dNSName`, `uniformResourceIdentifier` and `iPAddress` in a subject alternative name (RFC 5280 §4.2.1.6).
pub(super) const DNS_NAME: u8 = 0x82;
pub(super) const URI: u8 = 0x86;
pub(super) const IP_ADDRESS: u8 = 0x87;

/// 2050-01-01T00:00:00Z, from which on certificates must use GeneralizedTime (RFC 5280 §4.1.2.5).
const YEAR_2050: i64 = 2_524_608_000;

/// The size of an element whose content has `content` bytes.
pub(super) fn size(content: usize) -> usize {
    1 + length_size(content) + content
}

fn length_size(content: usize) -> usize {
    match content {
        0..0x80 => 1,
        0x80..0x100 => 2,
        0x100..0x1_0000 => 3,
        _ => 4,
    }
}

/// Writes a tag and the length of the `content` bytes that the caller writes next.
///
/// # Panics
/// When `content` reaches 16 MiB. Nothing that a certificate holds comes near: names, keys and alternative names are
/// bounded.
pub(super) fn header(out: &mut Vec<u8>, tag: u8, content: usize) {
    assert!(content < 0x100_0000, "an element of a certificate is far below 16 MiB");
    out.push(tag);
    let be = content.to_be_bytes();
    let [.., high, mid, low] = be;
    match length_size(content) {
        1 => out.push(low),
        2 => out.extend_from_slice(&[0x81, low]),
        3 => out.extend_from_slice(&[0x82, mid, low]),
        _ => out.extend_from_slice(&[0x83, high, mid, low]),
    }
}

/// Appends one whole element.
pub(super) fn element(out: &mut Vec<u8>, tag: u8, content: &[u8]) {
    header(out, tag, content.len());
    out.extend_from_slice(content);
}

/// The size of a `Time` element.
pub(super) fn time_size(unix: i64) -> usize {
    if unix < YEAR_2050 { 15 } else { 17 }
}

/// Appends a `Time`: UTCTime before 2050, GeneralizedTime from then on.
pub(super) fn time(out: &mut Vec<u8>, unix: i64) {
    let civil = Civil::from_unix(unix);
    let mut digits = [0; 15];
    let four = civil.digits(&mut digits);
    if unix < YEAR_2050 {
        element(out, UTC_TIME, &four[2..]);
    } else {
        element(out, GENERALIZED_TIME, four);
    }
}

/// A moment in the proleptic Gregorian calendar, UTC.
struct Civil {
    year: i64,
    month: i64,
    day: i64,
    second_of_day: i64,
}

impl Civil {
    fn from_unix(unix: i64) -> Self {
        let (days, second_of_day) = (unix.div_euclid(86_400), unix.rem_euclid(86_400));
        // Years are counted from 1 March, so that a leap day is the last of its year; eras are 400 years of 146,097
        // days.
        let shifted = days + 719_468;
        let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
        let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 {
            month_from_march + 3
        } else {
            month_from_march - 9
        };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        Self {
            year,
            month,
            day,
            second_of_day,
        }
    }

    /// `YYYYMMDDHHMMSSZ`.
    fn digits<'a>(&self, out: &'a mut [u8; 15]) -> &'a [u8] {
        let s = self.second_of_day;
        let pairs = [
            self.year / 100,
            self.year % 100,
            self.month,
            self.day,
            s / 3_600,
            s / 60 % 60,
            s % 60,
        ];
        for (slot, pair) in out.chunks_exact_mut(2).zip(pairs) {
            slot.copy_from_slice(&[digit(pair / 10), digit(pair % 10)]);
        }
        out[14] = b'Z';
        out
    }
}

fn digit(value: i64) -> u8 {
    b'0' + u8::try_from(value.rem_euclid(10)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use x509_parser::prelude::{ASN1Time, FromDer};

    use super::*;

    proptest! {
        #[test]
        fn a_time_reads_back_as_the_second_it_was(unix in 0_i64..253_402_300_800) {
            let mut out = Vec::new();
            time(&mut out, unix);
            prop_assert_eq!(out.len(), time_size(unix));
            let (rest, back) = ASN1Time::from_der(&out).unwrap();
            prop_assert!(rest.is_empty());
            prop_assert_eq!(back.timestamp(), unix);
            prop_assert_eq!(back.is_utctime(), unix < YEAR_2050);
        }

        #[test]
        fn a_header_is_as_long_as_its_size_says(content in 0_usize..0x2_0000) {
            let mut out = Vec::new();
            header(&mut out, SEQUENCE, content);
            prop_assert_eq!(out.len() + content, size(content));
        }
    }
}
