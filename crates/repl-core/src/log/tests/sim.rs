//! A disk that forgets what was not synced, in every way a real one may.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use crate::log::{Disk, DiskFile};

/// xorshift64: the same seed gives the same run.
pub struct Random(pub u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Uniform below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }
}

/// What a power cut leaves of the operations that were not synced.
#[derive(Clone, Copy, Debug)]
pub enum Kept {
    /// Nothing.
    None,
    /// Everything (a killed process on a living host).
    All,
    /// The first of them in order, the next one cut short after these bytes.
    Prefix(usize, usize),
    /// Each part of each of them, or not, by this seed.
    Random(u64),
}

/// A fault at one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The process dies: the operation is under way, and nothing answers any more.
    Crash,
    /// The operation fails with this error number, half of a write being done.
    Error(i32),
    /// A write does one byte only.
    Short,
}

/// A sync that does nothing, to prove that its absence would be noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// Of file contents.
    Files,
    /// Of names.
    Names,
}

#[derive(Clone)]
enum FileOp {
    Write(u64, Vec<u8>),
    Truncate(u64),
}

#[derive(Clone)]
enum NameOp {
    Link(String, usize),
    Unlink(String),
    Rename(String, String, usize),
}

#[derive(Clone, Default)]
struct Inode {
    durable: Vec<u8>,
    current: Vec<u8>,
    /// With the number of the operation, for a global order.
    unsynced: Vec<(u64, FileOp)>,
}

#[derive(Default)]
struct Sim {
    inodes: Vec<Inode>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    unsynced_names: Vec<(u64, NameOp)>,
    locks: BTreeSet<String>,
    operations: u64,
    fault: Option<(u64, Fault)>,
    dead: bool,
    /// What is claimed to be durable and is not.
    lie: Option<Lie>,
    /// Bytes all files together may have.
    capacity: Option<u64>,
}

/// See the module. Clones share the disk.
#[derive(Clone, Default)]
pub struct SimDisk(Arc<Mutex<Sim>>);

impl SimDisk {
    pub fn new() -> SimDisk {
        SimDisk::default()
    }

    /// Number of operations so far that change the disk or sync it.
    pub fn operations(&self) -> u64 {
        self.0.lock().unwrap().operations
    }

    /// Lets this operation (counted from now, from 0) meet a fault.
    pub fn fail_at(&self, operation: u64, fault: Fault) {
        let mut sim = self.0.lock().unwrap();
        sim.fault = Some((sim.operations + operation, fault));
    }

    pub fn lie(&self, lie: Option<Lie>) {
        self.0.lock().unwrap().lie = lie;
    }

    pub fn set_capacity(&self, capacity: Option<u64>) {
        self.0.lock().unwrap().capacity = capacity;
    }

    /// Operations that a power cut now could undo.
    pub fn unsynced(&self) -> usize {
        let sim = self.0.lock().unwrap();
        sim.unsynced_names.len() + sim.inodes.iter().map(|i| i.unsynced.len()).sum::<usize>()
    }

    /// The disk after a power cut.
    pub fn after_crash(&self, kept: Kept) -> SimDisk {
        let sim = self.0.lock().unwrap();
        let mut filter = Filter::new(&sim, kept);
        let mut after = Sim {
            names: sim.durable_names.clone(),
            ..Sim::default()
        };
        for inode in &sim.inodes {
            let mut content = inode.durable.clone();
            for (number, op) in &inode.unsynced {
                filter.apply(*number, op, &mut content);
            }
            after.inodes.push(Inode {
                durable: content.clone(),
                current: content,
                unsynced: Vec::new(),
            });
        }
        for (number, op) in &sim.unsynced_names {
            if filter.keeps(*number) {
                apply_name(&mut after.names, op);
            }
        }
        after.durable_names = after.names.clone();
        SimDisk(Arc::new(Mutex::new(after)))
    }

    /// File names, without their directory.
    pub fn files(&self) -> Vec<String> {
        let sim = self.0.lock().unwrap();
        sim.names.keys().map(|name| base_name(name)).collect()
    }

    /// Content of the file of this name.
    pub fn content(&self, name: &str) -> Vec<u8> {
        let sim = self.0.lock().unwrap();
        sim.inodes[sim.names[&format!("/log/{name}")]]
            .current
            .clone()
    }

    /// Replaces the content of a file, or deletes it; a copy, the original stays.
    pub fn with(&self, name: &str, content: Option<Vec<u8>>) -> SimDisk {
        let copy = self.after_crash(Kept::All);
        {
            let mut sim = copy.0.lock().unwrap();
            let path = format!("/log/{name}");
            match content {
                Some(content) => {
                    let inode = Inode {
                        durable: content.clone(),
                        current: content,
                        unsynced: Vec::new(),
                    };
                    sim.inodes.push(inode);
                    let number = sim.inodes.len() - 1;
                    sim.names.insert(path, number);
                }
                None => {
                    sim.names.remove(&path);
                }
            }
            sim.durable_names = sim.names.clone();
        }
        copy
    }
}

fn base_name(path: &str) -> String {
    path.rsplit('/').next().unwrap_or(path).to_owned()
}

fn apply_name(names: &mut BTreeMap<String, usize>, op: &NameOp) {
    match op {
        NameOp::Link(name, inode) => {
            names.insert(name.clone(), *inode);
        }
        NameOp::Unlink(name) => {
            names.remove(name);
        }
        NameOp::Rename(from, to, inode) => {
            names.remove(from);
            names.insert(to.clone(), *inode);
        }
    }
}

fn apply_file(content: &mut Vec<u8>, op: &FileOp) {
    match op {
        FileOp::Truncate(length) => content.resize(*length as usize, 0),
        FileOp::Write(at, bytes) => {
            let end = *at as usize + bytes.len();
            if content.len() < end {
                content.resize(end, 0);
            }
            content[*at as usize..end].copy_from_slice(bytes);
        }
    }
}

/// Decides what of the unsynced operations reached the device.
struct Filter {
    kept: Kept,
    /// Numbers of all unsynced operations, ascending.
    order: Vec<u64>,
    random: Random,
}

/// Part of a write that a device keeps or loses as a whole; far below a sector, to be harsh.
const PART: usize = 16;

impl Filter {
    fn new(sim: &Sim, kept: Kept) -> Filter {
        let mut order: Vec<u64> = sim.unsynced_names.iter().map(|op| op.0).collect();
        for inode in &sim.inodes {
            order.extend(inode.unsynced.iter().map(|op| op.0));
        }
        order.sort_unstable();
        let seed = match kept {
            Kept::Random(seed) => seed,
            _ => 0,
        };
        Filter {
            kept,
            order,
            random: Random::new(seed),
        }
    }

    fn rank(&self, number: u64) -> usize {
        self.order.partition_point(|&other| other < number)
    }

    fn keeps(&mut self, number: u64) -> bool {
        match self.kept {
            Kept::None => false,
            Kept::All => true,
            Kept::Prefix(count, _) => self.rank(number) < count,
            Kept::Random(_) => self.random.below(2) == 0,
        }
    }

    fn apply(&mut self, number: u64, op: &FileOp, content: &mut Vec<u8>) {
        match (self.kept, op) {
            (Kept::Random(_), FileOp::Write(at, bytes)) => {
                for (part, piece) in bytes.chunks(PART).enumerate() {
                    if self.random.below(2) == 0 {
                        let at = at + (part * PART) as u64;
                        apply_file(content, &FileOp::Write(at, piece.to_vec()));
                    }
                }
            }
            (Kept::Prefix(count, bytes), FileOp::Write(at, written))
                if self.rank(number) == count =>
            {
                let part = written[..bytes.min(written.len())].to_vec();
                if !part.is_empty() {
                    apply_file(content, &FileOp::Write(*at, part));
                }
            }
            _ => {
                if self.keeps(number) {
                    apply_file(content, op);
                }
            }
        }
    }
}

impl Sim {
    /// Counts an operation; the fault it meets, if it does.
    fn step(&mut self) -> io::Result<Option<Fault>> {
        self.alive()?;
        let number = self.operations;
        self.operations += 1;
        match self.fault {
            Some((at, fault)) if at == number => {
                self.fault = None;
                self.dead = fault == Fault::Crash;
                Ok(Some(fault))
            }
            _ => Ok(None),
        }
    }

    fn alive(&self) -> io::Result<()> {
        if self.dead {
            Err(io::Error::other("the simulated process is dead"))
        } else {
            Ok(())
        }
    }

    /// Fails an operation that has no half.
    fn simple_step(&mut self) -> io::Result<()> {
        match self.step()? {
            Some(Fault::Error(number)) => Err(io::Error::from_raw_os_error(number)),
            _ => Ok(()),
        }
    }

    fn rename_op(&mut self, op: NameOp) -> io::Result<()> {
        apply_name(&mut self.names, &op);
        let number = self.operations;
        self.unsynced_names.push((number, op));
        self.alive()
    }

    fn inode(&self, path: &str) -> io::Result<usize> {
        self.names
            .get(path)
            .copied()
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn file_op(&mut self, inode: usize, op: FileOp) {
        let number = self.operations;
        let inode = &mut self.inodes[inode];
        apply_file(&mut inode.current, &op);
        inode.unsynced.push((number, op));
    }

    /// How many of `wanted` more bytes at `at` there is room for.
    fn room(&self, inode: usize, at: u64, wanted: usize) -> usize {
        let Some(capacity) = self.capacity else {
            return wanted;
        };
        let used: u64 = self
            .names
            .values()
            .map(|&i| self.inodes[i].current.len() as u64)
            .sum();
        let length = self.inodes[inode].current.len() as u64;
        let grows = (at + wanted as u64).saturating_sub(length);
        let free = capacity.saturating_sub(used);
        wanted - grows.saturating_sub(free).min(wanted as u64) as usize
    }
}

struct SimLock(SimDisk, String);

impl Drop for SimLock {
    fn drop(&mut self) {
        self.0.0.lock().unwrap().locks.remove(&self.1);
    }
}

fn key(path: &Path) -> String {
    path.display().to_string()
}

impl Disk for SimDisk {
    fn create_dir(&self, _dir: &Path) -> io::Result<()> {
        self.0.lock().unwrap().alive()
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        let mut sim = self.0.lock().unwrap();
        sim.alive()?;
        if !sim.locks.insert(key(path)) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(SimLock(self.clone(), key(path))))
    }

    fn list(&self, _dir: &Path) -> io::Result<Vec<String>> {
        let sim = self.0.lock().unwrap();
        sim.alive()?;
        Ok(sim.names.keys().map(|name| base_name(name)).collect())
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let sim = self.0.lock().unwrap();
        sim.alive()?;
        let inode = sim.inode(&key(path))?;
        Ok(Arc::new(SimFile(self.clone(), inode)))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut sim = self.0.lock().unwrap();
        sim.simple_step()?;
        let inode = match sim.inode(&key(path)) {
            Ok(inode) => {
                sim.file_op(inode, FileOp::Truncate(0));
                inode
            }
            Err(_) => {
                sim.inodes.push(Inode::default());
                let inode = sim.inodes.len() - 1;
                sim.rename_op(NameOp::Link(key(path), inode))?;
                inode
            }
        };
        sim.alive()?;
        Ok(Arc::new(SimFile(self.clone(), inode)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut sim = self.0.lock().unwrap();
        sim.simple_step()?;
        let inode = sim.inode(&key(from))?;
        sim.rename_op(NameOp::Rename(key(from), key(to), inode))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut sim = self.0.lock().unwrap();
        sim.inode(&key(path))?;
        sim.simple_step()?;
        sim.rename_op(NameOp::Unlink(key(path)))
    }

    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        let mut sim = self.0.lock().unwrap();
        sim.simple_step()?;
        sim.alive()?;
        if sim.lie == Some(Lie::Names) {
            return Ok(());
        }
        sim.durable_names = sim.names.clone();
        sim.unsynced_names.clear();
        Ok(())
    }
}

struct SimFile(SimDisk, usize);

impl DiskFile for SimFile {
    fn length(&self) -> io::Result<u64> {
        let sim = self.0.0.lock().unwrap();
        sim.alive()?;
        Ok(sim.inodes[self.1].current.len() as u64)
    }

    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        let sim = self.0.0.lock().unwrap();
        sim.alive()?;
        let content = &sim.inodes[self.1].current;
        let start = content.len().min(at as usize);
        let size = buf.len().min(content.len() - start);
        buf[..size].copy_from_slice(&content[start..start + size]);
        Ok(size)
    }

    fn write_at(&self, buf: &[u8], at: u64) -> io::Result<usize> {
        let mut sim = self.0.0.lock().unwrap();
        let fault = sim.step()?;
        let mut size = sim.room(self.1, at, buf.len());
        match fault {
            Some(Fault::Error(_)) => size = size.min(buf.len() / 2),
            Some(Fault::Short) => size = size.min(1),
            _ => {}
        }
        if size > 0 {
            sim.file_op(self.1, FileOp::Write(at, buf[..size].to_vec()));
        }
        sim.alive()?;
        match fault {
            Some(Fault::Error(number)) => Err(io::Error::from_raw_os_error(number)),
            _ if size == 0 && !buf.is_empty() => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(size),
        }
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        let mut sim = self.0.0.lock().unwrap();
        sim.simple_step()?;
        sim.file_op(self.1, FileOp::Truncate(length));
        sim.alive()
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut sim = self.0.0.lock().unwrap();
        sim.simple_step()?;
        sim.alive()?;
        if sim.lie == Some(Lie::Files) {
            return Ok(());
        }
        let inode = &mut sim.inodes[self.1];
        inode.durable = inode.current.clone();
        inode.unsynced.clear();
        Ok(())
    }
}
