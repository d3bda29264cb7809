//! What an order waits for: the choreography's reactions to its events that have not come, and by when they should. Pure.

use contracts::choreography::{By, Reaction, Within, reactions_to};
use jiff::Timestamp;

use super::timeline::Moment;

/// A reaction that has not come yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Expectation {
    /// Place in the timeline of the event that is to be reacted to.
    pub(super) place: usize,
    /// What is to be done about it, and by whom.
    pub(super) reaction: &'static Reaction,
    /// By when; `None` when no deadline runs any more.
    pub(super) due: Option<Timestamp>,
    /// Whether that has passed.
    pub(super) overdue: bool,
}

/// Everything that `moments` lead to and that has not come by `now`, in the order of the events.
pub(super) fn expected(moments: &[Moment], now: Timestamp) -> Vec<Expectation> {
    let running = moments
        .iter()
        .rev()
        .find(|moment| moment.service == "orders")
        .and_then(|moment| moment.deadline);
    let mut expected = Vec::new();
    for (place, moment) in moments.iter().enumerate() {
        for reaction in reactions_to(moment.event()) {
            if has_come(moments, place, reaction) {
                continue;
            }
            let due = match reaction.within {
                Within::Decide | Within::Settle => moment.deadline,
                Within::Running => running,
            };
            expected.push(Expectation {
                place,
                reaction,
                due,
                overdue: due.is_some_and(|due| due < now),
            });
        }
    }
    expected
}

fn has_come(moments: &[Moment], place: usize, reaction: &Reaction) -> bool {
    let moment = &moments[place];
    moments
        .iter()
        .filter(|other| other.service == reaction.service)
        .any(|other| match reaction.by {
            By::Consumer => {
                other.envelope.causation_id == moment.envelope.id && reaction.produces.contains(&other.event())
            }
            // A worker goes by its own state: what it did after the event it did about it, and what its service wrote
            // afterwards for it to go on with stands in the event's place.
            By::Worker => {
                other.envelope.stream_version > moment.envelope.stream_version
                    && (reaction.produces.contains(&other.event()) || is_worked_on(other.event()))
            }
        })
}

fn is_worked_on(event: &str) -> bool {
    reactions_to(event).any(|reaction| reaction.by == By::Worker)
}

#[cfg(test)]
mod tests {
    use super::super::timeline::tests::moment;
    use super::*;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millisecond(ms).unwrap()
    }

    fn who_is_waited_for(moments: &[Moment], now: i64) -> Vec<(&str, &'static str, bool)> {
        expected(moments, at(now))
            .iter()
            .map(|expectation| {
                (
                    moments[expectation.place].event(),
                    expectation.reaction.service,
                    expectation.overdue,
                )
            })
            .collect()
    }

    fn placed() -> Moment {
        let mut placed = moment("orders", 1, "OrderPlaced", (1, 77), 0);
        placed.deadline = Some(at(60_000));
        placed
    }

    #[test]
    fn a_placed_order_waits_for_both_and_is_overdue_after_its_deadline() {
        let moments = [placed()];
        assert_eq!(
            who_is_waited_for(&moments, 1_000),
            [("OrderPlaced", "payments", false), ("OrderPlaced", "inventory", false)]
        );
        assert!(who_is_waited_for(&moments, 60_001).iter().all(|(.., overdue)| *overdue));
    }

    #[test]
    fn an_answer_is_waited_for_no_more_but_its_note_is() {
        let moments = [placed(), moment("payments", 1, "PaymentAuthorized", (2, 1), 10)];
        assert_eq!(
            who_is_waited_for(&moments, 60_001),
            [
                ("OrderPlaced", "inventory", true),
                ("PaymentAuthorized", "orders", true)
            ]
        );
    }

    #[test]
    fn an_answer_to_something_else_does_not_count() {
        let moments = [placed(), moment("payments", 1, "PaymentAuthorized", (2, 55), 10)];
        assert!(who_is_waited_for(&moments, 0).contains(&("OrderPlaced", "payments", false)));
    }

    #[test]
    fn of_an_open_intent_only_the_latest_step_is_waited_for() {
        let intent = [
            moment("payments", 1, "PaymentIntentOpened", (2, 1), 10),
            moment("payments", 2, "PaymentAttempted", (3, 50), 20),
            moment("payments", 3, "PaymentCancelRequested", (4, 51), 30),
        ];
        assert_eq!(
            who_is_waited_for(&intent, 0),
            [("PaymentCancelRequested", "payments", false)]
        );
        let ended = [
            intent.as_slice(),
            &[moment("payments", 4, "PaymentVoided", (5, 52), 40)],
        ]
        .concat();
        assert_eq!(who_is_waited_for(&ended, 0), [("PaymentVoided", "orders", false)]);
    }

    #[test]
    fn an_ended_order_waits_for_nothing() {
        let moments = [
            placed(),
            moment("payments", 1, "PaymentDeclined", (2, 1), 10),
            moment("inventory", 1, "StockRejected", (3, 1), 10),
            moment("orders", 2, "PaymentNoted", (4, 2), 20),
            moment("orders", 3, "StockNoted", (5, 3), 20),
            moment("orders", 4, "OrderCancelled", (6, 3), 20),
        ];
        assert_eq!(who_is_waited_for(&moments, 100_000), []);
    }
}
