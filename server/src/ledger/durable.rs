//! What is written down: the only door to a signature.

/// The bytes of a leaf, 1 to 8,192 of them.
pub type LeafBytes = Vec<u8>;

/// The place that the next leaves get: this log, and from this index on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// The log's number.
    pub log: u16,
    /// The index of the first leaf; the others follow.
    pub first: u64,
}

impl Slot {
    /// The index of leaf number `nth` of the call.
    pub fn index(&self, nth: usize) -> u64 {
        self.first + nth as u64
    }
}

/// A thing whose leaf is durable in the log. Only the ledger makes one, and only after the fsync: whoever takes a `Durable` to sign
/// cannot sign what is not written down.
///
/// ```compile_fail,E0451
/// let forged = mintmark_server::ledger::Durable { log: 1, index: 0, thing: () };
/// ```
#[derive(Debug)]
pub struct Durable<U> {
    log: u16,
    index: u64,
    thing: U,
}

impl<U> Durable<U> {
    pub(super) fn new(log: u16, index: u64, thing: U) -> Self {
        Self { log, index, thing }
    }

    /// The number of the log that holds its leaf.
    pub fn log(&self) -> u16 {
        self.log
    }

    /// The index of its leaf.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// The thing.
    pub fn get(&self) -> &U {
        &self.thing
    }
}
