//! Orders of a node, by who vouches for their subjects: for most entries the node alone, for a pod's two witnesses, which the ledger's leaf names.

use futures::future::join_all;
use tonic::{Code, Status};

use super::{Rooms, status};
use crate::attest::Attested;
use crate::registry::Entry;

/// Who vouches for an entry's subject, where that is not the node that asks alone.
pub(super) fn voucher(rooms: &Rooms, asks: &Attested, entry: &Entry) -> Result<Option<Attested>, Status> {
    let voucher = rooms.pods.voucher(asks, entry);
    voucher.map_err(|error| status::refused(Code::PermissionDenied, "NOT_VOUCHED", error.to_string()))
}

/// The orders of one call.
pub(super) struct Vouched<'r, O> {
    rooms: &'r Rooms,
    /// The first is the node's own.
    groups: Vec<(Attested, Vec<O>)>,
}

/// The answers, each to be taken in the order in which its group was asked.
pub(super) struct Answers<A>(Vec<std::vec::IntoIter<A>>);

impl<'r, O> Vouched<'r, O> {
    /// With room for so many orders.
    pub(super) fn new(rooms: &'r Rooms, asks: &Attested, count: usize) -> Self {
        Self {
            rooms,
            groups: vec![(asks.clone(), Vec::with_capacity(count))],
        }
    }

    /// One more order, for an entry that is the node's. Returns the number of its group.
    pub(super) fn push(&mut self, entry: &Entry, order: O) -> Result<usize, Status> {
        let [(asks, own), ..] = &mut self.groups[..] else {
            return Err(status::internal("no order", "there is no group"));
        };
        let Some(voucher) = voucher(self.rooms, asks, entry)? else {
            own.push(order);
            return Ok(0);
        };
        if let Some(at) = self.groups.iter().position(|(other, _)| *other == voucher) {
            self.groups[at].1.push(order);
            return Ok(at);
        }
        self.groups.push((voucher, vec![order]));
        Ok(self.groups.len() - 1)
    }

    /// Has all groups answered.
    pub(super) async fn issue<A, F>(self, issue: impl Fn(Attested, Vec<O>) -> F) -> Answers<A>
    where
        F: Future<Output = Vec<A>>,
    {
        let answered = self.groups.into_iter().map(|(asked, orders)| issue(asked, orders));
        let answered = join_all(answered).await;
        Answers(answered.into_iter().map(Vec::into_iter).collect())
    }
}

impl<A> Answers<A> {
    /// Those of a group.
    pub(super) fn of(&mut self, group: usize) -> &mut std::vec::IntoIter<A> {
        &mut self.0[group]
    }
}
