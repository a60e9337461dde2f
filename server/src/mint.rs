//! What does the credential look like?
//!
//! In come an identity, a public key, a lifetime and the serial that the ledger assigned; out go the exact bytes that
//! will be signed: the TBS of an X.509-SVID or of an authority, the signing input of a JWT-SVID or a WIT-SVID. Pure
//! functions without I/O. [`check`] parses those very bytes back with somebody else's parser and holds them against
//! what was asked and against the rules of SPIFFE; only what it passed can be signed.
//!
//! Only `issuance` and, for the certificates of authorities, `authority` may call this room.

pub mod authority;
pub mod check;
mod der;
pub mod jws;
mod validity;
pub mod x509;

pub use validity::Validity;

#[cfg(test)]
mod tests;
