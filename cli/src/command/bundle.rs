//! `mintmark bundle`: whom we trust, our own bundle and those of trust domains that we federate with.

mod convert;

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use mintmark_identity::TrustDomain;
use mintmark_proto::spire::server::bundle::batch_delete_federated_bundle_request::Mode;
use mintmark_proto::spire::server::bundle::bundle_client::BundleClient;
use mintmark_proto::spire::server::bundle::{
    AppendBundleRequest, BatchDeleteFederatedBundleRequest, BatchSetFederatedBundleRequest, GetBundleRequest,
    GetFederatedBundleRequest, ListFederatedBundlesRequest, ListFederatedBundlesResponse,
};
use mintmark_proto::spire::types;

use crate::client::{admin, result_text};
use crate::context::Context;
use crate::failure::{Failure, refused};

pub use convert::from_file;

const PAGE: i32 = 100;

const SHOW: &str = "\
Examples:
  mintmark bundle show > bundle.pem                   # our X.509 authorities, for openssl and everybody else
  mintmark bundle show --format spiffe                # the SPIFFE bundle document, JWT and WIT keys too
  mintmark bundle show --output json | jq .sequence_number";
const LIST: &str = "\
Examples:
  mintmark bundle list
  mintmark bundle list --id example.com --format spiffe";
const SET: &str = "\
Example:
  mintmark bundle set --id example.com --format spiffe --path example.com.json

Mintmark's server does not serve this yet: federation comes later.";
const APPEND: &str = "\
Example:
  mintmark bundle append --path other-root.pem        # believe what another root of our trust domain signed

Mintmark's server does not serve this yet.";
const DELETE: &str = "\
Examples:
  mintmark bundle delete --id example.com
  mintmark bundle delete --id example.com --mode dissociate     # entries that federate with it no longer do";

/// Trust bundles, our own and federated ones
///
/// Mintmark's server gives out its own bundle; it does not take authorities of others or federated bundles yet.
#[derive(Debug, Subcommand)]
pub enum Bundle {
    /// Show our own bundle
    #[command(after_help = SHOW)]
    Show(Show),
    /// Show the bundles of trust domains that we federate with
    #[command(after_help = LIST)]
    List(List),
    /// Set the bundle of a trust domain that we federate with
    #[command(after_help = SET)]
    Set(Set),
    /// Add authorities to our own bundle
    #[command(after_help = APPEND)]
    Append(Append),
    /// Delete the bundle of a trust domain that we federate with
    #[command(after_help = DELETE)]
    Delete(Delete),
}

/// How a bundle is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BundleFormat {
    /// The X.509 authorities as PEM.
    Pem,
    /// The SPIFFE bundle document.
    Spiffe,
}

#[derive(Debug, Args)]
pub struct Show {
    /// How it is printed as text
    #[arg(long, value_enum, default_value_t = BundleFormat::Pem, value_name = "FORMAT")]
    format: BundleFormat,
}

#[derive(Debug, Args)]
pub struct List {
    /// Only the bundle of this trust domain
    #[arg(long, value_name = "TRUST-DOMAIN", value_parser = trust_domain)]
    id: Option<TrustDomain>,
    /// How they are printed as text
    #[arg(long, value_enum, default_value_t = BundleFormat::Pem, value_name = "FORMAT")]
    format: BundleFormat,
}

#[derive(Debug, Args)]
pub struct Set {
    /// The trust domain
    #[arg(long, value_name = "TRUST-DOMAIN", value_parser = trust_domain)]
    id: TrustDomain,
    /// The file; standard input unless given
    #[arg(long, value_name = "FILE", default_value = "-")]
    path: PathBuf,
    /// What the file holds
    #[arg(long, value_enum, default_value_t = BundleFormat::Pem, value_name = "FORMAT")]
    format: BundleFormat,
}

#[derive(Debug, Args)]
pub struct Append {
    /// The file; standard input unless given
    #[arg(long, value_name = "FILE", default_value = "-")]
    path: PathBuf,
    /// What the file holds
    #[arg(long, value_enum, default_value_t = BundleFormat::Pem, value_name = "FORMAT")]
    format: BundleFormat,
}

#[derive(Debug, Args)]
pub struct Delete {
    /// The trust domain
    #[arg(long, value_name = "TRUST-DOMAIN", value_parser = trust_domain)]
    id: TrustDomain,
    /// What becomes of entries that federate with it
    #[arg(long, value_enum, default_value_t = DeleteMode::Restrict, value_name = "MODE")]
    mode: DeleteMode,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum DeleteMode {
    /// Nothing is deleted while there are such entries.
    Restrict,
    /// They are deleted too.
    Delete,
    /// They federate with it no longer.
    Dissociate,
}

pub fn trust_domain(text: &str) -> Result<TrustDomain, String> {
    TrustDomain::parse_name_or_id(text).map_err(|error| error.to_string())
}

impl Bundle {
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::Show(show) => {
                let mut client = admin!(BundleClient, context);
                let request = GetBundleRequest { output_mask: None };
                let bundle = context.ask("show the bundle", client.get_bundle(request)).await?;
                print(context, &bundle, show.format)
            }
            Self::List(list) => list.run(context).await,
            Self::Set(set) => set.run(context).await,
            Self::Append(append) => append.run(context).await,
            Self::Delete(delete) => delete.run(context).await,
        }
    }
}

impl List {
    async fn run(self, context: &Context) -> Result<(), Failure> {
        let mut client = admin!(BundleClient, context);
        if let Some(id) = &self.id {
            let request = GetFederatedBundleRequest {
                trust_domain: id.to_string(),
                output_mask: None,
            };
            let action = format!("show the bundle of {id}");
            let bundle = context.ask(&action, client.get_federated_bundle(request)).await?;
            return print(context, &bundle, self.format);
        }
        let mut all = ListFederatedBundlesResponse::default();
        let mut page_token = String::new();
        loop {
            let request = ListFederatedBundlesRequest {
                output_mask: None,
                page_size: PAGE,
                page_token,
            };
            let page = context
                .ask("list the federated bundles", client.list_federated_bundles(request))
                .await?;
            all.bundles.extend(page.bundles);
            if page.next_page_token.is_empty() {
                break;
            }
            page_token = page.next_page_token;
        }
        let mut texts = String::new();
        for bundle in &all.bundles {
            texts += &format!("# {}\n{}", bundle.trust_domain, text(bundle, self.format)?);
        }
        context.out.message(&all, |_| match texts.is_empty() {
            true => "no federated bundles".to_owned(),
            false => texts,
        })
    }
}

impl Set {
    async fn run(self, context: &Context) -> Result<(), Failure> {
        let bundle = from_file(&self.path, self.format, &self.id)?;
        let mut client = admin!(BundleClient, context);
        let request = BatchSetFederatedBundleRequest {
            bundle: vec![bundle],
            output_mask: None,
        };
        let action = format!("set the bundle of {}", self.id);
        let answer = context.ask(&action, client.batch_set_federated_bundle(request)).await?;
        let failed = failure(
            &action,
            answer.results.first().and_then(|result| result.status.as_ref()),
        );
        context.out.message(&answer, |_| match failed {
            Some(_) => String::new(),
            None => format!("the bundle of {} is set", self.id),
        })?;
        failed.map_or(Ok(()), Err)
    }
}

impl Append {
    async fn run(self, context: &Context) -> Result<(), Failure> {
        let mut client = admin!(BundleClient, context);
        let request = GetBundleRequest { output_mask: None };
        let own = context
            .ask("ask for the trust domain", client.get_bundle(request))
            .await?;
        let own = trust_domain(&own.trust_domain).map_err(refused)?;
        let bundle = from_file(&self.path, self.format, &own)?;
        let request = AppendBundleRequest {
            x509_authorities: bundle.x509_authorities,
            jwt_authorities: bundle.jwt_authorities,
            wit_authorities: bundle.wit_authorities,
            output_mask: None,
        };
        let bundle = context
            .ask("append to the bundle", client.append_bundle(request))
            .await?;
        print(context, &bundle, self.format)
    }
}

impl Delete {
    async fn run(self, context: &Context) -> Result<(), Failure> {
        let mode = match self.mode {
            DeleteMode::Restrict => Mode::Restrict,
            DeleteMode::Delete => Mode::Delete,
            DeleteMode::Dissociate => Mode::Dissociate,
        };
        let mut client = admin!(BundleClient, context);
        let request = BatchDeleteFederatedBundleRequest {
            trust_domains: vec![self.id.to_string()],
            mode: mode.into(),
        };
        let action = format!("delete the bundle of {}", self.id);
        let answer = context
            .ask(&action, client.batch_delete_federated_bundle(request))
            .await?;
        let failed = failure(
            &action,
            answer.results.first().and_then(|result| result.status.as_ref()),
        );
        context.out.message(&answer, |_| match failed {
            Some(_) => String::new(),
            None => format!("the bundle of {} is deleted", self.id),
        })?;
        failed.map_or(Ok(()), Err)
    }
}

/// Why the only result of a batch failed, if it did.
pub fn failure(action: &str, status: Option<&types::Status>) -> Option<Failure> {
    let status = status.filter(|status| status.code != 0)?;
    let why = result_text(status.code, &status.message);
    Some(Failure::Refused(format!("cannot {action}: {why}")))
}

fn print(context: &Context, bundle: &types::Bundle, format: BundleFormat) -> Result<(), Failure> {
    let text = text(bundle, format)?;
    context.out.message(bundle, |_| text)
}

fn text(bundle: &types::Bundle, format: BundleFormat) -> Result<String, Failure> {
    match format {
        BundleFormat::Pem => Ok(convert::to_pem(bundle)),
        BundleFormat::Spiffe => convert::to_document(bundle),
    }
}
