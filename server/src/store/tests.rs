//! What the engine on sled survives.

mod crash;
mod damage;
mod full;
mod snapshots;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;

use super::{
    KeyValue, OpenReport, Retention, Revision, Settings, Store, StoreError, Txn, engine::Engine, local::Local,
    metrics::StoreMetrics,
};

/// A store's directory that goes away with the test.
struct Place {
    directory: tempfile::TempDir,
    settings: Settings,
    metrics: StoreMetrics,
}

impl Place {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
            settings: Settings::default(),
            metrics: StoreMetrics::unread(),
        }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("store")
    }

    fn index(&self) -> PathBuf {
        self.path().join("index")
    }

    fn try_open(&self) -> Result<Store, StoreError> {
        let local = Local::open(&self.path(), self.settings, Retention::default(), self.metrics.clone())?;
        Ok(Store {
            engine: Arc::new(local),
        })
    }

    fn open(&self) -> Store {
        self.try_open().unwrap()
    }

    /// The files in one of the store's directories, sorted.
    fn files(&self, directory: &str) -> Vec<PathBuf> {
        let mut files: Vec<_> = fs::read_dir(self.path().join(directory))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        files.sort();
        files
    }

    fn journal(&self) -> PathBuf {
        self.files("journal").pop().unwrap()
    }
}

fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(test)
}

/// Puts the keys of these numbers, 1,000 a transaction.
async fn fill(store: &Store, numbers: std::ops::Range<u64>) -> Revision {
    let numbers: Vec<u64> = numbers.collect();
    let mut last = store.revision();
    for some in numbers.chunks(1000) {
        let txn = some
            .iter()
            .fold(Txn::new(), |txn, number| txn.put(key(*number), value(*number)));
        last = store.commit(txn).await.unwrap();
    }
    last
}

/// A key whose order is not that of its number.
fn key(number: u64) -> Bytes {
    format!("entry/{:016x}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15)).into()
}

fn value(number: u64) -> Bytes {
    format!("value of {number}: ").repeat(20).into()
}

async fn everything(store: &Store) -> (Revision, Vec<KeyValue>) {
    store.range(b"", None, usize::MAX).await.unwrap()
}

/// That the store holds the keys of `0..count` and nothing else.
async fn holds(store: &Store, count: u64) {
    let (_, pairs) = everything(store).await;
    assert_eq!(pairs.len() as u64, count);
    let mut expected: Vec<_> = (0..count).map(|number| (key(number), value(number))).collect();
    expected.sort();
    assert!(
        pairs.into_iter().map(|pair| (pair.key, pair.value)).eq(expected),
        "keys or values differ"
    );
}

fn report(store: &Store) -> OpenReport {
    store.open_report().unwrap().clone()
}

/// Changes `count` bytes at places that `seed` chooses.
fn flip(file: &Path, count: usize, seed: u64) {
    use rand::{Rng, SeedableRng};
    let mut random = rand::rngs::StdRng::seed_from_u64(seed);
    let mut bytes = fs::read(file).unwrap();
    for _ in 0..count.min(bytes.len()) {
        let place = random.gen_range(0..bytes.len());
        bytes[place] ^= random.gen_range(1..=255_u8);
    }
    fs::write(file, bytes).unwrap();
}
