//! What shows entries.

use mintmark_proto::spire::server::entry::entry_client::EntryClient;
use mintmark_proto::spire::server::entry::{
    GetEntryRequest, ListEntriesRequest, ListEntriesResponse, list_entries_request,
};
use mintmark_proto::spire::types;
use tonic::transport::Channel;

use super::{List, Show};
use crate::command::wire::{id_message, id_text, selector_text};
use crate::context::Context;
use crate::failure::Failure;
use crate::output::{Fields, Table, stamp};

const PAGE: i32 = 500;

impl Show {
    pub(super) async fn run(self, context: &Context, client: &mut EntryClient<Channel>) -> Result<(), Failure> {
        let action = format!("show entry {}", self.entry_id);
        let request = GetEntryRequest {
            id: self.entry_id,
            output_mask: None,
        };
        let entry = context.ask(&action, client.get_entry(request)).await?;
        // SPIRE's `entry show` is a list too.
        let listed = ListEntriesResponse {
            entries: vec![entry],
            next_page_token: String::new(),
        };
        context
            .out
            .message(&listed, |listed| listed.entries.iter().map(fields).collect())
    }
}

impl List {
    pub(super) async fn run(self, context: &Context, client: &mut EntryClient<Channel>) -> Result<(), Failure> {
        let filter = list_entries_request::Filter {
            by_spiffe_id: self.spiffe_id.as_ref().map(id_message),
            by_parent_id: self.parent_id.as_ref().map(id_message),
            by_selectors: self.match_selectors.selectors(&self.selectors),
            by_federates_with: self.match_federates_with.trust_domains(&self.federates_with),
            by_hint: self.hint,
            by_downstream: self.downstream,
        };
        let mut all = ListEntriesResponse::default();
        let mut page_token = String::new();
        loop {
            let request = ListEntriesRequest {
                filter: Some(filter.clone()),
                output_mask: None,
                page_size: PAGE,
                page_token,
            };
            let page = context.ask("list the entries", client.list_entries(request)).await?;
            all.entries.extend(page.entries);
            if page.next_page_token.is_empty() {
                break;
            }
            page_token = page.next_page_token;
        }
        context.out.message(&all, |all| {
            if all.entries.is_empty() {
                "no entries; `mintmark entry create --help` shows how to make one".to_owned()
            } else {
                table(&all.entries.iter().collect::<Vec<_>>())
            }
        })
    }
}

pub(super) fn table(entries: &[&types::Entry]) -> String {
    if entries.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&["ENTRY ID", "SPIFFE ID", "PARENT ID", "SELECTORS", "NOTES"]);
    for entry in entries {
        table.row([
            entry.id.clone(),
            id_text(entry.spiffe_id.as_ref()),
            id_text(entry.parent_id.as_ref()),
            entry.selectors.iter().map(selector_text).collect::<Vec<_>>().join(" "),
            notes(entry),
        ]);
    }
    table.to_string()
}

/// What is not as with most entries.
fn notes(entry: &types::Entry) -> String {
    let mut notes = Vec::new();
    if entry.admin {
        notes.push("admin".to_owned());
    }
    if entry.downstream {
        notes.push("downstream".to_owned());
    }
    if entry.x509_svid_ttl != 0 {
        notes.push(format!("x509 {}", ttl(entry.x509_svid_ttl)));
    }
    if entry.jwt_svid_ttl != 0 {
        notes.push(format!("jwt {}", ttl(entry.jwt_svid_ttl)));
    }
    if entry.expires_at != 0 {
        notes.push(format!("until {}", stamp(entry.expires_at)));
    }
    if !entry.hint.is_empty() {
        notes.push(format!("hint {}", entry.hint));
    }
    notes.join(", ")
}

pub(super) fn fields(entry: &types::Entry) -> String {
    let mut fields = Fields::default();
    fields
        .add("entry id", &entry.id)
        .add("spiffe id", id_text(entry.spiffe_id.as_ref()))
        .add("parent id", id_text(entry.parent_id.as_ref()));
    for selector in &entry.selectors {
        fields.add("selector", selector_text(selector));
    }
    fields
        .add("x509 ttl", ttl(entry.x509_svid_ttl))
        .add("jwt ttl", ttl(entry.jwt_svid_ttl))
        .some("dns names", entry.dns_names.join(" "))
        .some("federates with", entry.federates_with.join(" "))
        .some("hint", &entry.hint);
    for (is, name) in [
        (entry.admin, "admin"),
        (entry.downstream, "downstream"),
        (entry.store_svid, "store svid"),
    ] {
        fields.some(name, if is { "yes" } else { "" });
    }
    if entry.expires_at != 0 {
        fields.add("ends", stamp(entry.expires_at));
    }
    if entry.created_at != 0 {
        fields.add("created", stamp(entry.created_at));
    }
    fields.add("revision", entry.revision_number);
    fields.to_string()
}

fn ttl(seconds: i32) -> String {
    match u64::try_from(seconds)
        .ok()
        .and_then(|seconds| mintmark_identity::Ttl::from_secs(seconds).ok())
    {
        Some(ttl) => ttl.to_string(),
        None => "default".to_owned(),
    }
}
