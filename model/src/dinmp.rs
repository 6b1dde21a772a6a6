//! Interest in a candidate by a user's whole past, however long: attention over sparse key-vectors (DINMP, Ant Group, SDM 2022).
//!
//! Before it, `consumers` has laid out what a row sees of its user: an *atom* for each key and stretch of time, with events by kind and their recency ([`Seen`]).
//! After it stands the head, which reads [`outputs`] numbers a row beside the row's own. Nothing is cut off: an
//! atom's weight is no softmax, so ten likes say more than one.
//!
//! * *A vector of an item* is its id's row of a [`crate::table::Table`] and the mean of its categories' and attributes' rows. An id without a row reads the unknown
//!   one, which is trained; its categories still speak for it.
//! * *Attention*, as in the paper: a small network over key h, candidate q, their product and the mark m (events by kind, stretch, recency),
//!   `a = w · silu(K h + Q q + P (h ⊙ q) + M m + b) + b'`. The difference h − q of DIN's network is a part of K and Q.
//! * *A bucket's sum* of a · h is read by `1 / √(1 + n)` of its volume n and squashed by the logarithm: a sum alone grows without end while a user does more, and what was learned of users with
//!   few events does not hold a day later; a mean forgets how much there was.
//! * *Partitions*: stretches of time before the row × what is of the candidate's own kind, and what is not. A key that shares a part of its categories and
//!   attributes with the candidate counts by that part on one side and by the rest on the other: of k categories each is 1/k. Each bucket has its own
//!   restricted vectors: an atom knows the events of its stretch alone. An empty bucket has a learned vector.
//! * *Interactions*: inner products of all pairs of buckets, as in a factorization machine, or self-attention among them, which each bucket's vector goes through before it is held against others, or both; which is a choice. And of each bucket with the candidate: *matches*, which the head's tasks read as they are as well (as a factorization would), so
//!   that rows of ids learn from the first step on what a hidden layer would have to find first.
//! * What of it is read is a choice ([`Reads`]); nothing is left out but to see what it is worth.
//! * *A candidate's text* adds to its vector, where the head looks at texts: there an item starts that nobody has learned from.
//! * *Users* have rows as well, by their pseudonyms; the head reads a user's row, and its product with the candidate's vector.
//!
//! The same code answers and learns ([`Network::forward`]); its way back is written out, since a graph would hold every number of every atom. Where a GPU learns, two kernels are in its place. A row's sum is made in the
//! order of its atoms, whoever is in the batch with it: alone or among thousands, the same bits.

mod among;
#[cfg(any(test, feature = "cuda"))]
mod device;
mod interest;
mod learn;
mod mark;
mod network;
mod pool;
mod reads;
mod seen;
mod start;
#[cfg(test)]
mod tests;
mod unpool;
mod users;

pub use interest::{Interest, Learning, ROWS, RowSettings, Way, matches, outputs};
pub use learn::{Gradients, Rows};
pub use mark::Mark;
pub use network::{Looked, Network, WIDTH};
pub use reads::Reads;
pub use seen::{Asked, Atom, ItemKeys, Seen};
pub use start::{TEXT, TEXT_SCALE};
