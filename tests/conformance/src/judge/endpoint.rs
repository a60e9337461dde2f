//! EP-*: the Workload Endpoint.

use tonic::Code;

use super::{Finding, NotSeen, evidence::streams};
use crate::{
    observe::{Answer, HeaderProbe, RPCS, Refusal, SERVICE, Seen, Workload},
    report::shown,
};

pub(super) fn plain(seen: &Seen) -> Finding {
    let workload = seen.workload()?;
    let silent = |answer: Option<&Refusal>| answer.is_some_and(|refusal| refusal.code().is_none());
    let all_silent = silent(workload.jwt.as_ref().err())
        && silent(workload.x509.first.as_ref().err())
        && silent(workload.unknown_method.as_ref().err());
    Ok(match (&workload.jwt, &workload.x509.first) {
        (Err(jwt), _) if all_silent => vec![format!("no gRPC answer to anything: {jwt}")],
        (Err(jwt), Err(x509)) if [jwt, x509].iter().all(|r| r.code() == Some(Code::Unauthenticated)) => {
            vec![format!("asks for authentication: {jwt}")]
        }
        _ => Vec::new(),
    })
}

pub(super) fn header_missing(seen: &Seen) -> Finding {
    headers(seen, |value| value.is_none())
}

pub(super) fn header_wrong(seen: &Seen) -> Finding {
    headers(seen, |value| value.is_some())
}

fn headers(seen: &Seen, which: impl Fn(Option<&str>) -> bool) -> Finding {
    let workload = seen.workload()?;
    let wrong = |probe: &HeaderProbe| {
        let code = probe.answer.as_ref().err().and_then(Refusal::code);
        match code {
            Some(Code::InvalidArgument) => return None,
            // What is not offered at all needs no header check.
            Some(Code::Unimplemented) if is_unimplemented(workload, probe.rpc) => return None,
            _ => {}
        }
        let sent = match probe.value {
            None => "no header".to_owned(),
            Some(value) => format!("header {value:?}"),
        };
        Some(match &probe.answer {
            Ok(()) => format!("{} with {sent} is answered", probe.rpc),
            Err(refusal) => format!("{} with {sent}: {refusal}", probe.rpc),
        })
    };
    Ok(workload
        .headers
        .iter()
        .filter(|probe| which(probe.value))
        .filter_map(wrong)
        .collect())
}

/// Whether an RPC is Unimplemented also when it is called as it should be.
fn is_unimplemented(workload: &Workload, rpc: &str) -> bool {
    fn code<T>(answer: &Answer<T>) -> Option<Code> {
        answer.as_ref().err().and_then(Refusal::code)
    }
    let code = match rpc {
        "FetchX509SVID" => code(&workload.x509.first),
        "FetchX509Bundles" => code(&workload.x509_bundles.first),
        "FetchJWTSVID" => code(&workload.jwt),
        "FetchJWTBundles" => code(&workload.jwt_bundles.first),
        "FetchWITSVID" => code(&workload.wit.first),
        "FetchWITBundles" => code(&workload.wit_bundles.first),
        // Validation goes with the JWT profile.
        _ => code(&workload.jwt),
    };
    code == Some(Code::Unimplemented)
}

pub(super) fn header_reflection(seen: &Seen) -> Finding {
    let reflection = &seen.workload()?.reflection;
    if let Err(refusal) = &reflection.services {
        return Err(NotSeen::because(format!("reflection: {refusal}")));
    }
    Ok(match &reflection.without_header {
        Ok(_) => vec!["reflection answers without the header".into()],
        Err(_) => Vec::new(),
    })
}

pub(super) fn denied(seen: &Seen) -> Finding {
    let mut findings = Vec::new();
    for (rpc, answer) in denied_answers(seen)? {
        match answer {
            Ok(documents) => findings.push(format!("{rpc} gives {documents} SVIDs")),
            Err(Refusal::Silence(after)) => findings.push(format!("{rpc}: no answer within {after:?}")),
            Err(_) => {}
        }
    }
    Ok(findings)
}

pub(super) fn denied_code(seen: &Seen) -> Finding {
    let mut findings = Vec::new();
    for (rpc, answer) in denied_answers(seen)? {
        match answer {
            Err(refusal)
                if !matches!(
                    refusal.code(),
                    None | Some(Code::PermissionDenied | Code::Unimplemented)
                ) =>
            {
                findings.push(format!("{rpc}: {refusal}"));
            }
            _ => {}
        }
    }
    Ok(findings)
}

fn denied_answers(seen: &Seen) -> Result<&[(String, Answer<usize>)], NotSeen> {
    match &seen.denied {
        Some(denied) => match denied.answers.iter().find_map(|(_, answer)| answer.as_ref().err()) {
            Some(Refusal::NotCalled(why)) => Err(NotSeen::because(why)),
            _ => Ok(&denied.answers),
        },
        None => Err(NotSeen::because(
            "no --expect-no-identity-socket and no --expect-no-identity-uid",
        )),
    }
}

pub(super) fn unimplemented(seen: &Seen) -> Finding {
    Ok(match &seen.workload()?.unknown_method {
        Err(refusal) if refusal.code() == Some(Code::Unimplemented) => Vec::new(),
        Err(refusal) => vec![refusal.to_string()],
        Ok(()) => vec!["a method that does not exist is answered".into()],
    })
}

pub(super) fn reflection(seen: &Seen) -> Finding {
    let workload = seen.workload()?;
    if streams(workload).iter().all(|(_, first, _)| first.is_err()) && workload.reflection.services.is_err() {
        return Err(NotSeen::because("nothing else is answered either"));
    }
    Ok(match &workload.reflection.services {
        Err(refusal) => vec![refusal.to_string()],
        Ok(services) if services.iter().any(|name| name == SERVICE) => Vec::new(),
        Ok(services) => vec![format!("it lists {}", shown(&services.join(", ")))],
    })
}

pub(super) fn extended(seen: &Seen) -> Finding {
    match &seen.workload()?.reflection.methods {
        Err(refusal) => Err(NotSeen::because(format!("reflection: {refusal}"))),
        Ok(methods) => {
            let other = methods.iter().filter(|method| !RPCS.contains(&method.as_str()));
            Ok(other
                .map(|method| format!("it has a method {}", shown(method)))
                .collect())
        }
    }
}
