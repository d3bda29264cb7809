//! Every run there is, of one order among two participants, by breadth-first search.
//!
//! The participants here are the choreography's smallest honest ones: each hears what the order says in the order in
//! which it was said, may answer each time in every way that the contract allows, and answers in its own order. Around
//! them the customer cancels, deadlines pass, an operator resumes, and `OrderPlaced` may be dead-lettered and redriven
//! after everything else, at any moment. In every world so reached, every answer must find its row, nothing may wait
//! unseen, and whatever is at rest must add up.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};

use contracts::choreography::{consumed_by, reactions_to};
use uuid::Uuid;

use super::tests::sample_request;
use super::*;

/// What the order said that participants hear.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Ask {
    Placed,
    Confirmed,
    Cancelling,
    Resumed(Toward),
}

/// Where the money is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Money {
    Unseen,
    /// The gateway has not answered; whether a cancel was asked meanwhile.
    Open {
        cancel: bool,
    },
    Held,
    Taken,
    /// Declined, let go or given back.
    None,
    /// Told to cancel before the order was seen.
    Tombstone,
}

/// Where the goods are.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Goods {
    Unseen,
    SetAside,
    Gone,
    /// Rejected or let go.
    None,
    Returned,
    Tombstone,
}

#[derive(Clone, Debug)]
struct World {
    order: State,
    money: Money,
    goods: Goods,
    /// Asked of each, not yet heard.
    payments_hears: VecDeque<Ask>,
    inventory_hears: VecDeque<Ask>,
    /// Answered by each, not yet heard.
    payments_says: VecDeque<PaymentAnswer>,
    inventory_says: VecDeque<StockAnswer>,
    /// `OrderPlaced` lies in the dead letters of each.
    payments_missed: bool,
    inventory_missed: bool,
    /// What else may happen.
    cancels: u8,
    deadlines: u8,
    resumes: u8,
    dead_letters: u8,
    /// What each said to the placing, for the customer's sake.
    verdicts: (Option<Decline>, bool),
}

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

impl World {
    fn new(cancels: u8, deadlines: u8, resumes: u8, dead_letters: u8) -> Self {
        let mut world = Self {
            order: None,
            money: Money::Unseen,
            goods: Goods::Unseen,
            payments_hears: VecDeque::new(),
            inventory_hears: VecDeque::new(),
            payments_says: VecDeque::new(),
            inventory_says: VecDeque::new(),
            payments_missed: false,
            inventory_missed: false,
            cancels,
            deadlines,
            resumes,
            dead_letters,
            verdicts: (None, false),
        };
        world.command(&Command::Place {
            request: Arc::new(sample_request()),
            decide_within: SignedDuration::from_secs(60),
            settle_within: SignedDuration::from_secs(600),
        });
        world
    }

    /// Worlds with the same name have the same future.
    fn name(&self) -> String {
        let mut same = self.clone();
        if let Some(order) = &mut same.order {
            order.heard.clear();
        }
        format!("{same:?}")
    }

    fn order(&self) -> &Order {
        self.order.as_ref().expect("every world begins with a placed order")
    }

    /// Decides, which must succeed, and lets both participants hear what was said.
    fn command(&mut self, command: &Command) -> Vec<Event> {
        let events =
            decide(&self.order, command, NOW).unwrap_or_else(|error| panic!("{error}: {command:?} in {self:?}"));
        for event in &events {
            self.order = evolve(self.order.take(), event, NOW);
            let ask = match event {
                Event::OrderPlaced { .. } => Ask::Placed,
                Event::OrderConfirmed { .. } => Ask::Confirmed,
                Event::OrderCancelling { .. } => Ask::Cancelling,
                Event::OrderResumed { toward, .. } => Ask::Resumed(*toward),
                Event::PaymentNoted { .. }
                | Event::StockNoted { .. }
                | Event::OrderCompleted
                | Event::OrderCancelled { .. }
                | Event::OrderStuck { .. } => continue,
            };
            self.payments_hears.push_back(ask);
            self.inventory_hears.push_back(ask);
        }
        events
    }

    /// The order hears an answer, and then hears it again.
    fn note(&mut self, answer: Answer) {
        let source = SourceId(Uuid::new_v4());
        let name = answer.name();
        let command = Command::Note { answer, source };
        let events = self.command(&command);
        let reaction = reactions_to(name)
            .next()
            .unwrap_or_else(|| panic!("nobody hears {name}"));
        let order_id = Uuid::nil().to_string();
        let said: Vec<_> = events
            .iter()
            .map(|event| type_name(&crate::wire::write(&order_id, event)))
            .collect();
        assert!(reaction.produces.contains(&said[0]), "{name} led to {said:?}");
        assert!(
            said[1..].iter().all(|event| reaction.also.contains(event)),
            "{name} led to {said:?}"
        );
        assert!(self.command(&command).is_empty(), "{name} twice");
    }

    /// Every world that is one step away.
    fn steps(&self) -> Vec<Self> {
        let mut next = Vec::new();
        let mut step = |change: &dyn Fn(&mut Self)| {
            let mut world = self.clone();
            change(&mut world);
            next.push(world);
        };
        if let Some(answer) = self.payments_says.front() {
            step(&|world| {
                world.payments_says.pop_front();
                world.note(Answer::Payment(answer.clone()));
            });
        }
        if let Some(answer) = self.inventory_says.front() {
            step(&|world| {
                world.inventory_says.pop_front();
                world.note(Answer::Stock(answer.clone()));
            });
        }
        if let Some(ask) = self.payments_hears.front() {
            for (money, answers) in payments(self.money, *ask) {
                step(&|world| {
                    world.payments_hears.pop_front();
                    world.payments_answer(money, &answers);
                });
            }
            if *ask == Ask::Placed && self.dead_letters > 0 {
                step(&|world| {
                    world.payments_hears.pop_front();
                    world.payments_missed = true;
                    world.dead_letters -= 1;
                });
            }
        }
        if let Some(ask) = self.inventory_hears.front() {
            for (goods, answers) in inventory(self.goods, *ask) {
                step(&|world| {
                    world.inventory_hears.pop_front();
                    world.inventory_answers(goods, &answers);
                });
            }
            if *ask == Ask::Placed && self.dead_letters > 0 {
                step(&|world| {
                    world.inventory_hears.pop_front();
                    world.inventory_missed = true;
                    world.dead_letters -= 1;
                });
            }
        }
        if self.payments_missed {
            for (money, answers) in payments(self.money, Ask::Placed) {
                step(&|world| {
                    world.payments_missed = false;
                    world.payments_answer(money, &answers);
                });
            }
        }
        if self.inventory_missed {
            for (goods, answers) in inventory(self.goods, Ask::Placed) {
                step(&|world| {
                    world.inventory_missed = false;
                    world.inventory_answers(goods, &answers);
                });
            }
        }
        if let Money::Open { cancel } = self.money {
            for (money, answers) in gateway(cancel) {
                step(&|world| world.payments_answer(money, &answers));
            }
        }
        if self.cancels > 0 && self.order().phase != Phase::Completed {
            step(&|world| {
                world.cancels -= 1;
                world.command(&Command::Cancel {
                    by: Canceller::Operator,
                });
            });
        }
        if let (1.., Some(due)) = (self.deadlines, deadline(self.order())) {
            step(&|world| {
                world.deadlines -= 1;
                assert_eq!(
                    world.command(&Command::Deadline { due }).len(),
                    1,
                    "a deadline that has passed matters"
                );
            });
        }
        if self.resumes > 0 && self.order().phase.stuck_reason().is_some() {
            step(&|world| {
                world.resumes -= 1;
                world.command(&Command::Resume { operator: "ops".into() });
            });
        }
        next
    }

    fn payments_answer(&mut self, money: Money, answers: &[PaymentAnswer]) {
        self.money = money;
        for answer in answers {
            if let PaymentAnswer::Authorization(Authorization::Declined(why)) = answer {
                self.verdicts.0 = Some(*why);
            }
        }
        self.payments_says.extend(answers.iter().cloned());
    }

    fn inventory_answers(&mut self, goods: Goods, answers: &[StockAnswer]) {
        self.goods = goods;
        let short = StockAnswer::Reservation(Reservation::Rejected(Refusal::Shortage("NW-001".into())));
        self.verdicts.1 |= answers.contains(&short);
        self.inventory_says.extend(answers.iter().cloned());
    }

    /// Nothing is under way: what is so now stays so until a deadline passes or somebody acts.
    fn is_at_rest(&self) -> bool {
        self.payments_hears.is_empty()
            && self.inventory_hears.is_empty()
            && self.payments_says.is_empty()
            && self.inventory_says.is_empty()
            && !matches!(self.money, Money::Open { .. })
    }

    fn check(&self, untouched: bool) {
        let order = self.order();
        let watched = order.phase.has_ended() || order.phase.stuck_reason().is_some() || deadline(order).is_some();
        assert!(watched, "waits unseen: {self:?}");
        if !self.is_at_rest() {
            return;
        }
        match &order.phase {
            Phase::Completed => {
                assert_eq!((self.money, self.goods), (Money::Taken, Goods::Gone), "{self:?}");
            }
            Phase::Cancelled { reason } => {
                assert!(matches!(self.money, Money::None | Money::Tombstone), "{self:?}");
                assert!(
                    matches!(self.goods, Goods::None | Goods::Returned | Goods::Tombstone),
                    "{self:?}"
                );
                if untouched {
                    let expected = match self.verdicts {
                        (Some(Decline::ByIssuer | Decline::InsufficientFunds | Decline::ExpiredCard), _) => {
                            Cause::PaymentDeclined
                        }
                        (_, true) => Cause::OutOfStock,
                        _ => Cause::PaymentDeclined,
                    };
                    assert_eq!(*reason, expected, "{self:?}");
                }
            }
            Phase::StuckConfirmed { .. } | Phase::StuckCancelling { .. } => {}
            Phase::Placed { .. } | Phase::Confirmed { .. } | Phase::Cancelling { .. } => {
                assert!(
                    self.payments_missed || self.inventory_missed,
                    "comes to rest before its end: {self:?}"
                );
            }
        }
    }
}

/// Every way in which payments may take what it hears.
fn payments(money: Money, ask: Ask) -> Vec<(Money, Vec<PaymentAnswer>)> {
    let authorized = PaymentAnswer::Authorization(Authorization::Authorized);
    let declined = |why| PaymentAnswer::Authorization(Authorization::Declined(why));
    let (captured, uncaptured) = (
        PaymentAnswer::Capture(Capture::Captured),
        PaymentAnswer::Capture(Capture::Failed("no".into())),
    );
    let voided = PaymentAnswer::Undo(PaymentUndo::Voided);
    let (refunded, unrefunded) = (
        PaymentAnswer::Undo(PaymentUndo::Refunded),
        PaymentAnswer::Undo(PaymentUndo::Failed("no".into())),
    );
    match (ask, money) {
        (Ask::Placed, Money::Tombstone) => vec![(Money::Tombstone, vec![declined(Decline::Cancelled)])],
        (Ask::Placed, _) => vec![
            (Money::Held, vec![authorized]),
            (Money::None, vec![declined(Decline::ByIssuer)]),
            (Money::Open { cancel: false }, vec![]),
        ],
        (Ask::Confirmed | Ask::Resumed(Toward::Completion), Money::Held) => {
            vec![(Money::Taken, vec![captured]), (Money::Held, vec![uncaptured])]
        }
        (Ask::Confirmed | Ask::Resumed(Toward::Completion), Money::Taken) => vec![(Money::Taken, vec![captured])],
        (Ask::Confirmed | Ask::Resumed(Toward::Completion), _) => panic!("{ask:?} while the money is {money:?}"),
        (Ask::Cancelling | Ask::Resumed(Toward::Cancellation), _) => match money {
            Money::Unseen | Money::Tombstone => vec![(Money::Tombstone, vec![voided])],
            Money::Open { .. } => vec![(Money::Open { cancel: true }, vec![])],
            Money::Held => vec![(Money::None, vec![voided])],
            Money::Taken => vec![(Money::None, vec![refunded]), (Money::Taken, vec![unrefunded])],
            Money::None => vec![(Money::None, vec![voided])],
        },
    }
}

/// Every way in which the gateway may answer an open intent.
fn gateway(cancel: bool) -> Vec<(Money, Vec<PaymentAnswer>)> {
    let authorized = PaymentAnswer::Authorization(Authorization::Authorized);
    let declined = PaymentAnswer::Authorization(Authorization::Declined(Decline::Unavailable));
    let voided = PaymentAnswer::Undo(PaymentUndo::Voided);
    if cancel {
        vec![
            (Money::None, vec![authorized, voided.clone()]),
            (Money::None, vec![declined, voided.clone()]),
            (Money::None, vec![voided]),
        ]
    } else {
        vec![(Money::Held, vec![authorized]), (Money::None, vec![declined])]
    }
}

/// Every way in which inventory may take what it hears.
fn inventory(goods: Goods, ask: Ask) -> Vec<(Goods, Vec<StockAnswer>)> {
    let reserved = StockAnswer::Reservation(Reservation::Reserved);
    let rejected = |why| StockAnswer::Reservation(Reservation::Rejected(why));
    let (released, returned) = (
        StockAnswer::Undo(StockUndo::Released),
        StockAnswer::Undo(StockUndo::Returned),
    );
    match (ask, goods) {
        (Ask::Placed, Goods::Tombstone) => vec![(Goods::Tombstone, vec![rejected(Refusal::Cancelled)])],
        (Ask::Placed, _) => vec![
            (Goods::SetAside, vec![reserved]),
            (Goods::None, vec![rejected(Refusal::Shortage("NW-001".into()))]),
        ],
        (Ask::Confirmed | Ask::Resumed(Toward::Completion), Goods::SetAside | Goods::Gone) => {
            vec![(Goods::Gone, vec![StockAnswer::Committed])]
        }
        (Ask::Confirmed | Ask::Resumed(Toward::Completion), _) => panic!("{ask:?} while the goods are {goods:?}"),
        (Ask::Cancelling | Ask::Resumed(Toward::Cancellation), _) => match goods {
            Goods::Unseen | Goods::Tombstone => vec![(Goods::Tombstone, vec![released])],
            Goods::SetAside | Goods::None => vec![(Goods::None, vec![released])],
            Goods::Gone | Goods::Returned => vec![(Goods::Returned, vec![returned])],
        },
    }
}

fn type_name(event: &contracts::orders::Event) -> &'static str {
    use common::event::EventSet as _;
    event.event_type().name
}

/// Visits every world that can be reached from `first`; returns how often each status was seen at rest.
fn explore(first: World, untouched: bool) -> BTreeMap<&'static str, usize> {
    let mut seen = HashSet::new();
    let mut at_rest = BTreeMap::new();
    let mut frontier = VecDeque::from([first]);
    while let Some(world) = frontier.pop_front() {
        if !seen.insert(world.name()) {
            continue;
        }
        world.check(untouched);
        if world.is_at_rest() {
            *at_rest.entry(world.order().phase.name()).or_default() += 1;
        }
        frontier.extend(world.steps());
    }
    at_rest
}

#[test]
fn left_alone_every_order_ends_or_is_stuck_and_its_reason_is_no_race() {
    let at_rest = explore(World::new(0, 0, 0, 0), true);
    assert_eq!(
        at_rest.keys().copied().collect::<Vec<_>>(),
        ["cancelled", "completed", "stuck"]
    );
}

#[test]
fn whatever_customers_deadlines_operators_and_dead_letters_do_nothing_is_refused_lost_or_left_waiting() {
    let at_rest = explore(World::new(1, 2, 1, 1), false);
    let statuses: BTreeSet<_> = at_rest.keys().copied().collect();
    assert!(
        statuses.is_superset(&BTreeSet::from(["cancelled", "completed", "stuck"])),
        "{at_rest:?}"
    );
}

#[test]
fn orders_hears_exactly_the_answers_that_the_choreography_names() {
    let answers = PaymentAnswer::samples().into_iter().map(Answer::Payment);
    let answers = answers.chain(StockAnswer::samples().into_iter().map(Answer::Stock));
    let heard: BTreeSet<_> = answers.map(|answer| answer.name()).collect();
    let named: BTreeSet<_> = consumed_by("orders").map(|reaction| reaction.event).collect();
    assert_eq!(heard, named);
}
