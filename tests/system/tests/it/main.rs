//! The whole system, through its real programs and other people's clients.
#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(
    clippy::disallowed_methods,
    reason = "tests write plain files and open plain sockets, as strangers do"
)]

mod bad_input;
mod conformance;
mod crash;
mod ledger;
mod newcomer;
mod operator;
mod reference;
mod rotation;
