//! `spire.api.server.entry.v1.Entry`: registration entries, and which of them are a node's.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use futures::stream;
use mintmark_identity::TrustDomain;
use mintmark_proto::spire::server::entry::{
    BatchCreateEntryRequest, BatchCreateEntryResponse, BatchDeleteEntryRequest, BatchDeleteEntryResponse,
    BatchUpdateEntryRequest, BatchUpdateEntryResponse, CountEntriesRequest, CountEntriesResponse, EntryRevision,
    GetAuthorizedEntriesRequest, GetAuthorizedEntriesResponse, GetEntryRequest, ListEntriesRequest,
    ListEntriesResponse, SyncAuthorizedEntriesRequest, SyncAuthorizedEntriesResponse, batch_create_entry_response,
    batch_delete_entry_response, batch_update_entry_response, count_entries_request, entry_server,
    list_entries_request,
};
use mintmark_proto::spire::types::{self, federates_with_match::MatchBehavior};
use tonic::codegen::BoxStream;
use tonic::{Code, Request, Response, Status, Streaming};

use super::caller::{Agent, Caller, audit, named};
use super::convert::{self, mask_entry, member_id, overlay_entry, page_size, selector_match};
use super::status::{self, invalid, malformed};
use super::{RECEIVE_TIMEOUT, Rooms};
use crate::registry::{Entry, EntryError, Filter, MAX_BATCH, Match};

/// A node that has no more entries gets them all at once; one that has more is told of their revisions first, in pages of this size.
const SYNC_PAGE: usize = 500;
/// Without pages, no more entries than this are listed.
const MAX_WHOLE: usize = 50_000;
/// A node asks for no more entries than this in one message of a sync.
const MAX_SYNC_IDS: usize = 100_000;

/// The service.
pub(super) struct EntryService {
    pub(super) rooms: Rooms,
}

#[tonic::async_trait]
impl entry_server::Entry for EntryService {
    async fn count_entries(
        &self,
        request: Request<CountEntriesRequest>,
    ) -> Result<Response<CountEntriesResponse>, Status> {
        let asked = request.into_inner().filter.map(Asked::from);
        let filter = filter(asked.unwrap_or_default(), &self.rooms.trust_domain)?;
        let count = self.rooms.registry.count(&filter);
        Ok(Response::new(CountEntriesResponse {
            count: count.try_into().unwrap_or(i32::MAX),
        }))
    }

    async fn list_entries(
        &self,
        request: Request<ListEntriesRequest>,
    ) -> Result<Response<ListEntriesResponse>, Status> {
        let request = request.into_inner();
        let filter = filter(
            request.filter.map(Asked::from).unwrap_or_default(),
            &self.rooms.trust_domain,
        )?;
        let size = page_size(request.page_size)?;
        let after = Some(&*request.page_token).filter(|token| size.is_some() && !token.is_empty());
        let (entries, next) = self.rooms.registry.list(&filter, after, size.unwrap_or(MAX_WHOLE));
        if size.is_none() && next.is_some() {
            let message = format!("there are more than {MAX_WHOLE} entries: ask for them in pages (page_size)");
            return Err(status::refused(Code::ResourceExhausted, "ASK_FOR_PAGES", message));
        }
        let mask = request.output_mask;
        Ok(Response::new(ListEntriesResponse {
            entries: entries
                .iter()
                .map(|entry| mask_entry(entry.to_message(), mask.as_ref()))
                .collect(),
            next_page_token: next.map(|id| id.to_string()).unwrap_or_default(),
        }))
    }

    async fn get_entry(&self, request: Request<GetEntryRequest>) -> Result<Response<types::Entry>, Status> {
        let request = request.into_inner();
        if request.id.is_empty() {
            return Err(invalid("missing ID"));
        }
        let entry = self
            .rooms
            .registry
            .get(&request.id)
            .ok_or_else(|| status::not_found("entry not found"))?;
        Ok(Response::new(mask_entry(
            entry.to_message(),
            request.output_mask.as_ref(),
        )))
    }

    async fn batch_create_entry(
        &self,
        request: Request<BatchCreateEntryRequest>,
    ) -> Result<Response<BatchCreateEntryResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        check_batch(request.entries.len())?;
        let mask = request.output_mask;
        let entries = request
            .entries
            .into_iter()
            .map(|message| Entry::from_message(message, &self.rooms.trust_domain));
        let created = self.rooms.registry.create(entries.collect()).await;
        let created = created.map_err(|error| status::entry("failed to create entries", error));
        let batch = created.inspect_err(|status| audit(&extensions, "create entries", "", Err(status)))?;
        let results: Vec<_> = batch
            .into_iter()
            .map(|created| {
                let message = |entry: &Arc<Entry>| Some(mask_entry(entry.to_message(), mask.as_ref()));
                match created {
                    Ok(entry) => batch_create_entry_response::Result {
                        status: Some(status::ok()),
                        entry: message(&entry),
                    },
                    Err(error) => {
                        let twin = match &error {
                            EntryError::Similar(twin) => message(twin),
                            _ => None,
                        };
                        let status = status::item(&status::entry("failed to create entry", error));
                        batch_create_entry_response::Result {
                            status: Some(status),
                            entry: twin,
                        }
                    }
                }
            })
            .collect();
        let made = results.iter().filter(|result| is_ok(result.status.as_ref()));
        let ids = made.filter_map(|result| result.entry.as_ref()).map(|entry| &entry.id);
        audit(&extensions, "create entries", named(ids), Ok(()));
        Ok(Response::new(BatchCreateEntryResponse { results }))
    }

    async fn batch_update_entry(
        &self,
        request: Request<BatchUpdateEntryRequest>,
    ) -> Result<Response<BatchUpdateEntryResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        check_batch(request.entries.len())?;
        let (input, output) = (request.input_mask, request.output_mask);
        let changes = request.entries.into_iter().map(|wanted| {
            let id = wanted.id.clone();
            let change = move |entry: types::Entry| match &input {
                Some(mask) => overlay_entry(entry, wanted.clone(), mask),
                None => wanted.clone(),
            };
            (id, change)
        });
        let updated = self.rooms.registry.update(changes.collect()).await;
        let updated = updated.map_err(|error| status::entry("failed to update entries", error));
        let batch = updated.inspect_err(|status| audit(&extensions, "update entries", "", Err(status)))?;
        let ids = batch.iter().flatten().map(|entry| &entry.id);
        audit(&extensions, "update entries", named(ids), Ok(()));
        let results = batch.into_iter().map(|updated| match updated {
            Ok(entry) => batch_update_entry_response::Result {
                status: Some(status::ok()),
                entry: Some(mask_entry(entry.to_message(), output.as_ref())),
            },
            Err(error) => batch_update_entry_response::Result {
                status: Some(status::item(&status::entry("failed to update entry", error))),
                entry: None,
            },
        });
        Ok(Response::new(BatchUpdateEntryResponse {
            results: results.collect(),
        }))
    }

    async fn batch_delete_entry(
        &self,
        request: Request<BatchDeleteEntryRequest>,
    ) -> Result<Response<BatchDeleteEntryResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        check_batch(request.ids.len())?;
        let deleted = self.rooms.registry.delete(&request.ids).await;
        let deleted = deleted.map_err(|error| status::entry("failed to delete entries", error));
        let batch =
            deleted.inspect_err(|status| audit(&extensions, "delete entries", named(&request.ids), Err(status)))?;
        let gone = request
            .ids
            .iter()
            .zip(&batch)
            .filter(|(_, deleted)| deleted.is_ok())
            .map(|(id, _)| id);
        audit(&extensions, "delete entries", named(gone), Ok(()));
        let results = request.ids.into_iter().zip(batch).map(|(id, deleted)| {
            let status = match deleted {
                Ok(()) => status::ok(),
                Err(_) if id.is_empty() => status::item(&invalid("missing entry ID")),
                Err(error) => status::item(&status::entry("failed to delete entry", error)),
            };
            batch_delete_entry_response::Result {
                status: Some(status),
                id,
            }
        });
        Ok(Response::new(BatchDeleteEntryResponse {
            results: results.collect(),
        }))
    }

    async fn get_authorized_entries(
        &self,
        request: Request<GetAuthorizedEntriesRequest>,
    ) -> Result<Response<GetAuthorizedEntriesResponse>, Status> {
        let entries = self.authorized(Caller::agent(request.extensions())?);
        let mask = request.into_inner().output_mask;
        let entries = entries
            .iter()
            .map(|entry| mask_entry(entry.to_message(), mask.as_ref()))
            .collect();
        Ok(Response::new(GetAuthorizedEntriesResponse { entries }))
    }

    async fn sync_authorized_entries(
        &self,
        request: Request<Streaming<SyncAuthorizedEntriesRequest>>,
    ) -> Result<Response<BoxStream<SyncAuthorizedEntriesResponse>>, Status> {
        let entries = self.authorized(Caller::agent(request.extensions())?);
        let mut requests = request.into_inner();
        let first = self.rooms.clock.timeout(RECEIVE_TIMEOUT, requests.message()).await;
        let first = first.map_err(|late| Status::deadline_exceeded(format!("no first request: {late}")))??;
        let first = first.ok_or_else(|| invalid("the stream ended before its first request"))?;
        if !first.ids.is_empty() {
            return Err(invalid("specifying IDs on initial request is not supported"));
        }
        if first.output_mask.as_ref().is_some_and(|mask| !mask.revision_number) {
            return Err(invalid("revision number cannot be masked"));
        }
        let sync = Sync {
            entries,
            mask: first.output_mask,
            requests,
            pending: Pending::Entries(VecDeque::new()),
            is_due: true,
            is_over: false,
        };
        Ok(Response::new(Box::pin(stream::try_unfold(
            sync.begin(),
            |mut sync| async {
                let next = sync.next().await?;
                Ok(next.map(|response| (response, sync)))
            },
        ))))
    }
}

impl EntryService {
    fn authorized(&self, agent: &Agent) -> Vec<Arc<Entry>> {
        self.rooms
            .registry
            .authorized(&agent.record.id, &agent.record.alias_selectors())
    }
}

/// SPIRE's way to bring a node up to date: all entries when they are few, else their revisions, and then those that the node asks for.
struct Sync {
    /// In the order of their IDs.
    entries: Vec<Arc<Entry>>,
    mask: Option<types::EntryMask>,
    requests: Streaming<SyncAuthorizedEntriesRequest>,
    /// What is still to be sent. Messages are made of it one by one, when the last one is on its way: a node that asks for much and reads nothing costs this.
    pending: Pending,
    /// An answer is due, be there something to send or not.
    is_due: bool,
    is_over: bool,
}

/// Entries of which a node is told, in pages.
enum Pending {
    /// Their revisions.
    Revisions(VecDeque<Arc<Entry>>),
    /// The entries themselves.
    Entries(VecDeque<Arc<Entry>>),
}

impl Sync {
    fn begin(mut self) -> Self {
        self.is_over = self.entries.len() <= SYNC_PAGE;
        let all = self.entries.iter().cloned().collect();
        self.pending = match self.is_over {
            true => Pending::Entries(all),
            false => Pending::Revisions(all),
        };
        self
    }

    async fn next(&mut self) -> Result<Option<SyncAuthorizedEntriesResponse>, Status> {
        if let Some(page) = self.page() {
            return Ok(Some(page));
        }
        if self.is_over {
            return Ok(None);
        }
        let Some(request) = self.requests.message().await? else {
            return Ok(None);
        };
        if request.ids.len() > MAX_SYNC_IDS {
            return Err(invalid(format!(
                "{} IDs are more than {MAX_SYNC_IDS}: ask in several messages",
                request.ids.len()
            )));
        }
        // Each once, however often it is asked for.
        let ids: BTreeSet<_> = request.ids.iter().map(|id| &**id).collect();
        let find = |id: &str| {
            let at = self.entries.binary_search_by(|entry| (*entry.id).cmp(id)).ok()?;
            self.entries.get(at).cloned()
        };
        self.pending = Pending::Entries(ids.into_iter().filter_map(find).collect());
        self.is_due = true;
        Ok(self.page())
    }

    /// The next page of what is still to be sent; an empty one when nothing is, and an answer is due.
    fn page(&mut self) -> Option<SyncAuthorizedEntriesResponse> {
        let (Pending::Revisions(left) | Pending::Entries(left)) = &mut self.pending;
        let page: Vec<_> = left.drain(..left.len().min(SYNC_PAGE)).collect();
        let mut response = SyncAuthorizedEntriesResponse {
            more: !left.is_empty(),
            ..Default::default()
        };
        let is_due = std::mem::take(&mut self.is_due);
        if page.is_empty() {
            return is_due.then_some(response);
        }
        match &self.pending {
            Pending::Revisions(_) => {
                let revision = |entry: &Arc<Entry>| EntryRevision {
                    id: entry.id.to_string(),
                    revision_number: entry.revision,
                    created_at: entry.created_at,
                };
                response.entry_revisions = page.iter().map(revision).collect();
            }
            Pending::Entries(_) => {
                let mask = self.mask.as_ref();
                response.entries = page.iter().map(|entry| mask_entry(entry.to_message(), mask)).collect();
            }
        }
        Some(response)
    }
}

/// The filters of listing and of counting, which are alike.
#[derive(Default)]
struct Asked {
    spiffe_id: Option<types::Spiffeid>,
    parent_id: Option<types::Spiffeid>,
    selectors: Option<types::SelectorMatch>,
    federates_with: Option<types::FederatesWithMatch>,
    hint: Option<String>,
    downstream: Option<bool>,
}

impl From<list_entries_request::Filter> for Asked {
    fn from(filter: list_entries_request::Filter) -> Self {
        Self {
            spiffe_id: filter.by_spiffe_id,
            parent_id: filter.by_parent_id,
            selectors: filter.by_selectors,
            federates_with: filter.by_federates_with,
            hint: filter.by_hint,
            downstream: filter.by_downstream,
        }
    }
}

impl From<count_entries_request::Filter> for Asked {
    fn from(filter: count_entries_request::Filter) -> Self {
        Self {
            spiffe_id: filter.by_spiffe_id,
            parent_id: filter.by_parent_id,
            selectors: filter.by_selectors,
            federates_with: filter.by_federates_with,
            hint: filter.by_hint,
            downstream: filter.by_downstream,
        }
    }
}

fn filter(asked: Asked, own: &TrustDomain) -> Result<Filter, Status> {
    let id = |what, id: Option<types::Spiffeid>| id.map(|id| member_id(what, Some(id), own)).transpose();
    Ok(Filter {
        spiffe_id: id("malformed SPIFFE ID filter", asked.spiffe_id)?,
        parent_id: id("malformed parent ID filter", asked.parent_id)?,
        selectors: asked
            .selectors
            .map(|wanted| selector_match("malformed selectors filter", wanted))
            .transpose()?,
        federates_with: asked.federates_with.map(federates_with).transpose()?,
        hint: asked.hint.filter(|hint| !hint.is_empty()),
        // SPIRE's command always sends it, and its server takes `false` for "whichever".
        downstream: asked.downstream.filter(|downstream| *downstream),
    })
}

fn federates_with(wanted: types::FederatesWithMatch) -> Result<(Vec<TrustDomain>, Match), Status> {
    let what = "malformed federates with filter";
    let how = match MatchBehavior::try_from(wanted.r#match) {
        Ok(MatchBehavior::MatchExact) => Match::Exact,
        Ok(MatchBehavior::MatchSubset) => Match::Subset,
        Ok(MatchBehavior::MatchSuperset) => Match::Superset,
        Ok(MatchBehavior::MatchAny) => Match::Any,
        Err(_) => return Err(malformed(what, format!("{} is no match behaviour", wanted.r#match))),
    };
    let count = wanted.trust_domains.len();
    if count == 0 || count > convert::MAX_PAGE {
        return Err(malformed(
            what,
            if count == 0 {
                "empty trust domain set"
            } else {
                "too many trust domains"
            },
        ));
    }
    let parse = |name: &String| TrustDomain::parse_name_or_id(name).map_err(|error| malformed(what, error));
    Ok((wanted.trust_domains.iter().map(parse).collect::<Result<_, _>>()?, how))
}

fn check_batch(count: usize) -> Result<(), Status> {
    match count {
        0..=MAX_BATCH => Ok(()),
        _ => Err(invalid(format!(
            "a batch of {count} entries is more than {MAX_BATCH}: send several"
        ))),
    }
}

fn is_ok(status: Option<&types::Status>) -> bool {
    status.is_some_and(|status| status.code == 0)
}
