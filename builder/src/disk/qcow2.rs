//! The raw disk as a qcow2 file whose bytes depend on the disk's content alone, with the digests
//! of both taken in the same pass.
//!
//! Format: QEMU's `docs/interop/qcow2.txt`, version 3, 64 KiB clusters, 16-bit reference counts,
//! no compression: Proxmox reads it back at disk speed, and a rebuild costs a second less. Order
//! in the file: header, reference count table and blocks, L1, L2, then the data clusters in the
//! order of the disk.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result};
use node::values::Digest;
use sha2::{Digest as _, Sha256};

use super::extents::{CLUSTER, used_clusters};

/// Entries of an L2 table, and of a cluster of any table of u64.
const PER_TABLE: u64 = CLUSTER / 8;
/// Reference counts in a block: 16 bits each.
const PER_REFBLOCK: u64 = CLUSTER / 2;
/// Marks a cluster with a reference count of one (qcow2's `QCOW_OFLAG_COPIED`).
const COPIED: u64 = 1 << 63;
/// Clusters copied at once.
const BATCH: usize = 16;

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// SHA-256 of the qcow2 file.
    pub file_sha256: Digest,
    /// SHA-256 over every cluster of the disk that is not all zeros: its number (u64, little
    /// endian), then its bytes. Holes cost nothing, and any tool can compute it from a raw disk.
    pub disk_sha256: Digest,
    /// Bytes of the qcow2 file.
    pub file_bytes: u64,
}

/// Positions of the parts, in clusters.
struct Layout {
    refblocks: u64,
    l1: u64,
    l2: u64,
    data: u64,
    total: u64,
    l1_entries: u64,
    l2_tables: u64,
}

impl Layout {
    fn new(size: u64, used: &[u64]) -> Self {
        let l1_entries = size.div_ceil(CLUSTER).div_ceil(PER_TABLE);
        let l1_clusters = l1_entries.div_ceil(PER_TABLE);
        let l2_tables = l2_numbers(used).count() as u64;
        let others = 2 + l1_clusters + l2_tables + used.len() as u64;
        // The reference counts also count their own blocks.
        let mut refblocks = 1;
        while refblocks * PER_REFBLOCK < others + refblocks {
            refblocks += 1;
        }
        let l1 = 2 + refblocks;
        let l2 = l1 + l1_clusters;
        let data = l2 + l2_tables;
        Self { refblocks, l1, l2, data, total: others + refblocks, l1_entries, l2_tables }
    }
}

/// Numbers of the L2 tables that `used` (ascending) needs.
fn l2_numbers(used: &[u64]) -> impl Iterator<Item = u64> {
    let tables = used.chunk_by(|a, b| a / PER_TABLE == b / PER_TABLE);
    tables.map(|chunk| chunk[0] / PER_TABLE)
}

/// Writes `raw` (a sparse file of `size` bytes) as qcow2 to `out`, from its start.
///
/// # Errors
/// Either file cannot be read or written.
pub fn write(raw: &File, size: u64, out: &mut File) -> Result<Written> {
    let used = used_clusters(raw, size)?;
    let layout = Layout::new(size, &used);
    std::thread::scope(|scope| {
        let digest = scope.spawn(|| disk_digest(raw, size, &used));
        let mut hashed = Hashed { out, sha: Sha256::new() };
        hashed
            .write_all(&metadata(size, &used, &layout))
            .context("failed to write the qcow2 file")?;
        copy_clusters(raw, size, &used, |_, bytes| hashed.write_all(bytes))
            .context("failed to write the qcow2 file")?;
        let disk_sha256 =
            digest.join().map_err(|_| anyhow::anyhow!("the digest thread panicked"))??;
        Ok(Written {
            file_sha256: Digest::from_bytes(hashed.sha.finalize().into()),
            disk_sha256,
            file_bytes: layout.total * CLUSTER,
        })
    })
}

/// The digest described at [`Written::disk_sha256`].
///
/// # Errors
/// The disk cannot be read.
pub fn disk_digest(raw: &File, size: u64, used: &[u64]) -> Result<Digest> {
    let mut sha = Sha256::new();
    copy_clusters(raw, size, used, |numbers, bytes| {
        for (number, cluster) in numbers.iter().zip(bytes.chunks(CLUSTER as usize)) {
            sha.update(number.to_le_bytes());
            sha.update(cluster);
        }
        Ok(())
    })?;
    Ok(Digest::from_bytes(sha.finalize().into()))
}

/// Hands over runs of neighbouring clusters, a last one that the disk cuts short filled with zeros.
fn copy_clusters(
    raw: &File,
    size: u64,
    used: &[u64],
    mut sink: impl FnMut(&[u64], &[u8]) -> std::io::Result<()>,
) -> Result<()> {
    let mut buffer = vec![0; BATCH * CLUSTER as usize];
    for run in used.chunk_by(|a, b| a + 1 == *b).flat_map(|run| run.chunks(BATCH)) {
        let start = run[0] * CLUSTER;
        let bytes = &mut buffer[..run.len() * CLUSTER as usize];
        let there = (bytes.len() as u64).min(size - start) as usize;
        raw.read_exact_at(&mut bytes[..there], start).context("failed to read the raw disk")?;
        bytes[there..].fill(0);
        sink(run, bytes).context("failed to pass on a cluster")?;
    }
    Ok(())
}

/// Everything before the data.
fn metadata(size: u64, used: &[u64], layout: &Layout) -> Vec<u8> {
    let mut meta = Vec::with_capacity((layout.data * CLUSTER) as usize);
    meta.extend(header(size, layout));
    let mut table = |entries: &mut dyn Iterator<Item = u64>| {
        meta.extend(entries.flat_map(u64::to_be_bytes));
        meta.resize(meta.len().next_multiple_of(CLUSTER as usize), 0);
    };
    table(&mut (0..layout.refblocks).map(|i| (2 + i) * CLUSTER));
    table(&mut std::iter::empty());
    meta.extend((0..layout.total).flat_map(|_| 1u16.to_be_bytes()));
    meta.resize((layout.l1 * CLUSTER) as usize, 0);

    let mut l1 = vec![0; layout.l1_entries as usize];
    for (i, number) in l2_numbers(used).enumerate() {
        l1[number as usize] = ((layout.l2 + i as u64) * CLUSTER) | COPIED;
    }
    meta.extend(l1.into_iter().flat_map(u64::to_be_bytes));
    meta.resize((layout.l2 * CLUSTER) as usize, 0);

    let mut l2 = vec![0; (layout.l2_tables * PER_TABLE) as usize];
    let (mut table, mut number) = (0, used.first().map_or(0, |c| c / PER_TABLE));
    for (i, cluster) in used.iter().enumerate() {
        if cluster / PER_TABLE != number {
            (table, number) = (table + 1, cluster / PER_TABLE);
        }
        let slot = table * PER_TABLE + cluster % PER_TABLE;
        l2[slot as usize] = ((layout.data + i as u64) * CLUSTER) | COPIED;
    }
    meta.extend(l2.into_iter().flat_map(u64::to_be_bytes));
    meta
}

fn header(size: u64, layout: &Layout) -> Vec<u8> {
    let mut h = Vec::with_capacity(CLUSTER as usize);
    h.extend(b"QFI\xfb");
    h.extend(3u32.to_be_bytes()); // version
    h.extend([0; 12]); // no backing file
    h.extend(CLUSTER.trailing_zeros().to_be_bytes());
    h.extend(size.to_be_bytes());
    h.extend([0; 4]); // not encrypted
    h.extend((layout.l1_entries as u32).to_be_bytes());
    h.extend((layout.l1 * CLUSTER).to_be_bytes());
    h.extend(CLUSTER.to_be_bytes()); // reference count table: the second cluster
    h.extend(1u32.to_be_bytes()); // of one cluster: enough for 256 TiB of file
    h.extend([0; 12]); // no snapshots
    h.extend([0; 24]); // no feature bits
    h.extend(4u32.to_be_bytes()); // reference counts of 2^4 bits
    h.extend(104u32.to_be_bytes()); // header length
    h.resize(CLUSTER as usize, 0);
    h
}

struct Hashed<'a> {
    out: &'a mut File,
    sha: Sha256,
}

impl Write for Hashed<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let n = self.out.write(bytes)?;
        self.sha.update(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a cluster of the guest's disk out of a qcow2 file, by the format's own rules.
    fn guest_cluster(file: &[u8], number: u64) -> Option<&[u8]> {
        let at = |offset: u64| {
            u64::from_be_bytes(file[offset as usize..offset as usize + 8].try_into().unwrap())
        };
        let l2 = at(at(40) + number / PER_TABLE * 8) & !COPIED;
        let data = if l2 == 0 { 0 } else { at(l2 + number % PER_TABLE * 8) & !COPIED };
        (data != 0).then(|| &file[data as usize..(data + CLUSTER) as usize])
    }

    fn mark(cluster: u64) -> u8 {
        (cluster % 250) as u8 + 1
    }

    #[test]
    fn every_cluster_comes_back_and_the_digests_are_of_what_was_written() {
        let raw = tempfile::tempfile().unwrap();
        let size = (PER_TABLE * 3) * CLUSTER + 700;
        raw.set_len(size).unwrap();
        let used = [0, 1, 2, PER_TABLE * 2 + 7, PER_TABLE * 3];
        for c in used {
            raw.write_all_at(&[mark(c); 100], c * CLUSTER + 50).unwrap();
        }
        let mut out = tempfile::tempfile().unwrap();
        let written = write(&raw, size, &mut out).unwrap();
        let mut file = vec![0; written.file_bytes as usize];
        out.read_exact_at(&mut file, 0).unwrap();
        assert_eq!(out.metadata().unwrap().len(), written.file_bytes);
        assert_eq!(Digest::of(&file), written.file_sha256);
        for c in 0..=PER_TABLE * 3 {
            let found = guest_cluster(&file, c).map(|b| b[50]);
            assert_eq!(found, used.contains(&c).then_some(mark(c)), "cluster {c}");
        }
        let mut again = tempfile::tempfile().unwrap();
        assert_eq!(write(&raw, size, &mut again).unwrap(), written);
    }

    #[test]
    fn an_empty_disk_is_a_file_of_metadata_only() {
        let raw = tempfile::tempfile().unwrap();
        raw.set_len(1 << 30).unwrap();
        let written = write(&raw, 1 << 30, &mut tempfile::tempfile().unwrap()).unwrap();
        assert_eq!(written.file_bytes, 4 * CLUSTER);
    }
}
