//! Calls every RPC of the Workload API, rightly and wrongly.

use std::time::{Duration, Instant};

use http::uri::PathAndQuery;
use mintmark_proto::workload as pb;
use tonic::{Code, client::Grpc};
use tonic_prost::ProstCodec;

use super::{
    Answer, HeaderProbe, JwtAsk, JwtAsked, Opening, Refusal, Workload,
    api::{Api, request, with_header},
    jwt, reflection,
};
use crate::{Options, spiffe_id};

/// How many identities are asked for by name.
const MOST_IDENTITIES: usize = 16;

/// Looks at everything behind one socket.
pub(super) async fn observe(api: &Api, options: &Options) -> Workload {
    let streams = streams(api, options.hold).await;
    let audience = vec![options.audience.clone()];
    let jwt = fetch_jwt(api, audience.clone(), "").await;
    let identities = identities(&streams.x509, &jwt);
    let own = identities.first().map(String::as_str);
    let trust_domain = own.and_then(spiffe_id::trust_domain).unwrap_or_default().to_owned();

    let jwt_asked = ask_jwt(api, &audience, &identities, &trust_domain).await;
    let longest_id = match own {
        Some(_) => Some(longest_id(api, &audience, &trust_domain).await),
        None => None,
    };
    let validated = jwt::validate(api, &jwt, &streams.jwt_bundles, options).await;
    let token = jwt
        .as_ref()
        .ok()
        .and_then(|r| r.svids.first())
        .map_or_else(|| "a.b.c".into(), |s| s.svid.clone());
    let headers = headers(api, &audience, &token).await;
    Workload {
        x509: streams.x509,
        x509_again: streams.x509_again,
        x509_bundles: streams.x509_bundles,
        jwt_bundles: streams.jwt_bundles,
        wit: streams.wit,
        wit_bundles: streams.wit_bundles,
        jwt,
        jwt_asked,
        longest_id,
        validated,
        no_expiry: None,
        headers,
        unknown_method: unknown_method(api).await,
        reflection: reflection::observe(api).await,
    }
}

/// Adds what became of an expired token: the last thing of a run, since it may take long.
pub(super) async fn observe_expiry(api: &Api, workload: &mut Workload, options: &Options) {
    match jwt::expired(api, options).await {
        Ok(validated) => workload.validated.push(validated),
        Err(why) => workload.no_expiry = Some(why),
    }
}

/// Waits until the caller has an identity, or until it is too late.
pub(super) async fn await_identity(api: &Api, wait: Duration) {
    const PAUSE: Duration = Duration::from_millis(250);
    let until = Instant::now() + wait;
    while Instant::now() < until {
        let answer = api
            .first(api.client().fetch_x509svid(request(pb::X509svidRequest {})))
            .await;
        match answer.err().and_then(|refusal| refusal.code()) {
            Some(Code::PermissionDenied | Code::Unavailable) => tokio::time::sleep(PAUSE).await,
            _ => return,
        }
    }
}

struct Streams {
    x509: Opening<pb::X509svidResponse>,
    x509_again: Opening<pb::X509svidResponse>,
    x509_bundles: Opening<pb::X509BundlesResponse>,
    jwt_bundles: Opening<pb::JwtBundlesResponse>,
    wit: Opening<pb::WitsvidResponse>,
    wit_bundles: Opening<pb::WitBundlesResponse>,
}

/// Opens every stream at once and watches them together.
async fn streams(api: &Api, hold: Duration) -> Streams {
    let mut clients: [_; 6] = std::array::from_fn(|_| api.client());
    let [a, b, c, d, e, f] = &mut clients;
    let (x509, x509_again, x509_bundles, jwt_bundles, wit, wit_bundles) = tokio::join!(
        api.open(a.fetch_x509svid(request(pb::X509svidRequest {})), hold),
        api.open(b.fetch_x509svid(request(pb::X509svidRequest {})), hold),
        api.open(c.fetch_x509_bundles(request(pb::X509BundlesRequest {})), hold),
        api.open(d.fetch_jwt_bundles(request(pb::JwtBundlesRequest {})), hold),
        api.open(e.fetch_witsvid(request(pb::WitsvidRequest::default())), hold),
        api.open(f.fetch_wit_bundles(request(pb::WitBundlesRequest {})), hold),
    );
    Streams {
        x509,
        x509_again,
        x509_bundles,
        jwt_bundles,
        wit,
        wit_bundles,
    }
}

/// The caller's identities, as the X.509-SVIDs or else the JWT-SVIDs name them.
fn identities(x509: &Opening<pb::X509svidResponse>, jwt: &Answer<pb::JwtsvidResponse>) -> Vec<String> {
    let mut ids: Vec<String> = match (&x509.first, jwt) {
        (Ok(response), _) => response.svids.iter().map(|svid| svid.spiffe_id.clone()).collect(),
        (_, Ok(response)) => response.svids.iter().map(|svid| svid.spiffe_id.clone()).collect(),
        _ => Vec::new(),
    };
    let mut known = std::collections::BTreeSet::new();
    ids.retain(|id| known.insert(id.clone()));
    ids.truncate(MOST_IDENTITIES);
    ids
}

pub(super) async fn fetch_jwt(api: &Api, audience: Vec<String>, spiffe_id: &str) -> Answer<pb::JwtsvidResponse> {
    let message = pb::JwtsvidRequest {
        audience,
        spiffe_id: spiffe_id.into(),
    };
    api.unary(api.client().fetch_jwtsvid(request(message))).await
}

async fn ask_jwt(api: &Api, audience: &[String], identities: &[String], trust_domain: &str) -> Vec<JwtAsked> {
    let mut asks: Vec<(JwtAsk, String)> = identities.iter().map(|id| (JwtAsk::Own, id.clone())).collect();
    if let Some(own) = identities.first() {
        // Of an ID that is wrong in itself, nobody says what it is in upper case.
        if let Some(parts) = spiffe_id::parts(own).filter(|_| spiffe_id::is_valid(own)) {
            let upper = format!("SPIFFE://{}{}", parts.trust_domain.to_ascii_uppercase(), parts.path);
            asks.push((JwtAsk::OwnUpperCase, upper));
        }
        asks.push((
            JwtAsk::NotMine,
            format!("spiffe://{trust_domain}/spiffe-conformance/nobody"),
        ));
    }
    asks.push((JwtAsk::Elsewhere, "spiffe://spiffe-conformance.test/nobody".into()));
    asks.push((JwtAsk::NoAudience, String::new()));
    let mut asked = Vec::new();
    for (what, spiffe_id) in asks {
        let audience = if what == JwtAsk::NoAudience {
            Vec::new()
        } else {
            audience.to_vec()
        };
        let answer = fetch_jwt(api, audience, &spiffe_id).await;
        asked.push(JwtAsked {
            what,
            spiffe_id,
            answer,
        });
    }
    asked
}

/// Asks for an ID of 2048 bytes that is not the caller's, and for a short one.
async fn longest_id(
    api: &Api,
    audience: &[String],
    trust_domain: &str,
) -> (Answer<pb::JwtsvidResponse>, Answer<pb::JwtsvidResponse>) {
    let short = format!("spiffe://{trust_domain}/spiffe-conformance/nobody");
    let long = format!("{short:a<width$}", width = spiffe_id::MAX_ID);
    (
        fetch_jwt(api, audience.to_vec(), &long).await,
        fetch_jwt(api, audience.to_vec(), &short).await,
    )
}

/// Calls every RPC without the security header and with `True`, and one with other wrong values.
async fn headers(api: &Api, audience: &[String], token: &str) -> Vec<HeaderProbe> {
    let mut probes = Vec::new();
    for value in [None, Some("True")] {
        for rpc in RPCS {
            probes.push(HeaderProbe {
                rpc,
                value,
                answer: call(api, rpc, value, audience, token).await,
            });
        }
    }
    for value in ["", "false", "TRUE", "1", "yes", "truetrue"] {
        let rpc = RPCS[0];
        probes.push(HeaderProbe {
            rpc,
            value: Some(value),
            answer: call(api, rpc, Some(value), audience, token).await,
        });
    }
    probes
}

/// The RPCs of the Workload API.
pub(crate) const RPCS: [&str; 7] = [
    "FetchX509SVID",
    "FetchX509Bundles",
    "FetchJWTSVID",
    "FetchJWTBundles",
    "ValidateJWTSVID",
    "FetchWITSVID",
    "FetchWITBundles",
];

async fn call(api: &Api, rpc: &str, header: Option<&'static str>, audience: &[String], token: &str) -> Answer<()> {
    let mut client = api.client();
    match rpc {
        "FetchX509SVID" => api
            .first(client.fetch_x509svid(with_header(pb::X509svidRequest {}, header)))
            .await
            .map(drop),
        "FetchX509Bundles" => api
            .first(client.fetch_x509_bundles(with_header(pb::X509BundlesRequest {}, header)))
            .await
            .map(drop),
        "FetchJWTSVID" => {
            let message = pb::JwtsvidRequest {
                audience: audience.to_vec(),
                spiffe_id: String::new(),
            };
            api.unary(client.fetch_jwtsvid(with_header(message, header)))
                .await
                .map(drop)
        }
        "FetchJWTBundles" => api
            .first(client.fetch_jwt_bundles(with_header(pb::JwtBundlesRequest {}, header)))
            .await
            .map(drop),
        "ValidateJWTSVID" => {
            let message = pb::ValidateJwtsvidRequest {
                audience: audience.first().cloned().unwrap_or_default(),
                svid: token.into(),
            };
            api.unary(client.validate_jwtsvid(with_header(message, header)))
                .await
                .map(drop)
        }
        "FetchWITSVID" => api
            .first(client.fetch_witsvid(with_header(pb::WitsvidRequest::default(), header)))
            .await
            .map(drop),
        _ => api
            .first(client.fetch_wit_bundles(with_header(pb::WitBundlesRequest {}, header)))
            .await
            .map(drop),
    }
}

/// Calls a method that the service does not have.
async fn unknown_method(api: &Api) -> Answer<()> {
    let mut grpc = Grpc::new(api.channel());
    if let Err(e) = grpc.ready().await {
        return Err(Refusal::Status(Code::Unavailable, e.to_string()));
    }
    let path = PathAndQuery::from_static("/SpiffeWorkloadAPI/SpiffeConformanceNoSuchMethod");
    let codec = ProstCodec::<pb::X509svidRequest, pb::X509svidRequest>::default();
    api.unary(grpc.unary(request(pb::X509svidRequest {}), path, codec))
        .await
        .map(drop)
}
