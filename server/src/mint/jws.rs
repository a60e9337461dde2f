//! JWT-SVIDs and WIT-SVIDs: the signing input of a JWS in compact form.
//!
//! In come a [`JwsTemplate`], made once per key, a [`JwtSpec`] or a [`WitSpec`] and the serial that becomes the `jti`;
//! out goes an [`UnsignedJws`].

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use mintmark_identity::{JwsAlg, KeyId, KeyKind, PublicKey, Serial, SpiffeId};
use serde::Serialize;
use x509_parser::prelude::{FromDer, SubjectPublicKeyInfo};
use x509_parser::public_key::PublicKey as ParsedKey;

/// The most audiences that one JWT-SVID may name.
pub const MAX_AUDIENCES: usize = 16;
/// The longest audience in bytes.
pub const MAX_AUDIENCE: usize = 1_024;

/// Which of the two kinds of token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TokenType {
    /// A JWT-SVID.
    Jwt,
    /// A WIT-SVID.
    Wit,
}

impl TokenType {
    /// The `typ` in its header (JWT-SVID §2.3, WIT-SVID §2).
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Jwt => "JWT",
            Self::Wit => "wit+jwt",
        }
    }
}

/// What every token under one key has in common: its header.
#[derive(Clone, Debug)]
pub struct JwsTemplate {
    pub(super) key_id: KeyId,
    pub(super) algorithm: JwsAlg,
    pub(super) token_type: TokenType,
    /// The header in base64url, with the dot behind it.
    head: Box<str>,
}

impl JwsTemplate {
    /// The template for tokens of one type under one key.
    pub fn new(token_type: TokenType, algorithm: JwsAlg, key_id: KeyId) -> Self {
        // A key ID and the two names need no escaping in JSON.
        let header = format!(
            r#"{{"alg":"{algorithm}","kid":"{key_id}","typ":"{}"}}"#,
            token_type.as_str()
        );
        let mut head = URL_SAFE_NO_PAD.encode(header);
        head.push('.');
        Self {
            key_id,
            algorithm,
            token_type,
            head: head.into(),
        }
    }

    /// The key that signs.
    pub fn key_id(&self) -> &KeyId {
        &self.key_id
    }
}

/// What one JWT-SVID shall say.
#[derive(Clone, Copy, Debug)]
pub struct JwtSpec<'a> {
    /// Whose it is.
    pub spiffe_id: &'a SpiffeId,
    /// For whom it is; at least one. Written as an array, also for one, as SPIRE does.
    pub audience: &'a [String],
    /// The OIDC issuer, which its consumers look for (JWT-SVID §3 leaves it open).
    pub issuer: Option<&'a str>,
    /// When it is made, seconds since 1970.
    pub issued_at: i64,
    /// From which second on it is no longer valid.
    pub expires_at: i64,
}

/// What one WIT-SVID shall say.
#[derive(Clone, Copy, Debug)]
pub struct WitSpec<'a> {
    /// Whose it is.
    pub spiffe_id: &'a SpiffeId,
    /// The key that its holder must prove to have.
    pub public_key: &'a PublicKey,
    /// When it is made, seconds since 1970.
    pub issued_at: i64,
    /// From which second on it is no longer valid.
    pub expires_at: i64,
}

/// The bytes of a token that will be signed.
#[derive(Clone, PartialEq, Eq)]
pub struct UnsignedJws {
    pub(super) signing_input: String,
    pub(super) jti: Serial,
}

impl UnsignedJws {
    /// Header and claims in base64url with a dot between them (RFC 7515 §5.1).
    pub fn signing_input(&self) -> &[u8] {
        self.signing_input.as_bytes()
    }

    /// Its `jti`.
    pub fn jti(&self) -> Serial {
        self.jti
    }

    /// The token: what was signed, a dot, and the signature.
    pub fn assemble(&self, signature: &[u8]) -> String {
        let mut token = String::with_capacity(self.signing_input.len() + 1 + signature.len().div_ceil(3) * 4);
        token.push_str(&self.signing_input);
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        token
    }
}

impl std::fmt::Debug for UnsignedJws {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UnsignedJws")
            .field("jti", &self.jti)
            .finish_non_exhaustive()
    }
}

/// Writes the signing input of a JWT-SVID.
pub fn encode_jwt(template: &JwsTemplate, spec: &JwtSpec<'_>, jti: Serial) -> UnsignedJws {
    #[derive(Serialize)]
    struct Claims<'a> {
        aud: &'a [String],
        exp: i64,
        iat: i64,
        #[serde(skip_serializing_if = "Option::is_none")]
        iss: Option<&'a str>,
        jti: &'a str,
        sub: &'a str,
    }
    let claims = Claims {
        aud: spec.audience,
        exp: spec.expires_at,
        iat: spec.issued_at,
        iss: spec.issuer,
        jti: &jti.jti(),
        sub: spec.spiffe_id.as_str(),
    };
    encode(template, &claims, jti)
}

/// Writes the signing input of a WIT-SVID.
pub fn encode_wit(template: &JwsTemplate, spec: &WitSpec<'_>, jti: Serial) -> UnsignedJws {
    #[derive(Serialize)]
    struct Claims<'a> {
        cnf: Confirmation,
        exp: i64,
        iat: i64,
        jti: &'a str,
        sub: &'a str,
    }
    #[derive(Serialize)]
    struct Confirmation {
        jwk: Jwk,
    }
    let claims = Claims {
        cnf: Confirmation {
            jwk: Jwk::of(spec.public_key),
        },
        exp: spec.expires_at,
        iat: spec.issued_at,
        jti: &jti.jti(),
        sub: spec.spiffe_id.as_str(),
    };
    encode(template, &claims, jti)
}

fn encode(template: &JwsTemplate, claims: &impl Serialize, jti: Serial) -> UnsignedJws {
    let claims = serde_json::to_vec(claims).expect("claims are strings and numbers, which JSON can always write");
    let mut signing_input = String::with_capacity(template.head.len() + claims.len().div_ceil(3) * 4);
    signing_input.push_str(&template.head);
    URL_SAFE_NO_PAD.encode_string(claims, &mut signing_input);
    UnsignedJws { signing_input, jti }
}

/// A public key as WIT-SVID §3 wants it in `cnf`, with the `alg` that its holder proves it by.
#[derive(Serialize)]
struct Jwk {
    alg: &'static str,
    kty: &'static str,
    #[serde(flatten)]
    key: JwkKey,
}

#[derive(Serialize)]
#[serde(untagged)]
enum JwkKey {
    Ec { crv: &'static str, x: String, y: String },
    Rsa { n: String, e: String },
}

impl Jwk {
    fn of(key: &PublicKey) -> Self {
        let alg = JwsAlg::of(key.kind()).as_str();
        match key.kind() {
            KeyKind::P256 => Self {
                alg,
                kty: "EC",
                key: JwkKey::point("P-256", key.key_bytes()),
            },
            KeyKind::P384 => Self {
                alg,
                kty: "EC",
                key: JwkKey::point("P-384", key.key_bytes()),
            },
            KeyKind::Rsa => Self {
                alg,
                kty: "RSA",
                key: JwkKey::rsa(key),
            },
        }
    }
}

impl JwkKey {
    /// The halves of an uncompressed point behind its `04`.
    fn point(crv: &'static str, point: &[u8]) -> Self {
        let coordinates = point.get(1..).unwrap_or_default();
        let (x, y) = coordinates.split_at(coordinates.len() / 2);
        Self::Ec {
            crv,
            x: URL_SAFE_NO_PAD.encode(x),
            y: URL_SAFE_NO_PAD.encode(y),
        }
    }

    fn rsa(key: &PublicKey) -> Self {
        let integer = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes.strip_prefix(&[0]).unwrap_or(bytes));
        let parsed = SubjectPublicKeyInfo::from_der(key.spki_der());
        match parsed.as_ref().map(|(_, spki)| spki.parsed()) {
            Ok(Ok(ParsedKey::RSA(rsa))) => Self::Rsa {
                n: integer(rsa.modulus),
                e: integer(rsa.exponent),
            },
            _ => unreachable!("a PublicKey of kind RSA is a well-formed RSA key"),
        }
    }
}
