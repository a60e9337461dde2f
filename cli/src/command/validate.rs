//! `mintmark validate`: what a workload does that was shown a token.

use clap::{Args, Subcommand};
use mintmark_proto::workload::ValidateJwtsvidRequest;

use super::files::read_input;
use crate::client::{workload, workload_request};
use crate::context::Context;
use crate::failure::{Failure, refused};
use crate::output::{Fields, message_json, stamp_and_distance};

const JWT: &str = "\
Examples:
  mintmark validate jwt --audience test --svid \"$(mintmark fetch jwt --audience test)\"
  mintmark fetch jwt --audience test | mintmark validate jwt --audience test --svid -";

/// Longer tokens are none.
const MAX_TOKEN: usize = 1 << 20;

/// Validate SVIDs through the Workload API
#[derive(Debug, Subcommand)]
pub enum Validate {
    /// Validate a JWT-SVID: its signature, its end, its audience
    #[command(after_help = JWT)]
    Jwt(Jwt),
}

#[derive(Debug, Args)]
pub struct Jwt {
    /// Who we are to whoever shows the token
    #[arg(long, value_name = "AUDIENCE")]
    audience: String,
    /// The token, or - for standard input
    #[arg(long, value_name = "TOKEN")]
    svid: String,
}

impl Validate {
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let Self::Jwt(jwt) = self;
        let svid = if jwt.svid == "-" {
            String::from_utf8(read_input("-".as_ref())?)
                .map_err(|_| refused("standard input is no token: it is not text"))?
        } else {
            jwt.svid
        };
        let svid = svid.trim().to_owned();
        if svid.len() > MAX_TOKEN {
            return Err(Failure::Refused(format!(
                "a token has at most {MAX_TOKEN} bytes, and this one {}",
                svid.len()
            )));
        }
        let mut client = workload(context).await?;
        let request = ValidateJwtsvidRequest {
            audience: jwt.audience,
            svid,
        };
        let valid = context
            .ask(
                "accept the JWT-SVID",
                client.validate_jwtsvid(workload_request(request)),
            )
            .await?;
        let claims = message_json(&valid)?["claims"].clone();
        let now = context.clock.unix();
        context.out.message(&valid, |valid| {
            let mut fields = Fields::default();
            fields.add("valid", "yes").add("spiffe id", &valid.spiffe_id);
            for (name, value) in claims.as_object().into_iter().flatten() {
                let at = match (name.as_str(), value.as_f64()) {
                    #[expect(
                        clippy::cast_possible_truncation,
                        reason = "rounding down is meant, and no claim of ours is that large"
                    )]
                    ("exp" | "iat" | "nbf", Some(seconds)) => Some(stamp_and_distance(now, seconds as i64)),
                    _ => None,
                };
                let plain = || value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                fields.add(name, at.unwrap_or_else(plain));
            }
            fields.to_string()
        })
    }
}
