//! WA-5, WA-7, WA-8: what FetchJWTSVID and ValidateJWTSVID make of a request.

use std::collections::BTreeSet;

use tonic::Code;

use super::{Finding, NotSeen, evidence::got, jwt};
use crate::{
    observe::{Doctored, JwtAsk, JwtAsked, Refusal, Seen, Validated},
    report::shown,
};

/// The requests that lacked a mandatory field, and what came of them.
fn incomplete_requests(seen: &Seen) -> Result<Vec<(&'static str, Option<Refusal>)>, NotSeen> {
    let workload = seen.workload()?;
    let mut requests = Vec::new();
    for asked in workload
        .jwt_asked
        .iter()
        .filter(|asked| asked.what == JwtAsk::NoAudience)
    {
        requests.push(("FetchJWTSVID without audience", asked.answer.as_ref().err().cloned()));
    }
    for probe in &workload.validated {
        let what = match probe.what {
            Doctored::RequestWithoutAudience => "ValidateJWTSVID without audience",
            Doctored::RequestWithoutToken => "ValidateJWTSVID without svid",
            _ => continue,
        };
        requests.push((what, probe.answer.as_ref().err().cloned()));
    }
    requests.retain(|(_, refusal)| refusal.as_ref().and_then(Refusal::code) != Some(Code::Unimplemented));
    if requests.is_empty() {
        Err(NotSeen::because("the JWT profile is not offered"))
    } else {
        Ok(requests)
    }
}

pub(super) fn incomplete(seen: &Seen) -> Finding {
    let answered = incomplete_requests(seen)?
        .into_iter()
        .filter(|(_, refusal)| refusal.is_none());
    Ok(answered.map(|(what, _)| format!("{what} is answered")).collect())
}

pub(super) fn incomplete_code(seen: &Seen) -> Finding {
    let other = |(what, refusal): (&str, Option<Refusal>)| {
        let refusal = refusal.filter(|refusal| refusal.code() != Some(Code::InvalidArgument))?;
        Some(format!("{what}: {refusal}"))
    };
    Ok(incomplete_requests(seen)?.into_iter().filter_map(other).collect())
}

pub(super) fn all_tokens(seen: &Seen) -> Finding {
    let x509: BTreeSet<_> = seen.x509_svids()?.iter().map(|svid| svid.spiffe_id.as_str()).collect();
    let jwt: BTreeSet<_> = seen.jwt_svids()?.iter().map(|svid| svid.spiffe_id.as_str()).collect();
    let lacking: Vec<_> = x509.difference(&jwt).copied().collect();
    Ok(if lacking.is_empty() {
        Vec::new()
    } else {
        vec![format!("no token for {}", shown(&lacking.join(", ")))]
    })
}

pub(super) fn asked_token(seen: &Seen) -> Finding {
    seen.jwt_svids()?;
    let mut findings = Vec::new();
    let mut looked = false;
    for asked in asked(seen, &[JwtAsk::Own])? {
        looked = true;
        let id = shown(&asked.spiffe_id);
        match &asked.answer {
            Err(refusal) => findings.push(format!("{id}: {refusal}")),
            Ok(response) => {
                let other: BTreeSet<_> = response
                    .svids
                    .iter()
                    .filter(|s| s.spiffe_id != asked.spiffe_id)
                    .map(|s| shown(&s.spiffe_id))
                    .collect();
                if response.svids.is_empty() {
                    findings.push(format!("{id}: an empty list"));
                } else if !other.is_empty() {
                    findings.push(format!(
                        "{id}: also {}",
                        other.into_iter().collect::<Vec<_>>().join(", ")
                    ));
                }
            }
        }
    }
    if looked {
        Ok(findings)
    } else {
        Err(NotSeen::because("no identity to ask for"))
    }
}

pub(super) fn foreign_token(seen: &Seen) -> Finding {
    let mut findings = Vec::new();
    for asked in asked(seen, &[JwtAsk::NotMine, JwtAsk::Elsewhere])? {
        if asked.answer.is_ok() {
            findings.push(format!("{} is answered", shown(&asked.spiffe_id)));
        }
    }
    Ok(findings)
}

pub(super) fn foreign_code(seen: &Seen) -> Finding {
    let mut findings = Vec::new();
    for asked in asked(seen, &[JwtAsk::NotMine, JwtAsk::Elsewhere])? {
        match &asked.answer {
            Err(refusal) if refusal.code() != Some(Code::PermissionDenied) => {
                findings.push(format!("{}: {refusal}", shown(&asked.spiffe_id)));
            }
            _ => {}
        }
    }
    Ok(findings)
}

fn asked<'a>(seen: &'a Seen, which: &[JwtAsk]) -> Result<Vec<&'a JwtAsked>, NotSeen> {
    let asked: Vec<_> = seen
        .workload()?
        .jwt_asked
        .iter()
        .filter(|asked| which.contains(&asked.what))
        .collect();
    let unimplemented =
        |asked: &&JwtAsked| asked.answer.as_ref().err().and_then(Refusal::code) == Some(Code::Unimplemented);
    if asked.iter().any(unimplemented) {
        Err(NotSeen::because("the JWT profile is not offered"))
    } else {
        Ok(asked)
    }
}

/// What became of the server's own, unchanged token.
fn own(seen: &Seen) -> Result<&Validated, NotSeen> {
    let own = seen
        .workload()?
        .validated
        .iter()
        .find(|probe| probe.what == Doctored::Nothing);
    own.ok_or_else(|| NotSeen::because("no JWT-SVID to validate"))
}

pub(super) fn validates(seen: &Seen) -> Finding {
    let first = seen
        .jwt_svids()?
        .first()
        .map(|svid| svid.spiffe_id.as_str())
        .unwrap_or_default();
    Ok(match &own(seen)?.answer {
        Err(refusal) => vec![refusal.to_string()],
        Ok(response) if response.spiffe_id == first => Vec::new(),
        Ok(response) => vec![format!(
            "spiffe_id is {:?} instead of {}",
            shown(&response.spiffe_id),
            shown(first)
        )],
    })
}

pub(super) fn validated_claims(seen: &Seen) -> Finding {
    let response = got("ValidateJWTSVID", &own(seen)?.answer)?;
    let Some(claims) = &response.claims else {
        return Ok(vec!["no claims".into()]);
    };
    let lacking = ["sub", "aud", "exp"]
        .into_iter()
        .filter(|name| !claims.fields.contains_key(*name));
    Ok(lacking.map(|name| format!("no {name}")).collect())
}

pub(super) fn refuses_forged(seen: &Seen) -> Finding {
    jwt::refuses(
        seen,
        &[
            (Doctored::Subject, "the own token with another sub"),
            (
                Doctored::Signature,
                "the own token with one bit of the signature changed",
            ),
            (Doctored::ForeignKey, "a token of an unknown key under a known kid"),
            (Doctored::ForeignKid, "a token of an unknown key under its own kid"),
            (Doctored::OtherTrustDomain, "a token of a trust domain without a bundle"),
            (Doctored::Garbage, "text that is no token"),
        ],
    )
}
