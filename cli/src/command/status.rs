//! `mintmark status`: what the other end of the sockets is, and how it is.

mod server;
mod workload;

use serde::Serialize;

use self::server::ServerStatus;
use self::workload::WorkloadStatus;
use crate::context::Context;
use crate::failure::{Failure, refused};

pub const EXAMPLES: &str = "\
Examples:
  mintmark status                                       # both sockets, as far as they answer
  mintmark status --admin-socket /run/mintmark/server/api.sock --output json | jq .server.attention

A socket that is named, by option or environment, must answer. Of the default ones, one may be missing or not for this user.";

/// What both say.
#[derive(Serialize)]
struct Both {
    #[serde(skip_serializing_if = "Option::is_none")]
    server: Option<ServerStatus>,
    #[serde(skip_serializing_if = "Option::is_none")]
    workload_api: Option<WorkloadStatus>,
}

pub async fn run(context: &Context) -> Result<(), Failure> {
    let globals = &context.globals;
    let server_named = globals.admin_socket.is_some() || globals.server.is_some();
    let workload_named = globals.socket.is_some();
    let (server, workload) = tokio::join!(server::ask(context), workload::ask(context));
    let mut problems = Vec::new();
    let (server, workload) = match (server, workload) {
        (Err(server), Err(workload)) => {
            problems.push(server.to_string());
            problems.push(workload.to_string());
            (None, None)
        }
        (server, workload) => (
            keep(server, server_named, &mut problems),
            keep(workload, workload_named, &mut problems),
        ),
    };
    let both = Both {
        server,
        workload_api: workload,
    };
    let now = context.clock.unix();
    if both.server.is_some() || both.workload_api.is_some() {
        context.out.value(&both, |both| {
            let texts = [
                both.server.as_ref().map(|server| server.text(now)),
                both.workload_api.as_ref().map(|workload| workload.text(now)),
            ];
            texts.into_iter().flatten().collect::<Vec<_>>().join("\n")
        })?;
    }
    if problems.is_empty() {
        Ok(())
    } else {
        Err(refused(problems.join("\n")))
    }
}

/// A default socket that is missing or not for us is no problem where the other one answers.
fn keep<T>(answer: Result<T, Failure>, named: bool, problems: &mut Vec<String>) -> Option<T> {
    answer
        .map_err(|failure| {
            if named || !matches!(failure, Failure::Absent(_)) {
                problems.push(failure.to_string());
            }
        })
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_default_socket_may_be_missing_but_not_silent() {
        let problems = |failure, named| {
            let mut problems = Vec::new();
            assert_eq!(keep::<()>(Err(failure), named, &mut problems), None);
            problems.len()
        };
        assert_eq!(problems(Failure::Absent("no socket".into()), false), 0);
        assert_eq!(problems(Failure::Absent("no socket".into()), true), 1);
        assert_eq!(problems(refused("no answer"), false), 1);
    }
}
