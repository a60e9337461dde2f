//! The thread that writes the log.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

/// Lines that may wait; at 200 bytes a line, 2 MiB.
const QUEUE: usize = 10_000;
/// Bytes that are collected before they are written at once.
const BATCH: usize = 64 << 10;

/// Hands lines to the writing thread. Clones hand them to the same one.
#[derive(Clone)]
pub(super) struct LineWriter {
    queue: SyncSender<Message>,
    dropped: Arc<AtomicU64>,
}

enum Message {
    Line(Vec<u8>),
    Flushed(SyncSender<()>),
}

impl LineWriter {
    /// Starts the thread, which writes to `out` until the last handle is gone.
    pub(super) fn start(out: impl Write + Send + 'static) -> io::Result<Self> {
        Self::with_queue(out, QUEUE)
    }

    fn with_queue(out: impl Write + Send + 'static, length: usize) -> io::Result<Self> {
        let (queue, lines) = mpsc::sync_channel(length);
        let dropped = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&dropped);
        std::thread::Builder::new()
            .name("log".into())
            .spawn(move || write_all(out, &lines, &counted))?;
        Ok(Self { queue, dropped })
    }

    /// How many lines were dropped since start.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Waits until the lines before this are written, or `limit` has passed.
    pub(super) fn flush(&self, limit: Duration) {
        let (done, wait) = mpsc::sync_channel(1);
        // A full queue means that the writer is stuck; nothing is gained by waiting for it to have room.
        if self.queue.try_send(Message::Flushed(done)).is_ok() {
            let _ = wait.recv_timeout(limit);
        }
    }
}

impl<'a> MakeWriter<'a> for LineWriter {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line {
            writer: self,
            bytes: Vec::new(),
        }
    }
}

/// One event's line, queued when it is complete.
pub(super) struct Line<'a> {
    writer: &'a LineWriter,
    bytes: Vec<u8>,
}

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        let line = std::mem::take(&mut self.bytes);
        if line.is_empty() {
            return;
        }
        if let Err(TrySendError::Full(_)) = self.writer.queue.try_send(Message::Line(line)) {
            self.writer.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn write_all(mut out: impl Write, lines: &Receiver<Message>, dropped: &AtomicU64) {
    let mut batch = Vec::with_capacity(BATCH);
    let mut reported = 0;
    while let Ok(first) = lines.recv() {
        let mut waiting = Vec::new();
        let mut next = Some(first);
        while let Some(message) = next {
            match message {
                Message::Line(line) => batch.extend_from_slice(&line),
                Message::Flushed(done) => waiting.push(done),
            }
            next = if batch.len() < BATCH {
                lines.try_recv().ok()
            } else {
                None
            };
        }
        let total = dropped.load(Ordering::Relaxed);
        if total > reported {
            let lost = total - reported;
            // Into a vector, which cannot fail.
            let _ = writeln!(
                batch,
                "{lost} log lines were dropped because they came faster than they could be written"
            );
            reported = total;
        }
        // There is nowhere to say that standard error cannot be written to.
        let _ = out.write_all(&batch).and_then(|()| out.flush());
        batch.clear();
        for done in waiting {
            let _ = done.try_send(());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Clone, Default)]
    struct Gated {
        gate: Arc<Mutex<()>>,
        written: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Gated {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _open = self.gate.lock().unwrap();
            self.written.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn log(writer: &LineWriter, line: &str) {
        writeln!(writer.make_writer(), "{line}").unwrap();
    }

    #[test]
    fn a_writer_that_cannot_keep_up_drops_lines_and_says_how_many() {
        let out = Gated::default();
        let writer = LineWriter::with_queue(out.clone(), 4).unwrap();
        let shut = out.gate.lock().unwrap();
        let mut sent = 0;
        while writer.dropped() < 3 {
            sent += 1;
            log(&writer, &format!("line {sent}"));
        }
        drop(shut);
        // The queue may still be full at this moment.
        let text = || String::from_utf8(out.written.lock().unwrap().clone()).unwrap();
        while !text().contains("3 log lines were dropped") {
            writer.flush(Duration::from_secs(10));
        }
        assert_eq!(
            text().lines().filter(|line| line.starts_with("line ")).count(),
            sent - 3
        );
    }
}
