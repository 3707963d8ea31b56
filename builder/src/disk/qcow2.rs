//! A disk as a qcow2 file whose bytes depend on the disk's content alone, written from start to end
//! in one pass that also takes the digests of both.
//!
//! Format: QEMU's `docs/interop/qcow2.txt`, version 3, 64 KiB clusters, 16-bit reference counts,
//! no compression: Proxmox reads it back at disk speed, and a rebuild costs a second less. Order
//! in the file: header, reference count table and blocks, L1, L2, then the data clusters in the
//! order of the disk.

use std::io::Write;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::ScopedJoinHandle;

use anyhow::{Context, Result, anyhow};
use node::values::Digest;
use sha2::{Digest as _, Sha256};

use super::content::Content;
use super::extents::{CLUSTER, is_zero};

/// Entries of an L2 table, and of a cluster of any table of u64.
const PER_TABLE: u64 = CLUSTER / 8;
/// Reference counts in a block: 16 bits each.
const PER_REFBLOCK: u64 = CLUSTER / 2;
/// Marks a cluster with a reference count of one (qcow2's `QCOW_OFLAG_COPIED`).
const COPIED: u64 = 1 << 63;
/// Clusters read and written at once: 1 MiB.
const BATCH: usize = 16;
/// Batches that wait for a digest at most: they bound the memory.
const WAITING: usize = 8;

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

/// Clusters of the file on their way to the digests.
struct Batch {
    /// Their numbers on the disk; none for the file's own tables.
    numbers: Vec<u64>,
    bytes: Vec<u8>,
}

/// Writes `disk`, of `size` bytes, as qcow2 to `out`. One thread reads and writes, one digests the
/// file, one the disk: every byte is touched once by each.
///
/// # Errors
/// A file that the disk takes data from cannot be read, or `out` not be written.
pub fn write(disk: &Content, size: u64, out: &mut impl Write) -> Result<Written> {
    let used = disk.clusters();
    let layout = Layout::new(size, &used);
    let (file_sha256, disk_sha256) = std::thread::scope(|scope| {
        let (to_file, for_file) = sync_channel(WAITING);
        let (to_disk, for_disk) = sync_channel(WAITING);
        let file_digest = scope.spawn(|| digest(for_file, |sha, batch| sha.update(&batch.bytes)));
        let disk_digest = scope.spawn(|| digest(for_disk, add_clusters));
        let hand_on = |batch: Batch| hand_on(batch, [&to_file, &to_disk], out);
        let streamed = stream(disk, &used, metadata(size, &used, &layout), hand_on);
        drop((to_file, to_disk)); // the ends of both streams
        let digests = (joined(file_digest), joined(disk_digest));
        streamed.and_then(|()| Ok((digests.0?, digests.1?)))
    })?;
    Ok(Written { file_sha256, disk_sha256, file_bytes: layout.total * CLUSTER })
}

/// Hands on the file's tables, then runs of neighbouring clusters of the disk.
fn stream(
    disk: &Content,
    used: &[u64],
    tables: Vec<u8>,
    mut hand_on: impl FnMut(Batch) -> Result<()>,
) -> Result<()> {
    hand_on(Batch { numbers: Vec::new(), bytes: tables })?;
    let mut reader = disk.reader();
    for run in used.chunk_by(|a, b| a + 1 == *b).flat_map(|run| run.chunks(BATCH)) {
        let mut bytes = vec![0; run.len() * CLUSTER as usize];
        reader.read(run[0] * CLUSTER, &mut bytes)?;
        hand_on(Batch { numbers: run.to_vec(), bytes })?;
    }
    Ok(())
}

fn hand_on(batch: Batch, to: [&SyncSender<Arc<Batch>>; 2], out: &mut impl Write) -> Result<()> {
    let batch = Arc::new(batch);
    for digest in to {
        digest.send(batch.clone()).map_err(|_| anyhow!("a digest thread panicked"))?;
    }
    out.write_all(&batch.bytes).context("failed to write the qcow2 file")
}

fn digest(batches: Receiver<Arc<Batch>>, add: fn(&mut Sha256, &Batch)) -> Digest {
    let mut sha = Sha256::new();
    for batch in batches {
        add(&mut sha, &batch);
    }
    Digest::from_bytes(sha.finalize().into())
}

/// Adds clusters as described at [`Written::disk_sha256`].
fn add_clusters(sha: &mut Sha256, batch: &Batch) {
    let clusters = batch.numbers.iter().zip(batch.bytes.chunks(CLUSTER as usize));
    for (number, cluster) in clusters.filter(|(_, cluster)| !is_zero(cluster)) {
        sha.update(number.to_le_bytes());
        sha.update(cluster);
    }
}

fn joined(thread: ScopedJoinHandle<Digest>) -> Result<Digest> {
    thread.join().map_err(|_| anyhow!("a digest thread panicked"))
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

    fn written(disk: &Content, size: u64) -> (Vec<u8>, Written) {
        let mut file = Vec::new();
        let written = write(disk, size, &mut file).unwrap();
        (file, written)
    }

    #[test]
    fn every_cluster_comes_back_and_the_digests_are_of_what_was_written() {
        let mut disk = Content::default();
        let size = (PER_TABLE * 3) * CLUSTER + 700;
        let used = [0, 1, 2, PER_TABLE * 2 + 7, PER_TABLE * 3];
        let mut expected = Sha256::new();
        for c in used {
            disk.put(c * CLUSTER + 50, vec![mark(c); 100]).unwrap();
            let mut cluster = vec![0; CLUSTER as usize];
            cluster[50..150].fill(mark(c));
            expected.update(c.to_le_bytes());
            expected.update(&cluster);
        }
        // Written zeros are in the file, but not in the disk's digest.
        disk.put(9 * CLUSTER, vec![0; 10]).unwrap();
        let (file, written) = written(&disk, size);
        assert_eq!(file.len() as u64, written.file_bytes);
        assert_eq!(Digest::of(&file), written.file_sha256);
        assert_eq!(Digest::from_bytes(expected.finalize().into()), written.disk_sha256);
        for c in (0..=PER_TABLE * 3).filter(|c| *c != 9) {
            let found = guest_cluster(&file, c).map(|b| b[50]);
            assert_eq!(found, used.contains(&c).then_some(mark(c)), "cluster {c}");
        }
        assert!(guest_cluster(&file, 9).is_some_and(is_zero));
    }

    #[test]
    fn an_empty_disk_is_a_file_of_metadata_only() {
        let (file, written) = written(&Content::default(), 1 << 30);
        assert_eq!((file.len() as u64, written.file_bytes), (4 * CLUSTER, 4 * CLUSTER));
    }

    #[test]
    fn a_full_disk_of_the_host_and_a_missing_file_are_told() {
        let mut disk = Content::default();
        let path = std::path::Path::new("/nowhere/file").into();
        let data = super::super::content::Data::File { path, offset: 0, length: 5 << 20 };
        disk.put(0, data).unwrap();
        let text = format!("{:#}", write(&disk, 1 << 30, &mut Vec::new()).unwrap_err());
        assert!(text.contains("/nowhere/file"), "{text}");
        let mut full = fs_err::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let text = format!("{:#}", write(&Content::default(), 1 << 30, &mut full).unwrap_err());
        assert!(text.contains("No space left"), "{text}");
    }
}
