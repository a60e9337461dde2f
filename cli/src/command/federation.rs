//! `mintmark federation`: from where the bundles of other trust domains come.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use mintmark_identity::{SpiffeId, TrustDomain};
use mintmark_proto::spire::server::trustdomain::trust_domain_client::TrustDomainClient;
use mintmark_proto::spire::server::trustdomain::{
    BatchCreateFederationRelationshipRequest, BatchDeleteFederationRelationshipRequest,
    BatchUpdateFederationRelationshipRequest, ListFederationRelationshipsRequest, ListFederationRelationshipsResponse,
    RefreshBundleRequest,
};
use mintmark_proto::spire::types;
use mintmark_proto::spire::types::federation_relationship::BundleEndpointProfile;

use super::bundle::{BundleFormat, failure, from_file, trust_domain};
use crate::client::admin;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::{Fields, Table};

const PAGE: i32 = 100;

const CREATE: &str = "\
Examples:
  mintmark federation create --trust-domain example.com --url https://spiffe.example.com/bundle --profile https_web
  mintmark federation create --trust-domain example.com --url https://spiffe.example.com:8443 --profile https_spiffe \\
      --endpoint-spiffe-id spiffe://example.com/spire/server --bundle example.com.json --bundle-format spiffe

Mintmark's server does not serve this yet: federation comes later.";
const UPDATE: &str = "\
Example:
  mintmark federation update --trust-domain example.com --url https://bundles.example.com --profile https_web

Mintmark's server does not serve this yet: federation comes later.";
const LIST: &str = "\
Example:
  mintmark federation list

Mintmark's server does not serve this yet: federation comes later.";
const DELETE: &str = "\
Example:
  mintmark federation delete --id example.com

Mintmark's server does not serve this yet: federation comes later.";
const REFRESH: &str = "\
Example:
  mintmark federation refresh --id example.com

Mintmark's server does not serve this yet: federation comes later.";

/// Trust domains that we federate with; not served by Mintmark's server yet
#[derive(Debug, Subcommand)]
pub enum Federation {
    /// Federate with a trust domain: its bundle is fetched from where it publishes it
    #[command(after_help = CREATE)]
    Create(Relationship),
    /// Change from where a bundle is fetched
    #[command(after_help = UPDATE)]
    Update(Relationship),
    /// List the trust domains that we federate with
    #[command(after_help = LIST)]
    List,
    /// Federate with a trust domain no longer
    #[command(after_help = DELETE)]
    Delete(Which),
    /// Fetch the bundle of a trust domain now
    #[command(after_help = REFRESH)]
    Refresh(Which),
}

#[derive(Debug, Args)]
pub struct Which {
    /// The trust domain
    #[arg(long, value_name = "TRUST-DOMAIN", value_parser = trust_domain)]
    id: TrustDomain,
}

#[derive(Debug, Args)]
pub struct Relationship {
    /// The trust domain
    #[arg(long, value_name = "TRUST-DOMAIN", value_parser = trust_domain)]
    trust_domain: TrustDomain,
    /// Where it publishes its bundle
    #[arg(long, value_name = "URL")]
    url: String,
    /// How that endpoint proves who it is: by web PKI, or by its SPIFFE ID
    #[arg(long, value_enum, value_name = "PROFILE")]
    profile: Profile,
    /// With https_spiffe: the endpoint's SPIFFE ID
    #[arg(long, value_name = "ID", required_if_eq("profile", "https_spiffe"))]
    endpoint_spiffe_id: Option<SpiffeId>,
    /// Its bundle, to begin with; - for standard input
    #[arg(long, value_name = "FILE")]
    bundle: Option<PathBuf>,
    /// What that file holds
    #[arg(long, value_enum, default_value_t = BundleFormat::Pem, value_name = "FORMAT")]
    bundle_format: BundleFormat,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Profile {
    #[value(name = "https_web")]
    Web,
    #[value(name = "https_spiffe")]
    Spiffe,
}

impl Relationship {
    fn message(&self) -> Result<types::FederationRelationship, Failure> {
        let profile = match self.profile {
            Profile::Web => BundleEndpointProfile::HttpsWeb(types::HttpsWebProfile {}),
            Profile::Spiffe => BundleEndpointProfile::HttpsSpiffe(types::HttpsspiffeProfile {
                endpoint_spiffe_id: self
                    .endpoint_spiffe_id
                    .as_ref()
                    .map_or_else(String::new, ToString::to_string),
            }),
        };
        let bundle = match &self.bundle {
            Some(path) => Some(from_file(path, self.bundle_format, &self.trust_domain)?),
            None => None,
        };
        Ok(types::FederationRelationship {
            trust_domain: self.trust_domain.to_string(),
            bundle_endpoint_url: self.url.clone(),
            trust_domain_bundle: bundle,
            bundle_endpoint_profile: Some(profile),
        })
    }
}

impl Federation {
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::Create(relationship) => {
                let message = relationship.message()?;
                let mut client = admin!(TrustDomainClient, context);
                let request = BatchCreateFederationRelationshipRequest {
                    federation_relationships: vec![message],
                    output_mask: None,
                };
                let action = format!("federate with {}", relationship.trust_domain);
                let answer = context
                    .ask(&action, client.batch_create_federation_relationship(request))
                    .await?;
                let result = answer.results.first();
                let failed = failure(&action, result.and_then(|result| result.status.as_ref()));
                let shown = result
                    .and_then(|result| result.federation_relationship.as_ref())
                    .map(fields);
                context.out.message(&answer, |_| match failed {
                    Some(_) => String::new(),
                    None => shown.unwrap_or_default(),
                })?;
                failed.map_or(Ok(()), Err)
            }
            Self::Update(relationship) => {
                let message = relationship.message()?;
                let mask = types::FederationRelationshipMask {
                    bundle_endpoint_url: true,
                    bundle_endpoint_profile: true,
                    trust_domain_bundle: message.trust_domain_bundle.is_some(),
                };
                let mut client = admin!(TrustDomainClient, context);
                let request = BatchUpdateFederationRelationshipRequest {
                    federation_relationships: vec![message],
                    input_mask: Some(mask),
                    output_mask: None,
                };
                let action = format!("change the federation with {}", relationship.trust_domain);
                let answer = context
                    .ask(&action, client.batch_update_federation_relationship(request))
                    .await?;
                let result = answer.results.first();
                let failed = failure(&action, result.and_then(|result| result.status.as_ref()));
                let shown = result
                    .and_then(|result| result.federation_relationship.as_ref())
                    .map(fields);
                context.out.message(&answer, |_| match failed {
                    Some(_) => String::new(),
                    None => shown.unwrap_or_default(),
                })?;
                failed.map_or(Ok(()), Err)
            }
            Self::List => list(context).await,
            Self::Delete(which) => {
                let mut client = admin!(TrustDomainClient, context);
                let request = BatchDeleteFederationRelationshipRequest {
                    trust_domains: vec![which.id.to_string()],
                };
                let action = format!("end the federation with {}", which.id);
                let answer = context
                    .ask(&action, client.batch_delete_federation_relationship(request))
                    .await?;
                let failed = failure(
                    &action,
                    answer.results.first().and_then(|result| result.status.as_ref()),
                );
                context.out.message(&answer, |_| match failed {
                    Some(_) => String::new(),
                    None => format!("the federation with {} has ended", which.id),
                })?;
                failed.map_or(Ok(()), Err)
            }
            Self::Refresh(which) => {
                let mut client = admin!(TrustDomainClient, context);
                let request = RefreshBundleRequest {
                    trust_domain: which.id.to_string(),
                };
                let action = format!("refresh the bundle of {}", which.id);
                context.ask(&action, client.refresh_bundle(request)).await?;
                // As SPIRE's command line prints it.
                let ok = types::Status::default();
                context
                    .out
                    .message(&ok, |_| format!("the bundle of {} is refreshed", which.id))
            }
        }
    }
}

async fn list(context: &Context) -> Result<(), Failure> {
    let mut client = admin!(TrustDomainClient, context);
    let mut all = ListFederationRelationshipsResponse::default();
    let mut page_token = String::new();
    loop {
        let request = ListFederationRelationshipsRequest {
            output_mask: None,
            page_size: PAGE,
            page_token,
        };
        let page = context
            .ask("list the federations", client.list_federation_relationships(request))
            .await?;
        all.federation_relationships.extend(page.federation_relationships);
        if page.next_page_token.is_empty() {
            break;
        }
        page_token = page.next_page_token;
    }
    context.out.message(&all, |all| {
        if all.federation_relationships.is_empty() {
            return "no federations".to_owned();
        }
        let mut table = Table::new(&["TRUST DOMAIN", "PROFILE", "URL"]);
        for relationship in &all.federation_relationships {
            table.row([
                relationship.trust_domain.clone(),
                profile_text(relationship),
                relationship.bundle_endpoint_url.clone(),
            ]);
        }
        table.to_string()
    })
}

fn fields(relationship: &types::FederationRelationship) -> String {
    let mut fields = Fields::default();
    fields
        .add("trust domain", &relationship.trust_domain)
        .add("profile", profile_text(relationship))
        .add("url", &relationship.bundle_endpoint_url);
    fields.to_string()
}

fn profile_text(relationship: &types::FederationRelationship) -> String {
    match &relationship.bundle_endpoint_profile {
        Some(BundleEndpointProfile::HttpsWeb(_)) => "https_web".to_owned(),
        Some(BundleEndpointProfile::HttpsSpiffe(profile)) => format!("https_spiffe {}", profile.endpoint_spiffe_id),
        None => String::new(),
    }
}
