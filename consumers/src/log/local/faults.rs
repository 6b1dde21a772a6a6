//! Faults to inject: what can go wrong between any two calls on a log, decided by whoever holds the seed.
//!
//! Before every call on a handle of the local log, a hook is asked and answers with a [`Fault`]. No lock is held meanwhile: the
//! hook may itself call the log, for example to start a rival member. Nothing in the local log is random, and in memory it has no
//! threads of its own: with the hook's answers, the clock and the calls given, the history is given.
//!
//! A crash needs no fault: drop the member (whatever it had open is gone, its seat is kept until the session timeout) and make
//! another one.

/// An operation that a fault can befall.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Op {
    /// `Log::describe`.
    Describe,
    /// `Log::create`.
    Create,
    /// `Log::extent`.
    Extent,
    /// `Log::forget_instance`.
    Forget,
    /// `Log::member`.
    Join,
    /// `Member::poll`.
    Poll,
    /// `Member::committed`.
    Committed,
    /// `Member::start`.
    Start,
    /// `Member::pause`.
    Pause,
    /// `Member::release`.
    Release,
    /// `Member::begin`.
    Begin,
    /// `Member::send`.
    Send,
    /// `Member::send_now`.
    SendNow,
    /// `Member::commit`.
    Commit,
    /// `Member::abort`.
    Abort,
    /// `Member::recover`.
    Recover,
    /// `Member::leave`.
    Leave,
    /// `Reader::assign`.
    Assign,
    /// `Reader::poll`.
    Read,
    /// `Producer::send`.
    Enqueue,
    /// `Producer::flush`.
    Flush,
}

/// A call that is about to be made.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// The operation.
    pub op: Op,
    /// Who makes it: a member's `<group>-<instance>-<worker>`; `reader`, `producer` or `log` for the others.
    pub identity: &'a str,
}

/// What befalls a call. Where a fault makes no sense for the operation, the call goes through as with `Pass`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    Pass,
    /// Any operation: it does nothing and reports `LogError::Unavailable`. A commit then has not happened and says so
    /// (`CommitError::Aborted`); of `leave`, the handle is gone and its seat is kept.
    Unavailable,
    /// A member's operation: as if another member of the same name had been made elsewhere. This call and all later ones of the
    /// handle are `Fenced`. Nobody sits on the seat: make the rival with `Log::member`, or let the session time out.
    Fence,
    /// Commit: the brokers refused it. Nothing of the transaction is there, and no transaction is open.
    CommitAborted,
    /// Commit: the answer got lost. With `happened`, the transaction was committed before that, unless it had to be refused (a
    /// fenced member, a stale membership). Until `recover`, the handle neither begins nor tells committed positions.
    CommitUnknown {
        /// Whether it was committed.
        happened: bool,
    },
    /// Commit: it happens and says so, but readers do not see it in all partitions at once, as on Kafka, whose brokers mark one after the
    /// other. Its positions are told; its member's next transaction begins when all is seen.
    CommitLate {
        /// The partitions that it wrote to and that lag: bit n for the n-th.
        which: u64,
        /// For how long, milliseconds of the log's clock.
        ms: i64,
    },
    /// A member's operation: its session expired just before. Its partitions are free, what it commits of them is refused, and
    /// its next poll reports them as lost.
    Lose,
    /// Polls: what comes back is cut short and mixed otherwise. Within a partition, order stays; nothing is left out or repeated.
    Shape {
        /// Records at most, 0 included.
        records: usize,
        /// Decides how the partitions' records are mixed: in runs of one to four.
        order: u64,
    },
}

/// Who decides.
pub trait Faults: Send + Sync {
    /// What befalls this call.
    fn before(&self, call: Call<'_>) -> Fault;
}

impl<F: Fn(Call<'_>) -> Fault + Send + Sync> Faults for F {
    fn before(&self, call: Call<'_>) -> Fault {
        self(call)
    }
}
