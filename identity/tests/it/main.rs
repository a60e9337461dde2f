//! The promises of `mintmark-identity`, kept against implementations of others: rcgen and openssl make
//! what is parsed, ring makes signatures, and the crate `spiffe` judges the same inputs.

#![allow(clippy::unwrap_used, reason = "tests")]

mod bundle;
mod csr;
mod jwt;
mod properties;
mod spki;
mod support;
mod wit;
mod x509;
