//! One process at a time in a data directory.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a lock that looks held is tried again. A process that is being started shares its parent's open files until
/// it becomes another program, so a lock just let go of can be held for a moment longer.
const STARTING_MAX: Duration = Duration::from_millis(500);
const RETRY_INTERVAL: Duration = Duration::from_millis(10);

/// Holds `<dir>/lock` for as long as the returned file lives, or `None` when another process holds it. The kernel lets go
/// when a process ends, however it ends, so a lock is never stale.
pub(crate) fn hold(dir: &Path) -> io::Result<Option<File>> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(dir.join("lock"))?;
    let since = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Some(file)),
            Err(TryLockError::WouldBlock) if since.elapsed() < STARTING_MAX => std::thread::sleep(RETRY_INTERVAL),
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
}
