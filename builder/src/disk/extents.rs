//! Which clusters of a sparse file hold anything: holes are skipped by the file system's own map,
//! all-zero clusters by looking.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, anyhow};
use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

/// Bytes of a cluster: qcow2's default, and the unit of [`super::qcow2`]'s disk digest.
pub const CLUSTER: u64 = 64 << 10;

/// Clusters read at once while scanning.
const BATCH: u64 = 64;

/// Numbers of the clusters of `file` that hold a byte other than zero, ascending.
///
/// # Errors
/// The file cannot be read or mapped.
pub fn used_clusters(file: &File, size: u64) -> Result<Vec<u64>> {
    let clusters = size.div_ceil(CLUSTER);
    // Two halves at once: the file is in memory, and comparing it is all there is to do.
    let middle = clusters / 2;
    std::thread::scope(|scope| {
        let second = scope.spawn(|| used_within(file, size, middle..clusters));
        let mut used = used_within(file, size, 0..middle)?;
        used.extend(second.join().map_err(|_| anyhow!("the reading thread panicked"))??);
        Ok(used)
    })
}

/// The same for the clusters of `range`.
fn used_within(file: &File, size: u64, range: Range<u64>) -> Result<Vec<u64>> {
    let mut used = Vec::new();
    let mut buffer = vec![0; (BATCH * CLUSTER) as usize];
    let (mut at, mut next) = (range.start * CLUSTER, range.start);
    while next < range.end
        && let Some((start, end)) = data_after(file, at)?
    {
        at = end;
        let last = end.min(size).div_ceil(CLUSTER).min(range.end);
        next = next.max(start / CLUSTER);
        while next < last {
            let count = BATCH.min(last - next);
            let bytes = (count * CLUSTER).min(size - next * CLUSTER) as usize;
            let batch = &mut buffer[..bytes];
            file.read_exact_at(batch, next * CLUSTER).context("failed to read a raw disk")?;
            let full = batch.chunks(CLUSTER as usize).enumerate().filter(|(_, c)| !is_zero(c));
            used.extend(full.map(|(i, _)| next + i as u64));
            next += count;
        }
    }
    Ok(used)
}

/// The next run of data at or after `from`, as byte offsets (start, end).
fn data_after(file: &File, from: u64) -> Result<Option<(u64, u64)>> {
    let seek = |offset: u64, whence| lseek(file, offset.cast_signed(), whence);
    let start = match seek(from, Whence::SeekData) {
        Ok(start) => start.cast_unsigned(),
        Err(Errno::ENXIO) => return Ok(None),
        Err(e) => return Err(e).context("failed to map a raw disk"),
    };
    let end = seek(start, Whence::SeekHole).context("failed to map a raw disk")?;
    Ok(Some((start, end.cast_unsigned())))
}

/// Compared in pieces that the compiler turns into vector instructions.
pub(super) fn is_zero(bytes: &[u8]) -> bool {
    const ZEROS: [u8; 4096] = [0; 4096];
    bytes.chunks(ZEROS.len()).all(|piece| piece == &ZEROS[..piece.len()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_and_written_zeros_do_not_count() {
        let file = tempfile::tempfile().unwrap();
        let size = 300 * CLUSTER + 100;
        file.set_len(size).unwrap();
        file.write_all_at(&[1], 3 * CLUSTER).unwrap();
        file.write_all_at(&[0; 4096], 5 * CLUSTER).unwrap();
        file.write_all_at(&[2; 10], 200 * CLUSTER - 5).unwrap();
        file.write_all_at(&[3], size - 1).unwrap();
        assert_eq!(used_clusters(&file, size).unwrap(), [3, 199, 200, 300]);
    }
}
