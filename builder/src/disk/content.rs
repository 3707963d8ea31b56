//! What lies where on a disk, decided before a byte of it is written: the data itself stays in the
//! files it comes from, and is read in the order of the disk.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};

use super::extents::{CLUSTER, is_zero};

/// Pieces of a file system image that are looked at for zeros, in bytes.
const GRAIN: usize = 4096;

/// Bytes that will lie on a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// These.
    Bytes(Arc<[u8]>),
    /// A part of a file of the build host, read when the disk is written.
    File {
        /// The file.
        path: Arc<Path>,
        /// Where in it the part starts, in bytes.
        offset: u64,
        /// Bytes of it.
        length: u64,
    },
}

impl Data {
    /// How many bytes there are.
    pub fn length(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File { length, .. } => *length,
        }
    }

    /// `length` bytes of it from `start`, less where it ends before.
    #[must_use]
    pub fn part(&self, start: u64, length: u64) -> Self {
        let end = (start + length).min(self.length());
        match self {
            Self::Bytes(bytes) => Self::Bytes(bytes[start as usize..end as usize].into()),
            Self::File { path, offset, .. } => {
                Self::File { path: path.clone(), offset: offset + start, length: end - start }
            }
        }
    }
}

impl From<Vec<u8>> for Data {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes.into())
    }
}

/// The content of a disk; everything not put there is zero.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Content {
    pieces: BTreeMap<u64, Data>,
}

impl Content {
    /// Puts `data` at `offset` (bytes from the start of the disk).
    ///
    /// # Errors
    /// Something lies there already.
    pub fn put(&mut self, offset: u64, data: impl Into<Data>) -> Result<()> {
        let data = data.into();
        let end = offset + data.length();
        if end == offset {
            return Ok(());
        }
        let before = self.pieces.range(..end).next_back();
        let taken = before.map_or(0, |(start, data)| start + data.length());
        ensure!(taken <= offset, "two things would lie at byte {offset} of the disk");
        self.pieces.insert(offset, data);
        Ok(())
    }

    /// Puts only those blocks of 4 KiB of `bytes` at `offset` that are not all zeros.
    ///
    /// # Errors
    /// As [`Content::put`].
    pub fn put_sparse(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        for (number, grain) in bytes.chunks(GRAIN).enumerate().filter(|(_, grain)| !is_zero(grain))
        {
            self.put(offset + (number * GRAIN) as u64, grain.to_vec())?;
        }
        Ok(())
    }

    /// Numbers of the clusters that anything lies in, ascending.
    pub fn clusters(&self) -> Vec<u64> {
        let mut found: Vec<u64> = Vec::new();
        for (offset, data) in &self.pieces {
            let first = offset / CLUSTER;
            let end = (offset + data.length()).div_ceil(CLUSTER);
            let next = found.last().map_or(0, |last| last + 1);
            found.extend(first.max(next)..end);
        }
        found
    }

    /// A reader that goes from the start of the disk to its end.
    pub fn reader(&self) -> Reader<'_> {
        Reader { pieces: self.pieces.iter(), current: None, open: None }
    }
}

/// Reads a disk in ascending order.
#[derive(Debug)]
pub struct Reader<'a> {
    pieces: std::collections::btree_map::Iter<'a, u64, Data>,
    current: Option<(u64, &'a Data)>,
    /// The file read last: many parts in a row come from one.
    open: Option<(Arc<Path>, File)>,
}

impl<'a> Reader<'a> {
    /// Fills `buffer` with the bytes of the disk from `start`, which is not before the end of the
    /// call before.
    ///
    /// # Errors
    /// A file cannot be read, or is shorter than it was.
    pub fn read(&mut self, start: u64, buffer: &mut [u8]) -> Result<()> {
        let end = start + buffer.len() as u64;
        let mut filled = start;
        while let Some((offset, data)) = self.next() {
            if offset >= end {
                self.current = Some((offset, data));
                break;
            }
            let from = offset.max(start);
            let to = (offset + data.length()).min(end);
            if to <= from {
                continue; // it lies before `start`
            }
            buffer[(filled - start) as usize..(from - start) as usize].fill(0);
            let place = &mut buffer[(from - start) as usize..(to - start) as usize];
            self.copy(data, from - offset, place)?;
            filled = to;
            if to < offset + data.length() {
                self.current = Some((offset, data));
                break;
            }
        }
        buffer[(filled - start) as usize..].fill(0);
        Ok(())
    }

    /// The piece that is read next: one that is not at its end yet, or the one after.
    fn next(&mut self) -> Option<(u64, &'a Data)> {
        self.current.take().or_else(|| self.pieces.next().map(|(offset, data)| (*offset, data)))
    }

    fn copy(&mut self, data: &Data, start: u64, place: &mut [u8]) -> Result<()> {
        let (path, offset) = match data {
            Data::Bytes(bytes) => {
                place.copy_from_slice(&bytes[start as usize..start as usize + place.len()]);
                return Ok(());
            }
            Data::File { path, offset, .. } => (path, offset + start),
        };
        if self.open.as_ref().is_none_or(|(open, _)| open != path) {
            self.open = Some((path.clone(), fs_err::File::open(path.as_ref())?.into()));
        }
        let Some((_, file)) = &self.open else { return Ok(()) };
        file.read_exact_at(place, offset)
            .with_context(|| format!("failed to read {} while the image is made", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_read_in_any_pieces_and_the_rest_is_zero() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs_err::write(file.path(), b"..abcdefgh").unwrap();
        let mut disk = Content::default();
        let part = Data::File { path: file.path().into(), offset: 2, length: 8 };
        disk.put(5, part).unwrap();
        disk.put(13, b"next".to_vec()).unwrap();
        disk.put(3 * CLUSTER, vec![1]).unwrap();
        assert_eq!(disk.clusters(), [0, 3]);
        let whole = b"\0\0\0\0\0abcdefghnext\0\0\0";
        for step in 1..=whole.len() {
            let (mut reader, mut found) = (disk.reader(), Vec::new());
            while found.len() < whole.len() {
                let mut buffer = vec![9; step.min(whole.len() - found.len())];
                reader.read(found.len() as u64, &mut buffer).unwrap();
                found.extend(buffer);
            }
            assert_eq!(found, whole, "by {step}");
        }
        // What is jumped over is not read.
        let (mut reader, mut buffer) = (disk.reader(), [9; 3]);
        reader.read(8, &mut buffer).unwrap();
        assert_eq!(&buffer, b"def");
        reader.read(3 * CLUSTER - 1, &mut buffer).unwrap();
        assert_eq!(buffer, [0, 1, 0]);
    }

    #[test]
    fn nothing_lies_over_another_thing_and_blocks_of_zeros_are_left_out() {
        let mut disk = Content::default();
        disk.put(10, vec![1; 10]).unwrap();
        for (offset, length) in [(10, 1), (5, 6), (19, 5), (0, 100)] {
            assert!(disk.put(offset, vec![2; length]).is_err(), "{offset}");
        }
        disk.put(20, vec![1]).unwrap();
        disk.put(9, vec![1]).unwrap();
        let mut bytes = vec![0; 3 * GRAIN];
        bytes[GRAIN + 5] = 1;
        disk.put_sparse(CLUSTER, &bytes).unwrap();
        assert_eq!(disk.pieces.keys().next_back(), Some(&(CLUSTER + GRAIN as u64)));
    }
}
