//! The three forms of credential: what is particular to each on the common path.

use std::sync::Arc;

use mintmark_identity::{Serial, SpiffeId, dns};
use mintmark_proto::ledger::Kind as LeafKind;

use super::issuer::{Call, Grant, Inner, IssuanceConfig};
use super::leaf::Draft;
use super::rules::check_audience;
use super::{JwtOrder, JwtSvid, Refusal, WitOrder, WitSvid, X509Order, X509Svid};
use crate::attest::By;
use crate::authority::{JwsAuthority, Kind, SignError, X509Authority};
use crate::ledger::Durable;
use crate::mint::jws::{self, JwtSpec, UnsignedJws, WitSpec};
use crate::mint::x509::{self, UnsignedX509, X509Spec};
use crate::mint::{Validity, check};

/// A form of credential under one authority. The order of the methods is the order in which they are called.
pub(super) trait Form: Sync {
    type Order: Sync;
    type Unsigned: Send;
    type Svid: Send;
    /// Its name in metrics.
    const KIND: &'static str;

    /// Holds an order against the rules and the verdict.
    fn grant(&self, inner: &Inner, call: Call<'_>, order: &Self::Order) -> Result<Grant, Refusal>;
    /// Writes what will be signed.
    fn encode(
        &self,
        config: &IssuanceConfig,
        order: &Self::Order,
        validity: Validity,
        serial: Serial,
    ) -> Self::Unsigned;
    /// The bytes that will be signed.
    fn content(unsigned: &Self::Unsigned) -> &[u8];
    /// Checks and signs.
    fn sign(
        &self,
        config: &IssuanceConfig,
        order: &Self::Order,
        validity: Validity,
        unsigned: Durable<Self::Unsigned>,
    ) -> Result<Self::Svid, Refusal>;
    /// Verifies the signature of the finished credential.
    fn verify(&self, svid: &Self::Svid) -> Result<(), SignError>;
    /// Whose an order is, and for which entry: for the log.
    fn subject(order: &Self::Order) -> (&SpiffeId, Option<&str>);
    /// The serial and the end of a credential: for the log.
    fn outcome(svid: &Self::Svid) -> (Serial, i64);
}

/// X.509-SVIDs.
pub(super) struct X509Form(pub(super) Arc<X509Authority>);

impl Form for X509Form {
    type Order = X509Order;
    type Unsigned = UnsignedX509;
    type Svid = X509Svid;
    const KIND: &'static str = "x509";

    fn grant(&self, inner: &Inner, call: Call<'_>, order: &X509Order) -> Result<Grant, Refusal> {
        inner.check_identity(call, &order.spiffe_id)?;
        dns::check_all(&order.dns_names)?;
        if !order.ip_addresses.is_empty() && !matches!(call.asked.by(), By::Server) {
            return Err(Refusal::IpAddress(order.spiffe_id.clone()));
        }
        let verdict = inner.verdict(call, &order.spiffe_id, order.entry_id.as_deref())?;
        let ttl = order.ttl.unwrap_or(inner.config.x509_ttl);
        let bounds = (self.0.not_before(), self.0.not_after());
        let validity = inner.validity(call, ttl, &verdict, Kind::X509, bounds)?;
        let draft = Draft {
            kind: LeafKind::X509Svid,
            asked: call.asked,
            verdict: &verdict,
            spiffe_id: &order.spiffe_id,
            public_key: Some(&order.public_key),
            validity,
            key_id: self.0.key_id(),
            audience: &[],
            dns_names: &order.dns_names,
            entry_id: order.entry_id.as_deref(),
            time_unix_ms: call.now_ms,
        };
        Ok(Grant {
            validity,
            leaf: draft.leaf()?,
        })
    }

    fn encode(&self, _: &IssuanceConfig, order: &X509Order, validity: Validity, serial: Serial) -> UnsignedX509 {
        x509::encode(self.0.template(), &order.spec(validity), serial)
    }

    fn content(unsigned: &UnsignedX509) -> &[u8] {
        unsigned.tbs()
    }

    fn sign(
        &self,
        _: &IssuanceConfig,
        order: &X509Order,
        validity: Validity,
        unsigned: Durable<UnsignedX509>,
    ) -> Result<X509Svid, Refusal> {
        let checked = check::x509(self.0.template(), &order.spec(validity), unsigned.get())?;
        let serial = checked.serial();
        Ok(X509Svid {
            chain: vec![self.0.sign(unsigned, checked)?],
            spiffe_id: order.spiffe_id.clone(),
            serial,
            not_before: validity.not_before,
            not_after: validity.not_after,
            key_id: self.0.key_id().clone(),
        })
    }

    fn verify(&self, svid: &X509Svid) -> Result<(), SignError> {
        svid.chain.first().map_or(Ok(()), |leaf| self.0.verify(leaf))
    }

    fn subject(order: &X509Order) -> (&SpiffeId, Option<&str>) {
        (&order.spiffe_id, order.entry_id.as_deref())
    }

    fn outcome(svid: &X509Svid) -> (Serial, i64) {
        (svid.serial, svid.not_after)
    }
}

impl X509Order {
    fn spec(&self, validity: Validity) -> X509Spec<'_> {
        X509Spec {
            spiffe_id: &self.spiffe_id,
            public_key: &self.public_key,
            dns_names: &self.dns_names,
            ip_addresses: &self.ip_addresses,
            validity,
        }
    }
}

/// JWT-SVIDs, of one algorithm.
pub(super) struct JwtForm(pub(super) Arc<JwsAuthority>);

impl Form for JwtForm {
    type Order = JwtOrder;
    type Unsigned = UnsignedJws;
    type Svid = JwtSvid;
    const KIND: &'static str = "jwt";

    fn grant(&self, inner: &Inner, call: Call<'_>, order: &JwtOrder) -> Result<Grant, Refusal> {
        inner.check_identity(call, &order.spiffe_id)?;
        check_audience(&order.audience)?;
        let verdict = inner.verdict(call, &order.spiffe_id, order.entry_id.as_deref())?;
        let ttl = order.ttl.unwrap_or(inner.config.jwt_ttl);
        let bounds = (self.0.not_before(), self.0.not_after());
        let validity = inner
            .validity(call, ttl, &verdict, Kind::Jwt, bounds)?
            .starting(call.now());
        let draft = Draft {
            kind: LeafKind::JwtSvid,
            asked: call.asked,
            verdict: &verdict,
            spiffe_id: &order.spiffe_id,
            public_key: None,
            validity,
            key_id: self.0.key_id(),
            audience: &order.audience,
            dns_names: &[],
            entry_id: order.entry_id.as_deref(),
            time_unix_ms: call.now_ms,
        };
        Ok(Grant {
            validity,
            leaf: draft.leaf()?,
        })
    }

    fn encode(&self, config: &IssuanceConfig, order: &JwtOrder, validity: Validity, jti: Serial) -> UnsignedJws {
        jws::encode_jwt(self.0.template(), &order.spec(config, validity), jti)
    }

    fn content(unsigned: &UnsignedJws) -> &[u8] {
        unsigned.signing_input()
    }

    fn sign(
        &self,
        config: &IssuanceConfig,
        order: &JwtOrder,
        validity: Validity,
        unsigned: Durable<UnsignedJws>,
    ) -> Result<JwtSvid, Refusal> {
        let checked = check::jwt(self.0.template(), &order.spec(config, validity), unsigned.get())?;
        let jti = checked.serial();
        Ok(JwtSvid {
            token: self.0.sign(unsigned, checked)?,
            spiffe_id: order.spiffe_id.clone(),
            jti,
            issued_at: validity.not_before,
            expires_at: validity.not_after,
            key_id: self.0.key_id().clone(),
        })
    }

    fn verify(&self, svid: &JwtSvid) -> Result<(), SignError> {
        self.0.verify(&svid.token)
    }

    fn subject(order: &JwtOrder) -> (&SpiffeId, Option<&str>) {
        (&order.spiffe_id, order.entry_id.as_deref())
    }

    fn outcome(svid: &JwtSvid) -> (Serial, i64) {
        (svid.jti, svid.expires_at)
    }
}

impl JwtOrder {
    fn spec<'a>(&'a self, config: &'a IssuanceConfig, validity: Validity) -> JwtSpec<'a> {
        JwtSpec {
            spiffe_id: &self.spiffe_id,
            audience: &self.audience,
            issuer: config.jwt_issuer.as_deref(),
            issued_at: validity.not_before,
            expires_at: validity.not_after,
        }
    }
}

/// WIT-SVIDs.
pub(super) struct WitForm(pub(super) Arc<JwsAuthority>);

impl Form for WitForm {
    type Order = WitOrder;
    type Unsigned = UnsignedJws;
    type Svid = WitSvid;
    const KIND: &'static str = "wit";

    fn grant(&self, inner: &Inner, call: Call<'_>, order: &WitOrder) -> Result<Grant, Refusal> {
        inner.check_identity(call, &order.spiffe_id)?;
        let verdict = inner.verdict(call, &order.spiffe_id, order.entry_id.as_deref())?;
        let ttl = order.ttl.unwrap_or(inner.config.wit_ttl);
        let bounds = (self.0.not_before(), self.0.not_after());
        let validity = inner
            .validity(call, ttl, &verdict, Kind::Wit, bounds)?
            .starting(call.now());
        let draft = Draft {
            kind: LeafKind::WitSvid,
            asked: call.asked,
            verdict: &verdict,
            spiffe_id: &order.spiffe_id,
            public_key: Some(&order.public_key),
            validity,
            key_id: self.0.key_id(),
            audience: &[],
            dns_names: &[],
            entry_id: order.entry_id.as_deref(),
            time_unix_ms: call.now_ms,
        };
        Ok(Grant {
            validity,
            leaf: draft.leaf()?,
        })
    }

    fn encode(&self, _: &IssuanceConfig, order: &WitOrder, validity: Validity, jti: Serial) -> UnsignedJws {
        jws::encode_wit(self.0.template(), &order.spec(validity), jti)
    }

    fn content(unsigned: &UnsignedJws) -> &[u8] {
        unsigned.signing_input()
    }

    fn sign(
        &self,
        _: &IssuanceConfig,
        order: &WitOrder,
        validity: Validity,
        unsigned: Durable<UnsignedJws>,
    ) -> Result<WitSvid, Refusal> {
        let checked = check::wit(self.0.template(), &order.spec(validity), unsigned.get())?;
        let jti = checked.serial();
        Ok(WitSvid {
            token: self.0.sign(unsigned, checked)?,
            spiffe_id: order.spiffe_id.clone(),
            jti,
            issued_at: validity.not_before,
            expires_at: validity.not_after,
            key_id: self.0.key_id().clone(),
        })
    }

    fn verify(&self, svid: &WitSvid) -> Result<(), SignError> {
        self.0.verify(&svid.token)
    }

    fn subject(order: &WitOrder) -> (&SpiffeId, Option<&str>) {
        (&order.spiffe_id, order.entry_id.as_deref())
    }

    fn outcome(svid: &WitSvid) -> (Serial, i64) {
        (svid.jti, svid.expires_at)
    }
}

impl WitOrder {
    fn spec(&self, validity: Validity) -> WitSpec<'_> {
        WitSpec {
            spiffe_id: &self.spiffe_id,
            public_key: &self.public_key,
            issued_at: validity.not_before,
            expires_at: validity.not_after,
        }
    }
}
