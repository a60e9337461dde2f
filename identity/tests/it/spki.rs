//! Public keys of openssl and rcgen.

use mintmark_identity::{KeyError, KeyKind, PublicKey};

use crate::support::Signer;

#[test]
fn each_accepted_kind_keeps_its_encoding() {
    for (signer, kind) in [
        (Signer::p256(), KeyKind::P256),
        (Signer::p384(), KeyKind::P384),
        (Signer::rsa(), KeyKind::Rsa),
    ] {
        let key = signer.public_key();
        assert_eq!((key.spki_der(), key.kind()), (&*signer.spki_der(), kind));
        assert_eq!(key.key_id().as_str().len(), 40);
    }
}

#[test]
fn the_key_id_is_the_subject_key_identifier_of_openssl() {
    // openssl x509 -ext subjectKeyIdentifier prints 5B:F8:D7:… for a certificate of this key.
    let spki = hex::decode(include_str!("../data/p256.spki.hex").trim()).unwrap();
    let key = PublicKey::from_spki_der(&spki).unwrap();
    assert_eq!(key.key_id().as_str(), include_str!("../data/p256.ski").trim());
}

#[test]
fn other_keys_are_refused_by_name() {
    let expected = [
        ("secp256k1", "curve secp256k1 is not accepted: use P-256 or P-384"),
        ("brainpoolP256r1", "curve brainpoolP256r1 is not accepted"),
        ("secp521r1", "curve P-521 is not accepted"),
        ("secp224r1", "curve P-224 is not accepted"),
        (
            "compressed",
            "the P-256 point is compressed: send the uncompressed form",
        ),
        ("explicit", "given by explicit parameters"),
        ("ED25519", "Ed25519 keys are not accepted"),
        ("X25519", "X25519 keys are not accepted"),
        ("ED448", "Ed448 keys are not accepted"),
        ("rsa1024", "an RSA key of 1024 bits is not accepted: use 2048 to 4096"),
        ("rsapss", "RSASSA-PSS keys are not accepted"),
        ("rsa4104", "an RSA key of 4104 bits is not accepted"),
    ];
    let keys = include_str!("../data/refused_keys.txt");
    assert_eq!(keys.lines().count(), expected.len());
    for (line, (name, problem)) in keys.lines().zip(expected) {
        let (key, spki) = line.split_once(' ').unwrap();
        assert_eq!(key, name);
        let error = PublicKey::from_spki_der(&hex::decode(spki).unwrap())
            .expect_err(name)
            .to_string();
        assert!(error.contains(problem), "{name}: {error}");
    }
}

#[test]
fn only_the_canonical_encoding_of_a_sound_key_is_accepted() {
    for signer in [Signer::p256(), Signer::p384(), Signer::rsa()] {
        let spki = signer.spki_der();
        assert!(matches!(PublicKey::from_spki_der(&[]), Err(KeyError::Malformed { .. })));
        assert!(PublicKey::from_spki_der(&[&*spki, &[0]].concat()).is_err());
        for end in 0..spki.len() {
            assert!(PublicKey::from_spki_der(&spki[..end]).is_err());
        }
        // The header has one encoding alone.
        for at in 0..spki.len().min(22) {
            for bit in 0..8 {
                let mut changed = spki.clone();
                changed[at] ^= 1 << bit;
                assert!(PublicKey::from_spki_der(&changed).is_err(), "{at} {bit}");
            }
        }
    }
    let mut off_curve = Signer::p256().spki_der();
    *off_curve.last_mut().unwrap() ^= 1;
    let error = PublicKey::from_spki_der(&off_curve).unwrap_err();
    assert_eq!(
        error,
        KeyError::Point {
            curve: "P-256",
            what: "is not on the curve"
        }
    );
    assert!(matches!(
        PublicKey::from_spki_der(&vec![0x30; 5000]),
        Err(KeyError::TooLong { length: 5000 })
    ));
}
