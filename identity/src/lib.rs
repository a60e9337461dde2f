//! The nouns of Mintmark: SPIFFE IDs, selectors, DNS names, serials, keys, bundles and SVIDs.
//!
//! What it is for: one type for each thing that has a name in the SPIFFE standards, with one fallible
//! constructor, so that an identity never travels as a `String` past the edge.
//! What comes in: text, JSON and DER from outside, always bounded. What goes out: values that are
//! known to be well formed, and errors that name the value, the rule and the remedy.
//! Who may call it: every crate. It does no I/O and reads no clock; the time is an argument.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "tests"))]

mod csr;
mod der;
mod jws_alg;
mod key_id;
mod selector;
mod serial;
mod spiffe_id;
mod text;
mod ttl;

pub mod bundle;
pub mod dns;
pub mod jwk;
pub mod spki;
pub mod svid;

pub use bundle::{Bundle, BundleError, BundleMap, JwtAuthority, X509Authority};
pub use csr::{Csr, CsrError};
pub use jws_alg::{JwsAlg, JwsAlgError};
pub use key_id::{KeyId, KeyIdError};
pub use selector::{Selector, SelectorError, Selectors};
pub use serial::{Serial, SerialError};
pub use spiffe_id::{SpiffeId, SpiffeIdError, TrustDomain};
pub use spki::{KeyError, KeyKind, PublicKey};
pub use ttl::{Ttl, TtlError};
