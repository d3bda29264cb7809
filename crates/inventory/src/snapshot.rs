//! States as snapshots keep them: a wire twin of the domain's, in JSON. Nobody else reads it, and no later version must:
//! a snapshot that other code folded is ignored.

use serde::{Deserialize, Serialize};

use crate::domain::State;
use crate::goods::{Line, Lines, Sku};

/// The code that folds, and that writes and reads what was folded.
pub const FOLD: u64 = common::store::snapshots::fold_of(&[
    include_bytes!("domain.rs"),
    include_bytes!("goods.rs"),
    include_bytes!("snapshot.rs"),
    include_bytes!("wire.rs"),
    include_bytes!("../../contracts/src/inventory.rs"),
]);

/// The twin of [`State`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kept {
    Unseen,
    Tombstone,
    Reserved(Vec<(String, i64)>),
    Rejected,
    Committed(Vec<(String, i64)>),
    Released(Vec<(String, i64)>),
    Returned(Vec<(String, i64)>),
}

/// Writes a state.
pub fn write(state: &State) -> Option<Vec<u8>> {
    let lines = |lines: &Lines| lines.iter().map(|line| (line.sku.to_string(), line.quantity)).collect();
    let kept = match state {
        State::Unseen => Kept::Unseen,
        State::Tombstone => Kept::Tombstone,
        State::Reserved(held) => Kept::Reserved(lines(held)),
        State::Rejected => Kept::Rejected,
        State::Committed(gone) => Kept::Committed(lines(gone)),
        State::Released(free) => Kept::Released(lines(free)),
        State::Returned(back) => Kept::Returned(lines(back)),
    };
    serde_json::to_vec(&kept).ok()
}

/// Reads what [`write`] wrote; `None` if it was something else.
pub fn read(bytes: &[u8]) -> Option<State> {
    let lines = |lines: Vec<(String, i64)>| {
        Lines::sum(lines.into_iter().map(|(sku, quantity)| Line {
            sku: Sku::recorded(&sku),
            quantity,
        }))
    };
    Some(match serde_json::from_slice(bytes).ok()? {
        Kept::Unseen => State::Unseen,
        Kept::Tombstone => State::Tombstone,
        Kept::Reserved(held) => State::Reserved(lines(held)),
        Kept::Rejected => State::Rejected,
        Kept::Committed(gone) => State::Committed(lines(gone)),
        Kept::Released(free) => State::Released(lines(free)),
        Kept::Returned(back) => State::Returned(lines(back)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Event, evolve};
    use crate::goods::ReceiptId;

    /// What may happen to one stream, each with its own numbers.
    fn event(kind: u64, quantity: i64) -> Event {
        let sku = Sku::recorded(if quantity % 2 == 0 { "TEA" } else { "NW-001" });
        let lines = Lines::sum([
            Line {
                sku: sku.clone(),
                quantity,
            },
            Line {
                sku: Sku::recorded("CUP"),
                quantity: 1,
            },
        ]);
        match kind % 7 {
            0 => Event::Reserved(lines),
            1 => Event::Rejected(crate::domain::Refusal::Cancelled),
            2 => Event::Committed(lines),
            3 => Event::Released(lines),
            4 => Event::Returned(lines),
            5 => Event::Released(Lines::default()),
            _ => Event::Received {
                sku,
                quantity,
                receipt: ReceiptId::recorded("r-1"),
            },
        }
    }

    /// A sequence of numbers that is the same for the same seed.
    fn numbers(mut seed: u64) -> impl Iterator<Item = u64> {
        std::iter::repeat_with(move || {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            seed >> 33
        })
    }

    #[test]
    fn whatever_happened_a_snapshot_anywhere_leaves_the_state_what_it_is() {
        for seed in 0..500 {
            let mut random = numbers(seed);
            let mut next = || random.next().unwrap();
            let length = 1 + next() % 12;
            let events: Vec<Event> = (0..length).map(|_| event(next(), 1 + (next() % 9) as i64)).collect();
            let whole = events.iter().fold(State::default(), evolve);
            for cut in 0..=events.len() {
                let before = events[..cut].iter().fold(State::default(), evolve);
                let kept = read(&write(&before).unwrap()).unwrap();
                assert_eq!(kept, before, "seed {seed}, cut {cut}");
                assert_eq!(events[cut..].iter().fold(kept, evolve), whole, "seed {seed}, cut {cut}");
            }
        }
    }

    #[test]
    fn what_nobody_wrote_is_not_read() {
        for bytes in [&b""[..], b"{}", b"\"gone\"", b"{\"reserved\":1}", b"\xff"] {
            assert_eq!(read(bytes), None);
        }
    }
}
