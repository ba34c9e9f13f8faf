//! Planted bugs: known mistakes of replicated logs, each one line of production code away.
//!
//! They exist to try the checkers: the simulator, the explorer and the tests plant one and must
//! then find it. A mistake stands where the code decides, as `if … && planted(Mutant::…)`, with
//! `planted` asked last, so that a hit is a decision that went wrong.
//!
//! Guarantee: without the cargo feature `mutants`, which no release carries, [`planted`] is a
//! constant `false` and no mistake is built.

macro_rules! mutants {
    ($($(#[doc = $doc:literal])* $name:ident = $family:literal $text:literal,)*) => {
        /// A mistake that can be planted. The number of its family is the one of the project's
        /// list of bugs found in systems of this kind: 1 durability, 2 stale reads, 3 storage
        /// faults, 4 trim and snapshots, 5 membership, 6 unknown outcomes, 7 Paxos itself,
        /// 8 partial connection and gray failure, 9 error handling, 10 the ring.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Mutant {
            $($(#[doc = $doc])* $name,)*
        }

        impl Mutant {
            /// All of them.
            pub const ALL: &'static [Mutant] = &[$(Mutant::$name,)*];

            /// The name on the command line.
            pub const fn name(self) -> &'static str {
                match self { $(Mutant::$name => $text,)* }
            }

            /// The number of its family.
            pub const fn family(self) -> u8 {
                match self { $(Mutant::$name => $family,)* }
            }
        }
    };
}

mutants! {
    // ---- identity ----
    /// A handshake does not ask which directory the peer runs from: one that was formatted again, put
    /// back or made for another cluster votes as the member it calls itself.
    IncarnationIgnored = 3 "incarnation-ignored",
    /// A blank node campaigns though nobody has asked it to found the cluster.
    BlankNodeCampaigns = 5 "blank-node-campaigns",
    /// A node goes by a founding that a power cut takes away again.
    FoundingNotDurable = 1 "founding-not-durable",
    // ---- paxos: elections and promises ----
    /// A restarted replica takes the ballot of its last campaign for unused and campaigns with
    /// it again: two values may be proposed under one (slot, ballot).
    BallotReusedAfterRestart = 7 "ballot-reused-after-restart",
    /// A restart finds only the ballots of its accepted values: promises in the vote file are
    /// forgotten.
    PromiseForgottenAtRestart = 1 "promise-forgotten-at-restart",
    /// A promise (or a candidate's prepares) leaves before its own write.
    PromiseBeforeDurable = 1 "promise-before-durable",
    /// A promise leaves out the first accepted slot above the watermark.
    PromiseOmitsFirstSlot = 7 "promise-omits-first-slot",
    /// A promise leaves out what is accepted and still on its way to the disk.
    PromiseOmitsUndurable = 7 "promise-omits-undurable",
    /// The second promise of one sender counts for its neighbour as well.
    PromiseCountedTwice = 7 "promise-counted-twice",
    /// A campaign starts without asking whether a leader is alive: a replica that was cut off
    /// deposes a working leader.
    PreVoteIgnored = 8 "pre-vote-ignored",
    /// A leader or candidate that promises a higher ballot to another goes on.
    StepDownDropped = 7 "step-down-dropped",
    /// A follower accepts at a new ballot before its promise of that stands in the promise file.
    AcceptedBeforePromise = 3 "accepted-before-promise",
    /// Damage at the end of the log, which nothing behind it proves, is taken for a torn write.
    DamageTakenForTear = 3 "damage-taken-for-tear",
    /// A replica that has lost acceptances promises and votes as if it had none.
    VoteWithoutMemory = 3 "vote-without-memory",
    /// A replica takes the record of its loss away before what it has learnt again is durable.
    CutForgottenEarly = 3 "cut-forgotten-early",
    // ---- paxos: reads and leases ----
    /// A leader answers reads without making sure that it still leads.
    ReadWithoutRound = 2 "read-without-round",
    /// Any earlier answer of a peer confirms a read's round.
    RoundMatchedWithoutId = 2 "round-matched-without-id",
    /// A leader that has just won answers reads before it knows what was chosen before it.
    NewLeaderReadsEarly = 2 "new-leader-reads-early",
    /// A follower answers a read before it has learnt the slots that the leader named.
    FollowerReadsUnapplied = 2 "follower-reads-unapplied",
    /// A lease runs from when the grants arrive, not from when they were asked for.
    LeaseFromReceipt = 2 "lease-from-receipt",
    /// A follower that has granted a lease helps another candidate all the same.
    GrantIgnored = 2 "grant-ignored",
    /// A replica that starts promises at once, whatever it granted before.
    GrantForgottenAtRestart = 2 "grant-forgotten-at-restart",
    // ---- paxos: handing over ----
    /// A leader that hands over keeps its lease, and goes on answering reads by it.
    LeaseKeptOverTransfer = 2 "lease-kept-over-transfer",
    /// The release of a leader's leases is taken for one of those that it asked for later, too.
    ReleaseOfLaterLeases = 2 "release-of-later-leases",
    /// A leader hands over to a replica that does not hold all that was proposed.
    TransferToReplicaBehind = 8 "transfer-to-replica-behind",
    // ---- paxos: the values of earlier ballots ----
    /// A new leader leads without having learnt the prefix that its quorum knows to be chosen.
    RecoverySkipsPrefix = 7 "recovery-skips-prefix",
    /// A new leader takes holes for chosen no-ops, without a round.
    HoleFillDropped = 7 "hole-fill-dropped",
    /// A new leader proposes the reported values up to the first hole only. What lies behind a
    /// hole cannot have been acknowledged, so only a check that sees all disks notices.
    RecoveryStopsAtHole = 7 "recovery-stops-at-hole",
    /// A new leader proposes what it holds, and what others report up to there only.
    RecoveryStopsAtOwnLast = 7 "recovery-stops-at-own-last",
    /// Where a value was accepted at several ballots, that of the lowest is proposed again.
    LowestBallotTaken = 7 "lowest-ballot-taken",
    // ---- paxos: accepting and choosing ----
    /// A late Accept below the promise is accepted.
    AcceptBelowPromise = 7 "accept-below-promise",
    /// Accepting at a ballot does not promise it.
    AcceptDoesNotPromise = 7 "accept-does-not-promise",
    /// The second acceptance of one sender counts for its neighbour as well.
    AcceptedCountedTwice = 7 "accepted-counted-twice",
    /// An acceptance of an earlier ballot of the same leader counts.
    AcceptedOfOtherBallot = 7 "accepted-of-other-ballot",
    /// A leader counts its own acceptance before its disk has it.
    OwnVoteBeforeDurable = 1 "own-vote-before-durable",
    /// The watermark passes a slot without a quorum when the next one has a quorum.
    ChosenPassesGap = 7 "chosen-passes-gap",
    /// A follower takes whatever value it holds below the leader's watermark for the chosen one.
    WatermarkOverOtherBallot = 7 "watermark-over-other-ballot",
    // ---- paxos: catching up, stepping down ----
    /// A replica that is asked for an accepted value gives it out as chosen.
    LearnUnchosen = 7 "learn-unchosen",
    /// A leader sends an unanswered slot again only when nothing at all is answered, and does not
    /// hear that a peer has dropped it: while later slots are answered it waits for ever.
    ResendOnSilenceOnly = 8 "resend-on-silence-only",
    /// A replica that is behind accepts nothing that is far above its watermark: with a second failure
    /// there is no quorum until it has caught up.
    AcceptNeedsPrefix = 8 "accept-needs-prefix",
    /// Whoever catches up is served one read after the other.
    ServesReadByRead = 8 "serves-read-by-read",
    /// A leader whose disk completes no writes stays.
    StalledLeaderStays = 8 "stalled-leader-stays",
    /// A leader that is asked to stop ends without handing over.
    StopWithoutTransfer = 8 "stop-without-transfer",
    /// A leader whose disk is far slower than the accept quorum's stays.
    SlowLeaderStays = 8 "slow-leader-stays",
    /// A leader that reaches no quorum stays.
    LonelyLeaderStays = 8 "lonely-leader-stays",
    /// The loss of the connection from a peer is taken for the loss of the connection to it, which
    /// may stand for ever: no leadership is transferred to that peer any more.
    InboundLossDisconnects = 8 "inbound-loss-disconnects",
    // ---- node ----
    /// A connection that has died in silence is used until the kernel gives it up.
    SilentFlowNotRedialled = 8 "silent-flow-not-redialled",
    /// An acceptance is sent with its write instead of after it.
    AcceptedBeforeDurable = 1 "accepted-before-durable",
    /// An append whose outcome is unknown is answered as certainly without effect.
    UnknownAnsweredAsFailed = 6 "unknown-answered-as-failed",
    // ---- server: groups ----
    /// The group in a log's number is not looked at: a log of another group is taken for the one of
    /// the same number here.
    GroupOfLogIgnored = 6 "group-of-log-ignored",
    /// An append to a log of another group is refused before it has had its turn in its session:
    /// those behind it are out of order for ever.
    AppendRefusedOutOfTurn = 6 "append-refused-out-of-turn",
    // ---- machine: sessions, conditions, fences ----
    /// A command of a session that has been applied is applied again when it comes again.
    RepetitionAppended = 6 "repetition-appended",
    /// A session never ends. Its client learns of it only by an answer that should not come.
    SessionNeverExpires = 6 "session-never-expires",
    /// A full table of sessions ends one that holds results for a new one: a repetition of its client
    /// is refused that took effect.
    SessionWithResultsEvicted = 6 "session-with-results-evicted",
    /// An opening that is sent again opens a second session.
    SecondSessionOfNonce = 6 "second-session-of-nonce",
    /// The sessions are not part of the state that a restart builds up again.
    SessionsLostAtRestart = 6 "sessions-lost-at-restart",
    /// One replica counts a record more than there is, once: its state differs from then on.
    AppliesDifferently = 4 "applies-differently",
    /// A command of a kind that this version does not know is applied as a no-op.
    UnknownKindApplied = 4 "unknown-kind-applied",
    /// A condition on the tail is judged when the leader takes the append, not when it is applied.
    ConditionCheckedByLeaderOnly = 6 "condition-checked-by-leader-only",
    /// A fencing token is judged when the leader takes the append, not when it is applied.
    FenceCheckedByLeaderOnly = 6 "fence-checked-by-leader-only",
    // ---- log: writing ----
    /// A log write is acknowledged when it has completed, before its flush has.
    LogReplyBeforeFlush = 1 "log-reply-before-flush",
    /// Log writes and promises are written without making them durable.
    LogWriteNotDurable = 1 "log-write-not-durable",
    /// A write that overtook an older one is acknowledged, and the older one with it.
    LogAcknowledgedBeyondHole = 10 "log-acknowledged-beyond-hole",
    /// A short write passes for a whole one.
    ShortWriteTakenAsWhole = 10 "short-write-taken-as-whole",
    /// A failed write passes for one that succeeded.
    FailedWriteIgnored = 9 "failed-write-ignored",
    /// A failed flush is tried again, and the second one believed.
    FailedFlushRetried = 9 "failed-flush-retried",
    /// A new segment is used before its name is durable.
    SegmentNameNotDurable = 10 "segment-name-not-durable",
    /// The index footer of a segment is written before what it tells of is durable.
    FooterBeforeDurable = 10 "footer-before-durable",
    // ---- log: the vote ----
    /// A promise is kept in memory; what is written is the one before.
    VoteKeptInMemory = 1 "vote-kept-in-memory",
    /// A promise overwrites one copy of the vote, always the same, and the other stays old.
    VoteOneCopyInPlace = 1 "vote-one-copy-in-place",
    /// A vote that is damaged in both copies passes for one that promises nothing.
    DamagedVoteTakenForNone = 3 "damaged-vote-taken-for-none",
    // ---- log: recovery and reads ----
    /// Damage in the middle of the log is cut like a torn tail.
    DamageTruncated = 3 "damage-truncated",
    /// Segments behind the one in which the log ends are not looked at.
    SparesTakenForBlank = 3 "spares-taken-for-blank",
    /// What a killed process left unflushed is trusted without a flush.
    RecoveredNotFlushed = 1 "recovered-not-flushed",
    /// Entries of an older use of a segment's blocks pass for entries of the log. Without a
    /// reuse of segments only a test that makes such a block notices.
    StaleGenerationAccepted = 10 "stale-generation-accepted",
    /// A value is not held against its checksum.
    ValueNotVerified = 3 "value-not-verified",
    /// A slot accepted in two segments, of which the first has lost its index footer, is found
    /// there with its older value after a restart.
    OlderValueAfterFooterLoss = 3 "older-value-after-footer-loss",
    /// What an index footer says behind its rows is not read: records in other logs than 0, and
    /// which commands were refused.
    PlacementsDropped = 3 "placements-dropped",
    /// After a restart a sealed segment is known to hold records of log 0 only.
    OtherLogsNotSummarised = 3 "other-logs-not-summarised",
    // ---- machine, log: checkpoints, and starts that do not read everything ----
    /// A checkpoint holds everything but the sessions.
    SessionsLeftOutOfCheckpoint = 4 "sessions-left-out-of-checkpoint",
    /// A checkpoint says that it is of the slot after the one that it was taken at.
    CheckpointOfAnotherSlot = 4 "checkpoint-of-another-slot",
    /// The checkpoint before a clean stop says that it is of the last slot that is durable here, whether
    /// that has been chosen and applied or not.
    StopCheckpointOfDurable = 4 "stop-checkpoint-of-durable",
    /// A checkpoint is written before the slots that it covers are durable in the log.
    CheckpointBeforeDurable = 4 "checkpoint-before-durable",
    /// A checkpoint that tells of entries that the log has lost is no reason to refuse the log.
    CheckpointAheadIgnored = 4 "checkpoint-ahead-ignored",
    /// A segment's index footer is believed although the next segment does not follow from it.
    FooterWithoutChain = 3 "footer-without-chain",
    /// What a start has not read is never verified.
    ScrubSkipsEntries = 3 "scrub-skips-entries",
    /// A start under the marker of damage goes on as if none stood there.
    DamageMarkerIgnored = 3 "damage-marker-ignored",
    /// The room that a segment keeps for the placements of its entries is forgotten at a restart.
    RoomForgottenAtRestart = 3 "room-forgotten-at-restart",
}

impl Mutant {
    /// The mutant of this name.
    pub fn of_name(name: &str) -> Option<Mutant> {
        Mutant::ALL.iter().copied().find(|mutant| mutant.name() == name)
    }
}

/// Whether `mutant` is planted on this thread. Counts a hit when it is.
#[cfg(not(feature = "mutants"))]
#[inline(always)]
pub const fn planted(_mutant: Mutant) -> bool {
    false
}

#[cfg(feature = "mutants")]
pub use planting::{hits, plant, planted};

#[cfg(feature = "mutants")]
mod planting {
    use std::cell::Cell;

    use super::Mutant;

    // Of each thread its own: a simulated cluster lives on one thread, and tests run on several.
    thread_local! {
        static PLANTED: Cell<Option<Mutant>> = const { Cell::new(None) };
        static HITS: Cell<u64> = const { Cell::new(0) };
    }

    /// Plants `mutant` in place of the one before, or none; on this thread. Hits start at 0.
    pub fn plant(mutant: Option<Mutant>) {
        PLANTED.set(mutant);
        HITS.set(0);
    }

    /// How often a decision went wrong on this thread since [`plant`].
    pub fn hits() -> u64 {
        HITS.get()
    }

    /// Whether `mutant` is planted on this thread. Counts a hit when it is.
    pub fn planted(mutant: Mutant) -> bool {
        let is_it = PLANTED.get() == Some(mutant);
        HITS.set(HITS.get() + u64::from(is_it));
        is_it
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_families_name_every_mutant_once() {
        for (index, mutant) in Mutant::ALL.iter().enumerate() {
            assert_eq!(Mutant::of_name(mutant.name()), Some(*mutant));
            assert!((1..=10).contains(&mutant.family()));
            assert!(!Mutant::ALL[..index].contains(mutant));
        }
        assert_eq!(Mutant::of_name("none"), None);
    }

    #[cfg(not(feature = "mutants"))]
    #[test]
    fn nothing_is_planted_in_an_ordinary_build() {
        const { assert!(!planted(Mutant::AcceptBelowPromise)) };
    }

    #[cfg(feature = "mutants")]
    #[test]
    fn a_planted_mutant_counts_its_hits_and_no_others() {
        plant(Some(Mutant::AcceptBelowPromise));
        assert!(planted(Mutant::AcceptBelowPromise));
        assert!(!planted(Mutant::LowestBallotTaken));
        assert_eq!(hits(), 1);
        plant(None);
        assert!(!planted(Mutant::AcceptBelowPromise));
        assert_eq!(hits(), 0);
    }
}
