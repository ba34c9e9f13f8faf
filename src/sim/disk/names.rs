//! The names of a disk: folders and files, and which of them a power loss can take.
//!
//! Used by [`super::SimDisk`]. A name that was made, moved or removed is durable once its folder
//! has been synced; before that a power loss keeps any part of the changes.

use std::collections::BTreeMap;
use std::io;

use crate::base::rng::Rng;

/// A file's number on its disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Inode(pub u64);

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Node {
    Folder,
    File(Inode),
}

#[derive(Clone, Debug)]
enum Change {
    Set(String, Node),
    Remove(String),
    Rename(String, String, Node),
}

impl Change {
    fn apply(&self, names: &mut BTreeMap<String, Node>) {
        match self {
            Change::Set(name, node) => {
                names.insert(name.clone(), *node);
            }
            Change::Remove(name) => {
                names.remove(name);
            }
            Change::Rename(from, to, node) => {
                // The name may have been lost or taken by another file meanwhile.
                if names.get(from) == Some(node) {
                    names.remove(from);
                }
                names.insert(to.clone(), *node);
            }
        }
    }

    fn folder(&self) -> &str {
        match self {
            Change::Set(name, _) | Change::Remove(name) | Change::Rename(name, ..) => {
                folder_of(name)
            }
        }
    }

    fn node(&self) -> Option<Node> {
        match self {
            Change::Set(_, node) | Change::Rename(_, _, node) => Some(*node),
            Change::Remove(_) => None,
        }
    }
}

/// The folder that holds a name; `""`: the data directory.
pub(super) fn folder_of(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// All names.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    current: BTreeMap<String, Node>,
    durable: BTreeMap<String, Node>,
    /// Changes that are not durable, with the count of completions when they were made.
    pending: Vec<(u64, Change)>,
}

impl Names {
    pub fn file(&self, name: &str) -> io::Result<Inode> {
        match self.current.get(name) {
            Some(Node::File(inode)) => Ok(*inode),
            Some(Node::Folder) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn need_folder(&self, folder: &str) -> io::Result<()> {
        match folder.is_empty() || self.current.get(folder) == Some(&Node::Folder) {
            true => Ok(()),
            false => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn change(&mut self, done: u64, change: Change) {
        change.apply(&mut self.current);
        self.pending.push((done, change));
    }

    /// Gives a new file its name.
    pub fn create(&mut self, done: u64, name: &str, node: Node) -> io::Result<()> {
        self.need_folder(folder_of(name))?;
        if self.current.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.change(done, Change::Set(name.to_owned(), node));
        Ok(())
    }

    pub fn has_folder(&self, folder: &str) -> bool {
        self.need_folder(folder).is_ok()
    }

    pub fn remove(&mut self, done: u64, name: &str) -> io::Result<()> {
        self.file(name)?;
        self.change(done, Change::Remove(name.to_owned()));
        Ok(())
    }

    pub fn rename(&mut self, done: u64, from: &str, to: &str) -> io::Result<()> {
        assert_eq!(folder_of(from), folder_of(to), "files are renamed within their folder");
        let inode = self.file(from)?;
        let change = Change::Rename(from.to_owned(), to.to_owned(), Node::File(inode));
        self.change(done, change);
        Ok(())
    }

    /// The name is gone, now and after any crash.
    pub fn lose(&mut self, name: &str) {
        self.current.remove(name);
        self.durable.remove(name);
        self.pending.retain(|(_, change)| match change {
            Change::Set(of, _) | Change::Remove(of) | Change::Rename(_, of, _) => of != name,
        });
    }

    /// The names in a folder, without the folder, sorted.
    pub fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        self.need_folder(folder)?;
        let inside = self.current.keys().filter(|name| folder_of(name) == folder);
        Ok(inside
            .map(|name| name.rsplit('/').next().expect("names are not empty").into())
            .collect())
    }

    /// Every file with its name, sorted by name.
    pub fn files(&self) -> impl Iterator<Item = (&str, Inode)> {
        self.current.iter().filter_map(|(name, node)| match node {
            Node::File(inode) => Some((name.as_str(), *inode)),
            Node::Folder => None,
        })
    }

    /// The end of a sync of the folder that began after `done_before` completions.
    pub fn synced(&mut self, folder: &str, done_before: u64) {
        let durable = &mut self.durable;
        self.pending.retain(|(done, change)| {
            let synced = *done < done_before && change.folder() == folder;
            if synced {
                change.apply(durable);
            }
            !synced
        });
    }

    /// The power is lost: any part of the pending changes is kept. Returns how many were lost.
    pub fn power_loss(&mut self, keep_all: Option<bool>, rng: &mut Rng) -> u64 {
        let pending = std::mem::take(&mut self.pending);
        let ordered = rng.below(2) == 0;
        let cut = rng.below(pending.len() as u64 + 1) as usize;
        let mut lost = 0;
        for (index, (_, change)) in pending.iter().enumerate() {
            let kept = keep_all.unwrap_or(if ordered { index < cut } else { rng.below(2) == 0 });
            if kept {
                change.apply(&mut self.durable);
            } else {
                lost += 1;
            }
        }
        // What stood in a folder that was lost is lost with it.
        let folders = self.durable.clone();
        let stands = |name: &str| {
            let folder = folder_of(name);
            folder.is_empty() || folders.get(folder) == Some(&Node::Folder)
        };
        self.durable.retain(|name, _| stands(name));
        self.current = self.durable.clone();
        lost
    }

    /// Whether any name, current or possible after a power loss, stands for the file.
    pub fn mentions(&self, inode: Inode) -> bool {
        self.inodes().any(|found| found == inode)
    }

    /// Every file that a name stands for, now or possibly after a power loss; some repeatedly.
    pub fn inodes(&self) -> impl Iterator<Item = Inode> + '_ {
        let named = self.current.values().chain(self.durable.values()).copied();
        let pending = self.pending.iter().filter_map(|(_, change)| change.node());
        named.chain(pending).filter_map(|node| match node {
            Node::File(inode) => Some(inode),
            Node::Folder => None,
        })
    }
}
