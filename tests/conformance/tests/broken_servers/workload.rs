//! The reference Workload API, with the faults that a server can have.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use futures::{Stream, StreamExt as _, stream};
use mintmark_proto::workload::{self as pb, spiffe_workload_api_server::SpiffeWorkloadApi};
use ring::{hmac, signature};
use serde_json::{Value, json};
use tonic::{Request, Response, Status, codegen::BoxStream, metadata::MetadataMap};

use crate::{
    authority::{World, now, pem},
    breakage::Breakage,
};

/// One socket of the reference server.
pub(crate) struct Service {
    pub(crate) world: Arc<World>,
    /// The `iss` of its tokens.
    pub(crate) issuer: String,
    /// Whether its callers have no identity.
    pub(crate) denies: bool,
    pub(crate) streams: AtomicUsize,
}

impl Service {
    fn is(&self, breakage: Breakage) -> bool {
        self.world.is(breakage)
    }

    /// The security header, then who asks.
    fn admit(&self, metadata: &MetadataMap) -> Result<(), Status> {
        check_header(&self.world, metadata)?;
        if self.is(Breakage::AsksForToken) {
            return Err(Status::unauthenticated("no token"));
        }
        if self.denies && self.is(Breakage::DeniedOtherCode) {
            return Err(Status::not_found("no identity"));
        }
        if self.denies && !self.is(Breakage::DeniedGetsSvid) {
            return Err(Status::permission_denied("no identity"));
        }
        Ok(())
    }

    /// A stream of one message that stays open.
    fn stay<T: Send + 'static>(&self, message: T) -> Result<Response<BoxStream<T>>, Status> {
        let first = stream::iter([Ok(message)]);
        let whole: std::pin::Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>> = match self.world.broken {
            Some(Breakage::StreamEnds) => Box::pin(first),
            Some(Breakage::StreamFails) => Box::pin(first.chain(stream::iter([Err(Status::internal("lost"))]))),
            _ => Box::pin(first.chain(stream::pending())),
        };
        Ok(Response::new(whole))
    }

    fn hint(&self, i: usize) -> String {
        match self.world.broken {
            Some(Breakage::DuplicateHints) => "same".into(),
            Some(Breakage::LongHint) if i == 0 => "h".repeat(1025),
            _ => ["internal", "external"][i].into(),
        }
    }

    fn x509_svids(&self) -> Vec<pb::X509svid> {
        let svid = |(i, id): (usize, &String)| {
            let (chain, key) = self.world.leaf(id);
            let bundle = match self.world.broken {
                Some(Breakage::EmptyBundle) => Vec::new(),
                Some(Breakage::PemBundle) => pem("CERTIFICATE", self.world.authority.der.clone()),
                _ => self.world.authority.der.clone(),
            };
            pb::X509svid {
                spiffe_id: id.clone(),
                x509_svid: chain.into(),
                x509_svid_key: key.into(),
                bundle: bundle.into(),
                hint: self.hint(i),
            }
        };
        self.world.ids.iter().enumerate().map(svid).collect()
    }

    fn crls(&self) -> Vec<prost::bytes::Bytes> {
        if self.is(Breakage::CrlNotDer) {
            vec![pem("X509 CRL", vec![1]).into()]
        } else {
            Vec::new()
        }
    }

    fn jwt_keys(&self) -> Value {
        let mut key = self.world.jwt.public_jwk(Some("jwt-svid"));
        let mut keys = Vec::new();
        match self.world.broken {
            Some(Breakage::JwtBundleNoKid) => crate::authority::remove(&mut key, "kid"),
            Some(Breakage::JwtBundleOtherUse) => keys.push(self.world.wit.public_jwk(Some("wit-svid"))),
            Some(Breakage::JwtBundlePrivate) => key["d"] = self.world.jwt.private(),
            Some(Breakage::JwtBundleCertificate) => {
                let mut certificate = self.world.authority.jwk();
                crate::authority::remove(&mut certificate, "use");
                certificate["kid"] = json!("certificate");
                keys.push(certificate);
            }
            _ => {}
        }
        keys.push(key);
        json!({ "keys": keys })
    }

    /// What a validator says of a token.
    fn validate(&self, audience: &str, token: &str) -> Result<Value, Status> {
        let refused = |why: &str| Status::invalid_argument(why.to_owned());
        if let (true, Ok(outer)) = (self.is(Breakage::ValidatesJson), serde_json::from_str::<Value>(token)) {
            let part = |name: &str| outer[name].as_str().unwrap_or_default().to_owned();
            let compact = format!("{}.{}.{}", part("protected"), part("payload"), part("signature"));
            return self.validate(audience, &compact);
        }
        if self.is(Breakage::ValidatesAnything) {
            return Ok(json!({ "sub": self.world.ids[0], "aud": audience, "exp": now() + 1 }));
        }
        let (message, signature) = token.rsplit_once('.').ok_or_else(|| refused("no token"))?;
        let (header, payload) = message.split_once('.').ok_or_else(|| refused("no token"))?;
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| refused("not base64url"));
        let json = |part: &str| serde_json::from_slice::<Value>(&decode(part)?).map_err(|_| refused("not JSON"));
        let (header, claims, signature) = (json(header)?, json(payload)?, decode(signature)?);
        let key = &self.world.jwt;
        if header["kid"].as_str().is_some_and(|kid| kid != key.kid) {
            return Err(refused("unknown key"));
        }
        let signed = match header["alg"].as_str() {
            Some("ES256") => signature::UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, &key.point)
                .verify(message.as_bytes(), &signature)
                .is_ok(),
            Some("none") => self.is(Breakage::ValidatesAlgNone),
            Some("HS256") if self.is(Breakage::ValidatesHmac) => {
                let secret = hmac::Key::new(hmac::HMAC_SHA256, &key.point);
                hmac::verify(&secret, message.as_bytes(), &signature).is_ok()
            }
            _ => false,
        };
        if !signed {
            return Err(refused("bad signature"));
        }
        let own = claims["sub"]
            .as_str()
            .is_some_and(|sub| sub.starts_with(&format!("{}/", self.world.id())));
        let heard = claims["aud"]
            .as_array()
            .is_some_and(|all| all.contains(&json!(audience)));
        let alive = claims["exp"].as_i64().is_some_and(|exp| exp > now());
        if !own
            || !(heard || self.is(Breakage::ValidatesOtherAudience))
            || !(alive || self.is(Breakage::ValidatesExpired))
        {
            return Err(refused("bad claims"));
        }
        Ok(claims)
    }
}

/// The security header.
pub(crate) fn check_header(world: &World, metadata: &MetadataMap) -> Result<(), Status> {
    let value = metadata.get("workload.spiffe.io").and_then(|value| value.to_str().ok());
    let admitted = match (world.broken, value) {
        (Some(Breakage::NoHeaderCheck), _) => true,
        (Some(Breakage::HeaderAnyCase), Some(value)) => value.eq_ignore_ascii_case("true"),
        (_, value) => value == Some("true"),
    };
    match admitted {
        true => Ok(()),
        false if world.is(Breakage::HeaderOtherCode) => Err(Status::permission_denied("security header missing")),
        false => Err(Status::invalid_argument("security header missing")),
    }
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for Service {
    async fn fetch_x509svid(
        &self,
        request: Request<pb::X509svidRequest>,
    ) -> Result<Response<BoxStream<pb::X509svidResponse>>, Status> {
        self.admit(request.metadata())?;
        let mut svids = self.x509_svids();
        let later = self.streams.fetch_add(1, Ordering::Relaxed) > 0;
        match self.world.broken {
            Some(Breakage::NoSvids) => svids.clear(),
            Some(Breakage::SecondStreamPartial) if later => svids.truncate(1),
            Some(Breakage::SecondStreamOtherOrder) if later => svids.reverse(),
            _ => {}
        }
        let mut federated_bundles =
            BTreeMap::from([("spiffe://friend.test".to_owned(), self.world.friend.der.clone().into())]);
        if self.is(Breakage::FederatedOwn) {
            federated_bundles.insert(self.world.id(), self.world.authority.der.clone().into());
        }
        self.stay(pb::X509svidResponse {
            svids,
            crl: self.crls(),
            federated_bundles,
        })
    }

    async fn fetch_x509_bundles(
        &self,
        request: Request<pb::X509BundlesRequest>,
    ) -> Result<Response<BoxStream<pb::X509BundlesResponse>>, Status> {
        self.admit(request.metadata())?;
        if self.is(Breakage::StreamSilent) {
            return Ok(Response::new(Box::pin(stream::pending())));
        }
        let mut bundles = BTreeMap::from([("spiffe://friend.test".to_owned(), self.world.friend.der.clone().into())]);
        match self.world.broken {
            Some(Breakage::X509BundlesWithoutOwn) => {}
            Some(Breakage::X509BundlesDiffer) => {
                bundles.insert(self.world.id(), self.world.friend.der.clone().into());
            }
            _ => {
                bundles.insert(self.world.id(), self.world.authority.der.clone().into());
            }
        }
        self.stay(pb::X509BundlesResponse {
            crl: self.crls(),
            bundles,
        })
    }

    async fn fetch_jwtsvid(
        &self,
        request: Request<pb::JwtsvidRequest>,
    ) -> Result<Response<pb::JwtsvidResponse>, Status> {
        self.admit(request.metadata())?;
        let request = request.into_inner();
        if request.audience.is_empty() && self.is(Breakage::IncompleteOtherCode) {
            return Err(Status::failed_precondition("audience is empty"));
        }
        if request.audience.is_empty() && !self.is(Breakage::AudienceOptional) {
            return Err(Status::invalid_argument("audience is empty"));
        }
        let asked = request.spiffe_id.as_str();
        if asked.len() > 1024 && self.is(Breakage::LongIdRefusedOtherwise) {
            return Err(Status::invalid_argument("the SPIFFE ID is too long"));
        }
        if asked.starts_with("SPIFFE://") && self.is(Breakage::UpperCaseIdRefused) {
            return Err(Status::invalid_argument("no SPIFFE ID"));
        }
        let is_asked = |id: &str| {
            // Scheme and trust domain are case-insensitive, the path is not.
            let (path, prefix) = (id.len() - id.rsplit('/').next().unwrap_or_default().len(), id);
            let head = asked
                .get(..path)
                .is_some_and(|head| head.eq_ignore_ascii_case(&prefix[..path]));
            asked.is_empty() || (head && asked.get(path..) == id.get(path..))
        };
        let mut ids: Vec<(usize, String)> = self.world.ids.iter().cloned().enumerate().collect();
        if !(self.is(Breakage::JwtIgnoresAskedId) && self.world.ids.iter().any(|id| is_asked(id))) {
            ids.retain(|(_, id)| is_asked(id));
        }
        if self.is(Breakage::JwtForOneOnly) {
            ids.truncate(1);
        }
        if ids.is_empty() && self.is(Breakage::JwtForAnybody) {
            ids.push((0, asked.to_owned()));
        }
        if ids.is_empty() {
            return Err(match self.world.broken {
                Some(Breakage::JwtForeignOtherCode) => Status::not_found("not your identity"),
                _ => Status::permission_denied("not your identity"),
            });
        }
        let svid = |(i, id): (usize, String)| pb::Jwtsvid {
            svid: self.world.jwt(&id, &request.audience, &self.issuer),
            spiffe_id: id,
            hint: self.hint(i),
        };
        Ok(Response::new(pb::JwtsvidResponse {
            svids: ids.into_iter().map(svid).collect(),
        }))
    }

    async fn fetch_jwt_bundles(
        &self,
        request: Request<pb::JwtBundlesRequest>,
    ) -> Result<Response<BoxStream<pb::JwtBundlesResponse>>, Status> {
        self.admit(request.metadata())?;
        let id = if self.is(Breakage::JwtBundleByName) {
            self.world.trust_domain.clone()
        } else {
            self.world.id()
        };
        let set = if self.is(Breakage::JwtBundleNoJson) {
            "keys".into()
        } else {
            self.jwt_keys().to_string()
        };
        self.stay(pb::JwtBundlesResponse {
            bundles: BTreeMap::from([(id, set.into())]),
        })
    }

    async fn validate_jwtsvid(
        &self,
        request: Request<pb::ValidateJwtsvidRequest>,
    ) -> Result<Response<pb::ValidateJwtsvidResponse>, Status> {
        self.admit(request.metadata())?;
        let request = request.into_inner();
        if request.audience.is_empty() || request.svid.is_empty() {
            return Err(Status::invalid_argument("audience or svid is empty"));
        }
        if self.is(Breakage::ValidatesNothing) {
            return Err(Status::internal("out of order"));
        }
        let claims = self.validate(&request.audience, &request.svid)?;
        let mut spiffe_id = claims["sub"].as_str().unwrap_or_default().to_owned();
        if self.is(Breakage::ValidatesAsAnother) {
            spiffe_id.push_str("/other");
        }
        let claims = match self.world.broken {
            Some(Breakage::ValidatesWithoutClaims) => prost_types::Struct::default(),
            _ => to_struct(&claims),
        };
        Ok(Response::new(pb::ValidateJwtsvidResponse {
            spiffe_id,
            claims: Some(claims),
        }))
    }

    async fn fetch_witsvid(
        &self,
        request: Request<pb::WitsvidRequest>,
    ) -> Result<Response<BoxStream<pb::WitsvidResponse>>, Status> {
        self.admit(request.metadata())?;
        if self.is(Breakage::WitAbsent) {
            return Err(Status::unimplemented("no WIT-SVIDs"));
        }
        let svid = |(i, id): (usize, &String)| {
            let (wit_svid, wit_svid_key) = self.world.wit(id);
            let named = if self.is(Breakage::ResponseNamesAnother) {
                format!("{id}/other")
            } else {
                id.clone()
            };
            pb::Witsvid {
                spiffe_id: named,
                wit_svid,
                wit_svid_key,
                hint: self.hint(i),
            }
        };
        self.stay(pb::WitsvidResponse {
            svids: self.world.ids.iter().enumerate().map(svid).collect(),
        })
    }

    async fn fetch_wit_bundles(
        &self,
        request: Request<pb::WitBundlesRequest>,
    ) -> Result<Response<BoxStream<pb::WitBundlesResponse>>, Status> {
        self.admit(request.metadata())?;
        if self.is(Breakage::WitAbsent) || self.is(Breakage::WitHalf) {
            return Err(Status::unimplemented("no WIT-SVIDs"));
        }
        let mut key = self.world.wit.public_jwk(Some("wit-svid"));
        match self.world.broken {
            Some(Breakage::WitBundleUse) => key["use"] = json!("jwt-svid"),
            Some(Breakage::WitBundleNoKid) => crate::authority::remove(&mut key, "kid"),
            _ => {}
        }
        let set = json!({ "keys": [key] }).to_string();
        self.stay(pb::WitBundlesResponse {
            bundles: BTreeMap::from([(self.world.id(), set)]),
        })
    }
}

fn to_struct(claims: &Value) -> prost_types::Struct {
    let fields = claims
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, value)| (name.clone(), to_value(value)));
    prost_types::Struct {
        fields: fields.collect(),
    }
}

fn to_value(value: &Value) -> prost_types::Value {
    use prost_types::value::Kind;
    let kind = match value {
        Value::String(text) => Kind::StringValue(text.clone()),
        Value::Array(all) => Kind::ListValue(prost_types::ListValue {
            values: all.iter().map(to_value).collect(),
        }),
        other => Kind::NumberValue(other.as_f64().unwrap_or_default()),
    };
    prost_types::Value { kind: Some(kind) }
}
