//! `mintmark version`.

use serde::Serialize;

use crate::context::Context;
use crate::failure::Failure;

pub const EXAMPLES: &str = "Example:\n  mintmark version";

#[derive(Serialize)]
struct Version {
    version: &'static str,
}

pub fn run(context: &Context) -> Result<(), Failure> {
    let version = Version {
        version: env!("CARGO_PKG_VERSION"),
    };
    context
        .out
        .value(&version, |version| format!("mintmark {}", version.version))
}
