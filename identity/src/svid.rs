//! The three documents that carry a SPIFFE ID, read and judged by the standards' rules.
//!
//! Comes in: a certificate in DER, a token in compact form. Goes out: what it says, once every rule that
//! concerns the document itself holds. For tokens the signature is verified here, too, against a
//! [`Bundle`](crate::Bundle); a chain of certificates is verified where TLS is.

mod jws;

pub mod jwt;
pub mod wit;
pub mod x509;

pub use jws::TokenError;
