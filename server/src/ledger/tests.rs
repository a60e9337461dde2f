//! The ledger as a whole.

mod basics;
mod crash;
mod damage;
mod prune;
mod space;

use std::path::Path;

use mintmark_proto::ledger::Kind;
use mintmark_runtime::clock::Clock;
use prost::Message as _;

use super::*;

const DOMAIN: &str = "example.org";

fn settings() -> Settings {
    Settings::new(Clock::manual(1_700_000_000))
}

fn open(root: &Path) -> Ledger {
    Ledger::open_or_create(root, DOMAIN, 1, settings()).unwrap()
}

/// A leaf that says where it stands.
fn leaf_of(log: u16, index: u64) -> LeafBytes {
    let serial = Serial::new(log, index, [7; 11]).unwrap();
    let leaf = Leaf {
        log: log.into(),
        index,
        kind: Kind::X509Svid.into(),
        serial: serial.as_bytes().to_vec().into(),
        ..Leaf::default()
    };
    leaf.encode_to_vec()
}

fn leaf(index: u64) -> LeafBytes {
    leaf_of(1, index)
}

async fn append(ledger: &Ledger, count: usize) -> Result<Vec<Durable<u64>>, LedgerError> {
    let encode = |slot: Slot| {
        (0..count)
            .map(|nth| (leaf_of(slot.log, slot.index(nth)), slot.index(nth)))
            .collect()
    };
    ledger.append(count, encode).await
}

/// Appends until the log has `size` leaves.
async fn fill(ledger: &Ledger, size: u64) {
    while ledger.reader().size() < size {
        let left = usize::try_from(size - ledger.reader().size()).unwrap();
        append(ledger, left.min(4096)).await.unwrap();
    }
}

fn check(root: &Path) -> Report {
    verify(root, |_, _| ())
}

/// A ledger that was stopped cleanly has not a byte that is not covered, and nothing unfinished.
fn assert_clean(root: &Path, size: u64) {
    let report = check(root);
    assert!(report.is_sound(), "{report:?}");
    let log = report.logs.last().unwrap();
    assert_eq!(log.notes, Vec::<String>::new());
    let checkpoint = log.checkpoint.as_ref().unwrap();
    assert_eq!((log.size, checkpoint.size, log.root), (size, size, checkpoint.root));
}
