//! Which positions of an event store have been imported: one byte each, so that ten million cost ten megabytes.

use std::collections::HashMap;

use uuid::Uuid;

/// Positions of one chunk.
const CHUNK: i64 = 4_096;

/// What an event turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// It was not there.
    New,
    /// It was there: the relay publishes at least once.
    Again,
    /// Another event was there.
    Other,
}

/// The positions that are taken, each with what tells two events apart.
#[derive(Debug, Default)]
pub(super) struct Seen {
    chunks: HashMap<i64, Box<[u8; CHUNK as usize]>>,
}

impl Seen {
    /// Takes a position for an event.
    pub(super) fn put(&mut self, position: i64, id: Uuid) -> Arrival {
        let chunk = self
            .chunks
            .entry(position.div_euclid(CHUNK))
            .or_insert_with(|| Box::new([0; CHUNK as usize]));
        let place = &mut chunk[usize::try_from(position.rem_euclid(CHUNK)).expect("a remainder is not negative")];
        // Zero means that there is none.
        let mark = 1 + id.as_bytes()[15] % 255;
        match std::mem::replace(place, mark) {
            0 => Arrival::New,
            known if known == mark => Arrival::Again,
            known => {
                *place = known;
                Arrival::Other
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_taken_once_and_by_one_event() {
        let mut seen = Seen::default();
        let (one, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        for position in [1, CHUNK - 1, CHUNK, 10_000_000] {
            assert_eq!(seen.put(position, one), Arrival::New);
            assert_eq!(seen.put(position, one), Arrival::Again);
            assert_eq!(seen.put(position, other), Arrival::Other);
            assert_eq!(seen.put(position, one), Arrival::Again, "the first one stays");
        }
        assert_eq!(seen.chunks.len(), 3);
    }
}
