//! Tokens, decoded again from their signing input.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use mintmark_identity::{KeyKind, PublicKey};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use x509_parser::prelude::{FromDer, SubjectPublicKeyInfo};
use x509_parser::public_key::PublicKey as ParsedKey;

use super::{CheckError, Checked, ensure};
use crate::mint::jws::{JwsTemplate, JwtSpec, TokenType, UnsignedJws, WitSpec};

const JWT: &str = "JWT-SVID";
const WIT: &str = "WIT-SVID";
const ORDER: &str = "the order";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    alg: String,
    kid: String,
    typ: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JwtClaims {
    aud: Vec<String>,
    exp: i64,
    iat: i64,
    iss: Option<String>,
    jti: String,
    sub: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WitClaims {
    cnf: Confirmation,
    exp: i64,
    iat: i64,
    jti: String,
    sub: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Confirmation {
    jwk: Jwk,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Jwk {
    alg: String,
    kty: String,
    crv: String,
    x: String,
    y: String,
    n: String,
    e: String,
}

/// Checks a JWT-SVID: JWT-SVID §2 and §3, and that it says what `spec` asks for and nothing else.
///
/// # Errors
/// The first rule that it breaks.
pub fn jwt(template: &JwsTemplate, spec: &JwtSpec<'_>, unsigned: &UnsignedJws) -> Result<Checked, CheckError> {
    let claims: JwtClaims = decode(JWT, template, TokenType::Jwt, unsigned)?;
    ensure!(
        !claims.aud.is_empty() && !claims.aud.iter().any(String::is_empty),
        JWT,
        "JWT-SVID §3.2",
        "the audience is {:?}",
        claims.aud
    );
    ensure!(
        claims.aud == spec.audience,
        JWT,
        ORDER,
        "the audience is {:?}, not {:?}",
        claims.aud,
        spec.audience
    );
    ensure!(
        claims.iss.as_deref() == spec.issuer,
        JWT,
        ORDER,
        "the issuer is {:?}, not {:?}",
        claims.iss,
        spec.issuer
    );
    ensure!(
        claims.sub == spec.spiffe_id.as_str() && !spec.spiffe_id.is_root(),
        JWT,
        "JWT-SVID §3.1",
        "the subject is {:?}",
        claims.sub
    );
    times(
        JWT,
        "JWT-SVID §3.3",
        (claims.iat, claims.exp),
        (spec.issued_at, spec.expires_at),
    )?;
    ensure!(
        claims.jti == unsigned.jti().jti(),
        JWT,
        ORDER,
        "the jti is {:?}",
        claims.jti
    );
    Ok(Checked(unsigned.jti()))
}

/// Checks a WIT-SVID: WIT-SVID §2 and §3, and that it says what `spec` asks for and nothing else.
///
/// # Errors
/// The first rule that it breaks.
pub fn wit(template: &JwsTemplate, spec: &WitSpec<'_>, unsigned: &UnsignedJws) -> Result<Checked, CheckError> {
    let claims: WitClaims = decode(WIT, template, TokenType::Wit, unsigned)?;
    ensure!(
        claims.sub == spec.spiffe_id.as_str() && !spec.spiffe_id.is_root(),
        WIT,
        "WIT-SVID §3",
        "the subject is {:?}",
        claims.sub
    );
    times(
        WIT,
        "WIT-SVID §3",
        (claims.iat, claims.exp),
        (spec.issued_at, spec.expires_at),
    )?;
    ensure!(
        claims.jti == unsigned.jti().jti(),
        WIT,
        ORDER,
        "the jti is {:?}",
        claims.jti
    );
    ensure!(
        claims.cnf.jwk.is(spec.public_key),
        WIT,
        "WIT-SVID §3",
        "cnf.jwk is not the key that it is bound to, or has no alg of JWT-SVID §2.1"
    );
    Ok(Checked(unsigned.jti()))
}

/// Splits, decodes and parses a signing input, and checks its header.
fn decode<T: DeserializeOwned>(
    credential: &'static str,
    template: &JwsTemplate,
    token_type: TokenType,
    unsigned: &UnsignedJws,
) -> Result<T, CheckError> {
    let input = std::str::from_utf8(unsigned.signing_input()).unwrap_or_default();
    let Some((header, claims)) = input.split_once('.') else {
        return Err(CheckError {
            credential,
            rule: "RFC 7515 §5.1",
            problem: "it has no dot".to_owned(),
        });
    };
    let header: Header = json(credential, "JWT-SVID §2", header)?;
    ensure!(
        template.token_type == token_type && header.typ == token_type.as_str(),
        credential,
        "JWT-SVID §2.3",
        "typ is {:?}",
        header.typ
    );
    ensure!(
        header.alg == template.algorithm.as_str(),
        credential,
        "JWT-SVID §2.1",
        "alg is {:?}, the key signs with {}",
        header.alg,
        template.algorithm
    );
    ensure!(
        header.kid == template.key_id.as_str(),
        credential,
        "JWT-SVID §2.2",
        "kid is {:?}, not {}",
        header.kid,
        template.key_id
    );
    json(credential, "RFC 7519 §7.1", claims)
}

fn json<T: DeserializeOwned>(credential: &'static str, rule: &'static str, part: &str) -> Result<T, CheckError> {
    let refuse = |problem: String| CheckError {
        credential,
        rule,
        problem,
    };
    let bytes = URL_SAFE_NO_PAD
        .decode(part)
        .map_err(|error| refuse(format!("it is not base64url: {error}")))?;
    serde_json::from_slice(&bytes).map_err(|error| refuse(format!("it does not parse: {error}")))
}

fn times(credential: &'static str, rule: &'static str, found: (i64, i64), asked: (i64, i64)) -> Result<(), CheckError> {
    ensure!(
        found == asked && found.0 < found.1,
        credential,
        rule,
        "it is made at {} and ends at {}, not at {} and {}",
        found.0,
        found.1,
        asked.0,
        asked.1
    );
    Ok(())
}

impl Jwk {
    /// Whether this is `key`, with the one algorithm that goes with its kind, and without members of other kinds.
    fn is(&self, key: &PublicKey) -> bool {
        let unused = |members: &[&String]| members.iter().all(|member| member.is_empty());
        match key.kind() {
            KeyKind::P256 => self.is_point(key, "P-256", "ES256") && unused(&[&self.n, &self.e]),
            KeyKind::P384 => self.is_point(key, "P-384", "ES384") && unused(&[&self.n, &self.e]),
            KeyKind::Rsa => {
                self.kty == "RSA" && self.alg == "RS256" && self.is_rsa(key) && unused(&[&self.crv, &self.x, &self.y])
            }
        }
    }

    fn is_point(&self, key: &PublicKey, curve: &str, algorithm: &str) -> bool {
        let Some((4, coordinates)) = key.key_bytes().split_first().map(|(form, rest)| (*form, rest)) else {
            return false;
        };
        let decoded = [bytes(&self.x), bytes(&self.y)].concat();
        self.kty == "EC"
            && self.alg == algorithm
            && self.crv == curve
            && decoded == coordinates
            && self.x.len() == self.y.len()
    }

    fn is_rsa(&self, key: &PublicKey) -> bool {
        let Ok((_, spki)) = SubjectPublicKeyInfo::from_der(key.spki_der()) else {
            return false;
        };
        let Ok(ParsedKey::RSA(rsa)) = spki.parsed() else {
            return false;
        };
        let bare = |integer: &[u8]| integer.strip_prefix(&[0]).unwrap_or(integer).to_vec();
        bytes(&self.n) == bare(rsa.modulus) && bytes(&self.e) == bare(rsa.exponent)
    }
}

/// What base64url says, or nothing, which is no key's coordinate.
fn bytes(text: &str) -> Cow<'static, [u8]> {
    URL_SAFE_NO_PAD.decode(text).map(Cow::Owned).unwrap_or_default()
}
