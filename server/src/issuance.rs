//! What happens, in which order?
//!
//! One order for every credential, from every door: the verdict; the log's index and with it the serial; `mint`
//! encodes; `ledger` makes the leaf durable; `mint` checks the bytes; `authority` signs them. The types leave no other:
//! an authority signs only what the ledger calls durable and the check has passed.
//!
//! - Comes in: who asks, as `attest` found out ([`Attested`](crate::attest::Attested)), and what for ([`X509Order`],
//!   [`JwtOrder`], [`WitOrder`]), in batches that cost one write to the log.
//! - Goes out: credentials, or for each a [`Refusal`].
//! - Who may call it: `api`, and the server for its own certificate. It is the only caller of `verdict` and, to issue,
//!   of `ledger`, `mint` and `authority`.

mod form;
mod issuer;
mod leaf;
mod metrics;
mod order;
mod refusal;
mod rules;

pub use issuer::{IssuanceConfig, Issuer};
pub use order::{JwtOrder, JwtSvid, WitOrder, WitSvid, X509Order, X509Svid};
pub use refusal::Refusal;

#[cfg(test)]
mod tests;
