//! Who may call which method, and how often: one line for each.
//!
//! [`table`] is checked against the descriptors of what is served: a method without a line stops the server at start ([`check`]), and a call of a path without
//! a line is refused.

use std::collections::HashMap;

use mintmark_proto::FILE_DESCRIPTOR_SET;
use prost::Message as _;
use prost_types::FileDescriptorSet;

use self::Limit::{Attest, PostStatus, PushKey, Sign, Unlimited};
use self::Who::{Agent, AgentOrAdmin, Any, Downstream, Local, LocalOrAdmin};

/// Who may call a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// Anyone who reaches the listener.
    Any,
    /// An attested node in good standing, by its SVID.
    Agent,
    /// Such a node, or an administrator.
    AgentOrAdmin,
    /// Whoever may open the admin socket.
    Local,
    /// Those, and from afar who has an SVID whose entry says `admin`.
    LocalOrAdmin,
    /// Who has an SVID whose entry says `downstream`.
    Downstream,
}

/// How often one caller may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Limit {
    /// As often as it likes.
    Unlimited,
    /// `limits.attest` a second from one address.
    Attest,
    /// `limits.signing` credentials a second.
    Sign,
    /// `limits.push_key` a second.
    PushKey,
    /// `limits.post_status` a second.
    PostStatus,
}

/// One method's line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Method {
    /// `/package.Service/Method`.
    pub path: &'static str,
    /// Who may.
    pub who: Who,
    /// How often.
    pub limit: Limit,
}

const fn line(path: &'static str, who: Who, limit: Limit) -> Method {
    Method { path, who, limit }
}

/// Every method that is served, on the API or on the admin socket; those of `TrustDomain` will be. SPIRE's have SPIRE's rules.
#[rustfmt::skip]
pub const METHODS: &[Method] = &[
    line("/spire.api.server.agent.v1.Agent/AttestAgent",                                     Any,          Attest),
    line("/spire.api.server.agent.v1.Agent/RenewAgent",                                      Agent,        Sign),
    line("/spire.api.server.agent.v1.Agent/PostStatus",                                      Agent,        PostStatus),
    line("/spire.api.server.agent.v1.Agent/CountAgents",                                     LocalOrAdmin, Unlimited),
    line("/spire.api.server.agent.v1.Agent/ListAgents",                                      LocalOrAdmin, Unlimited),
    line("/spire.api.server.agent.v1.Agent/GetAgent",                                        LocalOrAdmin, Unlimited),
    line("/spire.api.server.agent.v1.Agent/DeleteAgent",                                     LocalOrAdmin, Unlimited),
    line("/spire.api.server.agent.v1.Agent/BanAgent",                                        LocalOrAdmin, Unlimited),
    line("/spire.api.server.agent.v1.Agent/CreateJoinToken",                                 LocalOrAdmin, Unlimited),

    line("/spire.api.server.bundle.v1.Bundle/GetBundle",                                     Any,          Unlimited),
    line("/spire.api.server.bundle.v1.Bundle/AppendBundle",                                  LocalOrAdmin, Unlimited),
    line("/spire.api.server.bundle.v1.Bundle/PublishJWTAuthority",                           Downstream,   PushKey),
    line("/spire.api.server.bundle.v1.Bundle/PublishWITAuthority",                           Downstream,   PushKey),
    line("/spire.api.server.bundle.v1.Bundle/CountBundles",                                  LocalOrAdmin, Unlimited),
    line("/spire.api.server.bundle.v1.Bundle/ListFederatedBundles",                          LocalOrAdmin, Unlimited),
    line("/spire.api.server.bundle.v1.Bundle/GetFederatedBundle",                            AgentOrAdmin, Unlimited),
    line("/spire.api.server.bundle.v1.Bundle/BatchCreateFederatedBundle",                    LocalOrAdmin, Unlimited),
    line("/spire.api.server.bundle.v1.Bundle/BatchUpdateFederatedBundle",                    LocalOrAdmin, Unlimited),
    line("/spire.api.server.bundle.v1.Bundle/BatchSetFederatedBundle",                       LocalOrAdmin, Unlimited),
    line("/spire.api.server.bundle.v1.Bundle/BatchDeleteFederatedBundle",                    LocalOrAdmin, Unlimited),

    line("/spire.api.server.debug.v1.Debug/GetInfo",                                         Local,        Unlimited),

    line("/spire.api.server.entry.v1.Entry/CountEntries",                                    LocalOrAdmin, Unlimited),
    line("/spire.api.server.entry.v1.Entry/ListEntries",                                     LocalOrAdmin, Unlimited),
    line("/spire.api.server.entry.v1.Entry/GetEntry",                                        LocalOrAdmin, Unlimited),
    line("/spire.api.server.entry.v1.Entry/BatchCreateEntry",                                LocalOrAdmin, Unlimited),
    line("/spire.api.server.entry.v1.Entry/BatchUpdateEntry",                                LocalOrAdmin, Unlimited),
    line("/spire.api.server.entry.v1.Entry/BatchDeleteEntry",                                LocalOrAdmin, Unlimited),
    line("/spire.api.server.entry.v1.Entry/GetAuthorizedEntries",                            Agent,        Unlimited),
    line("/spire.api.server.entry.v1.Entry/SyncAuthorizedEntries",                           Agent,        Unlimited),

    line("/spire.api.server.localauthority.v1.LocalAuthority/GetJWTAuthorityState",          LocalOrAdmin, Unlimited),
    line("/spire.api.server.localauthority.v1.LocalAuthority/PrepareJWTAuthority",           LocalOrAdmin, Unlimited),
    line("/spire.api.server.localauthority.v1.LocalAuthority/ActivateJWTAuthority",          LocalOrAdmin, Unlimited),
    line("/spire.api.server.localauthority.v1.LocalAuthority/TaintJWTAuthority",             LocalOrAdmin, Unlimited),
    line("/spire.api.server.localauthority.v1.LocalAuthority/RevokeJWTAuthority",            LocalOrAdmin, Unlimited),
    line("/spire.api.server.localauthority.v1.LocalAuthority/GetX509AuthorityState",         LocalOrAdmin, Unlimited),
    line("/spire.api.server.localauthority.v1.LocalAuthority/PrepareX509Authority",          LocalOrAdmin, Unlimited),
    line("/spire.api.server.localauthority.v1.LocalAuthority/ActivateX509Authority",         LocalOrAdmin, Unlimited),
    line("/spire.api.server.localauthority.v1.LocalAuthority/TaintX509Authority",            LocalOrAdmin, Unlimited),
    line("/spire.api.server.localauthority.v1.LocalAuthority/TaintX509UpstreamAuthority",    LocalOrAdmin, Unlimited),
    line("/spire.api.server.localauthority.v1.LocalAuthority/RevokeX509Authority",           LocalOrAdmin, Unlimited),
    line("/spire.api.server.localauthority.v1.LocalAuthority/RevokeX509UpstreamAuthority",   LocalOrAdmin, Unlimited),
    line("/spire.api.server.localauthority.v1.LocalAuthority/GetWITAuthorityState",          LocalOrAdmin, Unlimited),
    line("/spire.api.server.localauthority.v1.LocalAuthority/PrepareWITAuthority",           LocalOrAdmin, Unlimited),
    line("/spire.api.server.localauthority.v1.LocalAuthority/ActivateWITAuthority",          LocalOrAdmin, Unlimited),
    line("/spire.api.server.localauthority.v1.LocalAuthority/TaintWITAuthority",             LocalOrAdmin, Unlimited),
    line("/spire.api.server.localauthority.v1.LocalAuthority/RevokeWITAuthority",            LocalOrAdmin, Unlimited),

    line("/spire.api.server.logger.v1.Logger/GetLogger",                                     Local,        Unlimited),
    line("/spire.api.server.logger.v1.Logger/SetLogLevel",                                   Local,        Unlimited),
    line("/spire.api.server.logger.v1.Logger/ResetLogLevel",                                 Local,        Unlimited),

    line("/spire.api.server.svid.v1.SVID/MintX509SVID",                                      LocalOrAdmin, Unlimited),
    line("/spire.api.server.svid.v1.SVID/MintJWTSVID",                                       LocalOrAdmin, Unlimited),
    line("/spire.api.server.svid.v1.SVID/MintWITSVID",                                       LocalOrAdmin, Unlimited),
    line("/spire.api.server.svid.v1.SVID/BatchNewX509SVID",                                  Agent,        Sign),
    line("/spire.api.server.svid.v1.SVID/NewJWTSVID",                                        Agent,        Sign),
    line("/spire.api.server.svid.v1.SVID/BatchNewWITSVID",                                   Agent,        Sign),
    line("/spire.api.server.svid.v1.SVID/NewDownstreamX509CA",                               Downstream,   Sign),

    line("/spire.api.server.trustdomain.v1.TrustDomain/ListFederationRelationships",         LocalOrAdmin, Unlimited),
    line("/spire.api.server.trustdomain.v1.TrustDomain/GetFederationRelationship",           LocalOrAdmin, Unlimited),
    line("/spire.api.server.trustdomain.v1.TrustDomain/BatchCreateFederationRelationship",   LocalOrAdmin, Unlimited),
    line("/spire.api.server.trustdomain.v1.TrustDomain/BatchUpdateFederationRelationship",   LocalOrAdmin, Unlimited),
    line("/spire.api.server.trustdomain.v1.TrustDomain/BatchDeleteFederationRelationship",   LocalOrAdmin, Unlimited),
    line("/spire.api.server.trustdomain.v1.TrustDomain/RefreshBundle",                       LocalOrAdmin, Unlimited),

    line("/mintmark.attestor.v1.Attestor/Link",                                              Agent,        Unlimited),

    line("/mintmark.admin.v1.Admin/Status",                                                  LocalOrAdmin, Unlimited),
    line("/mintmark.admin.v1.Admin/ShowLeaves",                                              LocalOrAdmin, Unlimited),
    line("/mintmark.admin.v1.Admin/ProveLeaf",                                               LocalOrAdmin, Unlimited),
    line("/mintmark.admin.v1.Admin/ProveConsistency",                                        LocalOrAdmin, Unlimited),
    line("/mintmark.admin.v1.Admin/Checkpoint",                                              LocalOrAdmin, Unlimited),

    line("/grpc.health.v1.Health/Check",                                                     Local,        Unlimited),
    line("/grpc.health.v1.Health/Watch",                                                     Local,        Unlimited),
    line("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",                        Local,        Unlimited),
    line("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",                   Local,        Unlimited),
];

/// Every line, by its path.
pub fn table() -> HashMap<&'static str, Method> {
    METHODS.iter().map(|method| (method.path, *method)).collect()
}

/// A served method has no line.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("served methods have no line in api::methods: {}", .0.join(", "))]
pub struct Undeclared(pub Vec<String>);

/// Checks that every method of the services with these full names has a line.
///
/// # Errors
/// Names the methods that have none, and services that no descriptor tells of.
pub fn check(served: &[&str], table: &HashMap<&'static str, Method>) -> Result<(), Undeclared> {
    let described = described();
    let mut missing = Vec::new();
    for service in served {
        match described.get(*service) {
            Some(methods) => {
                let paths = methods.iter().map(|method| format!("/{service}/{method}"));
                missing.extend(paths.filter(|path| !table.contains_key(path.as_str())));
            }
            None => missing.push(format!("/{service}/*")),
        }
    }
    if missing.is_empty() {
        Ok(())
    } else {
        Err(Undeclared(missing))
    }
}

/// The methods of each service that our descriptors, and those of the gRPC services, tell of.
fn described() -> HashMap<String, Vec<String>> {
    let sets = [
        FILE_DESCRIPTOR_SET,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
    ];
    let files = sets
        .iter()
        .filter_map(|set| FileDescriptorSet::decode(*set).ok())
        .flat_map(|set| set.file);
    let mut described = HashMap::new();
    for file in files {
        for service in &file.service {
            let methods = service.method.iter().map(|method| method.name().to_owned()).collect();
            described.insert(format!("{}.{}", file.package(), service.name()), methods);
        }
    }
    described
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_line_stands_twice_and_each_is_of_a_method_that_there_is() {
        assert_eq!(table().len(), METHODS.len());
        let described = described();
        for method in METHODS {
            let (service, name) = method.path[1..].split_once('/').unwrap();
            let known = described
                .get(service)
                .is_some_and(|methods| methods.iter().any(|known| known == name));
            assert!(known, "{}", method.path);
        }
    }

    #[test]
    fn a_served_method_without_a_line_is_named() {
        let mut table = table();
        table.remove("/mintmark.admin.v1.Admin/Status");
        let error = check(&["mintmark.admin.v1.Admin", "no.such.Service"], &table).unwrap_err();
        assert_eq!(
            error,
            Undeclared(vec![
                "/mintmark.admin.v1.Admin/Status".into(),
                "/no.such.Service/*".into()
            ])
        );
        assert_eq!(check(&["mintmark.admin.v1.Admin"], &super::table()), Ok(()));
    }

    #[test]
    fn nothing_but_attestation_and_our_own_bundle_is_for_anyone() {
        let open: Vec<_> = METHODS
            .iter()
            .filter(|method| method.who == Any)
            .map(|method| method.path)
            .collect();
        assert_eq!(
            open,
            [
                "/spire.api.server.agent.v1.Agent/AttestAgent",
                "/spire.api.server.bundle.v1.Bundle/GetBundle"
            ]
        );
    }
}
