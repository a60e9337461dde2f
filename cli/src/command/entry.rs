//! `mintmark entry`: which workload gets which identity.

mod change;
mod data;
mod show;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use mintmark_identity::{Selector, SpiffeId};
use mintmark_proto::spire::server::entry::entry_client::EntryClient;

use super::wire::Match;
use crate::args::{Expiry, Seconds};
use crate::client::admin;
use crate::context::Context;
use crate::failure::Failure;

const CREATE: &str = "\
Examples:
  mintmark entry create --spiffe-id spiffe://example.org/web --selector unix:uid:1000 \\
      --parent-id spiffe://example.org/spire/agent/join_token/ab12
  mintmark entry create --spiffe-id spiffe://example.org/db --selector unix:path:/usr/bin/db --selector unix:group:db \\
      --parent-id spiffe://example.org/rack/7 --x509-ttl 15m --dns db.example.org
  mintmark entry create --data entries.json
  mintmark entry list --output json | mintmark --server other:8081 entry create --data -

A process gets the identity when all selectors are among its own and its node is the parent (or has the parent's name). The file is SPIRE's:
  {\"entries\": [{\"spiffe_id\": \"spiffe://example.org/web\", \"parent_id\": \"spiffe://example.org/rack/7\",
                \"selectors\": [{\"type\": \"unix\", \"value\": \"uid:1000\"}], \"x509_svid_ttl\": 3600}]}";
const UPDATE: &str = "\
Examples:
  mintmark entry update --entry-id 5ec9 --x509-ttl 15m          # changes that, and leaves the rest as it is
  mintmark entry update --entry-id 5ec9 --selector unix:uid:1001 --selector unix:group:web
  mintmark entry update --data entries.json                      # whole entries, found by their IDs";
const SHOW: &str = "\
Example:
  mintmark entry show --entry-id 5ec9";
const LIST: &str = "\
Examples:
  mintmark entry list
  mintmark entry list --parent-id spiffe://example.org/rack/7
  mintmark entry list --selector unix:uid:1000 --match-selectors any
  mintmark entry list --output json | jq -r '.entries[] | [.id, .spiffe_id.path] | @tsv'";
const DELETE: &str = "\
Examples:
  mintmark entry delete --entry-id 5ec9
  mintmark entry delete --data ids.json                          # {\"ids\": [\"5ec9\", …]}";

/// Registration entries: which workload gets which identity
#[derive(Debug, Subcommand)]
pub enum Entry {
    /// Create an entry, or many from a file
    #[command(after_help = CREATE)]
    Create(Box<Create>),
    /// Change an entry, or many from a file
    #[command(after_help = UPDATE)]
    Update(Box<Update>),
    /// Show one entry
    #[command(after_help = SHOW)]
    Show(Show),
    /// List entries
    #[command(after_help = LIST)]
    List(List),
    /// Delete entries; what they gave is not renewed
    #[command(after_help = DELETE)]
    Delete(Delete),
}

#[derive(Debug, Args)]
pub struct Create {
    /// The identity that it gives
    #[arg(long, value_name = "ID", required_unless_present = "data")]
    spiffe_id: Option<SpiffeId>,
    /// The node that it is for, or a name that several nodes have
    #[arg(long, value_name = "ID", required_unless_present_any = ["data", "node"])]
    parent_id: Option<SpiffeId>,
    /// It is a name for nodes: the selectors are nodes', and the parent is the server
    #[arg(long, conflicts_with = "parent_id")]
    node: bool,
    /// What a process must have to get it, as unix:uid:1000; several times for several
    #[arg(long = "selector", value_name = "KIND:VALUE", required_unless_present = "data")]
    selectors: Vec<Selector>,
    /// Its ID, instead of a random one
    #[arg(long, value_name = "ID")]
    entry_id: Option<String>,
    #[command(flatten)]
    optional: Optional,
    /// It makes its holder an administrator of the server
    #[arg(long)]
    admin: bool,
    /// It makes its holder a subordinate authority; the server keeps that, and serves none yet
    #[arg(long)]
    downstream: bool,
    /// Take entries from this JSON file; - for standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["spiffe_id", "parent_id", "node", "selectors", "entry_id", "admin", "downstream"])]
    data: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Optional {
    /// Lifetime of its X.509-SVIDs; the server's default unless given
    #[arg(long, value_name = "TIME")]
    x509_ttl: Option<Seconds>,
    /// Lifetime of its JWT-SVIDs; the server's default unless given
    #[arg(long, value_name = "TIME")]
    jwt_ttl: Option<Seconds>,
    /// A DNS name for its certificates; several times for several
    #[arg(long = "dns", value_name = "NAME")]
    dns_names: Vec<String>,
    /// A trust domain whose bundle its holder gets, once there is one (federation comes later); several times for several
    #[arg(long, value_name = "TRUST-DOMAIN")]
    federates_with: Vec<String>,
    /// Tells several identities of one process apart
    #[arg(long, value_name = "TEXT")]
    hint: Option<String>,
    /// When it ends, as 2027-01-31T12:00:00Z or Unix seconds
    #[arg(long, value_name = "TIME")]
    expires_at: Option<Expiry>,
}

#[derive(Debug, Args)]
pub struct Update {
    /// The entry's ID
    #[arg(long, value_name = "ID", required_unless_present = "data")]
    entry_id: Option<String>,
    /// The identity that it gives
    #[arg(long, value_name = "ID")]
    spiffe_id: Option<SpiffeId>,
    /// The node that it is for, or a name that several nodes have
    #[arg(long, value_name = "ID")]
    parent_id: Option<SpiffeId>,
    /// What a process must have to get it: these instead of those it has
    #[arg(long = "selector", value_name = "KIND:VALUE")]
    selectors: Vec<Selector>,
    #[command(flatten)]
    optional: Optional,
    /// Whether it makes its holder an administrator of the server
    #[arg(long, value_name = "true|false", num_args = 0..=1, default_missing_value = "true")]
    admin: Option<bool>,
    /// Whether it makes its holder a subordinate authority; the server keeps that, and serves none yet
    #[arg(long, value_name = "true|false", num_args = 0..=1, default_missing_value = "true")]
    downstream: Option<bool>,
    /// Take whole entries with their IDs from this JSON file; - for standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["entry_id", "spiffe_id", "parent_id", "selectors", "admin", "downstream"])]
    data: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Show {
    /// The entry's ID
    #[arg(long, value_name = "ID")]
    entry_id: String,
}

#[derive(Debug, Args)]
pub struct List {
    /// Only entries that give this identity
    #[arg(long, value_name = "ID")]
    spiffe_id: Option<SpiffeId>,
    /// Only entries of this parent
    #[arg(long, value_name = "ID")]
    parent_id: Option<SpiffeId>,
    /// Only entries with this selector; several times for several
    #[arg(long = "selector", value_name = "KIND:VALUE")]
    selectors: Vec<Selector>,
    /// How --selector is compared with an entry's selectors
    #[arg(long, value_enum, default_value_t = Match::Superset, value_name = "HOW")]
    match_selectors: Match,
    /// Only entries that federate with this trust domain; several times for several
    #[arg(long, value_name = "TRUST-DOMAIN")]
    federates_with: Vec<String>,
    /// How --federates-with is compared with an entry's trust domains
    #[arg(long, value_enum, default_value_t = Match::Superset, value_name = "HOW")]
    match_federates_with: Match,
    /// Only entries with this hint
    #[arg(long, value_name = "TEXT")]
    hint: Option<String>,
    /// Only entries that make subordinate authorities, or only others
    #[arg(long, value_name = "true|false", num_args = 0..=1, default_missing_value = "true")]
    downstream: Option<bool>,
}

#[derive(Debug, Args)]
pub struct Delete {
    /// The entry's ID; several times for several
    #[arg(long = "entry-id", value_name = "ID", required_unless_present = "data")]
    entry_ids: Vec<String>,
    /// Take the IDs from this JSON file; - for standard input
    #[arg(long, value_name = "FILE", conflicts_with = "entry_ids")]
    data: Option<PathBuf>,
}

impl Entry {
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        // What is wrong with a file is said before anybody is asked.
        match self {
            Self::Create(create) => {
                let entries = create.entries()?;
                change::create(context, &mut admin!(EntryClient, context), entries).await
            }
            Self::Update(update) => {
                let (entries, mask) = update.entries()?;
                change::update(context, &mut admin!(EntryClient, context), entries, mask).await
            }
            Self::Show(show) => show.run(context, &mut admin!(EntryClient, context)).await,
            Self::List(list) => list.run(context, &mut admin!(EntryClient, context)).await,
            Self::Delete(delete) => {
                let ids = delete.ids()?;
                change::delete(context, &mut admin!(EntryClient, context), ids).await
            }
        }
    }
}
