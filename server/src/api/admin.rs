//! `mintmark.admin.v1.Admin`: how the server is, and what is in its issuance log.

mod status_report;

use mintmark_identity::Serial;
use mintmark_proto::Bytes;
use mintmark_proto::admin::{
    CheckpointRequest, CheckpointResponse, LedgerLeaf, ProveConsistencyRequest, ProveConsistencyResponse,
    ProveLeafRequest, ProveLeafResponse, ShowLeavesRequest, ShowLeavesResponse, StatusRequest, StatusResponse,
    admin_server, prove_leaf_request, show_leaves_request,
};
use mintmark_proto::ledger::Leaf;
use prost::Message as _;
use tonic::{Request, Response, Status};

use super::Rooms;
use super::status::{self, internal, invalid, malformed};
use crate::ledger::{LeafBytes, Ledger, LedgerError};

/// One call shows at most so many leaves.
const MAX_LEAVES: u64 = 1_000;

/// The service.
pub(super) struct AdminService {
    pub(super) rooms: Rooms,
}

#[tonic::async_trait]
impl admin_server::Admin for AdminService {
    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let rooms = self.rooms.clone();
        let report = self.rooms.reads.run(move || status_report::report(&rooms)).await;
        Ok(Response::new(
            report.map_err(|error| internal("failed to look at the server", error))?,
        ))
    }

    async fn show_leaves(&self, request: Request<ShowLeavesRequest>) -> Result<Response<ShowLeavesResponse>, Status> {
        use show_leaves_request::Which;
        let which = request.into_inner().which;
        let which = which.ok_or_else(|| invalid("which leaves? name a serial, an index, or how many of the last"))?;
        let serial = match &which {
            Which::Serial(serial) => Some(serial_of(serial)?),
            Which::Index(_) | Which::Last(_) => None,
        };
        let leaves = self.read("failed to read the ledger", move |ledger| {
            let reader = ledger.reader();
            match (which, serial) {
                (Which::Serial(_), Some(serial)) => Ok(vec![leaf_message(serial.index(), &ledger.find(&serial)?.0)]),
                (Which::Index(index), _) => Ok(vec![leaf_message(index, &reader.leaf(index)?)]),
                (Which::Last(count), _) => {
                    let (first, leaves) = reader.last(u64::from(count).min(MAX_LEAVES))?;
                    let mut leaves: Vec<_> = (first..)
                        .zip(&leaves)
                        .map(|(index, leaf)| leaf_message(index, leaf))
                        .collect();
                    leaves.reverse();
                    Ok(leaves)
                }
                (Which::Serial(_), None) => Ok(Vec::new()),
            }
        });
        Ok(Response::new(ShowLeavesResponse { leaves: leaves.await? }))
    }

    async fn prove_leaf(&self, request: Request<ProveLeafRequest>) -> Result<Response<ProveLeafResponse>, Status> {
        let serial = match request.into_inner().which {
            Some(prove_leaf_request::Which::Serial(serial)) => Ok(serial_of(&serial)?),
            Some(prove_leaf_request::Which::Index(index)) => Err(index),
            None => return Err(invalid("which leaf? name a serial or an index")),
        };
        let proven = self.read("failed to prove the leaf", move |ledger| {
            let older = serial
                .as_ref()
                .ok()
                .map(Serial::log)
                .filter(|log| *log != ledger.number());
            let (index, leaf) = match serial {
                Ok(serial) => (serial.index(), ledger.find(&serial)?.0),
                Err(index) => (index, ledger.reader().leaf(index)?),
            };
            // A log that is no longer written has its last checkpoint in its directory.
            let older = older.and_then(|log| ledger.reader_of(log));
            let (reader, (checkpoint, note)) = match &older {
                Some(reader) => (reader, reader.checkpoint()?),
                None => (ledger.reader(), ledger.checkpoint()),
            };
            let proof = reader.prove(index, checkpoint.size)?;
            Ok(ProveLeafResponse {
                index,
                leaf: Bytes::copy_from_slice(&leaf),
                tree_size: checkpoint.size,
                proof: proof.iter().map(|hash| Bytes::copy_from_slice(hash)).collect(),
                checkpoint: note,
            })
        });
        Ok(Response::new(proven.await?))
    }

    async fn prove_consistency(
        &self,
        request: Request<ProveConsistencyRequest>,
    ) -> Result<Response<ProveConsistencyResponse>, Status> {
        let ProveConsistencyRequest { from, to } = request.into_inner();
        let (checkpoint, note) = self.rooms.ledger.checkpoint();
        let to = if to == 0 { checkpoint.size } else { to };
        if from == 0 || from > to || to > checkpoint.size {
            let size = checkpoint.size;
            return Err(invalid(format!(
                "consistency from size {from} to {to} cannot be proven: 1 <= from <= to <= {size}"
            )));
        }
        let proof = self
            .read("failed to prove consistency", move |ledger| {
                ledger.reader().prove_consistency(from, to)
            })
            .await?;
        let proof = proof.iter().map(|hash| Bytes::copy_from_slice(hash)).collect();
        Ok(Response::new(ProveConsistencyResponse {
            from,
            to,
            proof,
            checkpoint: note,
        }))
    }

    async fn checkpoint(&self, _: Request<CheckpointRequest>) -> Result<Response<CheckpointResponse>, Status> {
        let (_, checkpoint) = self.rooms.ledger.checkpoint();
        Ok(Response::new(CheckpointResponse { checkpoint }))
    }
}

impl AdminService {
    /// Reads the log where blocking is allowed.
    async fn read<T: Send + 'static>(
        &self,
        what: &str,
        read: impl FnOnce(&Ledger) -> Result<T, LedgerError> + Send + 'static,
    ) -> Result<T, Status> {
        let ledger = self.rooms.ledger.clone();
        let done = self
            .rooms
            .reads
            .run(move || read(&ledger))
            .await
            .map_err(|error| internal(what, error))?;
        done.map_err(|error| status::ledger(what, error))
    }
}

fn serial_of(bytes: &[u8]) -> Result<Serial, Status> {
    Serial::from_bytes(bytes).map_err(|error| malformed("not a serial of ours", error))
}

fn leaf_message(index: u64, leaf: &LeafBytes) -> LedgerLeaf {
    LedgerLeaf {
        index,
        raw: Bytes::copy_from_slice(leaf),
        leaf: Leaf::decode(&**leaf).ok(),
    }
}
