//! What a run has hit: every fault class and every branch of interest has a name and a count.
//!
//! A class that a thousand seeds never hit is not tested, whatever the code looks like: `loggos
//! sim` reports it. One branch that is not here: a hole filled with a no-op. Below a
//! peer's acceptances every slot is accepted or chosen, as long as connections keep the order of what is
//! sent on them, and they do, by the frames' sequence; only the explorer, the core's chaos tests
//! and its golden script `holes`, where messages get lost, come there.
//! Written by the world and its faults, summed over runs by the command.

use std::collections::BTreeMap;

use super::disk::counts;

/// What a counter counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HitKind {
    /// A fault that the world has injected.
    Fault,
    /// A branch of the production code that matters.
    Branch,
    /// A check that has been made with something to check.
    Check,
}

macro_rules! hits {
    ($($kind:ident { $($name:ident = $text:literal,)* })*) => {
        /// Everything that is counted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Hit {
            $($(#[doc = $text] $name,)*)*
        }

        impl Hit {
            /// Every counter.
            pub const ALL: &[Hit] = &[$($(Hit::$name,)*)*];

            /// Its name in reports.
            pub fn name(self) -> &'static str {
                match self { $($(Hit::$name => $text,)*)* }
            }

            /// What it counts.
            pub fn kind(self) -> HitKind {
                match self { $($(Hit::$name => HitKind::$kind,)*)* }
            }
        }
    };
}

hits! {
    Fault {
        PartitionOneWay = "partition: one direction of one pair",
        PartitionPair = "partition: one pair",
        PartitionGroups = "partition: two groups",
        PartitionIsolate = "partition: one node alone",
        PartitionChain = "partition: only neighbours are connected",
        LinkFlap = "link flaps",
        HandoverLate = "leadership handed over by a slow link",
        LinkSlow = "link slow for a while",
        FarAway = "node far away from all others for a while",
        ConnectionReset = "connection reset",
        ConnectionResetMidFrame = "connection reset between two bytes",
        ConnectRefused = "connection attempt refused",
        ConnectLost = "connection attempt unanswered",
        SenderTimeout = "connection given up by the sender",
        HalfOpen = "connection half open after a power cut",
        Succession = "leader dies while a follower catches up",
        LeftBehind = "leader cut off while paused or with a slow clock",
        Kill = "process killed",
        PowerCut = "power cut on one node",
        PowerCutAll = "power cut on all nodes at once",
        PowerCutAllRot = "power cut on all nodes at once with rot in the last entry of one",
        PowerCutMinority = "power cut on a minority at once",
        Pause = "process paused",
        ClockDrift = "clock drifts within the bound",
        ClockRate = "clock runs at another rate",
        ClockJump = "clock jumps forward",
        ClientDies = "client drops its connection",
        DiskSlow = "disk slow for a while",
        DiskStall = "disk stands still for a while",
        DiskFull = "disk full for a while",
        DiskWriteFails = "disk fails a write",
        DiskWriteShort = "disk writes too little",
        DiskWriteFull = "disk refuses a write for want of room",
        DiskFlushFails = "disk fails a flush",
        DiskReadFails = "disk fails a read",
        DiskNameFails = "disk fails to open or rename",
        DiskNameFull = "disk refuses to create or rename for want of room",
        DiskNoFile = "process may open no more files for a moment",
        DiskWriteLost = "disk loses a write and says nothing",
        DiskWriteMisdirected = "disk writes to another place and says nothing",
        DamageFlip = "damage at rest: bit flip",
        DamageVote = "damage at rest: both copies of the vote",
        DamageFooters = "damage at rest: many index footers",
        DamageUnreadable = "damage at rest: unreadable block",
        DamageZeroed = "damage at rest: zeroed block",
        DiskWiped = "disk wiped",
        DiskOldCopy = "disk's old copy put back",
        DamageSealed = "damage at rest: bit flip in a full segment",
        CheckpointDamaged = "checkpoint damaged at rest",
        CheckpointLost = "checkpoint lost",
        CheckpointStale = "checkpoint replaced by another",
        LeftPoweredOff = "left for good: without power",
        LeftPaused = "left for good: paused",
        LeftIsolated = "left for good: cut off from all nodes",
        LeftHanging = "left for good: connected to one node only",
        LeftStalled = "left for good: disk stands still",
        StoppedCleanly = "node stopped cleanly",
        NewerCommand = "leader proposed a command that nobody knows",
        FlowSilenced = "flow dies in silence",
        NodeMoved = "node moves to another address",
        LookupFailed = "look-up of a name fails",
        LookupHangs = "look-up of a name hangs for a while",
        LookupWrong = "look-up of a name finds another node's address",
        FormattedAgain = "node formatted again",
        MajorityFormattedAgain = "majority of the nodes formatted again",
        DisksSwapped = "disks of two nodes swapped",
        ForeignDisk = "disk of another cluster of the same name",
        CrashedWhileFounding = "node crashed while the cluster was being founded",
        ShortLivedClients = "client left its session for another",
        LeaderDiskSlow = "leader's disk slow for good",
        AllDisksFull = "all disks full for long",
        SecondFailure = "leader dies when a follower far behind returns",
    }
    Branch {
        ImpostorRefused = "node on another disk refused by a peer, and told so",
        AskedToFound = "node asked to found the cluster",
        Founded = "node learnt as what its cluster was founded",
        Elected = "leader elected",
        SteppedDown = "leader stepped down",
        CandidateFailed = "campaign failed",
        PreVoteRefused = "pre-vote refused",
        StaleBallotRefused = "stale ballot refused",
        PromiseReports = "promise that reports accepted values",
        AcceptedFetched = "accepted value asked for by a candidate",
        ValueProposedAgain = "value of an earlier ballot proposed again",
        CaughtUp = "chosen slots asked for by who is behind",
        Reopened = "node reopened its log",
        TornTailCut = "torn tail cut at start",
        VoteMended = "damaged copy of the vote mended at start",
        FooterDamaged = "damaged index footer written again",
        CheckpointWritten = "checkpoint written",
        CheckpointUsed = "node went on from a checkpoint",
        StopCheckpointed = "checkpoint of a clean stop completed",
        StopCutShort = "checkpoint of a clean stop cut short",
        StopTransferred = "leader handed over before a clean stop",
        StopStillLed = "leader stopped cleanly without handing over",
        SegmentScrubbed = "segment verified after the start",
        ScrubFoundDamage = "damage found by the scrub",
        MarkerLeft = "marker of damage left for the next start",
        StartMarked = "node started under a marker of damage",
        MarkerCleared = "marker of damage taken away: all was whole",
        AcceptedRecovered = "accepted slots above the watermark recovered",
        SegmentRolled = "segment rolled",
        OpenRefused = "node refused to open its log",
        DamageFound = "node refused a damaged disk",
        DiskLied = "disk that lied about what it had stored: node taken out",
        StartedVoteless = "node started without a vote",
        VoteRegained = "vote regained",
        LossMadeGood = "lost acceptance of a chosen slot found made good when the vote came back",
        PromiseFileChecked = "first acceptance of a ballot found covered by the promise file",
        AcceptanceLost = "acceptance lost with the vote",
        DamageSurvived = "damaged disk opened with nothing lost",
        DiskFailed = "node stopped because of its disk",
        NewerStopped = "node stopped before a slot that it does not know",
        BackPressure = "node stopped reading clients",
        LongPoll = "read waited for new records",
        ReadFromDisk = "read served from the log's files",
        AnswerNotLeader = "client answered: not the leader",
        AnswerUnknown = "client answered: outcome unknown",
        AnswerDiskFull = "client answered: disk full",
        AnswerOverloaded = "client answered: overloaded",
        AnswerUnavailable = "client answered: unavailable",
        AnswerCorrupted = "client answered: corrupted",
        AnswerTailMoved = "client answered: the tail is elsewhere",
        AnswerFenced = "client answered: fenced",
        AnswerSessionExpired = "client answered: session expired",
        AnswerOutOfOrder = "client answered: out of order",
        TransferAsked = "leadership asked to be handed over",
        TransferDone = "leadership handed over",
        GrantReleased = "grant of a lease given up by its leader",
        SessionOpened = "session opened",
        SessionFound = "opening found the session of its nonce",
        SessionRefused = "opening of a session refused",
        SessionExpired = "session ended by its time-out",
        SessionEvicted = "session without results ended for another",
        SessionRepeated = "repetition got the result of its session",
        SessionForgotten = "repetition of what its session had let go",
        LogCreated = "log created",
        ConnectionHandedOver = "connection handed over to another group's thread",
        FlowRedialled = "flow that died in silence left by who dialled it",
        RecordsPushed = "records pushed to a follower",
        AppendSentAgain = "append of a session sent again",
        AppendGivenUp = "append of a session given up",
        AppendDoubtful = "append of an expired session left in doubt",
        LateOutcome = "outcome of an append that was given up",
    }
    Check {
        AppendAcked = "append acknowledged",
        AppendUnknown = "append with unknown outcome",
        AppendFailed = "append certainly without effect",
        ReadLocal = "read or tail answered: local",
        ReadIndexed = "read or tail answered: read-index",
        ReadLeased = "read or tail answered: lease",
        FreshnessChecked = "linearizable read checked",
        SlotCompared = "slot compared between replicas",
        PromiseChecked = "promise found kept after a restart",
        AcceptanceChecked = "acceptance found kept after a restart",
        MessageSeen = "message between replicas seen",
        CampaignChecked = "campaign found backed by pre-votes",
        LeadershipChecked = "proposal found backed by promises",
        RoundChecked = "read found backed by a round",
        LeaseChecked = "lease found backed by grants",
        GrantChecked = "promise found permitted by grants",
        HandoverChecked = "taker-over found to hold everything",
        ForeignLogRefused = "log of another group refused",
        StoredChecked = "record found stored where its node holds it",
        CheckpointChecked = "checkpoint found to hold the state of its slot",
        StopChecked = "node found to go on from where it stopped cleanly",
        StopTransferChecked = "leader that stopped found to have asked whoever could take over",
        SlowLeaderChecked = "slow leader found to have given way, and appends to be fast",
        LagShrunk = "follower far behind found to catch up under load",
        FullDisksChecked = "full disks found to keep their leader and to serve reads",
        ScrubChecked = "scrub of a damaged disk found to be right",
        NewerChecked = "world ended before a slot that nobody knows",
        QuorumChecked = "slot found accepted by a quorum",
        Inspected = "log files read by inspect",
        LivenessReached = "progress after healing",
    }
}

impl Hit {
    /// What the healing leaves broken: see `phases`.
    pub const FOR_GOOD: [Hit; 5] = [
        Hit::LeftPoweredOff,
        Hit::LeftPaused,
        Hit::LeftIsolated,
        Hit::LeftHanging,
        Hit::LeftStalled,
    ];

    /// Whether the healing leaves nodes broken so.
    pub fn is_for_good(self) -> bool {
        Hit::FOR_GOOD.contains(&self)
    }
}

/// Counts of one or many runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    counts: BTreeMap<Hit, u64>,
    /// What the disks counted, by their names.
    disk: BTreeMap<&'static str, u64>,
}

impl Counters {
    /// Counts one hit.
    pub fn hit(&mut self, hit: Hit) {
        self.add(hit, 1);
    }

    /// Counts `count` hits.
    pub fn add(&mut self, hit: Hit, count: u64) {
        if count > 0 {
            *self.counts.entry(hit).or_default() += count;
        }
    }

    /// Adds another run's counts.
    pub fn merge(&mut self, other: &Counters) {
        other.counts.iter().for_each(|(hit, count)| self.add(*hit, *count));
        other.disk.iter().for_each(|(name, count)| self.add_disk(name, *count));
    }

    /// The count.
    pub fn get(&self, hit: Hit) -> u64 {
        self.counts.get(&hit).copied().unwrap_or(0)
    }

    /// Adds what a disk has counted.
    pub fn add_disk(&mut self, name: &'static str, count: u64) {
        *self.disk.entry(name).or_default() += count;
    }

    /// What the disks counted.
    pub fn disk(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        self.disk.iter().map(|(name, count)| (*name, *count))
    }

    /// What was never hit, by name.
    pub fn never_hit(&self) -> impl Iterator<Item = &'static str> + '_ {
        let own = Hit::ALL.iter().filter(|hit| self.get(**hit) == 0).map(|hit| hit.name());
        own.chain(counts::FAULTS.into_iter().filter(|name| !self.disk.contains_key(name)))
    }
}
