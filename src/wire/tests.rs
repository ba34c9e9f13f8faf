//! Tests of the codec: what goes in comes out, and nothing else ever does.
//!
//! Proptest prints the failing case and keeps its seed under `proptest-regressions/`.

use proptest::collection::vec;
use proptest::prelude::*;

use super::client::{
    AppendHead, ErrorCode, RecordsHead, RequestId, decode_request, decode_response, encode_append,
    encode_records, encode_request, encode_response,
};
use super::fuzz;
use super::hello::{
    decode_hello, decode_hello_reply, encode_hello, encode_hello_reply, members_digest,
};
use super::*;
use crate::base::limits::{APPEND_BYTES_MAX, VALUE_BYTES_MAX};
use crate::base::records::push_record;
use crate::base::{
    AppendTerms, Ballot, Batch, BlockPool, Checksum, ClusterDigest, ClusterId, FenceToken,
    Founding, GroupId, Incarnation, LogId, NodeId, Position, Sequence, SessionId, SessionTerms,
    Slot,
};
use crate::paxos::{AcceptedSlot, Fitness, Message, Release};

const GROUP: GroupId = GroupId(3);

fn ballot() -> impl Strategy<Value = Ballot> {
    (any::<u64>(), any::<u16>()).prop_map(|(round, node)| Ballot { round, node: NodeId(node) })
}

fn slot() -> impl Strategy<Value = Slot> {
    (0..=Slot::MAX.0).prop_map(Slot)
}

fn release() -> impl Strategy<Value = Release> {
    (ballot(), any::<u64>()).prop_map(|(ballot, sequence)| Release { ballot, sequence })
}

fn fitness() -> impl Strategy<Value = Fitness> {
    (any::<bool>(), any::<bool>(), any::<u32>())
        .prop_map(|(disk_full, retiring, write_us)| Fitness { disk_full, retiring, write_us })
}

fn accepted() -> impl Strategy<Value = Vec<AcceptedSlot>> {
    vec((slot(), ballot(), any::<u32>()), 0..50).prop_map(|mut entries| {
        entries.sort_unstable_by_key(|entry| entry.0);
        entries.dedup_by_key(|entry| entry.0);
        let entry =
            |(slot, ballot, checksum)| AcceptedSlot { slot, ballot, checksum: Checksum(checksum) };
        entries.into_iter().map(entry).collect()
    })
}

/// Values below, at and above the inline limit, the no-op among them.
fn value() -> impl Strategy<Value = Vec<u8>> {
    let limit = INLINE_VALUE_BYTES_MAX;
    prop_oneof![
        Just(Vec::new()),
        vec(any::<u8>(), 1..64),
        vec(any::<u8>(), limit - 2..limit + 2),
        vec(any::<u8>(), 5000..9000),
    ]
}

/// Every message, with bytes for its value.
fn message() -> impl Strategy<Value = Message<Vec<u8>>> {
    prop_oneof![
        (ballot(), slot()).prop_map(|(ballot, chosen)| Message::PreVote { ballot, chosen }),
        (ballot(), any::<bool>(), ballot(), slot()).prop_map(
            |(ballot, granted, promised, chosen)| Message::PreVoteReply {
                ballot,
                granted,
                promised,
                chosen
            }
        ),
        (ballot(), slot(), release()).prop_map(|(ballot, chosen, release)| Message::Prepare {
            ballot,
            chosen,
            release
        }),
        (release(), slot()).prop_map(|(release, chosen)| Message::TakeOver { release, chosen }),
        (ballot(), slot(), accepted(), any::<bool>()).prop_map(
            |(ballot, chosen, accepted, cut)| Message::Promise { ballot, chosen, accepted, cut }
        ),
        (ballot(), any::<u64>(), any::<u64>(), any::<bool>())
            .prop_map(|(ballot, sequence, id, votes)| Message::Cut { ballot, sequence, id, votes }),
        (ballot(), any::<u64>(), slot()).prop_map(|(ballot, id, through)| Message::CutBound {
            ballot,
            id,
            through
        }),
        (ballot(), ballot()).prop_map(|(ballot, promised)| Message::Nack { ballot, promised }),
        (ballot(), slot(), slot(), value()).prop_map(|(ballot, slot, chosen, value)| {
            Message::Accept { ballot, slot, chosen, value }
        }),
        (ballot(), slot()).prop_map(|(ballot, slot)| Message::Accepted { ballot, slot }),
        (ballot(), slot()).prop_map(|(ballot, slot)| Message::AcceptRejected { ballot, slot }),
        (ballot(), slot(), any::<u64>(), any::<u32>()).prop_map(
            |(ballot, chosen, sequence, lease_ms)| Message::Heartbeat {
                ballot,
                chosen,
                sequence,
                lease_ms
            }
        ),
        (ballot(), slot(), any::<u64>(), any::<bool>(), any::<u8>(), fitness()).prop_map(
            |(ballot, chosen, sequence, granted, priority, fitness)| Message::HeartbeatReply {
                ballot,
                chosen,
                sequence,
                granted,
                priority,
                fitness
            }
        ),
        (any::<u64>(), any::<bool>()).prop_map(|(id, lease)| Message::ReadIndex { id, lease }),
        (any::<u64>(), slot()).prop_map(|(id, index)| Message::ReadIndexReply { id, index }),
        (any::<u64>(), slot()).prop_map(|(hash, slot)| Message::StateHash { slot, hash }),
        (slot(), slot()).prop_map(|(first, last)| Message::Fetch { first, last }),
        (slot(), ballot(), value()).prop_map(|(slot, ballot, value)| Message::Learn {
            slot,
            ballot,
            value
        }),
        (ballot(), slot()).prop_map(|(ballot, slot)| Message::FetchAccepted { ballot, slot }),
        (ballot(), slot(), ballot(), value()).prop_map(|(ballot, slot, accepted, value)| {
            Message::AcceptedValue { ballot, slot, accepted, value }
        }),
    ]
}

/// The same message with its value turned by `turn`.
fn map_value<A, B>(message: Message<A>, turn: impl FnOnce(A) -> B) -> Message<B> {
    match message {
        Message::PreVote { ballot, chosen } => Message::PreVote { ballot, chosen },
        Message::PreVoteReply { ballot, granted, promised, chosen } => {
            Message::PreVoteReply { ballot, granted, promised, chosen }
        }
        Message::Prepare { ballot, chosen, release } => {
            Message::Prepare { ballot, chosen, release }
        }
        Message::TakeOver { release, chosen } => Message::TakeOver { release, chosen },
        Message::Promise { ballot, chosen, accepted, cut } => {
            Message::Promise { ballot, chosen, accepted, cut }
        }
        Message::Cut { ballot, sequence, id, votes } => {
            Message::Cut { ballot, sequence, id, votes }
        }
        Message::CutBound { ballot, id, through } => Message::CutBound { ballot, id, through },
        Message::Nack { ballot, promised } => Message::Nack { ballot, promised },
        Message::Accept { ballot, slot, chosen, value } => {
            Message::Accept { ballot, slot, chosen, value: turn(value) }
        }
        Message::Accepted { ballot, slot } => Message::Accepted { ballot, slot },
        Message::AcceptRejected { ballot, slot } => Message::AcceptRejected { ballot, slot },
        Message::Heartbeat { ballot, chosen, sequence, lease_ms } => {
            Message::Heartbeat { ballot, chosen, sequence, lease_ms }
        }
        Message::HeartbeatReply { ballot, sequence, chosen, granted, priority, fitness } => {
            Message::HeartbeatReply { ballot, sequence, chosen, granted, priority, fitness }
        }
        Message::ReadIndex { id, lease } => Message::ReadIndex { id, lease },
        Message::ReadIndexReply { id, index } => Message::ReadIndexReply { id, index },
        Message::StateHash { slot, hash } => Message::StateHash { slot, hash },
        Message::Fetch { first, last } => Message::Fetch { first, last },
        Message::Learn { slot, ballot, value } => {
            Message::Learn { slot, ballot, value: turn(value) }
        }
        Message::FetchAccepted { ballot, slot } => Message::FetchAccepted { ballot, slot },
        Message::AcceptedValue { ballot, slot, accepted, value } => {
            Message::AcceptedValue { ballot, slot, accepted, value: turn(value) }
        }
    }
}

/// Encodes the messages as one stream, gathered parts behind their heads.
fn stream_of(messages: &[Message<Vec<u8>>], pool: &BlockPool) -> Vec<u8> {
    let mut encoder = FrameEncoder::new();
    let mut out = Vec::new();
    for message in messages {
        let message = map_value(message.clone(), |value| Batch::copy_of(pool, &value));
        if let Some(value) = encode_message(&message, GROUP, &mut encoder, &mut out) {
            assert!(value.value_size() >= INLINE_VALUE_BYTES_MAX);
            out.extend_from_slice(value.value());
        }
    }
    out
}

/// Decodes a stream that comes in chunks of the sizes in `sizes`, over and over.
fn messages_in(
    stream: &[u8],
    sizes: &[usize],
    pool: &BlockPool,
) -> (Vec<Message<Vec<u8>>>, Result<(), WireError>) {
    let mut decoder = FrameDecoder::new();
    let mut found = Vec::new();
    let mut rest = stream;
    for size in sizes.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (mut chunk, behind) = rest.split_at((*size).min(rest.len()));
        rest = behind;
        loop {
            let frame = match decoder.next(&mut chunk, pool) {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(error) => return (found, Err(error)),
            };
            assert_eq!(frame.group, GROUP);
            match decode_message(frame, pool) {
                Ok(message) => found.push(map_value(message, |batch| {
                    assert_eq!(batch.checksum(), Checksum::of(batch.value()));
                    batch.value().to_vec()
                })),
                Err(error) => return (found, Err(error)),
            }
        }
        assert!(chunk.is_empty());
    }
    (found, Ok(()))
}

fn chunk_sizes() -> impl Strategy<Value = Vec<usize>> {
    prop_oneof![vec(1..50usize, 1..20), vec(1..10_000usize, 1..20), Just(vec![usize::MAX])]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn every_message_round_trips_in_chunks_of_any_size(
        messages in vec(message(), 1..12),
        sizes in chunk_sizes(),
    ) {
        let pool = BlockPool::new(1 << 20);
        let stream = stream_of(&messages, &pool);
        let (found, end) = messages_in(&stream, &sizes, &pool);
        prop_assert_eq!(end, Ok(()));
        prop_assert_eq!(found, messages);
        prop_assert_eq!(pool.live_bytes(), 0, "every buffer came back");
    }

    #[test]
    fn a_flipped_bit_never_changes_a_message(
        messages in vec(message(), 1..4),
        sizes in chunk_sizes(),
        place in any::<prop::sample::Index>(),
        bit in 0..8u8,
    ) {
        let pool = BlockPool::new(1 << 20);
        let mut stream = stream_of(&messages, &pool);
        let index = place.index(stream.len());
        stream[index] ^= 1 << bit;
        let (found, end) = messages_in(&stream, &sizes, &pool);
        prop_assert!(found.len() < messages.len());
        prop_assert_eq!(&found[..], &messages[..found.len()]);
        // A size that has grown may wait for bytes that never come; all else is an error.
        let in_frame = index - frame_start(&messages, found.len(), &pool);
        prop_assert!(end.is_err() || (12..14).contains(&in_frame), "byte {} of a frame", in_frame);
    }

    #[test]
    fn garbage_is_an_error_and_never_a_panic(
        bytes in vec(any::<u8>(), 0..4000),
        chunk_size in 1..300usize,
    ) {
        let (count, end) = fuzz::decode_stream(&bytes, chunk_size);
        prop_assert_eq!(count, 0);
        prop_assert!(bytes.len() < 4 || end.is_some());
    }

    #[test]
    fn garbage_behind_good_checksums_never_panics(bytes in vec(any::<u8>(), 0..600)) {
        fuzz::decode_fields(&bytes);
    }

    #[test]
    fn damaged_fields_behind_good_checksums_never_panic(
        message in message(),
        place in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let pool = BlockPool::new(0);
        let stream = stream_of(&[message], &pool);
        let mut decoder = FrameDecoder::new();
        let frame = decoder.next(&mut &stream[..], &pool).unwrap().unwrap();
        let index = FrameKind::ALL.iter().position(|kind| *kind == frame.kind).unwrap();
        let mut input = vec![index as u8, 255];
        input.extend_from_slice(frame.meta);
        prop_assert!(frame.meta.is_empty() || !frame.payload().is_empty()
            || fuzz::decode_fields(&input), "an unchanged head is taken");
        let place = 2 + place.index(input.len() - 2);
        input[place] = byte;
        fuzz::decode_fields(&input);
        input.truncate(place);
        fuzz::decode_fields(&input);
    }

    #[test]
    fn every_request_round_trips(
        ids in any::<[u64; 4]>(),
        numbers in any::<[u32; 4]>(),
        level in 0..3usize,
        conditions in any::<[Option<u64>; 2]>(),
        unanswered in any::<u16>(),
        name in "[a-z/]{0,60}",
        run in vec(any::<u8>(), 0..3000),
        sizes in chunk_sizes(),
    ) {
        let level = [ReadLevel::Local, ReadLevel::ReadIndex, ReadLevel::Lease][level];
        let [id, session, sequence, from] = ids;
        let (request, log) = (RequestId(id), LogId(numbers[0]));
        let records = numbers[1];
        let terms = AppendTerms {
            session: SessionId(session),
            sequence: Sequence(sequence),
            unanswered,
            if_tail: conditions[0].map(Position),
            fence: conditions[1].map(FenceToken),
        };
        let session = SessionId(session);
        let nonce = u128::from(numbers[2]) << 70 | u128::from(numbers[3]);
        let session_terms = SessionTerms { timeout_ms: numbers[2], window: numbers[3], nonce };
        let (from, name) = (Position(from), name.as_str());
        let requests = [
            Request::Append { request, log, terms, records, run: &run },
            Request::Read {
                request, log, from, records_max: numbers[1],
                bytes_max: numbers[2], level, wait_ms: numbers[3],
            },
            Request::Tail { request, log, level },
            Request::Lead { request, node: NodeId(log.0 as u16) },
            Request::Status { request },
            Request::OpenSession { request, terms: session_terms },
            Request::CloseSession { request, session },
            Request::CreateLog { request, name, record_bytes_max: numbers[1] },
            Request::DeleteLog { request, log },
            Request::FindLog { request, name, level },
            Request::ListLogs { request, after: name, logs_max: numbers[1], level },
            Request::Follow { request, log, from, credit_bytes: numbers[2] },
            Request::Credit { request, bytes: numbers[3] },
            Request::Unfollow { request },
        ];
        let (mut encoder, mut out) = (FrameEncoder::new(), Vec::new());
        requests.iter().for_each(|request| encode_request(request, GROUP, &mut encoder, &mut out));
        let pool = BlockPool::new(0);
        let mut count = 0;
        each_frame(&out, &sizes, FrameDecoder::new(), &pool, |frame| {
            assert_eq!(decode_request(&frame).as_ref(), Ok(&requests[count]));
            assert!(decode_response(&frame).is_err());
            count += 1;
        });
        prop_assert_eq!(count, requests.len());
    }

    #[test]
    fn every_response_round_trips(
        id in any::<u64>(),
        positions in any::<[u64; 2]>(),
        records in any::<u32>(),
        run in vec(any::<u8>(), 0..3000),
        code in 0..ErrorCode::ALL.len(),
        leader in prop::option::of(1..u16::MAX),
        text in ".{0,100}",
        sizes in chunk_sizes(),
    ) {
        let request = RequestId(id);
        let [first, tail] = positions.map(Position);
        let error = ErrorCode::ALL[code];
        let responses = [
            Response::Appended { request, first, records },
            Response::Records { request, first, records, tail, run: &run },
            Response::TailIs { request, tail },
            Response::StatusIs { request, json: &run },
            Response::LedBy { request, node: NodeId(records as u16) },
            Response::SessionOpened { request, session: SessionId(id) },
            Response::LogCreated { request, log: LogId(records), created: records % 2 == 0 },
            Response::LogsAre { request, json: &run },
            Response::Done { request },
            Response::Failed { request, error, leader: leader.map(NodeId), detail: id, text: &text },
        ];
        let (mut encoder, mut out) = (FrameEncoder::new(), Vec::new());
        for response in &responses {
            encode_response(response, GROUP, &mut encoder, &mut out);
        }
        let mut count = 0;
        each_frame(&out, &sizes, FrameDecoder::plain(), &(), |frame| {
            assert_eq!(decode_response(&frame).as_ref(), Ok(&responses[count]));
            assert!(decode_request(&frame).is_err());
            count += 1;
        });
        prop_assert_eq!(count, responses.len());
    }

    #[test]
    fn every_hello_round_trips(
        version in any::<u16>(),
        cluster in any::<u64>(),
        nodes in any::<[u16; 3]>(),
        digest in any::<u64>(),
        members in vec((any::<u16>(), ".{0,40}"), 0..15),
        name in ".{0,60}",
        reason in any::<u16>(),
        group in 0u16..3,
    ) {
        let members: Vec<_> =
            members.into_iter().map(|(node, address)| (NodeId(node), address)).collect();
        let peer = HelloRole::Peer {
            node: NodeId(nodes[0]), to: NodeId(nodes[1]), members_digest: digest,
            group_count: nodes[2], standing: Standing::default(), pending: None,
        };
        let (mut encoder, mut out) = (FrameEncoder::new(), Vec::new());
        let hellos = [(Some(cluster), peer), (Some(cluster), HelloRole::Client),
            (None, HelloRole::Client)]
            .map(|(cluster, role)| Hello {
                protocol_version: version, cluster: cluster.map(ClusterDigest), role,
                group: GroupId(group),
            });
        hellos.iter().for_each(|hello| encode_hello(hello, &mut encoder, &mut out));
        let welcome = Welcome {
            protocol_version: version, node: NodeId(nodes[0]), cluster: ClusterDigest(cluster),
            cluster_name: name.clone(), group_count: nodes[2], members,
            leader: Some(NodeId(nodes[1])).filter(|node| node.0 != 0),
            limits: Limits::default(), standing: Standing::default(), pending: None,
        };
        let refused = HelloReply::Refused {
            protocol_version: version, reason: RefuseReason::Other(reason | 0x8000), text: name,
        };
        let replies = [HelloReply::Welcome(welcome), refused];
        replies.iter().for_each(|reply| encode_hello_reply(reply, &mut encoder, &mut out));
        let mut count = 0;
        each_frame(&out, &[usize::MAX], FrameDecoder::plain(), &(), |frame| {
            match count {
                0..3 => assert_eq!(decode_hello(&frame).as_ref(), Ok(&hellos[count])),
                _ => assert_eq!(decode_hello_reply(&frame).as_ref(), Ok(&replies[count - 3])),
            }
            count += 1;
        });
        prop_assert_eq!(count, 5);
    }
}

/// Where frame `count` of the stream of `messages` begins.
fn frame_start(messages: &[Message<Vec<u8>>], count: usize, pool: &BlockPool) -> usize {
    stream_of(&messages[..count], pool).len()
}

fn each_frame<B: PayloadBuffer>(
    stream: &[u8],
    sizes: &[usize],
    mut decoder: FrameDecoder<B>,
    source: &B::Source,
    mut on_frame: impl FnMut(Frame<'_, B>),
) {
    let mut rest = stream;
    for size in sizes.iter().cycle() {
        let (mut chunk, behind) = rest.split_at((*size).min(rest.len()));
        rest = behind;
        while let Some(frame) = decoder.next(&mut chunk, source).expect("a good stream") {
            on_frame(frame);
        }
        if rest.is_empty() {
            assert!(!decoder.is_inside_frame());
            return;
        }
    }
}

fn sample() -> Vec<Message<Vec<u8>>> {
    let ballot = Ballot { round: 7, node: NodeId(2) };
    let (slot, chosen) = (Slot(9), Slot(8));
    vec![
        Message::Prepare { ballot, chosen, release: Release { ballot, sequence: 5 } },
        Message::Accept { ballot, slot, chosen, value: b"some value".to_vec() },
        Message::Promise {
            ballot,
            chosen,
            accepted: vec![AcceptedSlot { slot, ballot, checksum: Checksum(1) }],
            cut: true,
        },
        Message::Accepted { ballot, slot },
    ]
}

#[test]
fn every_single_bit_and_every_truncation_of_a_stream_is_caught() {
    let pool = BlockPool::new(1 << 20);
    let messages = sample();
    let stream = stream_of(&messages, &pool);
    for index in 0..stream.len() {
        for bit in 0..8 {
            let mut damaged = stream.clone();
            damaged[index] ^= 1 << bit;
            for sizes in [&[usize::MAX][..], &[7]] {
                let (found, _) = messages_in(&damaged, sizes, &pool);
                assert!(found.len() < messages.len(), "bit {bit} of byte {index} passed unseen");
                assert_eq!(found[..], messages[..found.len()]);
            }
        }
        for sizes in [&[usize::MAX][..], &[5]] {
            let (found, end) = messages_in(&stream[..index], sizes, &pool);
            assert_eq!(end, Ok(()), "a cut stream waits for more");
            assert!(found.len() < messages.len());
            assert_eq!(found[..], messages[..found.len()]);
        }
    }
    assert_eq!(pool.live_bytes(), 0);
}

#[test]
fn each_fault_has_its_error() {
    let pool = BlockPool::new(0);
    let good = stream_of(&sample(), &pool);
    let first_error = |stream: &[u8]| fuzz::decode_stream(stream, 13).1;
    assert_eq!(first_error(&good), None);
    assert_eq!(first_error(b"GET / HTTP/1.1\r\n"), Some(WireError::BadMagic));
    assert_eq!(first_error(b"L!"), Some(WireError::BadMagic), "two bytes are enough to see it");
    let with = |index: usize, byte: u8| {
        let mut stream = good.clone();
        stream[index] = byte;
        first_error(&stream)
    };
    assert_eq!(with(3, 2), Some(WireError::BadVersion { found: 2 }));
    assert_eq!(with(8, 1), Some(WireError::HeaderChecksum));
    assert!(matches!(with(13, 0xff), Some(WireError::TooLarge { what: "meta", .. })));
    assert!(matches!(with(19, 0xff), Some(WireError::TooLarge { what: "payload", .. })));
    let value_at = good.windows(10).position(|window| window == b"some value").unwrap();
    let kind = FrameKind::Accept;
    assert_eq!(with(value_at, b'S'), Some(WireError::PayloadChecksum { kind }));
}

#[test]
fn lost_doubled_and_swapped_frames_are_out_of_sequence() {
    let pool = BlockPool::new(0);
    let messages = sample();
    let starts: Vec<_> = (0..=4).map(|count| frame_start(&messages, count, &pool)).collect();
    let stream = stream_of(&messages, &pool);
    let frame = |index: usize| &stream[starts[index]..starts[index + 1]];
    let end_of = |order: &[usize]| {
        let stream: Vec<u8> = order.iter().flat_map(|index| frame(*index).to_vec()).collect();
        fuzz::decode_stream(&stream, usize::MAX)
    };
    let out_of = |expected, found| Some(WireError::OutOfSequence { expected, found });
    assert_eq!(end_of(&[0, 1, 2, 3]), (4, None));
    assert_eq!(end_of(&[0, 2]), (1, out_of(1, 2)));
    assert_eq!(end_of(&[0, 0]), (1, out_of(1, 0)));
    assert_eq!(end_of(&[1, 0]), (0, out_of(0, 1)));
}

#[test]
fn unknown_kinds_and_kinds_out_of_place_are_told_apart() {
    let pool = BlockPool::new(0);
    let mut out = Vec::new();
    FrameEncoder::new().encode(FrameKind::Status, GROUP, &[0; 8], &[], &mut out);
    let mut decoder = FrameDecoder::new();
    let frame = decoder.next(&mut &out[..], &pool).unwrap().unwrap();
    let kind = FrameKind::Status;
    assert_eq!(decode_hello(&frame), Err(WireError::UnexpectedKind { kind, expected: "a hello" }));
    assert_eq!(
        decode_message(frame, &pool).err(),
        Some(WireError::UnexpectedKind { kind, expected: "a peer message" })
    );
    // A kind of a later version, with a good checksum.
    out[4..6].copy_from_slice(&999u16.to_le_bytes());
    let checksum = Checksum::of_parts(&[&out[..28], &out[32..]]);
    out[28..32].copy_from_slice(&checksum.0.to_le_bytes());
    assert_eq!(fuzz::decode_stream(&out, 64).1, Some(WireError::UnknownKind(999)));
}

#[test]
fn an_error_is_final_for_its_stream() {
    let pool = BlockPool::new(0);
    let mut decoder = FrameDecoder::new();
    let good = stream_of(&sample(), &pool);
    assert_eq!(decoder.next(&mut &b"????"[..], &pool).err(), Some(WireError::BadMagic));
    assert_eq!(decoder.next(&mut &good[..], &pool).err(), Some(WireError::BadMagic));
}

#[test]
fn the_largest_value_straddles_chunks_into_the_batch_without_a_copy() {
    let pool = BlockPool::new(8 << 20);
    let bytes: Vec<u8> = (0..VALUE_BYTES_MAX).map(|index| (index * 7 / 3) as u8).collect();
    let value = Batch::copy_of(&pool, &bytes);
    let checksum = value.checksum();
    let accept = Message::Accept { ballot: Ballot::NONE, slot: Slot(1), chosen: Slot(0), value };
    let mut stream = Vec::new();
    let part = encode_message(&accept, GROUP, &mut FrameEncoder::new(), &mut stream).unwrap();
    drop(accept);
    stream.extend_from_slice(part.value());
    drop(part);
    let mut decoder = FrameDecoder::new();
    let live_before = pool.live_bytes();
    let mut found = None;
    for mut chunk in stream.chunks(32 * 1024) {
        while let Some(frame) = decoder.next(&mut chunk, &pool).unwrap() {
            let live_assembled = pool.live_bytes();
            let Message::Accept { value, .. } = decode_message(frame, &pool).unwrap() else {
                panic!("another message")
            };
            assert_eq!(pool.live_bytes(), live_assembled, "no second buffer");
            found = Some(value);
        }
    }
    let found = found.expect("the message has come");
    assert_eq!((found.value(), found.checksum()), (&bytes[..], checksum));
    drop(found);
    assert_eq!(pool.live_bytes(), live_before);
}

#[test]
fn a_limited_connection_refuses_a_payload_before_it_takes_memory() {
    let pool = BlockPool::new(0);
    let mut out = Vec::new();
    let (request, log) = (RequestId(1), LogId(0));
    let head = AppendHead { request, log, terms: AppendTerms::default(), records: 1 };
    encode_append(&head, GROUP, &mut FrameEncoder::new(), &mut out, |out| {
        push_record(out, &[7; 1000]);
    });
    let mut decoder = FrameDecoder::new();
    decoder.limit_payload(1003);
    let error = decoder.next(&mut &out[..40], &pool).unwrap_err();
    assert_eq!(error, WireError::TooLarge { what: "payload", size: 1004, limit: 1003 });
    let mut decoder = FrameDecoder::new();
    decoder.limit_payload(APPEND_BYTES_MAX);
    assert!(decoder.next(&mut &out[..], &pool).unwrap().is_some());
}

#[test]
fn records_gathered_from_pieces_are_counted_behind() {
    let head = RecordsHead { request: RequestId(5), first: Position(10), tail: Position(12) };
    let mut out = Vec::new();
    encode_records(&head, GROUP, &mut FrameEncoder::new(), &mut out, |out| {
        push_record(out, b"one");
        push_record(out, b"two");
        2
    });
    let mut decoder = FrameDecoder::plain();
    let frame = decoder.next(&mut &out[..], &()).unwrap().unwrap();
    let mut run = Vec::new();
    push_record(&mut run, b"one");
    push_record(&mut run, b"two");
    let RecordsHead { request, first, tail } = head;
    let expected = Response::Records { request, first, records: 2, tail, run: &run };
    assert_eq!(decode_response(&frame), Ok(expected));
}

#[test]
fn the_hello_is_frozen() {
    // Bytes of version 1. If this test fails, nodes of two versions can no longer tell each
    // other that they do not fit.
    let mut out = Vec::new();
    let role = HelloRole::Peer {
        node: NodeId(1),
        to: NodeId(2),
        members_digest: 0x1122_3344_5566_7788,
        group_count: 1,
        standing: Standing::default(),
        pending: None,
    };
    let group = GroupId(0);
    let hello = Hello { protocol_version: 1, cluster: Some(ClusterDigest(0xaabb)), role, group };
    encode_hello(&hello, &mut FrameEncoder::new(), &mut out);
    assert_eq!(out[..12], *b"LGS\x01\x01\0\0\0\0\0\0\0");
    let meta =
        b"\x01\0\x01\x01\xbb\xaa\0\0\0\0\0\0\x01\0\x02\0\x88\x77\x66\x55\x44\x33\x22\x11\x01\0";
    assert_eq!(out[FRAME_HEADER_SIZE..][..meta.len()], *meta);
    // A later version's hello, with fields behind the last one, can still be read.
    let mut later = Vec::new();
    let mut meta = meta.to_vec();
    meta[0] = 9;
    meta.extend_from_slice(b"\x05\0more");
    FrameEncoder::new().encode(FrameKind::Hello, GroupId(0), &meta, &[], &mut later);
    let mut decoder = FrameDecoder::plain();
    let frame = decoder.next(&mut &later[..], &()).unwrap().unwrap();
    let group = GroupId(5);
    assert_eq!(decode_hello(&frame), Ok(Hello { protocol_version: 9, group, ..hello }));
}

#[test]
fn standings_and_foundings_round_trip() {
    let members = (1..=15).map(|node| (NodeId(node), Incarnation(u128::MAX - u128::from(node))));
    let founding = Founding { cluster: ClusterId(u128::MAX), members: members.collect() };
    let standing = Standing {
        cluster: Some(ClusterId(1 << 100)),
        incarnation: Incarnation(7),
        expects: Some(Incarnation(8)),
        is_used: true,
    };
    for (standing, pending) in [(standing, Some(founding)), (Standing::default(), None)] {
        let role = HelloRole::Peer {
            node: NodeId(1),
            to: NodeId(2),
            members_digest: 3,
            group_count: 4,
            standing,
            pending: pending.clone(),
        };
        let cluster = Some(ClusterDigest(5));
        let protocol_version = PROTOCOL_VERSION;
        let hello = Hello { protocol_version, cluster, role, group: GroupId(0) };
        let welcome = HelloReply::Welcome(Welcome {
            protocol_version,
            node: NodeId(1),
            cluster: ClusterDigest(5),
            cluster_name: "demo".to_owned(),
            group_count: 1,
            members: vec![],
            leader: None,
            limits: Limits::default(),
            standing,
            pending,
        });
        let mut out = Vec::new();
        let mut encoder = FrameEncoder::new();
        encode_hello(&hello, &mut encoder, &mut out);
        encode_hello_reply(&welcome, &mut encoder, &mut out);
        let mut decoder = FrameDecoder::plain();
        let mut rest = &out[..];
        let frame = decoder.next(&mut rest, &()).unwrap().unwrap();
        assert_eq!(decode_hello(&frame), Ok(hello));
        let frame = decoder.next(&mut rest, &()).unwrap().unwrap();
        assert_eq!(decode_hello_reply(&frame), Ok(welcome));
    }
}

#[test]
fn a_peer_must_name_its_cluster() {
    let mut out = Vec::new();
    let role = HelloRole::Peer {
        node: NodeId(1),
        to: NodeId(2),
        members_digest: 0,
        group_count: 1,
        standing: Standing::default(),
        pending: None,
    };
    let hello = Hello { protocol_version: 1, cluster: None, role, group: GroupId(0) };
    encode_hello(&hello, &mut FrameEncoder::new(), &mut out);
    let mut decoder = FrameDecoder::plain();
    let frame = decoder.next(&mut &out[..], &()).unwrap().unwrap();
    assert!(matches!(decode_hello(&frame), Err(WireError::Malformed { .. })));
}

#[test]
fn the_members_digest_sees_every_difference_but_order() {
    let list = |entries: &[(u16, &str)]| -> Vec<(NodeId, String)> {
        entries.iter().map(|(node, address)| (NodeId(*node), (*address).to_owned())).collect()
    };
    let digest = members_digest(&list(&[(1, "a:1"), (2, "b:2")]));
    assert_eq!(digest, members_digest(&list(&[(2, "b:2"), (1, "a:1")])));
    assert_ne!(digest, members_digest(&list(&[(1, "a:1"), (2, "b:3")])));
    assert_ne!(digest, members_digest(&list(&[(1, "a:1")])));
    assert_ne!(digest, members_digest(&list(&[(1, "b:2"), (2, "a:1")])));
}

#[test]
fn a_status_survives_json_and_unknown_fields() {
    let status = NodeStatus { node: 2, chosen: 9, leader: Some(1), ..NodeStatus::default() };
    let json = serde_json::to_string(&status).unwrap();
    assert!(json.contains("\"lease\":null") && json.contains("\"role\":\"follower\""));
    assert_eq!(serde_json::from_str::<NodeStatus>(&json).unwrap(), status);
    let later = json.replacen('{', "{\"new_field\":1,", 1);
    assert_eq!(serde_json::from_str::<NodeStatus>(&later).unwrap(), status);
}

#[test]
fn only_an_unknown_outcome_leaves_an_append_open() {
    for code in ErrorCode::ALL {
        assert_eq!(code.append_had_no_effect(), code != ErrorCode::OutcomeUnknown);
        assert!(code.append_had_no_effect() || !code.is_retryable());
    }
}
