//! The seam of one simulated node: its disk, its end of the network and its clock.
//!
//! The production server runs on it unchanged. Nothing here decides anything: what the node asks
//! for is queued for the world, which carries it out after the turn; what the world has delivered
//! is handed out at the next turn.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;

use super::disk::SimDisk;
use super::names::address_of;
use super::time::Time;
use super::trace::HostId;
use crate::base::{BlockBuf, GroupId, Instant};
use crate::io::{
    Clock, ConnId, Disk, Event, FileId, FileOptions, Io, LookupId, Net, SendPart, Storage, Sync,
    Token, Wait, WritePart,
};
use crate::log::group_of_token;

/// Received bytes.
pub type Chunk = Vec<u8>;

/// What a host asks of the network.
#[derive(Debug)]
pub enum NetCommand {
    /// Look up a name.
    LookUp(LookupId, String),
    /// Dial.
    Connect(ConnId, SocketAddr),
    /// Send; nothing else is in flight on this connection.
    Send(ConnId, Vec<SendPart>),
    /// Hold back what arrives.
    Pause(ConnId),
    /// Let it through again.
    Resume(ConnId),
    /// Hang up.
    Close(ConnId),
}

/// A host's end of the network: gives out connection numbers and gathers commands.
#[derive(Debug)]
pub struct Port {
    host: HostId,
    connections: u64,
    lookups: u64,
    commands: Vec<NetCommand>,
    sending: BTreeSet<ConnId>,
}

const HOST_SHIFT: u32 = 40;
/// The number of a look-up begins with the group that asked.
const GROUP_SHIFT: u32 = 48;

impl Port {
    /// The port of a host.
    pub fn new(host: HostId) -> Port {
        Port { host, connections: 0, lookups: 0, commands: Vec::new(), sending: BTreeSet::new() }
    }

    /// A number that no connection of the world has had.
    pub fn next_conn(&mut self) -> ConnId {
        self.connections += 1;
        ConnId(u64::from(self.host.0 + 1) << HOST_SHIFT | self.connections)
    }

    /// Looks a name up.
    pub fn look_up(&mut self, group: GroupId, name: &str) -> LookupId {
        self.lookups += 1;
        let lookup = LookupId(u64::from(group.0) << GROUP_SHIFT | self.lookups);
        self.commands.push(NetCommand::LookUp(lookup, name.to_owned()));
        lookup
    }

    /// Dials.
    pub fn connect(&mut self, address: SocketAddr) -> ConnId {
        let conn = self.next_conn();
        self.commands.push(NetCommand::Connect(conn, address));
        conn
    }

    /// Sends.
    ///
    /// # Panics
    /// When a send is in flight on the connection.
    pub fn send(&mut self, conn: ConnId, parts: Vec<SendPart>) {
        assert!(self.sending.insert(conn), "one send at a time on {conn:?}");
        self.commands.push(NetCommand::Send(conn, parts));
    }

    /// Hangs up.
    pub fn close(&mut self, conn: ConnId) {
        self.sending.remove(&conn);
        self.commands.push(NetCommand::Close(conn));
    }

    /// A delivered event may end a send.
    pub fn delivered<C>(&mut self, event: &Event<C>) {
        if let Event::Sent { conn, .. } | Event::Closed { conn, .. } = event {
            self.sending.remove(conn);
        }
    }

    /// Takes what was asked for.
    pub fn take_commands(&mut self) -> Vec<NetCommand> {
        std::mem::take(&mut self.commands)
    }

    /// The host's process has ended: nothing of it is in flight any more.
    pub fn reset(&mut self) {
        self.commands.clear();
        self.sending.clear();
    }
}

/// One node's seam, for all of its groups: each takes turns of its own with it, and gets what is its
/// own ([`SimIo::group`]).
pub struct SimIo {
    /// Its disk.
    pub disk: SimDisk,
    /// Its end of the network.
    pub port: Port,
    /// Delivered and not yet handed out.
    pub inbox: Vec<Event<Chunk>>,
    /// The groups that are to be woken.
    pub woken: BTreeSet<GroupId>,
    /// The group whose turn it is.
    pub group: GroupId,
    /// Connections that one group has handed over to another since this was last looked at.
    pub handed_over: u64,
    /// Whose connections are not the first group's; those that have ended included, since what was
    /// asked of them may yet be looked at.
    owners: BTreeMap<ConnId, GroupId>,
    now: Instant,
}

impl SimIo {
    /// The seam of a process that starts.
    pub fn new(disk: SimDisk, port: Port, now: Instant) -> SimIo {
        let (inbox, woken, owners) = (Vec::new(), BTreeSet::new(), BTreeMap::new());
        SimIo { disk, port, inbox, woken, group: GroupId(0), handed_over: 0, owners, now }
    }

    /// Begins a turn: the clock's reading for it, and what the disk has completed.
    pub fn begin_turn(&mut self, world: Time, now: Instant) {
        self.now = now;
        while let Some(event) = self.disk.pop_completed(Instant(world.0)) {
            self.inbox.push(Event::Disk(event));
        }
    }

    /// The group that a connection belongs to.
    pub fn owner(&self, conn: ConnId) -> GroupId {
        self.owners.get(&conn).copied().unwrap_or_default()
    }

    fn owner_of(&self, event: &Event<Chunk>) -> GroupId {
        match event {
            Event::Disk(event) => group_of_token(event.token),
            Event::Accepted { conn, .. }
            | Event::HandedOver { conn, .. }
            | Event::Connected { conn }
            | Event::Received { conn, .. }
            | Event::Sent { conn, .. }
            | Event::Closed { conn, .. } => self.owner(*conn),
            Event::LookedUp { lookup, .. } => GroupId((lookup.0 >> GROUP_SHIFT) as u16),
            Event::Woken => self.group,
        }
    }

    /// Ends a turn: starts the disk operations that it asked for.
    pub fn end_turn(&mut self, world: Time) {
        self.disk.submit(Instant(world.0));
    }
}

impl Io for SimIo {
    fn turn(&mut self, _: Wait, events: &mut Vec<Event<Chunk>>) -> io::Result<()> {
        // The world calls a turn when there is something to hand out or a timer is due.
        for event in std::mem::take(&mut self.inbox) {
            if self.owner_of(&event) != self.group {
                self.inbox.push(event);
                continue;
            }
            self.port.delivered(&event);
            events.push(event);
        }
        if self.woken.remove(&self.group) {
            events.push(Event::Woken);
        }
        Ok(())
    }
}

impl Clock for SimIo {
    fn now(&self) -> Instant {
        self.now
    }

    fn measure(&self) -> Instant {
        self.now
    }
}

impl Net for SimIo {
    type Chunk = Chunk;

    fn listen(&mut self, address: SocketAddr) -> io::Result<SocketAddr> {
        Ok(address)
    }
    fn look_up(&mut self, name: &str) -> LookupId {
        self.port.look_up(self.group, name)
    }
    fn connect(&mut self, address: SocketAddr) -> ConnId {
        let conn = self.port.connect(address);
        if self.group != GroupId(0) {
            self.owners.insert(conn, self.group);
        }
        conn
    }
    fn send(&mut self, conn: ConnId, parts: Vec<SendPart>) {
        self.port.send(conn, parts);
    }
    fn pause(&mut self, conn: ConnId) {
        self.port.commands.push(NetCommand::Pause(conn));
    }
    fn resume(&mut self, conn: ConnId) {
        self.port.commands.push(NetCommand::Resume(conn));
    }
    fn hand_over(&mut self, conn: ConnId, group: GroupId, received: Vec<u8>) {
        assert!(!self.port.sending.contains(&conn), "{conn:?} has sent nothing");
        self.owners.insert(conn, group);
        self.handed_over += 1;
        let from = address_of(self.port.host);
        self.inbox.push(Event::HandedOver { conn, from, received });
    }
    fn close(&mut self, conn: ConnId) {
        self.port.close(conn);
    }
}

impl Storage for SimIo {
    fn open(&mut self, name: &str, options: FileOptions) -> io::Result<FileId> {
        self.disk.open(name, options)
    }
    fn close(&mut self, file: FileId) {
        Storage::close(&mut self.disk, file);
    }
    fn len(&mut self, file: FileId) -> io::Result<u64> {
        self.disk.len(file)
    }
    fn read_at(
        &mut self,
        file: FileId,
        offset: u64,
        buffer: &mut BlockBuf,
        length: usize,
    ) -> io::Result<usize> {
        self.disk.read_at(file, offset, buffer, length)
    }
    fn write_at(
        &mut self,
        file: FileId,
        offset: u64,
        buffer: &BlockBuf,
        length: usize,
    ) -> io::Result<()> {
        self.disk.write_at(file, offset, buffer, length)
    }
    fn sync(&mut self, file: FileId) -> io::Result<()> {
        self.disk.sync(file)
    }
    fn list(&mut self, folder: &str) -> io::Result<Vec<String>> {
        self.disk.list(folder)
    }
    fn create_folder(&mut self, folder: &str) -> io::Result<()> {
        self.disk.create_folder(folder)
    }
    fn sync_folder(&mut self, folder: &str) -> io::Result<()> {
        self.disk.sync_folder(folder)
    }
    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }
}

impl Disk for SimIo {
    fn read(&mut self, token: Token, file: FileId, offset: u64, buffer: BlockBuf, length: usize) {
        self.disk.read(token, file, offset, buffer, length);
    }
    fn write(
        &mut self,
        token: Token,
        file: FileId,
        offset: u64,
        parts: Vec<WritePart>,
        sync: Sync,
    ) {
        self.disk.write(token, file, offset, parts, sync);
    }
    fn allocate(&mut self, token: Token, file: FileId, length: u64) {
        self.disk.allocate(token, file, length);
    }
    fn flush(&mut self, token: Token, file: FileId) {
        self.disk.flush(token, file);
    }
    fn open_async(&mut self, token: Token, name: &str, options: FileOptions) {
        self.disk.open_async(token, name, options);
    }
    fn rename_async(&mut self, token: Token, from: &str, to: &str) {
        self.disk.rename_async(token, from, to);
    }
    fn free_bytes(&self) -> io::Result<u64> {
        self.disk.free_bytes()
    }
    fn sync_folder_async(&mut self, token: Token, folder: &str) {
        self.disk.sync_folder_async(token, folder);
    }
}
