//! What stands in a volume's files.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::request::Layout;
use super::write::Set;
use crate::keep::{HeldBundle, View, X509Svid};

/// Characters in a line of PEM (RFC 7468 §2).
const LINE: usize = 64;

/// A JWT-SVID and the name of its file.
pub(super) struct NamedToken<'a> {
    pub(super) name: &'a str,
    pub(super) token: &'a str,
}

/// The files of one identity in this layout: certificates with their key, our own bundle, the bundles of others, and tokens.
pub(super) fn set(layout: Layout, svid: &X509Svid, own: &HeldBundle, view: &View, tokens: &[NamedToken<'_>]) -> Set {
    let [chain, key, bundle] = match layout {
        Layout::Spiffe => ["svid.pem", "svid_key.pem", "bundle.pem"],
        Layout::Tls => ["tls.crt", "tls.key", "ca.crt"],
        Layout::Istio => ["cert-chain.pem", "key.pem", "root-cert.pem"],
    };
    let mut set = Set::from([
        (chain.to_owned(), pems("CERTIFICATE", certificates(&svid.chain))),
        (key.to_owned(), pems("PRIVATE KEY", [&svid.key[..]])),
        (bundle.to_owned(), authorities(own)),
    ]);
    for other in &view.federated {
        set.insert(
            format!("federated_{}.pem", other.bundle.trust_domain),
            authorities(other),
        );
    }
    for NamedToken { name, token } in tokens {
        // Without an end of line, as the kubelet writes its own tokens.
        set.insert(format!("jwt_{name}"), Zeroizing::new(token.as_bytes().to_vec()));
    }
    set
}

fn authorities(held: &HeldBundle) -> Zeroizing<Vec<u8>> {
    pems(
        "CERTIFICATE",
        held.bundle.x509.iter().map(|authority| &authority.der[..]),
    )
}

/// Certificates that are joined without separator, one after the other.
fn certificates(mut joined: &[u8]) -> Vec<&[u8]> {
    let mut certificates = Vec::new();
    while let Ok((rest, _)) = x509_parser::parse_x509_certificate(joined) {
        let (first, _) = joined.split_at(joined.len() - rest.len());
        certificates.push(first);
        joined = rest;
    }
    certificates
}

fn pems<'a>(label: &str, ders: impl IntoIterator<Item = &'a [u8]>) -> Zeroizing<Vec<u8>> {
    let ders: Vec<_> = ders.into_iter().collect();
    let bytes: usize = ders.iter().map(|der| der.len()).sum();
    // Allocated once, so that no copy of a key is left behind by growth: base64 has 4/3 of the bytes, and a 64th more for its lines.
    let mut text = Zeroizing::new(Vec::with_capacity(bytes * 2 + ders.len() * (2 * label.len() + 64)));
    for der in ders {
        let encoded = Zeroizing::new(STANDARD.encode(der));
        text.extend_from_slice(format!("-----BEGIN {label}-----\n").as_bytes());
        for line in encoded.as_bytes().chunks(LINE) {
            text.extend_from_slice(line);
            text.push(b'\n');
        }
        text.extend_from_slice(format!("-----END {label}-----\n").as_bytes());
    }
    text
}

#[cfg(test)]
mod tests {
    use rustls_pki_types::pem::PemObject as _;
    use rustls_pki_types::{CertificateDer, PrivateKeyDer};

    use super::*;
    use crate::testing::{Authority, NOW};

    #[test]
    fn pem_is_read_by_others_as_what_it_was() {
        let authority = Authority::new("example.org");
        let key = crate::keep::NewKey::generate();
        let leaf = authority.svid("spiffe://example.org/w", &key.spki, NOW, NOW + 60);
        let chain = [&leaf[..], &authority.der()[..]].concat();
        let text = pems("CERTIFICATE", certificates(&chain));
        let read: Vec<_> = CertificateDer::pem_slice_iter(&text).map(Result::unwrap).collect();
        assert_eq!(
            read,
            [
                CertificateDer::from(&leaf[..]),
                CertificateDer::from(&authority.der()[..])
            ]
        );
        assert!(text.split(|byte| *byte == b'\n').all(|line| line.len() <= LINE));

        let text = pems("PRIVATE KEY", [&key.pkcs8[..]]);
        let PrivateKeyDer::Pkcs8(read) = PrivateKeyDer::from_pem_slice(&text).unwrap() else {
            panic!("not PKCS #8");
        };
        assert_eq!(read.secret_pkcs8_der(), &key.pkcs8[..]);
    }
}
