//! The one place that checks every credential before it is signed.
//!
//! In come the bytes about to be signed, what they were made from, and the template of the authority; out goes a
//! [`Checked`], without which no authority signs. The bytes are parsed back by parsers that share no code with the
//! encoders. A failure is a defect of ours, and the credential is refused.

mod canonical;
mod jws;
mod x509;

use mintmark_identity::Serial;

pub use jws::{jwt, wit};
pub use x509::{authority, x509};

/// Proof that the credential with this serial passed its check.
#[derive(Debug)]
pub struct Checked(Serial);

impl Checked {
    /// Which credential passed.
    pub fn serial(&self) -> Serial {
        self.0
    }
}

/// A credential that is not what was asked for, or breaks a rule of SPIFFE; found before it was signed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the {credential} about to be signed breaks {rule}: {problem}")]
pub struct CheckError {
    /// What was to be signed.
    pub credential: &'static str,
    /// The rule, by the section of the standard that has it, or `the order` where it is not what was asked for.
    pub rule: &'static str,
    /// What is wrong.
    pub problem: String,
}

/// Returns from the function with a [`CheckError`] unless the condition holds.
macro_rules! ensure {
    ($holds:expr, $credential:expr, $rule:expr, $($problem:tt)+) => {
        if !$holds {
            return Err($crate::mint::check::CheckError { credential: $credential, rule: $rule, problem: format!($($problem)+) });
        }
    };
}
use ensure;
