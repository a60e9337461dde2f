//! A registration entry: its checked form, and its way from and to the API's message, in which it is stored.

use std::sync::Arc;

use mintmark_identity::{Selector, Selectors, SpiffeId, TrustDomain, Ttl, dns};
use mintmark_proto::spire::types;

/// An entry has at most this many selectors.
pub const MAX_SELECTORS: usize = 256;
/// An entry federates with at most this many trust domains.
pub const MAX_FEDERATES_WITH: usize = 64;
/// A hint has at most this many bytes (SPIFFE Workload API §5.2.1).
pub const MAX_HINT: usize = 1024;
/// An entry's ID has at most this many bytes.
pub const MAX_ID: usize = 255;
/// An entry has at most this many bytes in all, as the API has it.
pub const MAX_SIZE: usize = 256 << 10;
/// A TTL that an entry asks for is at most this long, in seconds (one year).
pub const MAX_TTL: i32 = 365 * 24 * 3600;

/// "On this parent, whoever has these selectors is this SPIFFE ID."
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Unique; ours unless the creator chose one. At most [`MAX_ID`] bytes of `[a-zA-Z0-9._-]`.
    pub id: Arc<str>,
    /// The identity.
    pub spiffe_id: SpiffeId,
    /// The node, the alias of nodes, or (for an alias) the server itself.
    pub parent_id: SpiffeId,
    /// What a process, or for an alias a node, must have: all of them.
    pub selectors: Selectors,
    /// Lifetime of X.509-SVIDs; the server's default when none.
    pub x509_ttl: Option<Ttl>,
    /// Lifetime of JWT-SVIDs; the server's default when none.
    pub jwt_ttl: Option<Ttl>,
    /// Foreign trust domains whose bundles the workload gets.
    pub federates_with: Vec<TrustDomain>,
    /// The identity may administer the server.
    pub admin: bool,
    /// The identity may ask for an authority of its own below ours.
    pub downstream: bool,
    /// Unix seconds after which the entry is no more.
    pub expires_at: Option<i64>,
    /// DNS names in the X.509-SVID.
    pub dns_names: Arc<[String]>,
    /// Starts at 0 and grows by one with each update.
    pub revision: i64,
    /// The SVID is for a store of secrets, not for the Workload API.
    pub store_svid: bool,
    /// Tells a workload with several identities what this one is for.
    pub hint: Arc<str>,
    /// Unix seconds.
    pub created_at: i64,
    /// The agent need not hold an X.509-SVID ready.
    pub disable_x509_prefetch: bool,
    /// Each JWT-SVID is one of its own (ours always are).
    pub jwt_include_jti: bool,
}

/// Why an entry cannot be: the caller's fault, by the field's name in the API.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {why}")]
pub struct InvalidEntry {
    /// The field, as the API spells it.
    pub field: &'static str,
    /// What is wrong with it, with the value.
    pub why: String,
}

fn invalid(field: &'static str, why: impl ToString) -> InvalidEntry {
    InvalidEntry {
        field,
        why: why.to_string(),
    }
}

/// That an entry has more bytes than [`MAX_SIZE`], which its selectors take.
pub(super) fn too_large(size: usize) -> InvalidEntry {
    invalid(
        "selectors",
        format!("with them the entry has {size} bytes, which are more than {MAX_SIZE}"),
    )
}

impl Entry {
    /// Checks an entry as the API brings it. `trust_domain` is the server's own.
    ///
    /// The ID may be empty (the registry then gives one); revision and creation time are taken as they are.
    ///
    /// # Errors
    /// The first field that is not as it must be.
    pub fn from_message(message: types::Entry, trust_domain: &TrustDomain) -> Result<Self, InvalidEntry> {
        let additional = message.additional_attributes.unwrap_or_default();
        let spiffe_id = own_id("spiffe_id", message.spiffe_id, trust_domain)?;
        workload_id(&spiffe_id)?;
        Ok(Self {
            id: entry_id(message.id)?,
            spiffe_id,
            parent_id: own_id("parent_id", message.parent_id, trust_domain)?,
            selectors: selectors(message.selectors)?,
            x509_ttl: ttl("x509_svid_ttl", message.x509_svid_ttl)?,
            jwt_ttl: ttl("jwt_svid_ttl", message.jwt_svid_ttl)?,
            federates_with: federates_with(message.federates_with, trust_domain)?,
            admin: message.admin,
            downstream: message.downstream,
            expires_at: match message.expires_at {
                0 => None,
                at if at > 0 => Some(at),
                at => return Err(invalid("expires_at", format!("{at} is before 1970"))),
            },
            dns_names: dns_names(message.dns_names)?,
            revision: message.revision_number,
            store_svid: message.store_svid,
            hint: hint(message.hint)?,
            created_at: message.created_at,
            disable_x509_prefetch: additional.disable_x509_svid_prefetch,
            jwt_include_jti: additional.jwt_svid_include_jti,
        })
    }

    /// The entry as the API and the store have it.
    pub fn to_message(&self) -> types::Entry {
        let additional = (self.disable_x509_prefetch || self.jwt_include_jti).then_some({
            types::entry::AdditionalAttributes {
                disable_x509_svid_prefetch: self.disable_x509_prefetch,
                jwt_svid_include_jti: self.jwt_include_jti,
            }
        });
        types::Entry {
            id: self.id.to_string(),
            spiffe_id: Some(id_message(&self.spiffe_id)),
            parent_id: Some(id_message(&self.parent_id)),
            selectors: self.selectors.iter().map(selector_message).collect(),
            x509_svid_ttl: ttl_message(self.x509_ttl),
            federates_with: self.federates_with.iter().map(ToString::to_string).collect(),
            admin: self.admin,
            downstream: self.downstream,
            expires_at: self.expires_at.unwrap_or_default(),
            dns_names: self.dns_names.to_vec(),
            revision_number: self.revision,
            store_svid: self.store_svid,
            jwt_svid_ttl: ttl_message(self.jwt_ttl),
            hint: self.hint.to_string(),
            created_at: self.created_at,
            additional_attributes: additional,
        }
    }

    /// True when the entry's time is over.
    pub fn is_expired(&self, now: i64) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }
}

/// Checks that an ID is one that a workload can have.
pub(super) fn workload_id(id: &SpiffeId) -> Result<(), InvalidEntry> {
    let why = if id.is_reserved() {
        format!("{id} is in the reserved namespace /spire, which holds servers and agents")
    } else if id.is_root() {
        format!("{id} has no path: a workload's ID needs one")
    } else {
        return Ok(());
    };
    Err(invalid("spiffe_id", why))
}

/// A SPIFFE ID as the API's message.
pub fn id_message(id: &SpiffeId) -> types::Spiffeid {
    types::Spiffeid {
        trust_domain: id.trust_domain().to_string(),
        path: id.path().to_owned(),
    }
}

/// A SPIFFE ID from the API's message, in whichever trust domain.
///
/// # Errors
/// When the message is missing or is no SPIFFE ID.
pub fn id_from_message(field: &'static str, message: Option<types::Spiffeid>) -> Result<SpiffeId, InvalidEntry> {
    let message = message.ok_or_else(|| invalid(field, "is missing"))?;
    let trust_domain = TrustDomain::parse(&message.trust_domain).map_err(|error| invalid(field, error))?;
    SpiffeId::new(&trust_domain, &message.path).map_err(|error| invalid(field, error))
}

fn own_id(field: &'static str, id: Option<types::Spiffeid>, own: &TrustDomain) -> Result<SpiffeId, InvalidEntry> {
    // A million of these are read at a start.
    if let Some(id) = id.as_ref().filter(|id| id.trust_domain == own.as_str()) {
        return SpiffeId::new(own, &id.path).map_err(|error| invalid(field, error));
    }
    let id = id_from_message(field, id)?;
    if id.trust_domain() != *own {
        return Err(invalid(
            field,
            format!("{id} is not a member of this server's trust domain {own}"),
        ));
    }
    Ok(id)
}

fn entry_id(id: String) -> Result<Arc<str>, InvalidEntry> {
    if id.len() > MAX_ID {
        return Err(invalid("id", format!("{} bytes are more than {MAX_ID}", id.len())));
    }
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    match id.chars().find(|c| !legal(*c)) {
        Some(c) => Err(invalid("id", format!("{c:?} is not one of a-z A-Z 0-9 . _ -"))),
        None => Ok(id.into()),
    }
}

fn selectors(messages: Vec<types::Selector>) -> Result<Selectors, InvalidEntry> {
    if messages.is_empty() {
        return Err(invalid(
            "selectors",
            "there are none: an entry needs at least one, or nothing could match it",
        ));
    }
    selectors_from_messages(messages)
}

/// Selectors from the API's messages; there may be none.
///
/// # Errors
/// More than [`MAX_SELECTORS`], or one that is none.
pub fn selectors_from_messages(messages: Vec<types::Selector>) -> Result<Selectors, InvalidEntry> {
    if messages.len() > MAX_SELECTORS {
        return Err(invalid(
            "selectors",
            format!("{} are more than {MAX_SELECTORS}", messages.len()),
        ));
    }
    messages
        .into_iter()
        .map(|message| Selector::new(&message.r#type, &message.value).map_err(|error| invalid("selectors", error)))
        .collect()
}

/// A selector as the API's message.
pub fn selector_message(selector: &Selector) -> types::Selector {
    types::Selector {
        r#type: selector.kind().to_owned(),
        value: selector.value().to_owned(),
    }
}

fn ttl(field: &'static str, seconds: i32) -> Result<Option<Ttl>, InvalidEntry> {
    match seconds {
        0 => Ok(None),
        1..=MAX_TTL => Ttl::from_secs(seconds.unsigned_abs().into())
            .map(Some)
            .map_err(|error| invalid(field, error)),
        _ => Err(invalid(
            field,
            format!("{seconds} s is not between 0 (the default) and {MAX_TTL}"),
        )),
    }
}

fn ttl_message(ttl: Option<Ttl>) -> i32 {
    ttl.map_or(0, |ttl| i32::try_from(ttl.as_secs()).unwrap_or(i32::MAX))
}

pub(super) fn federates_with(names: Vec<String>, own: &TrustDomain) -> Result<Vec<TrustDomain>, InvalidEntry> {
    const FIELD: &str = "federates_with";
    if names.len() > MAX_FEDERATES_WITH {
        return Err(invalid(
            FIELD,
            format!("{} are more than {MAX_FEDERATES_WITH}", names.len()),
        ));
    }
    let parse = |name: &String| {
        let name = name.strip_prefix("spiffe://").unwrap_or(name);
        let trust_domain = TrustDomain::parse(name).map_err(|error| invalid(FIELD, error))?;
        match trust_domain == *own {
            true => Err(invalid(FIELD, format!("{own} is this server's own trust domain"))),
            false => Ok(trust_domain),
        }
    };
    names.iter().map(parse).collect()
}

/// What is registered can be issued: the same rules hold when a credential is made.
pub(super) fn dns_names(names: Vec<String>) -> Result<Arc<[String]>, InvalidEntry> {
    dns::check_all(&names).map_err(|error| invalid("dns_names", error))?;
    match names.is_empty() {
        true => Ok(Arc::default()),
        false => Ok(names.into()),
    }
}

pub(super) fn hint(hint: String) -> Result<Arc<str>, InvalidEntry> {
    match hint.len() {
        0 => Ok(Arc::default()),
        1..=MAX_HINT => Ok(hint.into()),
        len => Err(invalid("hint", format!("{len} bytes are more than {MAX_HINT}"))),
    }
}
