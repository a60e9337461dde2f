//! A conformance suite for anything that serves the SPIFFE standards: one check for each rule of them that can be
//! seen from outside, named by its number.
//!
//! Comes in: the address of a Workload API socket, a bundle endpoint and an OIDC issuer, whoever made them.
//! Goes out: a [`Report`] with one line a check. The work has three steps, each a module:
//!
//! ```text
//! observe   talks to the server and writes down everything it said      -> Seen
//! judge     one pure function a check: what of Seen breaks the rule?    -> Report
//! report    prints it as text, JSON or JUnit
//! ```
//!
//! Nothing here is shared with Mintmark but the client generated from the published messages: certificates are read by
//! `x509-parser`, paths verified by `webpki`, keys loaded by `rustls`, tokens verified by `jsonwebtoken`. SPIFFE IDs
//! are read by a few lines of its own ([`spiffe_id`]), so that a mistake in Mintmark's parser is not made twice.

#![allow(
    clippy::disallowed_methods,
    reason = "links nothing of Mintmark's runtime, so that it judges it from outside"
)]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "tests"))]

mod der;
mod judge;
mod jws;
mod observe;
mod options;
mod report;
mod spiffe_id;
mod verified;

pub use judge::{CHECKS, Check, Level, select};
pub use observe::{PROBE, probe};
pub use options::{Options, Output};
pub use report::{Line, Outcome, Report, list};

use anyhow::Result;

/// Looks at what `options` names and judges it by the selected checks.
///
/// # Errors
/// When an address cannot be used at all: nothing listens there, or a file that is named cannot be read. What a
/// reachable server does wrong is a line of the report.
pub async fn run(options: &Options) -> Result<Report> {
    let selected = select(&options.only, &options.skip)?;
    let seen = observe::observe(options).await?;
    Ok(judge::judge(&selected, &seen))
}
