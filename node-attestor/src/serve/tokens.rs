//! Tokens: JWT-SVIDs, WIT-SVIDs and their bundles.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::try_join_all;
use mintmark_identity::SpiffeId;
use mintmark_identity::svid::jwt;
use mintmark_proto::workload::{
    JwtBundlesResponse, Jwtsvid, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest, ValidateJwtsvidResponse,
    WitBundlesResponse, Witsvid, WitsvidResponse,
};
use prost_types::value::Kind as ValueKind;
use prost_types::{ListValue, Struct, Value};
use tonic::Status;

use super::caller::Caller;
use super::status;
use super::watch::{Answer, Made};
use super::workload::Workloads;
use super::x509::{bundles_print, by_id};
use crate::keep::{Kind, Seen, View};

/// No more audiences than this in one token.
const MAX_AUDIENCES: usize = 64;
/// No longer audience than this.
const MAX_AUDIENCE: usize = 2048;

/// FetchJWTSVID.
pub(super) async fn jwt_svids(
    workloads: &Workloads,
    caller: &Caller,
    request: JwtsvidRequest,
) -> Result<JwtsvidResponse, Status> {
    let JwtsvidRequest { audience, spiffe_id } = request;
    if audience.is_empty() || audience.iter().any(String::is_empty) {
        return Err(Status::invalid_argument(
            "audience must be specified, and none of it may be empty",
        ));
    }
    if audience.len() > MAX_AUDIENCES || audience.iter().any(|one| one.len() > MAX_AUDIENCE) {
        return Err(Status::invalid_argument(format!(
            "at most {MAX_AUDIENCES} audiences of at most {MAX_AUDIENCE} bytes are possible"
        )));
    }
    let wanted = wanted_id(&spiffe_id)?;
    let has_it = |view: &View| chosen(view, wanted.as_ref()).is_ok();
    let view = caller.look(workloads, has_it).await?;
    let identities = chosen(&view, wanted.as_ref())?;
    let svids = identities.into_iter().map(|seen| {
        let audience = &audience;
        async move {
            let svid = workloads.keep.jwt(&seen.identity, audience).await;
            let svid = svid.map_err(|error| status::upstream("could not fetch JWT-SVID", &error))?;
            Ok::<_, Status>(Jwtsvid {
                spiffe_id: seen.identity.spiffe_id.to_string(),
                svid: svid.token.expose().to_owned(),
                hint: seen.hint.to_string(),
            })
        }
    });
    let svids = try_join_all(svids).await?;
    caller.peer.check_alive().map_err(|error| status::peer(&error))?;
    Ok(JwtsvidResponse { svids })
}

/// ValidateJWTSVID.
pub(super) async fn validate(
    workloads: &Workloads,
    caller: &Caller,
    request: ValidateJwtsvidRequest,
) -> Result<ValidateJwtsvidResponse, Status> {
    if request.audience.is_empty() {
        return Err(Status::invalid_argument("audience must be specified"));
    }
    if request.svid.is_empty() {
        return Err(Status::invalid_argument("svid must be specified"));
    }
    let view = caller.look(workloads, |_| true).await?;
    let now = workloads.clock.unix();
    let bundle_of = |trust_domain: &_| view.bundle(trust_domain).map(|held| &held.bundle);
    let claims =
        jwt::verify(&request.svid, &request.audience, now, 0, bundle_of).map_err(|error| status::token(&error))?;
    Ok(ValidateJwtsvidResponse {
        spiffe_id: claims.subject.to_string(),
        claims: Some(object(claims.all)),
    })
}

/// Answers of FetchJWTBundles.
pub(super) struct JwtBundles;

impl Answer for JwtBundles {
    type Message = JwtBundlesResponse;
    const METHOD: &'static str = "FetchJWTBundles";
    const KIND: Option<Kind> = None;

    fn answer(&mut self, view: &View) -> Result<Made<JwtBundlesResponse>, Status> {
        let view = view.clone();
        Ok(Made {
            print: bundles_print(&view),
            is_whole: view.own.is_some(),
            is_pending: false,
            message: Box::new(move || {
                Ok(JwtBundlesResponse {
                    bundles: by_id(&view, |held| Bytes::clone(&held.jwt))?,
                })
            }),
        })
    }
}

/// Answers of FetchWITBundles.
pub(super) struct WitBundles;

impl Answer for WitBundles {
    type Message = WitBundlesResponse;
    const METHOD: &'static str = "FetchWITBundles";
    const KIND: Option<Kind> = None;

    fn answer(&mut self, view: &View) -> Result<Made<WitBundlesResponse>, Status> {
        let view = view.clone();
        Ok(Made {
            print: bundles_print(&view),
            is_whole: view.own.is_some(),
            is_pending: false,
            message: Box::new(move || {
                Ok(WitBundlesResponse {
                    bundles: by_id(&view, |held| held.wit.to_string())?,
                })
            }),
        })
    }
}

/// Answers of FetchWITSVID.
pub(super) struct WitSvids {
    /// The one identity wanted; all when none.
    wanted: Option<SpiffeId>,
}

impl WitSvids {
    /// As the request has it.
    pub(super) fn new(spiffe_id: &str) -> Result<Self, Status> {
        Ok(Self {
            wanted: wanted_id(spiffe_id)?,
        })
    }
}

impl Answer for WitSvids {
    type Message = WitsvidResponse;
    const METHOD: &'static str = "FetchWITSVID";
    const KIND: Option<Kind> = Some(Kind::Wit);

    fn answer(&mut self, view: &View) -> Result<Made<WitsvidResponse>, Status> {
        let chosen: Vec<_> = chosen(view, self.wanted.as_ref())?.into_iter().cloned().collect();
        let there = chosen
            .iter()
            .filter_map(|seen| Some([seen.identity.print(), seen.wit.as_ref()?.generation]));
        Ok(Made {
            print: there.flatten().collect(),
            is_pending: chosen
                .iter()
                .all(|seen| seen.wit.is_none() && seen.wit_problem.is_none()),
            is_whole: chosen
                .iter()
                .all(|seen| seen.wit.is_some() || seen.wit_problem.is_some()),
            message: Box::new(move || wit_svids(&chosen)),
        })
    }

    fn wanted(&self, view: &View) -> Vec<Arc<str>> {
        let chosen = chosen(view, self.wanted.as_ref()).unwrap_or_default();
        chosen.into_iter().map(|seen| Arc::clone(&seen.identity.id)).collect()
    }
}

fn wit_svids(chosen: &[Seen]) -> Result<WitsvidResponse, Status> {
    let svids = chosen.iter().filter_map(|seen| {
        let svid = seen.wit.as_ref()?;
        Some(Witsvid {
            spiffe_id: seen.identity.spiffe_id.to_string(),
            wit_svid: svid.token.expose().to_owned(),
            wit_svid_key: svid.key.expose().to_owned(),
            hint: seen.hint.to_string(),
        })
    });
    let svids: Vec<_> = svids.collect();
    match svids.is_empty() {
        true => Err(status::not_signed(
            chosen.iter().find_map(|seen| seen.wit_problem.as_deref()),
        )),
        false => Ok(WitsvidResponse { svids }),
    }
}

/// The SPIFFE ID of a request; none when it is empty.
fn wanted_id(spiffe_id: &str) -> Result<Option<SpiffeId>, Status> {
    if spiffe_id.is_empty() {
        return Ok(None);
    }
    let parsed = SpiffeId::parse(spiffe_id);
    parsed
        .map(Some)
        .map_err(|error| Status::invalid_argument(format!("invalid requested SPIFFE ID: {error}")))
}

/// The caller's identities, or those that are the one it asks for.
fn chosen<'a>(view: &'a View, wanted: Option<&SpiffeId>) -> Result<Vec<&'a Seen>, Status> {
    let is_chosen = |seen: &&Seen| wanted.is_none_or(|wanted| seen.identity.spiffe_id == *wanted);
    let chosen: Vec<_> = view.identities.iter().filter(is_chosen).collect();
    match (chosen.is_empty(), wanted) {
        (true, Some(wanted)) => Err(status::not_that_one(wanted.as_str(), view)),
        _ => Ok(chosen),
    }
}

/// A JSON object as protobuf has it.
fn object(map: serde_json::Map<String, serde_json::Value>) -> Struct {
    Struct {
        fields: map.into_iter().map(|(name, json)| (name, value(json))).collect(),
    }
}

fn value(json: serde_json::Value) -> Value {
    use serde_json::Value as Json;
    let kind = match json {
        Json::Null => ValueKind::NullValue(0),
        Json::Bool(value) => ValueKind::BoolValue(value),
        // Numbers are doubles in protobuf, as they are in JavaScript.
        Json::Number(number) => ValueKind::NumberValue(number.as_f64().unwrap_or_default()),
        Json::String(text) => ValueKind::StringValue(text),
        Json::Array(values) => ValueKind::ListValue(ListValue {
            values: values.into_iter().map(value).collect(),
        }),
        Json::Object(map) => ValueKind::StructValue(object(map)),
    };
    Value { kind: Some(kind) }
}
