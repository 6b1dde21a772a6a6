//! Which rows are learned from, which say when to stop, which are scored alone; and in what pieces, where learning goes on.

/// How rows are parted, by requests in their order.
#[derive(Clone, Copy, Debug)]
pub(super) struct Split {
    /// Part of the requests to learn from, and to validate on; those behind are scored alone.
    pub(super) learned: f64,
    pub(super) validated: f64,
    /// What is behind those that are learned from is cut into pieces.
    pub(super) piece: Option<Piece>,
}

/// How much a piece is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Piece {
    /// This part of all requests.
    Part(f64),
    /// So many requests, about: all pieces are of one size.
    Requests(usize),
}

impl Piece {
    /// Requests of a piece, of so many in all.
    pub(super) fn requests(self, all: usize) -> usize {
        match self {
            Self::Part(part) => ((all as f64 * part).round() as usize).max(1),
            Self::Requests(about) => {
                let pieces = (all as f64 / about.max(1) as f64).round() as usize;
                all.div_ceil(pieces.max(1)).max(1)
            }
        }
    }
}

/// Where a row belongs; its fields in the order in which rows are sorted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Part {
    /// 0 learned from, 1 validated on, 2 scored alone.
    pub(super) split: usize,
    pub(super) piece: usize,
}

impl Split {
    /// The part of each row, of its request's number and time; rows are in the order of requests. Where there are pieces, one begins where time goes on, and so does the first: what has the time of a row may not be learned
    /// from before it is scored.
    pub(super) fn parts(
        &self,
        rows: impl Iterator<Item = (usize, i64)>,
        requests: usize,
    ) -> Vec<Part> {
        let place = |share: f64| (requests as f64 * share).round() as usize;
        let ends = [place(self.learned), place(self.learned + self.validated)];
        let wide = self.piece.map(|piece| piece.requests(requests));
        // The piece that is being filled, and its first request.
        let mut at: Option<(usize, usize)> = None;
        let mut newest = i64::MIN;
        let parts = rows.map(|(request, time)| {
            if let Some(wide) = wide
                && time > newest
            {
                at = match at {
                    None if request >= ends[0] => Some((0, request)),
                    Some((piece, begun)) if request >= begun + wide => Some((piece + 1, request)),
                    at => at,
                };
            }
            newest = newest.max(time);
            let split = ends.iter().filter(|end| request >= **end).count();
            match (wide, at) {
                (None, _) => Part { split, piece: 0 },
                (Some(_), None) => Part::default(),
                (Some(_), Some((piece, _))) => Part { split, piece },
            }
        });
        parts.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: no row shares its time with one that is learned from before it is scored. Method: requests by two and three of one time, over the ends of what is learned from and of pieces; without pieces
    /// ends are by number alone.
    #[test]
    fn pieces_begin_where_time_goes_on() {
        let times = [0, 1, 1, 2, 3, 3, 3, 4, 5, 5, 6, 7];
        let split = |piece| Split {
            learned: 2.0 / 12.0,
            validated: 3.0 / 12.0,
            piece,
        };
        let rows = || times.into_iter().enumerate();
        let parts = split(Some(Piece::Part(2.0 / 12.0))).parts(rows(), times.len());
        let found = parts.iter().map(|part| (part.split, part.piece));
        // The third request has the time of the second, which is learned from; the sixth and seventh that of the fifth.
        let wanted = [
            (0, 0),
            (0, 0),
            (0, 0),
            (1, 0),
            (1, 0),
            (2, 0),
            (2, 0),
            (2, 1),
            (2, 1),
            (2, 1),
            (2, 2),
            (2, 2),
        ];
        assert_eq!(found.collect::<Vec<_>>(), wanted);
        let parts = split(None).parts(rows(), times.len());
        let splits: Vec<usize> = parts.iter().map(|part| part.split).collect();
        assert_eq!(splits, [0, 0, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2]);
        assert!(parts.iter().all(|part| part.piece == 0));
    }

    /// Goal: nothing is learned from a rest of a few rows as from a whole piece. Method: numbers of requests around multiples of what a piece is to be.
    #[test]
    fn pieces_of_one_size() {
        let of = |all| Piece::Requests(10).requests(all);
        assert_eq!(
            [1, 9, 10, 14, 16, 21, 25, 101].map(of),
            [1, 9, 10, 14, 8, 11, 9, 11]
        );
        assert_eq!(Piece::Part(0.01).requests(30), 1);
    }
}
