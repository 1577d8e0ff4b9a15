//! Lines on their way to standard error. Its reader may stall, and a write then waits for as long
//! as that takes; the service must not. Lines for which there is no room, and lines that cannot be
//! written, are left out and counted.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// Lines that may wait: about a megabyte, if they are as long as usual.
const LINES_MAX: usize = 4_096;
/// The approximate size of one write.
const WRITE_BYTES: usize = 64 * 1024;

/// Cheap to clone.
#[derive(Clone)]
pub struct Backlog {
    lines: SyncSender<Vec<u8>>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// How many lines were taken in, and how many were left out since that was last reported.
    taken: AtomicU64,
    left_out: AtomicU64,
    written: Mutex<u64>,
    more_written: Condvar,
}

impl Backlog {
    /// Writes what it is given, on a thread of its own; and, as soon as writing works again, the
    /// line that `notice` makes to say how many were left out.
    pub fn start(
        to: impl Write + Send + 'static,
        notice: impl Fn(u64) -> String + Send + 'static,
    ) -> io::Result<Self> {
        let (lines, waiting) = sync_channel(LINES_MAX);
        let shared = Arc::new(Shared::default());
        let writing = Arc::clone(&shared);
        thread::Builder::new()
            .name("log".into())
            .spawn(move || writing.write(&waiting, to, notice))?;
        Ok(Self { lines, shared })
    }

    /// Returns when all lines are written, or after `max`.
    pub fn finish(&self, max: Duration) {
        let taken = self.shared.taken.load(Ordering::Acquire);
        let written = self.shared.written.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = self.shared.more_written.wait_timeout_while(written, max, |it| *it < taken);
        drop(waiting);
    }
}

/// Takes one line at a time. Never waits, and never fails, since there is nobody to tell.
impl Write for Backlog {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        // Counted first, since it may be written at once.
        self.shared.taken.fetch_add(1, Ordering::Release);
        if self.lines.try_send(line.to_vec()).is_err() {
            self.shared.taken.fetch_sub(1, Ordering::Release);
            self.shared.left_out.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Shared {
    fn write(
        &self,
        waiting: &Receiver<Vec<u8>>,
        mut to: impl Write,
        notice: impl Fn(u64) -> String,
    ) {
        let mut write = |text: &[u8]| to.write_all(text).and_then(|()| to.flush());
        while let Ok(mut text) = waiting.recv() {
            let mut lines = 1;
            while text.len() < WRITE_BYTES
                && let Ok(line) = waiting.try_recv()
            {
                text.extend(line);
                lines += 1;
            }
            // Even if the reader is gone, lines are still taken in.
            if write(&text).is_err() {
                self.left_out.fetch_add(lines, Ordering::Relaxed);
            }
            *self.written.lock().unwrap_or_else(PoisonError::into_inner) += lines;
            self.more_written.notify_all();
            // Written directly and not logged: there may be no room in the backlog yet.
            let left_out = self.left_out.swap(0, Ordering::Relaxed);
            if left_out > 0 && write(notice(left_out).as_bytes()).is_err() {
                self.left_out.fetch_add(left_out, Ordering::Relaxed);
            }
        }
    }
}
