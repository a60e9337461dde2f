//! Certificates, parsed back by x509-parser.

use std::net::IpAddr;

use mintmark_identity::{KeyKind, Serial, dns};
use x509_parser::certificate::TbsCertificate;
use x509_parser::extensions::{BasicConstraints, GeneralName, ParsedExtension, SubjectAlternativeName, X509Extension};
use x509_parser::prelude::{FromDer, X509Version};
use x509_parser::x509::X509Name;

use super::canonical::is_canonical;
use super::{CheckError, Checked, ensure};
use crate::mint::Validity;
use crate::mint::authority::AuthoritySpec;
use crate::mint::x509::{ORGANIZATION_NAME, SignatureAlgorithm, Template, UnsignedX509, X509Spec};

const SVID: &str = "X.509-SVID";
const CA: &str = "authority certificate";
const ORDER: &str = "the order";
const RFC: &str = "RFC 5280";

/// BIT STRINGs of named bits, which have no trailing zero bits in DER: digitalSignature (0), keyEncipherment (2),
/// keyCertSign (5), cRLSign (6).
const SIGNS: &[u8] = &[0x03, 0x02, 7, 0b1000_0000];
const SIGNS_AND_ENCIPHERS: &[u8] = &[0x03, 0x02, 5, 0b1010_0000];
/// The object identifiers of serverAuth and clientAuth, the only two.
const BOTH_AUTHS: &[u8] = b"\x30\x14\x06\x08\x2b\x06\x01\x05\x05\x07\x03\x01\x06\x08\x2b\x06\x01\x05\x05\x07\x03\x02";
const SIGNS_CERTIFICATES: &[u8] = &[0x03, 0x02, 1, 0b0000_0110];

/// Checks an X.509-SVID: the rules for leaves of X509-SVID §2 to §4, and that it says what `spec` asks for and nothing
/// else.
///
/// # Errors
/// The first rule that it breaks.
pub fn x509(template: &Template, spec: &X509Spec<'_>, unsigned: &UnsignedX509) -> Result<Checked, CheckError> {
    let tbs = parse(unsigned, SVID)?;
    frame(&tbs, SVID, unsigned.serial(), template.algorithm, spec.validity)?;
    let bounds = template.bounds();
    let Validity {
        not_before, not_after, ..
    } = spec.validity;
    ensure!(
        not_before >= bounds.not_before && not_after <= bounds.not_after,
        SVID,
        "RFC 5280 §6.1.3",
        "it is valid from {not_before} to {not_after}, its authority from {} to {}",
        bounds.not_before,
        bounds.not_after
    );
    ensure!(
        tbs.issuer.as_raw() == &*template.issuer,
        SVID,
        "RFC 5280 §4.1.2.4",
        "the issuer is not the authority's subject"
    );
    ensure!(
        tbs.subject_pki.raw == spec.public_key.spki_der(),
        SVID,
        ORDER,
        "the public key is another one"
    );
    subject(&tbs.subject, spec.common_name())?;
    ensure!(
        !spec.spiffe_id.is_root(),
        SVID,
        "X509-SVID §3.1",
        "{} has no path",
        spec.spiffe_id
    );
    extensions(&tbs, template, spec)?;
    Ok(Checked(unsigned.serial()))
}

/// Checks an authority's own certificate: X509-SVID §3.2 and §4, and that it says what `spec` asks for and nothing
/// else.
///
/// # Errors
/// The first rule that it breaks.
pub fn authority(spec: &AuthoritySpec<'_>, unsigned: &UnsignedX509) -> Result<Checked, CheckError> {
    let tbs = parse(unsigned, CA)?;
    frame(&tbs, CA, unsigned.serial(), spec.algorithm(), spec.validity)?;
    ensure!(
        tbs.issuer.as_raw() == tbs.subject.as_raw(),
        CA,
        ORDER,
        "it is not self-signed"
    );
    ensure!(
        tbs.subject_pki.raw == spec.public_key.spki_der(),
        CA,
        ORDER,
        "the public key is another one"
    );
    let mut seen = Seen::new(CA);
    for extension in tbs.extensions() {
        seen.once(extension)?;
        match extension.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(names) => {
                let id = spec.trust_domain.id();
                ensure!(
                    matches!(&*names.general_names, [GeneralName::URI(uri)] if *uri == id.as_str()),
                    CA,
                    "X509-SVID §3.2",
                    "its names are not {id} alone"
                );
            }
            ParsedExtension::KeyUsage(usage) => {
                ensure!(extension.critical, CA, "X509-SVID §4.3", "keyUsage is not critical");
                ensure!(
                    extension.value == SIGNS_CERTIFICATES,
                    CA,
                    "X509-SVID §4.3",
                    "keyUsage is {usage}, not keyCertSign and cRLSign"
                );
            }
            ParsedExtension::SubjectKeyIdentifier(id) => {
                ensure!(
                    id.0 == spec.public_key.subject_key_id(),
                    CA,
                    "RFC 5280 §4.2.1.2",
                    "the subject key identifier is another key's"
                );
            }
            ParsedExtension::BasicConstraints(constraints) => {
                ensure!(
                    extension.critical && constraints.ca,
                    CA,
                    "X509-SVID §4.1",
                    "cA is not true and critical"
                );
            }
            other => ensure!(
                false,
                CA,
                ORDER,
                "it has an extension that was not asked for: {other:?}"
            ),
        }
    }
    seen.all(4)?;
    Ok(Checked(unsigned.serial()))
}

fn parse<'a>(unsigned: &'a UnsignedX509, credential: &'static str) -> Result<TbsCertificate<'a>, CheckError> {
    ensure!(is_canonical(unsigned.tbs()), credential, RFC, "it is not canonical DER");
    match TbsCertificate::from_der(unsigned.tbs()) {
        Ok((rest, tbs)) => {
            ensure!(rest.is_empty(), credential, RFC, "{} bytes follow it", rest.len());
            Ok(tbs)
        }
        Err(error) => Err(CheckError {
            credential,
            rule: RFC,
            problem: format!("it does not parse: {error}"),
        }),
    }
}

/// What every certificate of ours has in common.
fn frame(
    tbs: &TbsCertificate<'_>,
    credential: &'static str,
    serial: Serial,
    algorithm: SignatureAlgorithm,
    validity: Validity,
) -> Result<(), CheckError> {
    ensure!(
        tbs.version == X509Version::V3,
        credential,
        "RFC 5280 §4.1.2.1",
        "the version is {}",
        tbs.version
    );
    ensure!(
        tbs.raw_serial() == serial.as_bytes(),
        credential,
        ORDER,
        "the serial is {}, not {serial}",
        tbs.raw_serial_as_string()
    );
    let signature = &tbs.signature;
    let identified = match algorithm {
        SignatureAlgorithm::EcdsaP256 => x509_parser::oid_registry::OID_SIG_ECDSA_WITH_SHA256,
        SignatureAlgorithm::EcdsaP384 => x509_parser::oid_registry::OID_SIG_ECDSA_WITH_SHA384,
    };
    ensure!(
        signature.algorithm == identified && signature.parameters.is_none(),
        credential,
        "RFC 5280 §4.1.2.3",
        "the signature algorithm is {}, the authority signs with {algorithm:?}",
        signature.algorithm
    );
    let (start, end) = (tbs.validity.not_before.timestamp(), tbs.validity.not_after.timestamp());
    ensure!(
        start == validity.not_before && end == validity.not_after && start < end,
        credential,
        ORDER,
        "it is valid from {start} to {end}, not from {} to {}",
        validity.not_before,
        validity.not_after
    );
    ensure!(
        tbs.issuer_uid.is_none() && tbs.subject_uid.is_none(),
        credential,
        "RFC 5280 §4.1.2.8",
        "it has unique identifiers"
    );
    Ok(())
}

fn subject(subject: &X509Name<'_>, common_name: Option<&str>) -> Result<(), CheckError> {
    let text = |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| attribute.as_str().ok().map(str::to_owned);
    let organization = subject
        .iter_organization()
        .map(text)
        .eq([Some(ORGANIZATION_NAME.to_owned())]);
    let named = subject
        .iter_common_name()
        .map(text)
        .eq(common_name.map(|name| Some(name.to_owned())));
    let attributes = 1 + usize::from(common_name.is_some());
    ensure!(
        organization && named && subject.iter_attributes().count() == attributes,
        SVID,
        ORDER,
        "the subject is {subject}, not O={ORGANIZATION_NAME} with common name {common_name:?}"
    );
    Ok(())
}

fn extensions(tbs: &TbsCertificate<'_>, template: &Template, spec: &X509Spec<'_>) -> Result<(), CheckError> {
    let mut seen = Seen::new(SVID);
    for extension in tbs.extensions() {
        seen.once(extension)?;
        match extension.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(found) => names(found, spec)?,
            ParsedExtension::KeyUsage(usage) => {
                let expected = match spec.public_key.kind() {
                    KeyKind::Rsa => SIGNS_AND_ENCIPHERS,
                    KeyKind::P256 | KeyKind::P384 => SIGNS,
                };
                ensure!(
                    extension.critical && extension.value == expected,
                    SVID,
                    "X509-SVID §4.3",
                    "keyUsage is {usage}, or not critical"
                );
            }
            ParsedExtension::ExtendedKeyUsage(usage) => {
                ensure!(
                    usage.server_auth && usage.client_auth && extension.value == BOTH_AUTHS,
                    SVID,
                    "X509-SVID §4.4",
                    "extKeyUsage is not serverAuth and clientAuth"
                );
            }
            ParsedExtension::BasicConstraints(constraints) => {
                let leaf = BasicConstraints {
                    ca: false,
                    path_len_constraint: None,
                };
                ensure!(
                    extension.critical && *constraints == leaf,
                    SVID,
                    "X509-SVID §4.1",
                    "cA is not false and critical"
                );
            }
            ParsedExtension::SubjectKeyIdentifier(id) => {
                let expected = spec.public_key.subject_key_id();
                ensure!(
                    id.0 == expected,
                    SVID,
                    "RFC 5280 §4.2.1.2",
                    "the subject key identifier is another key's"
                );
            }
            ParsedExtension::AuthorityKeyIdentifier(id) => {
                let issuer = id.key_identifier.as_ref().is_some_and(|id| id.0 == template.key_id());
                let alone = id.authority_cert_issuer.is_none() && id.authority_cert_serial.is_none();
                ensure!(
                    issuer && alone,
                    SVID,
                    "RFC 5280 §4.2.1.1",
                    "the authority key identifier is another authority's"
                );
            }
            other => ensure!(
                false,
                SVID,
                ORDER,
                "it has an extension that was not asked for: {other:?}"
            ),
        }
    }
    seen.all(6)
}

/// The SPIFFE ID first and alone of its kind, then the DNS names and IP addresses of the order.
fn names(found: &SubjectAlternativeName<'_>, spec: &X509Spec<'_>) -> Result<(), CheckError> {
    let (id, others) = match &*found.general_names {
        [GeneralName::URI(uri), others @ ..] => (*uri, others),
        _ => ("", &*found.general_names),
    };
    ensure!(
        id == spec.spiffe_id.as_str(),
        SVID,
        "X509-SVID §2",
        "the first name is {id:?}, not {}",
        spec.spiffe_id
    );
    ensure!(
        !others.iter().any(|name| matches!(name, GeneralName::URI(_))),
        SVID,
        "X509-SVID §2",
        "it has a second URI"
    );
    let (dns_names, addresses) = others.split_at(spec.dns_names.len().min(others.len()));
    let same_dns = dns_names.len() == spec.dns_names.len()
        && dns_names
            .iter()
            .zip(spec.dns_names)
            .all(|(found, asked)| matches!(found, GeneralName::DNSName(name) if name == asked));
    let same_ip = addresses.len() == spec.ip_addresses.len()
        && addresses
            .iter()
            .zip(spec.ip_addresses)
            .all(|(found, asked)| matches!(found, GeneralName::IPAddress(ip) if same_address(ip, asked)));
    ensure!(same_dns && same_ip, SVID, ORDER, "its names are {others:?}");
    if !spec.dns_names.is_empty()
        && let Err(error) = dns::check_all(spec.dns_names)
    {
        return Err(CheckError {
            credential: SVID,
            rule: "RFC 5280 §4.2.1.6",
            problem: error.to_string(),
        });
    }
    Ok(())
}

fn same_address(found: &[u8], asked: &IpAddr) -> bool {
    match asked {
        IpAddr::V4(v4) => found == v4.octets(),
        IpAddr::V6(v6) => found == v6.octets(),
    }
}

/// Which extensions were met, so that none is there twice or missing.
struct Seen {
    credential: &'static str,
    bits: u8,
}

impl Seen {
    fn new(credential: &'static str) -> Self {
        Self { credential, bits: 0 }
    }

    fn once(&mut self, extension: &X509Extension<'_>) -> Result<(), CheckError> {
        let bit = match extension.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(_) => 1,
            ParsedExtension::KeyUsage(_) => 1 << 1,
            ParsedExtension::ExtendedKeyUsage(_) => 1 << 2,
            ParsedExtension::BasicConstraints(_) => 1 << 3,
            ParsedExtension::SubjectKeyIdentifier(_) => 1 << 4,
            ParsedExtension::AuthorityKeyIdentifier(_) => 1 << 5,
            _ => 0,
        };
        ensure!(
            self.bits & bit == 0,
            self.credential,
            "RFC 5280 §4.2",
            "it has the extension {} twice",
            extension.oid
        );
        self.bits |= bit;
        Ok(())
    }

    fn all(&self, expected: u32) -> Result<(), CheckError> {
        let found = self.bits.count_ones();
        ensure!(
            found == expected,
            self.credential,
            "RFC 5280 §4.2",
            "it has {found} of {expected} extensions"
        );
        Ok(())
    }
}
