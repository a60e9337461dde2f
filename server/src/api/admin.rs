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
use crate::ledger::{LeafBytes, LedgerError, Reader};

/// One call shows at most so many leaves.
const MAX_LEAVES: u64 = 1_000;

/// The service.
pub(super) struct AdminService {
    pub(super) rooms: Rooms,
}

#[tonic::async_trait]
impl admin_server::Admin for AdminService {
    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        Ok(Response::new(status_report::report(&self.rooms)))
    }

    async fn show_leaves(&self, request: Request<ShowLeavesRequest>) -> Result<Response<ShowLeavesResponse>, Status> {
        use show_leaves_request::Which;
        let what = "failed to read the ledger";
        let (first, leaves) = match request.into_inner().which {
            Some(Which::Serial(serial)) => self.one(what, self.index_of(&serial)?).await?,
            Some(Which::Index(index)) => self.one(what, index).await?,
            Some(Which::Last(count)) => {
                let count = u64::from(count).min(MAX_LEAVES);
                self.read(what, move |reader| reader.last(count)).await?
            }
            None => {
                return Err(invalid(
                    "which leaves? name a serial, an index, or how many of the last",
                ));
            }
        };
        let mut leaves: Vec<_> = (first..)
            .zip(leaves)
            .map(|(index, leaf)| leaf_message(index, &leaf))
            .collect();
        leaves.reverse();
        Ok(Response::new(ShowLeavesResponse { leaves }))
    }

    async fn prove_leaf(&self, request: Request<ProveLeafRequest>) -> Result<Response<ProveLeafResponse>, Status> {
        let what = "failed to prove the leaf";
        let index = match request.into_inner().which {
            Some(prove_leaf_request::Which::Serial(serial)) => self.index_of(&serial)?,
            Some(prove_leaf_request::Which::Index(index)) => index,
            None => return Err(invalid("which leaf? name a serial or an index")),
        };
        let (checkpoint, note) = self.rooms.ledger.checkpoint();
        let size = checkpoint.size;
        let read = move |reader: &Reader| Ok((reader.leaf(index)?, reader.prove(index, size)?));
        let (leaf, proof) = self.read(what, read).await?;
        Ok(Response::new(ProveLeafResponse {
            index,
            leaf: Bytes::copy_from_slice(&leaf),
            tree_size: size,
            proof: proof.iter().map(|hash| Bytes::copy_from_slice(hash)).collect(),
            checkpoint: note,
        }))
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
            .read("failed to prove consistency", move |reader| {
                reader.prove_consistency(from, to)
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
    /// The index in a serial of this log.
    fn index_of(&self, serial: &[u8]) -> Result<u64, Status> {
        let serial = Serial::from_bytes(serial).map_err(|error| malformed("not a serial of ours", error))?;
        let number = self.rooms.ledger.number();
        match serial.log() == number {
            true => Ok(serial.index()),
            false => Err(status::not_found(format!(
                "serial {serial} is in log {}, and this server writes log {number}: look with `mintmark ledger verify --data`",
                serial.log()
            ))),
        }
    }

    async fn one(&self, what: &str, index: u64) -> Result<(u64, Vec<LeafBytes>), Status> {
        let leaf = self.read(what, move |reader| reader.leaf(index)).await?;
        Ok((index, vec![leaf]))
    }

    /// Reads the log where blocking is allowed.
    async fn read<T: Send + 'static>(
        &self,
        what: &str,
        read: impl FnOnce(&Reader) -> Result<T, LedgerError> + Send + 'static,
    ) -> Result<T, Status> {
        let reader = self.rooms.ledger.reader().clone();
        let done = self
            .rooms
            .reads
            .run(move || read(&reader))
            .await
            .map_err(|error| internal(what, error))?;
        done.map_err(|error| status::ledger(what, error))
    }
}

fn leaf_message(index: u64, leaf: &LeafBytes) -> LedgerLeaf {
    LedgerLeaf {
        index,
        raw: Bytes::copy_from_slice(leaf),
        leaf: Leaf::decode(&**leaf).ok(),
    }
}
