//! Received chunks to frames, without copying what lies whole in a chunk.
//!
//! Bounded memory: between two calls a decoder holds at most one head (header and meta) and one
//! payload buffer, the latter only once the head has passed its checksum.

use super::error::WireError;
use super::frame::{
    FRAME_HEADER_SIZE, FrameKind, Header, META_SIZE_MAX, PAYLOAD_SIZE_MAX, check_start,
};
use crate::base::limits::ENTRY_HEADER_SIZE;
use crate::base::sectors::entry_size;
use crate::base::{Batch, BlockBuf, BlockPool, Checksum, GroupId};

/// Where a payload that straddles chunks is assembled.
pub trait PayloadBuffer: Sized {
    /// What buffers are taken from.
    type Source;
    /// A buffer for a payload of `size` bytes (at most [`PAYLOAD_SIZE_MAX`]).
    fn take(source: &Self::Source, size: usize) -> Self;
    /// The payload's `size` bytes.
    fn payload(&self, size: usize) -> &[u8];
    /// The payload's `size` bytes, to be filled.
    fn payload_mut(&mut self, size: usize) -> &mut [u8];
}

/// Assembled where a [`Batch`] wants it: behind the room for the entry header.
impl PayloadBuffer for BlockBuf {
    type Source = BlockPool;
    fn take(source: &BlockPool, size: usize) -> BlockBuf {
        source.take(entry_size(size))
    }
    fn payload(&self, size: usize) -> &[u8] {
        &self[ENTRY_HEADER_SIZE..][..size]
    }
    fn payload_mut(&mut self, size: usize) -> &mut [u8] {
        &mut self[ENTRY_HEADER_SIZE..][..size]
    }
}

/// For clients, which have no pool of blocks.
impl PayloadBuffer for Vec<u8> {
    type Source = ();
    fn take(_: &(), size: usize) -> Vec<u8> {
        vec![0; size]
    }
    fn payload(&self, size: usize) -> &[u8] {
        &self[..size]
    }
    fn payload_mut(&mut self, size: usize) -> &mut [u8] {
        &mut self[..size]
    }
}

#[derive(Debug)]
enum Payload<'a, B> {
    Slice(&'a [u8]),
    Buffer(B, usize),
}

/// A whole frame; order, kind and both checksums have been checked. (But for the payload that
/// becomes a batch: [`Frame::into_batch`] does, in the pass over it that sealing makes anyway.)
#[derive(Debug)]
pub struct Frame<'a, B = BlockBuf> {
    /// What it is.
    pub kind: FrameKind,
    /// The group it belongs to.
    pub group: GroupId,
    /// The fields.
    pub meta: &'a [u8],
    payload: Payload<'a, B>,
    payload_checksum: Checksum,
}

impl<B: PayloadBuffer> Frame<'_, B> {
    /// The payload.
    pub fn payload(&self) -> &[u8] {
        match &self.payload {
            Payload::Slice(slice) => slice,
            Payload::Buffer(buffer, size) => buffer.payload(*size),
        }
    }

    /// The payload's checksum.
    pub fn payload_checksum(&self) -> Checksum {
        self.payload_checksum
    }
}

impl Frame<'_> {
    /// The payload as a sealed batch; the no-op when there is none. Copies it once if it lay in
    /// the received chunk, not at all if it was assembled.
    ///
    /// # Errors
    /// The payload's checksum does not match.
    pub fn into_batch(self, pool: &BlockPool) -> Result<Batch, WireError> {
        let (buffer, size) = match self.payload {
            Payload::Buffer(buffer, size) => (buffer, size),
            Payload::Slice([]) if self.payload_checksum == Checksum::of(&[]) => {
                return Ok(Batch::noop());
            }
            Payload::Slice([]) => return Err(WireError::PayloadChecksum { kind: self.kind }),
            Payload::Slice(slice) => {
                let mut buffer = BlockBuf::take(pool, slice.len());
                buffer.payload_mut(slice.len()).copy_from_slice(slice);
                (buffer, slice.len())
            }
        };
        let batch = Batch::seal(buffer, size);
        match batch.checksum() == self.payload_checksum {
            true => Ok(batch),
            false => Err(WireError::PayloadChecksum { kind: self.kind }),
        }
    }
}

/// A head that has passed its checks.
#[derive(Clone, Copy, Debug)]
struct Checked {
    header: Header,
    kind: FrameKind,
}

/// Where the parts of a complete frame are.
struct Ready<'c, B> {
    checked: Checked,
    /// In the chunk, or else in the decoder's `head`.
    meta: Option<&'c [u8]>,
    payload: Payload<'c, B>,
}

/// Decodes the frames of one connection in one direction.
///
/// After an error it returns that error for ever: the stream has lost its framing.
#[derive(Debug)]
pub struct FrameDecoder<B = BlockBuf> {
    next_sequence: u32,
    payload_max: usize,
    /// Header and meta of a frame whose head straddles chunks, or whose payload does.
    head: Vec<u8>,
    /// Set once `head` is complete and checked.
    checked: Option<Checked>,
    payload: Option<B>,
    payload_filled: usize,
    /// `head` still backs the frame handed out last.
    head_lent: bool,
    failed: Option<WireError>,
}

impl Default for FrameDecoder<BlockBuf> {
    fn default() -> Self {
        FrameDecoder::new()
    }
}

impl FrameDecoder<BlockBuf> {
    /// The decoder of a new connection of a node.
    pub fn new() -> FrameDecoder<BlockBuf> {
        FrameDecoder::make()
    }
}

impl FrameDecoder<Vec<u8>> {
    /// The decoder of a new connection of a client.
    pub fn plain() -> FrameDecoder<Vec<u8>> {
        FrameDecoder::make()
    }
}

impl<B: PayloadBuffer> FrameDecoder<B> {
    fn make() -> FrameDecoder<B> {
        FrameDecoder {
            next_sequence: 0,
            payload_max: PAYLOAD_SIZE_MAX,
            head: Vec::new(),
            checked: None,
            payload: None,
            payload_filled: 0,
            head_lent: false,
            failed: None,
        }
    }

    /// Refuses payloads over `bytes_max` from now on (a connection that has not said hello yet
    /// needs none; a client sends no more than an append).
    pub fn limit_payload(&mut self, bytes_max: usize) {
        self.payload_max = bytes_max.min(PAYLOAD_SIZE_MAX);
    }

    /// Whether a part of a frame has been received: an end of the stream here cuts it off.
    pub fn is_inside_frame(&self) -> bool {
        !self.head_lent && !self.head.is_empty()
    }

    /// Takes the next frame off the front of `rest`. `None`: the chunk is used up (`rest` is
    /// empty), the next one brings more.
    ///
    /// # Errors
    /// [`WireError`] for whatever is not the next frame of this stream.
    pub fn next<'a, 'c: 'a>(
        &'a mut self,
        rest: &mut &'c [u8],
        source: &B::Source,
    ) -> Result<Option<Frame<'a, B>>, WireError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let ready = match self.advance(rest, source) {
            Ok(Some(ready)) => ready,
            Ok(None) => return Ok(None),
            Err(error) => {
                self.failed = Some(error);
                self.payload = None;
                return Err(error);
            }
        };
        self.next_sequence = self.next_sequence.wrapping_add(1);
        let Checked { header, kind } = ready.checked;
        let meta = ready.meta.unwrap_or_else(|| &self.head[FRAME_HEADER_SIZE..]);
        let payload_checksum = header.payload_checksum;
        let (group, payload) = (header.group, ready.payload);
        Ok(Some(Frame { kind, group, meta, payload, payload_checksum }))
    }

    fn advance<'c>(
        &mut self,
        rest: &mut &'c [u8],
        source: &B::Source,
    ) -> Result<Option<Ready<'c, B>>, WireError> {
        if self.head_lent {
            self.head.clear();
            self.head_lent = false;
        }
        if self.head.is_empty()
            && let Some(ready) = self.whole_in_chunk(rest)?
        {
            return Ok(Some(ready));
        }
        let checked = match self.checked {
            Some(checked) => checked,
            None => match self.assemble_head(rest)? {
                Some(checked) => checked,
                None => return Ok(None),
            },
        };
        let Some(payload) = self.assemble_payload(checked, rest, source)? else {
            return Ok(None);
        };
        self.checked = None;
        self.head_lent = true;
        Ok(Some(Ready { checked, meta: None, payload }))
    }

    /// The common case: nothing is held and the whole frame lies in the chunk.
    fn whole_in_chunk<'c>(&self, rest: &mut &'c [u8]) -> Result<Option<Ready<'c, B>>, WireError> {
        let chunk: &'c [u8] = rest;
        let Some(bytes) = chunk.first_chunk::<FRAME_HEADER_SIZE>() else {
            check_start(chunk)?;
            return Ok(None);
        };
        let header = Header::parse(bytes, self.payload_max)?;
        let head_size = FRAME_HEADER_SIZE + header.meta_size;
        if chunk.len() < head_size + header.payload_size {
            return Ok(None);
        }
        let (head, behind) = chunk.split_at(head_size);
        let kind = header.verify(head, self.next_sequence)?;
        let (payload, behind) = behind.split_at(header.payload_size);
        check_payload(kind, &header, payload)?;
        *rest = behind;
        let meta = Some(&head[FRAME_HEADER_SIZE..]);
        let checked = Checked { header, kind };
        Ok(Some(Ready { checked, meta, payload: Payload::Slice(payload) }))
    }

    fn assemble_head(&mut self, rest: &mut &[u8]) -> Result<Option<Checked>, WireError> {
        if self.head.capacity() == 0 {
            self.head.reserve_exact(FRAME_HEADER_SIZE + META_SIZE_MAX);
        }
        if !self.fill_head(FRAME_HEADER_SIZE, rest) {
            check_start(&self.head)?;
            return Ok(None);
        }
        let bytes = self.head.first_chunk().expect("the head holds a whole header");
        let header = Header::parse(bytes, self.payload_max)?;
        if !self.fill_head(FRAME_HEADER_SIZE + header.meta_size, rest) {
            return Ok(None);
        }
        let kind = header.verify(&self.head, self.next_sequence)?;
        self.checked = Some(Checked { header, kind });
        Ok(self.checked)
    }

    /// Moves bytes until `head` holds `size`; whether it does.
    fn fill_head(&mut self, size: usize, rest: &mut &[u8]) -> bool {
        let missing = size.saturating_sub(self.head.len());
        let (taken, behind) = rest.split_at(missing.min(rest.len()));
        self.head.extend_from_slice(taken);
        *rest = behind;
        self.head.len() >= size
    }

    fn assemble_payload<'c>(
        &mut self,
        checked: Checked,
        rest: &mut &'c [u8],
        source: &B::Source,
    ) -> Result<Option<Payload<'c, B>>, WireError> {
        let Checked { header, kind } = checked;
        let size = header.payload_size;
        if self.payload.is_none() && rest.len() >= size {
            let chunk: &'c [u8] = rest;
            let (payload, behind) = chunk.split_at(size);
            check_payload(kind, &header, payload)?;
            *rest = behind;
            return Ok(Some(Payload::Slice(payload)));
        }
        if rest.is_empty() {
            return Ok(None);
        }
        let mut buffer = self.payload.take().unwrap_or_else(|| B::take(source, size));
        let missing = &mut buffer.payload_mut(size)[self.payload_filled..];
        let (taken, behind) = rest.split_at(missing.len().min(rest.len()));
        missing[..taken.len()].copy_from_slice(taken);
        self.payload_filled += taken.len();
        *rest = behind;
        if self.payload_filled < size {
            self.payload = Some(buffer);
            return Ok(None);
        }
        self.payload_filled = 0;
        check_payload(kind, &header, buffer.payload(size))?;
        Ok(Some(Payload::Buffer(buffer, size)))
    }
}

fn check_payload(kind: FrameKind, header: &Header, payload: &[u8]) -> Result<(), WireError> {
    match kind.has_value() || Checksum::of(payload) == header.payload_checksum {
        true => Ok(()),
        false => Err(WireError::PayloadChecksum { kind }),
    }
}
