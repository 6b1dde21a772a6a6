//! Time cells: counts by series and absolute UTC cell, fine for what is new and coarse for what is old.
//!
//! The length of an event's cell follows from the newest event of the whole ([`Grain`]), and a cell is moved into the coarser
//! one that holds it as that newest event advances. Cells nest (minute in hour in day in month of 30 days), and whether an
//! event is held by minute, hour, day or month depends on the number of its own cell at that length alone. So the bytes follow
//! from the events, not from the order in which they came: `STATE-2`.

use crate::behavior::{FixedSum, Timestamp};
use crate::error::Damage;
use crate::format::{Put, Take};

/// Length of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Length {
    /// 60 s, for items only.
    Minute = 0,
    /// 3,600 s.
    Hour = 1,
    /// 24 h, UTC.
    Day = 2,
    /// 30 days from the epoch on: months of equal length.
    Month = 3,
    /// All before.
    Older = 4,
}

impl Length {
    const ALL: [Self; 5] = [
        Self::Minute,
        Self::Hour,
        Self::Day,
        Self::Month,
        Self::Older,
    ];

    /// Milliseconds of a cell; `Older` has no end, and counts as one month where a length is needed.
    pub const fn ms(self) -> i64 {
        match self {
            Self::Minute => 60_000,
            Self::Hour => 3_600_000,
            Self::Day => 86_400_000,
            Self::Month | Self::Older => 30 * 86_400_000,
        }
    }

    fn of_byte(byte: u8) -> Result<Self, Damage> {
        Self::ALL
            .into_iter()
            .find(|length| *length as u8 == byte)
            .ok_or(Damage::Contradiction)
    }
}

/// How many cells of each length are kept before the newest event: [minutes, hours, days, months].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grain([i64; 4]);

impl Grain {
    /// A user's entry: hours for a day, days for 32, months for 24.
    pub const USER: Self = Self([0, 24, 32, 24]);
    /// An item's statistics: minutes for three hours, hours for two days, days for 32, months for 24.
    pub const ITEM: Self = Self([180, 48, 32, 24]);

    /// Length and number of the cell that holds `time` when the newest event is `newest`.
    pub fn cell(self, time: Timestamp, newest: Timestamp) -> (Length, u32) {
        for (length, kept) in Length::ALL.into_iter().zip(self.0) {
            let ms = length.ms();
            let number = time.0.div_euclid(ms);
            if number > newest.0.div_euclid(ms) - kept {
                return (length, number.clamp(0, i64::from(u32::MAX)) as u32);
            }
        }
        (Length::Older, 0)
    }

    /// When the last event that `Older` can hold has ended, where the newest event is `newest`.
    pub fn older_end(self, newest: Timestamp) -> Timestamp {
        let month = Length::Month.ms();
        Timestamp((newest.0.div_euclid(month) - self.0[3] + 1).saturating_mul(month))
    }
}

/// One cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell {
    /// What is counted: a kind, and for items a scenario too.
    pub series: u64,
    /// Its length.
    pub length: Length,
    /// Its number: Unix time divided by its length.
    pub number: u32,
    /// Events in it, held at the maximum.
    pub count: u32,
    /// Their values' sum.
    pub sum: FixedSum,
}

impl Cell {
    /// Bytes of a packed cell.
    pub const BYTES: usize = 8 + 1 + 4 + 4 + 8;

    /// When it begins.
    pub fn start(&self) -> Timestamp {
        Timestamp(i64::from(self.number) * self.length.ms())
    }

    /// When it has ended; 0 of `Older`, whose end goes by the newest event: [`Grain::older_end`].
    pub fn end(&self) -> Timestamp {
        match self.length {
            Length::Older => Timestamp(0),
            Length::Minute | Length::Hour | Length::Day | Length::Month => {
                Timestamp((i64::from(self.number) + 1) * self.length.ms())
            }
        }
    }

    /// Its middle, where its events stand for decay.
    pub fn middle(&self) -> Timestamp {
        match self.length {
            Length::Older => Timestamp(0),
            Length::Minute | Length::Hour | Length::Day | Length::Month => {
                self.start().plus(self.length.ms() / 2)
            }
        }
    }

    fn order(&self) -> (u64, Length, u32) {
        (self.series, self.length, self.number)
    }

    pub(crate) fn write(&self, to: &mut Vec<u8>) {
        to.put_u64(self.series);
        to.put_u8(self.length as u8);
        to.put_u32(self.number);
        to.put_u32(self.count);
        to.put_i64(self.sum.0);
    }

    pub(crate) fn read(from: &mut Take<'_>) -> Result<Self, Damage> {
        let cell = Self {
            series: from.u64()?,
            length: Length::of_byte(from.u8()?)?,
            number: from.u32()?,
            count: from.u32()?,
            sum: FixedSum(from.i64()?),
        };
        let end = (i64::from(cell.number) + 1).checked_mul(cell.length.ms());
        end.map(|_| cell).ok_or(Damage::Contradiction)
    }
}

/// Cells in order of series, length and number, with the first and the newest event time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cells {
    /// Time of the oldest event.
    pub first: Timestamp,
    /// Time of the newest event.
    pub last: Timestamp,
    cells: Vec<Cell>,
}

impl Default for Cells {
    fn default() -> Self {
        Self {
            first: Timestamp(i64::MAX),
            last: Timestamp::MIN,
            cells: Vec::new(),
        }
    }
}

impl Cells {
    /// Counts `count` events of `series` at `time`.
    pub fn add(&mut self, grain: Grain, series: u64, time: Timestamp, count: u32, sum: FixedSum) {
        self.first = self.first.min(time);
        if time > self.last {
            self.last = time;
            self.coarsen(grain);
        }
        let (length, number) = grain.cell(time, self.last);
        self.put(Cell {
            series,
            length,
            number,
            count,
            sum,
        });
    }

    /// The cells in order.
    pub fn iter(&self) -> impl Iterator<Item = &Cell> {
        self.cells.iter()
    }

    /// The cells of a series.
    pub fn series(&self, series: u64) -> &[Cell] {
        let begins = self.cells.partition_point(|cell| cell.series < series);
        let ends = self.cells.partition_point(|cell| cell.series <= series);
        &self.cells[begins..ends]
    }

    /// Each series and its cells.
    pub fn by_series(&self) -> impl Iterator<Item = (u64, &[Cell])> {
        let all = self.cells.chunk_by(|one, next| one.series == next.series);
        all.map(|cells| (cells[0].series, cells))
    }

    /// Puts other cells of a series, with the times that go with them.
    pub(crate) fn set_series(&mut self, series: u64, other: Self) {
        self.first = self.first.min(other.first);
        self.last = self.last.max(other.last);
        let begins = self.cells.partition_point(|cell| cell.series < series);
        let ends = self.cells.partition_point(|cell| cell.series <= series);
        self.cells.splice(begins..ends, other.cells);
    }

    /// Number of cells.
    pub fn len(&self) -> usize {
        self.cells.len()
    }

    /// Bytes of memory that the cells take.
    pub(crate) fn bytes(&self) -> usize {
        self.cells.capacity() * size_of::<Cell>()
    }

    /// Whether nothing was counted.
    pub fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }

    fn put(&mut self, cell: Cell) {
        match self.cells.binary_search_by_key(&cell.order(), Cell::order) {
            Ok(place) => {
                let held = &mut self.cells[place];
                held.count = held.count.saturating_add(cell.count);
                held.sum = held.sum.plus(cell.sum);
            }
            Err(place) => self.cells.insert(place, cell),
        }
    }

    /// Moves cells that the newest event has left behind into coarser ones.
    fn coarsen(&mut self, grain: Grain) {
        let newest = self.last;
        let stale = |cell: &Cell| {
            cell.length != Length::Older && grain.cell(cell.start(), newest).0 != cell.length
        };
        if !self.cells.iter().any(stale) {
            return;
        }
        let all = std::mem::take(&mut self.cells);
        for mut cell in all {
            if cell.length != Length::Older {
                (cell.length, cell.number) = grain.cell(cell.start(), newest);
            }
            self.put(cell);
        }
    }

    pub(crate) fn write(&self, to: &mut Vec<u8>) {
        to.put_i64(self.first.0);
        to.put_i64(self.last.0);
        to.put_u32(self.cells.len() as u32);
        for cell in &self.cells {
            cell.write(to);
        }
    }

    pub(crate) fn read(from: &mut Take<'_>) -> Result<Self, Damage> {
        let first = Timestamp(from.i64()?);
        let last = Timestamp(from.i64()?);
        let count = from.u32()? as usize;
        let mut cells = Vec::with_capacity(count.min(4096));
        in_order(from, count, |cell| cells.push(cell))?;
        Ok(Self { first, last, cells })
    }

    /// Checks what [`Cells::read`] would read behind the times and the count.
    pub(crate) fn check(mut from: Take<'_>, count: usize) -> Result<(), Damage> {
        in_order(&mut from, count, |_| {})?;
        from.end()
    }
}

/// Reads so many cells, which must be in their order, each once.
fn in_order(from: &mut Take<'_>, count: usize, mut each: impl FnMut(Cell)) -> Result<(), Damage> {
    let mut before = None;
    for _ in 0..count {
        let cell = Cell::read(from)?;
        if before.replace(cell.order()) >= Some(cell.order()) {
            return Err(Damage::Contradiction);
        }
        each(cell);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Goal: STATE-2, the bytes follow from the events. Method: the same events in two orders, over hours to years.
        #[test]
        fn order_of_arrival_does_not_show(
            mut events in proptest::collection::vec((0..3u64, 0..90_000_000_000i64, -5..5i64), 1..80),
            spread in 1..1000i64,
            seed in any::<u64>(),
        ) {
            for grain in [Grain::USER, Grain::ITEM] {
                let fold = |events: &[(u64, i64, i64)]| {
                    let mut cells = Cells::default();
                    for &(series, time, value) in events {
                        cells.add(grain, series, Timestamp(time / spread), 1, FixedSum(value));
                    }
                    let mut bytes = Vec::new();
                    cells.write(&mut bytes);
                    bytes
                };
                let straight = fold(&events);
                events.sort_by_key(|event| event.1.wrapping_mul(seed as i64 | 1));
                prop_assert_eq!(straight, fold(&events));
            }
        }

        /// Goal: nothing is lost by coarsening. Method: sums over cells equal sums over events.
        #[test]
        fn counts_are_kept(times in proptest::collection::vec(0..200_000_000_000i64, 1..100)) {
            let mut cells = Cells::default();
            for &time in &times {
                cells.add(Grain::USER, 1, Timestamp(time), 1, FixedSum(time));
            }
            prop_assert_eq!(cells.iter().map(|cell| cell.count as usize).sum::<usize>(), times.len());
            prop_assert_eq!(cells.iter().map(|cell| cell.sum.0).sum::<i64>(), times.iter().sum::<i64>());
            prop_assert_eq!(cells.first.0, *times.iter().min().unwrap());
            let back = { let mut b = Vec::new(); cells.write(&mut b); Cells::read(&mut Take(&b)).unwrap() };
            prop_assert_eq!(back, cells);
        }
    }

    /// Goal: bounded bytes. Method: a million events over 60 years make no more cells than the grain keeps.
    #[test]
    fn cells_are_bounded() {
        let mut cells = Cells::default();
        for step in 0..1_000_000i64 {
            cells.add(Grain::USER, 7, Timestamp(step * 1_900_000), 1, FixedSum(0));
        }
        assert!(cells.len() <= 24 + 32 + 24 + 1, "{}", cells.len());
    }
}
