//! What a disk with a volatile cache holds: files and folders as they are now, and what of them
//! would still be there after a power cut.
//!
//! The strictest file system that the rules of flushing permit. Written bytes are safe once the
//! file has been flushed, in sectors of 512 bytes, and so is the file's length; a name that was
//! added, removed or changed is safe once its folder has been flushed, and not before. When the
//! power goes, of each sector one of the versions survives that it has had since its last flush, or
//! that one; of the changes of names each survives or not, whatever became of the others.
//!
//! Guarantee: what a flush has covered survives every [`Cache::cut`]; what is drawn depends on
//! nothing but the random numbers and what was unflushed.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use loggos::base::rng::Rng;
use rustix::io::Errno;

/// What the device writes as a whole, in bytes.
pub const SECTOR: usize = 512;
/// The versions that are kept of an unflushed sector; of more the oldest cannot survive.
const VERSIONS_MAX: usize = 8;

/// The number of a file or folder; never used twice.
pub type Ino = u64;
/// The folder that is mounted.
pub const ROOT: Ino = 1;

/// When something was done: the count of changes up to it.
pub type Moment = u64;

/// The bytes of a sector; `None`: zeros, of which a new segment has thousands.
type Sector = Option<Box<[u8; SECTOR]>>;

/// What became of unflushed things when the power went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loss {
    /// Sectors of which the newest version has survived.
    pub sectors_kept: u64,
    /// Sectors that have become older, or what they were when they were last flushed.
    pub sectors_lost: u64,
    /// Files whose length has become an older one.
    pub lengths_lost: u64,
    /// Changes of names that have survived.
    pub names_kept: u64,
    /// Changes of names that have not.
    pub names_lost: u64,
}

impl std::ops::AddAssign for Loss {
    fn add_assign(&mut self, other: Loss) {
        self.sectors_kept += other.sectors_kept;
        self.sectors_lost += other.sectors_lost;
        self.lengths_lost += other.lengths_lost;
        self.names_kept += other.names_kept;
        self.names_lost += other.names_lost;
    }
}

/// A file as it is now, over what of it is safe.
#[derive(Debug)]
struct Document {
    /// What is safe.
    backing: File,
    length: u64,
    safe_length: u64,
    /// Lengths that it has had since it was last flushed.
    lengths: Vec<(Moment, u64)>,
    /// Versions of each sector since it was last flushed, the newest last; by the sector's number.
    sectors: BTreeMap<u64, Vec<(Moment, Sector)>>,
    open_count: u32,
}

#[derive(Clone, Debug)]
enum NameChange {
    Added { name: String, ino: Ino },
    Removed { name: String },
    Renamed { from: String, to: String, ino: Ino },
}

#[derive(Debug, Default)]
struct Folder {
    names: BTreeMap<String, Ino>,
    safe: BTreeMap<String, Ino>,
    changes: Vec<(Moment, NameChange)>,
}

#[derive(Debug)]
enum Node {
    Document(Document),
    Folder(Folder),
}

/// What is told of a file or folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    pub ino: Ino,
    pub is_folder: bool,
    pub length: u64,
}

/// All files and folders of a disk.
#[derive(Debug)]
pub struct Cache {
    /// Where the files' safe bytes are.
    backing: PathBuf,
    nodes: HashMap<Ino, Node>,
    next_ino: Ino,
    now: Moment,
}

fn apply(names: &mut BTreeMap<String, Ino>, change: &NameChange) {
    match change {
        NameChange::Added { name, ino } => {
            names.insert(name.clone(), *ino);
        }
        NameChange::Removed { name } => {
            names.remove(name);
        }
        NameChange::Renamed { from, to, ino } => {
            // Under `from` there may be another file by now, or none: the change says what it does
            // to that name, whatever is there.
            names.remove(from);
            names.insert(to.clone(), *ino);
        }
    }
}

impl Folder {
    fn change(&mut self, at: Moment, change: NameChange) {
        apply(&mut self.names, &change);
        self.changes.push((at, change));
    }

    fn flush(&mut self, up_to: Moment) {
        let count = self.changes.partition_point(|(at, _)| *at <= up_to);
        for (_, change) in self.changes.drain(..count) {
            apply(&mut self.safe, &change);
        }
    }

    fn cut(&mut self, rng: &mut Rng, chance: Chance, loss: &mut Loss) {
        for (_, change) in std::mem::take(&mut self.changes) {
            if chance.draw(rng) {
                apply(&mut self.safe, &change);
                loss.names_kept += 1;
            } else {
                loss.names_lost += 1;
            }
        }
        self.names = self.safe.clone();
    }
}

/// How much of what is unflushed survives: in hundredths.
#[derive(Clone, Copy, Debug)]
struct Chance(u64);

impl Chance {
    /// Nothing, little, half, most or all of it: each is a cut of another kind.
    fn of_a_cut(rng: &mut Rng) -> Chance {
        Chance([0, 10, 50, 50, 90, 100][rng.below(6) as usize])
    }

    fn draw(self, rng: &mut Rng) -> bool {
        rng.below(100) < self.0
    }
}

fn sector_of(bytes: &[u8]) -> Sector {
    let bytes: [u8; SECTOR] = bytes.try_into().expect("it is a sector");
    (bytes != [0; SECTOR]).then(|| Box::new(bytes))
}

impl Document {
    fn new(path: &Path) -> io::Result<Document> {
        let backing = File::options().create_new(true).read(true).write(true).open(path)?;
        let sectors = BTreeMap::new();
        let (length, safe_length, lengths, open_count) = (0, 0, Vec::new(), 0);
        Ok(Document { backing, length, safe_length, lengths, sectors, open_count })
    }

    /// Fills `buffer`, which begins with a sector, with what is there now; zeros behind the end.
    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let mut done = 0;
        while done < buffer.len() {
            match self.backing.read_at(&mut buffer[done..], offset + done as u64)? {
                0 => break,
                count => done += count,
            }
        }
        buffer[done..].fill(0);
        let first = offset / SECTOR as u64;
        let end = (offset + buffer.len() as u64).div_ceil(SECTOR as u64);
        for (number, versions) in self.sectors.range(first..end) {
            let (_, newest) = versions.last().expect("an unflushed sector has a version");
            let at = ((number - first) as usize) * SECTOR;
            let room = SECTOR.min(buffer.len() - at);
            match newest {
                Some(bytes) => buffer[at..at + room].copy_from_slice(&bytes[..room]),
                None => buffer[at..at + room].fill(0),
            }
        }
        Ok(())
    }

    fn write(&mut self, at: Moment, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let unit = SECTOR as u64;
        let start = offset / unit * unit;
        let end = (offset + bytes.len() as u64).div_ceil(unit) * unit;
        let mut whole = vec![0; (end - start) as usize];
        if start != offset || whole.len() != bytes.len() {
            self.read(start, &mut whole)?;
        }
        let inside = (offset - start) as usize;
        whole[inside..inside + bytes.len()].copy_from_slice(bytes);
        for (index, sector) in whole.chunks(SECTOR).enumerate() {
            let versions = self.sectors.entry(start / unit + index as u64).or_default();
            if versions.len() == VERSIONS_MAX {
                versions.remove(0);
            }
            versions.push((at, sector_of(sector)));
        }
        self.set_length(at, self.length.max(offset + bytes.len() as u64));
        Ok(())
    }

    fn set_length(&mut self, at: Moment, length: u64) {
        if length != self.length {
            self.length = length;
            self.lengths.push((at, length));
        }
    }

    /// Cuts or lengthens it. What is cut off is zeros afterwards, as soon as that has been flushed.
    fn resize(&mut self, at: Moment, length: u64) -> io::Result<()> {
        if length < self.length {
            let zeros = vec![0; (self.length - length) as usize];
            self.write(at, length, &zeros)?;
        }
        self.set_length(at, length);
        Ok(())
    }

    /// Makes safe what was written up to `up_to`, of these bytes.
    fn flush(&mut self, up_to: Moment, offset: u64, end: u64) -> io::Result<()> {
        let sectors = offset / SECTOR as u64..end.div_ceil(SECTOR as u64);
        let (mut run, mut run_start) = (Vec::new(), 0);
        for (number, versions) in self.sectors.range_mut(sectors.clone()) {
            let count = versions.partition_point(|(at, _)| *at <= up_to);
            let Some((_, newest)) = versions.drain(..count).next_back() else { continue };
            let place = number * SECTOR as u64;
            if run_start + run.len() as u64 != place {
                self.backing.write_all_at(&run, run_start)?;
                run.clear();
                run_start = place;
            }
            run.extend_from_slice(newest.as_deref().unwrap_or(&[0; SECTOR]));
        }
        self.backing.write_all_at(&run, run_start)?;
        let covered = self.sectors.range(sectors).filter(|(_, versions)| versions.is_empty());
        let covered: Vec<u64> = covered.map(|(number, _)| *number).collect();
        for number in covered {
            self.sectors.remove(&number);
        }
        let count = self.lengths.partition_point(|(at, _)| *at <= up_to);
        let newest = self.lengths.drain(..count).next_back();
        if let Some((_, length)) = newest {
            self.settle_length(length)?;
        }
        Ok(())
    }

    /// The length that is safe from now on: nothing is left of what was behind it.
    fn settle_length(&mut self, length: u64) -> io::Result<()> {
        self.safe_length = length;
        self.backing.set_len(length)
    }

    fn cut(&mut self, rng: &mut Rng, chance: Chance, loss: &mut Loss) -> io::Result<()> {
        for (number, mut versions) in std::mem::take(&mut self.sectors) {
            if !chance.draw(rng) {
                loss.sectors_lost += 1;
                continue;
            }
            // Mostly the newest: the device may have written it several times.
            let newest = versions.len() - 1;
            let index =
                if rng.below(2) == 0 { newest } else { rng.below(newest as u64 + 1) as usize };
            match index == newest {
                true => loss.sectors_kept += 1,
                false => loss.sectors_lost += 1,
            }
            let (_, bytes) = versions.swap_remove(index);
            let bytes = bytes.as_deref().unwrap_or(&[0; SECTOR]);
            self.backing.write_all_at(bytes, number * SECTOR as u64)?;
        }
        let lengths = std::mem::take(&mut self.lengths);
        let mut length = self.safe_length;
        if let Some((_, newest)) = lengths.last() {
            if chance.draw(rng) {
                length = *newest;
            } else {
                loss.lengths_lost += 1;
            }
        }
        self.settle_length(length)?;
        self.length = length;
        Ok(())
    }
}

impl Cache {
    /// An empty disk, whose files' safe bytes go to the folder `backing`.
    pub fn new(backing: PathBuf) -> Cache {
        let nodes = HashMap::from([(ROOT, Node::Folder(Folder::default()))]);
        Cache { backing, nodes, next_ino: ROOT + 1, now: 0 }
    }

    /// The last change so far.
    pub fn now(&self) -> Moment {
        self.now
    }

    fn tick(&mut self) -> Moment {
        self.now += 1;
        self.now
    }

    fn folder(&mut self, ino: Ino) -> Result<&mut Folder, Errno> {
        match self.nodes.get_mut(&ino) {
            Some(Node::Folder(folder)) => Ok(folder),
            Some(Node::Document(_)) => Err(Errno::NOTDIR),
            None => Err(Errno::STALE),
        }
    }

    fn document(&mut self, ino: Ino) -> Result<&mut Document, Errno> {
        match self.nodes.get_mut(&ino) {
            Some(Node::Document(document)) => Ok(document),
            Some(Node::Folder(_)) => Err(Errno::ISDIR),
            None => Err(Errno::STALE),
        }
    }

    pub fn attributes(&self, ino: Ino) -> Result<Attributes, Errno> {
        let (is_folder, length) = match self.nodes.get(&ino).ok_or(Errno::STALE)? {
            Node::Folder(_) => (true, 0),
            Node::Document(document) => (false, document.length),
        };
        Ok(Attributes { ino, is_folder, length })
    }

    pub fn look_up(&mut self, folder: Ino, name: &str) -> Result<Ino, Errno> {
        self.folder(folder)?.names.get(name).copied().ok_or(Errno::NOENT)
    }

    /// The names in a folder.
    pub fn list(&mut self, folder: Ino) -> Result<Vec<(String, Ino)>, Errno> {
        let names = self.folder(folder)?.names.iter();
        Ok(names.map(|(name, ino)| (name.clone(), *ino)).collect())
    }

    fn add(&mut self, folder: Ino, name: &str, node: Node) -> Result<Ino, Errno> {
        let (at, ino) = (self.tick(), self.next_ino);
        let change = NameChange::Added { name: name.to_owned(), ino };
        self.folder(folder)?.change(at, change);
        self.next_ino += 1;
        self.nodes.insert(ino, node);
        Ok(ino)
    }

    pub fn create(&mut self, folder: Ino, name: &str) -> Result<Ino, Errno> {
        if self.folder(folder)?.names.contains_key(name) {
            return Err(Errno::EXIST);
        }
        let path = self.backing.join(self.next_ino.to_string());
        let document = Document::new(&path).map_err(errno)?;
        self.add(folder, name, Node::Document(document))
    }

    pub fn make_folder(&mut self, folder: Ino, name: &str) -> Result<Ino, Errno> {
        if self.folder(folder)?.names.contains_key(name) {
            return Err(Errno::EXIST);
        }
        self.add(folder, name, Node::Folder(Folder::default()))
    }

    /// Removes a file's name, or an empty folder's.
    pub fn remove(&mut self, folder: Ino, name: &str) -> Result<(), Errno> {
        let ino = self.look_up(folder, name)?;
        if self.attributes(ino)?.is_folder && !self.folder(ino)?.names.is_empty() {
            return Err(Errno::NOTEMPTY);
        }
        let at = self.tick();
        self.folder(folder)?.change(at, NameChange::Removed { name: name.to_owned() });
        Ok(())
    }

    /// Renames within a folder; another file of the new name goes.
    pub fn rename(&mut self, folder: Ino, from: &str, to: &str) -> Result<(), Errno> {
        let ino = self.look_up(folder, from)?;
        let at = self.tick();
        let (from, to) = (from.to_owned(), to.to_owned());
        self.folder(folder)?.change(at, NameChange::Renamed { from, to, ino });
        Ok(())
    }

    pub fn open(&mut self, ino: Ino) -> Result<(), Errno> {
        self.document(ino)?.open_count += 1;
        Ok(())
    }

    pub fn close(&mut self, ino: Ino) -> Result<(), Errno> {
        let document = self.document(ino)?;
        document.open_count = document.open_count.saturating_sub(1);
        Ok(())
    }

    /// What stands there now, up to the file's end.
    pub fn read(&mut self, ino: Ino, offset: u64, length: usize) -> Result<Vec<u8>, Errno> {
        let document = self.document(ino)?;
        let end = document.length.min(offset + length as u64);
        let start = offset / SECTOR as u64 * SECTOR as u64;
        let mut bytes = vec![0; end.saturating_sub(start) as usize];
        document.read(start, &mut bytes).map_err(errno)?;
        bytes.drain(..bytes.len().min((offset - start) as usize));
        Ok(bytes)
    }

    /// Writes into the cache.
    pub fn write(&mut self, ino: Ino, offset: u64, bytes: &[u8]) -> Result<(), Errno> {
        let at = self.tick();
        self.document(ino)?.write(at, offset, bytes).map_err(errno)
    }

    pub fn resize(&mut self, ino: Ino, length: u64) -> Result<(), Errno> {
        let at = self.tick();
        self.document(ino)?.resize(at, length).map_err(errno)
    }

    /// Makes safe what these bytes of the file were at `up_to`.
    pub fn flush_part(
        &mut self,
        ino: Ino,
        up_to: Moment,
        offset: u64,
        length: u64,
    ) -> Result<(), Errno> {
        self.document(ino)?.flush(up_to, offset, offset + length).map_err(errno)
    }

    /// Makes safe what the file, or the folder's names, were at `up_to`.
    pub fn flush(&mut self, ino: Ino, up_to: Moment) -> Result<(), Errno> {
        match self.nodes.get_mut(&ino).ok_or(Errno::STALE)? {
            Node::Folder(folder) => folder.flush(up_to),
            Node::Document(document) => document.flush(up_to, 0, u64::MAX).map_err(errno)?,
        }
        Ok(())
    }

    /// The power goes: draws what survives of everything that is unflushed. From here on that is
    /// what there is, and all of it is safe.
    pub fn cut(&mut self, rng: &mut Rng) -> io::Result<Loss> {
        let mut loss = Loss::default();
        let chance = Chance::of_a_cut(rng);
        let mut inos: Vec<Ino> = self.nodes.keys().copied().collect();
        // The map's own order is another one in each process.
        inos.sort_unstable();
        for ino in inos {
            match self.nodes.get_mut(&ino).expect("listed") {
                Node::Folder(folder) => folder.cut(rng, chance, &mut loss),
                Node::Document(document) => document.cut(rng, chance, &mut loss)?,
            }
        }
        self.forget_nameless()?;
        Ok(loss)
    }

    /// Drops what no name leads to and nobody has open.
    fn forget_nameless(&mut self) -> io::Result<()> {
        let (mut named, mut folders) = (HashSet::from([ROOT]), vec![ROOT]);
        while let Some(ino) = folders.pop() {
            let Some(Node::Folder(folder)) = self.nodes.get(&ino) else { continue };
            folders.extend(folder.names.values().filter(|ino| named.insert(**ino)));
        }
        let is_open = |node: &Node| matches!(node, Node::Document(d) if d.open_count > 0);
        let gone = self.nodes.iter().filter(|(ino, node)| !named.contains(ino) && !is_open(node));
        let gone: Vec<Ino> = gone.map(|(ino, _)| *ino).collect();
        for ino in gone {
            if let Some(Node::Document(_)) = self.nodes.remove(&ino) {
                std::fs::remove_file(self.backing.join(ino.to_string()))?;
            }
        }
        Ok(())
    }
}

fn errno(error: io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}
