//! What changes entries: in batches, with the result of each.

use mintmark_identity::SpiffeId;
use mintmark_proto::spire::server::entry::entry_client::EntryClient;
use mintmark_proto::spire::server::entry::{
    BatchCreateEntryRequest, BatchCreateEntryResponse, BatchDeleteEntryRequest, BatchDeleteEntryResponse,
    BatchUpdateEntryRequest, BatchUpdateEntryResponse,
};
use mintmark_proto::spire::types;
use tonic::Code;
use tonic::transport::Channel;

use super::{Create, Delete, Optional, Update, data, show};
use crate::client::result_text;
use crate::command::wire::{id_message, id_text, selector_message};
use crate::context::Context;
use crate::failure::Failure;
use crate::output::{Output, Progress, count};

/// So many entries are sent with one call.
const BATCH: usize = 500;

impl Create {
    pub(super) fn entries(self) -> Result<Vec<types::Entry>, Failure> {
        if let Some(path) = &self.data {
            return data::entries(path);
        }
        let parent = match (&self.parent_id, &self.spiffe_id) {
            (Some(parent), _) => Some(parent.clone()),
            (None, Some(id)) => Some(SpiffeId::server(&id.trust_domain())),
            (None, None) => None,
        };
        let mut entry = types::Entry {
            id: self.entry_id.unwrap_or_default(),
            spiffe_id: self.spiffe_id.as_ref().map(id_message),
            parent_id: parent.as_ref().map(id_message),
            selectors: self.selectors.iter().map(selector_message).collect(),
            admin: self.admin,
            downstream: self.downstream,
            ..types::Entry::default()
        };
        self.optional.fill(&mut entry);
        Ok(vec![entry])
    }
}

impl Optional {
    fn fill(self, entry: &mut types::Entry) {
        entry.x509_svid_ttl = self.x509_ttl.map_or(0, |ttl| ttl.0);
        entry.jwt_svid_ttl = self.jwt_ttl.map_or(0, |ttl| ttl.0);
        entry.dns_names = self.dns_names;
        entry.federates_with = self.federates_with;
        entry.hint = self.hint.unwrap_or_default();
        entry.expires_at = self.expires_at.map_or(0, |end| end.0);
    }
}

impl Update {
    /// The entries, and which of their fields change; all when it does not say.
    pub(super) fn entries(self) -> Result<(Vec<types::Entry>, Option<types::EntryMask>), Failure> {
        if let Some(path) = &self.data {
            return data::entries(path).map(|entries| (entries, None));
        }
        let mask = types::EntryMask {
            spiffe_id: self.spiffe_id.is_some(),
            parent_id: self.parent_id.is_some(),
            selectors: !self.selectors.is_empty(),
            x509_svid_ttl: self.optional.x509_ttl.is_some(),
            jwt_svid_ttl: self.optional.jwt_ttl.is_some(),
            dns_names: !self.optional.dns_names.is_empty(),
            federates_with: !self.optional.federates_with.is_empty(),
            hint: self.optional.hint.is_some(),
            expires_at: self.optional.expires_at.is_some(),
            admin: self.admin.is_some(),
            downstream: self.downstream.is_some(),
            ..types::EntryMask::default()
        };
        if mask == types::EntryMask::default() {
            return Err(Failure::Usage(
                "nothing to change was named; see mintmark entry update --help".to_owned(),
            ));
        }
        let mut entry = types::Entry {
            id: self.entry_id.unwrap_or_default(),
            spiffe_id: self.spiffe_id.as_ref().map(id_message),
            parent_id: self.parent_id.as_ref().map(id_message),
            selectors: self.selectors.iter().map(selector_message).collect(),
            admin: self.admin.unwrap_or_default(),
            downstream: self.downstream.unwrap_or_default(),
            ..types::Entry::default()
        };
        self.optional.fill(&mut entry);
        Ok((vec![entry], Some(mask)))
    }
}

impl Delete {
    pub(super) fn ids(self) -> Result<Vec<String>, Failure> {
        match &self.data {
            Some(path) => data::ids(path),
            None => Ok(self.entry_ids),
        }
    }
}

pub(super) async fn create(
    context: &Context,
    client: &mut EntryClient<Channel>,
    entries: Vec<types::Entry>,
) -> Result<(), Failure> {
    let mut all = BatchCreateEntryResponse::default();
    let mut progress = Progress::new(&context.clock, "creating entries");
    for batch in entries.chunks(BATCH) {
        let request = BatchCreateEntryRequest {
            entries: batch.to_vec(),
            output_mask: None,
        };
        let answer = context
            .ask("create entries", client.batch_create_entry(request))
            .await?;
        all.results.extend(answer.results);
        progress.at(all.results.len() as u64, entries.len() as u64);
    }
    drop(progress);
    // As SPIRE's command line does: an entry that failed is told as it was asked for.
    for (result, entry) in all.results.iter_mut().zip(entries) {
        result.entry.get_or_insert(entry);
    }
    let outcome = |result: &mintmark_proto::spire::server::entry::batch_create_entry_response::Result| {
        (result.status.clone(), result.entry.clone())
    };
    let outcomes: Vec<_> = all.results.iter().map(outcome).collect();
    context.out.message(&all, |_| succeeded(&outcomes))?;
    told(&context.out, "create", &outcomes)
}

pub(super) async fn update(
    context: &Context,
    client: &mut EntryClient<Channel>,
    entries: Vec<types::Entry>,
    mask: Option<types::EntryMask>,
) -> Result<(), Failure> {
    let mut all = BatchUpdateEntryResponse::default();
    let mut progress = Progress::new(&context.clock, "updating entries");
    for batch in entries.chunks(BATCH) {
        let request = BatchUpdateEntryRequest {
            entries: batch.to_vec(),
            input_mask: mask,
            output_mask: None,
        };
        let answer = context
            .ask("update entries", client.batch_update_entry(request))
            .await?;
        all.results.extend(answer.results);
        progress.at(all.results.len() as u64, entries.len() as u64);
    }
    drop(progress);
    for (result, entry) in all.results.iter_mut().zip(entries) {
        result.entry.get_or_insert(entry);
    }
    let outcome = |result: &mintmark_proto::spire::server::entry::batch_update_entry_response::Result| {
        (result.status.clone(), result.entry.clone())
    };
    let outcomes: Vec<_> = all.results.iter().map(outcome).collect();
    context.out.message(&all, |_| succeeded(&outcomes))?;
    told(&context.out, "update", &outcomes)
}

pub(super) async fn delete(
    context: &Context,
    client: &mut EntryClient<Channel>,
    ids: Vec<String>,
) -> Result<(), Failure> {
    let mut all = BatchDeleteEntryResponse::default();
    for batch in ids.chunks(BATCH) {
        let request = BatchDeleteEntryRequest { ids: batch.to_vec() };
        let answer = context
            .ask("delete entries", client.batch_delete_entry(request))
            .await?;
        all.results.extend(answer.results);
    }
    let of = |id: &str| types::Entry {
        id: id.to_owned(),
        ..types::Entry::default()
    };
    let outcomes: Vec<_> = all
        .results
        .iter()
        .map(|result| (result.status.clone(), Some(of(&result.id))))
        .collect();
    context.out.message(&all, |_| {
        let deleted = outcomes.iter().filter(|(status, _)| is_ok(status));
        deleted
            .filter_map(|(_, entry)| Some(format!("deleted {}\n", entry.as_ref()?.id)))
            .collect()
    })?;
    told(&context.out, "delete", &outcomes)
}

type Outcome = (Option<types::Status>, Option<types::Entry>);

fn is_ok(status: &Option<types::Status>) -> bool {
    status.as_ref().is_none_or(|status| status.code == 0)
}

fn succeeded(outcomes: &[Outcome]) -> String {
    let shown: Vec<_> = outcomes
        .iter()
        .filter(|(status, _)| is_ok(status))
        .filter_map(|(_, entry)| entry.as_ref())
        .collect();
    match shown[..] {
        [entry] => show::fields(entry),
        _ => show::table(&shown),
    }
}

/// Says of each that failed why, and fails if any did.
fn told(out: &Output, verb: &str, outcomes: &[Outcome]) -> Result<(), Failure> {
    let failed: Vec<_> = outcomes.iter().filter(|(status, _)| !is_ok(status)).collect();
    let mut reasons = failed.iter().map(|(status, entry)| {
        let status = status.clone().unwrap_or_default();
        let entry = entry.clone().unwrap_or_default();
        let name = match id_text(entry.spiffe_id.as_ref()) {
            id if id.is_empty() => format!("entry {}", entry.id),
            id if entry.id.is_empty() => format!("entry for {id}"),
            id => format!("entry {} for {id}", entry.id),
        };
        let hint = match Code::from_i32(status.code) {
            Code::AlreadyExists if !entry.id.is_empty() => "; `mintmark entry update --entry-id …` changes it",
            _ => "",
        };
        format!(
            "cannot {verb} {name}: {}{hint}",
            result_text(status.code, &status.message)
        )
    });
    match failed.len() {
        0 => Ok(()),
        1 => Err(Failure::Refused(reasons.next().unwrap_or_default())),
        number => {
            reasons.for_each(|reason| out.aside(reason));
            Err(Failure::Refused(format!(
                "{} of {} failed",
                number,
                count(outcomes.len(), "entry", "entries")
            )))
        }
    }
}
