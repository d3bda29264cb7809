//! Given/when/then for a domain that is a pair of pure functions.
//!
//! ```
//! #[derive(Clone, Debug, PartialEq)]
//! enum Event { Opened, Closed }
//! enum Command { Open, Close }
//! #[derive(Debug, PartialEq)]
//! struct AlreadyClosed;
//!
//! // In a test module, once:
//! let door = testkit::domain(
//!     |open: &bool, command: &Command| match command {
//!         Command::Open => Ok(vec![Event::Opened]),
//!         Command::Close if *open => Ok(vec![Event::Closed]),
//!         Command::Close => Err(AlreadyClosed),
//!     },
//!     |_, event: &Event| *event == Event::Opened,
//! );
//!
//! door.given([Event::Opened]).when(Command::Close).then([Event::Closed]);
//! door.given([]).when(Command::Close).rejected(AlreadyClosed);
//! // What happened is given to the next step:
//! door.given([]).when(Command::Open).then([Event::Opened]).when(Command::Close).then([Event::Closed]);
//! ```

use std::fmt::Debug;
use std::marker::PhantomData;

/// A domain under test; see [`domain`].
#[derive(Clone, Copy, Debug)]
pub struct Domain<S, E, C, R, D, V> {
    decide: D,
    evolve: V,
    types: PhantomData<Types<S, E, C, R>>,
}

/// State, event, command and rejection, owned by nobody.
type Types<S, E, C, R> = fn() -> (S, E, C, R);

/// A domain and where its past has brought it.
#[derive(Debug)]
#[must_use = "nothing is checked before `then`"]
pub struct Given<'a, S, E, C, R, D, V> {
    domain: &'a Domain<S, E, C, R, D, V>,
    state: S,
}

/// A decision to be compared with what should have been decided.
#[derive(Debug)]
#[must_use = "nothing is checked before `then` or `rejected`"]
pub struct Decided<'a, S, E, C, R, D, V> {
    given: Given<'a, S, E, C, R, D, V>,
    outcome: Result<Vec<E>, R>,
}

/// A domain of `decide(&state, &command)` and `evolve(state, &event)`. What else they need, such as the time, is the
/// closures' own.
pub fn domain<S, E, C, R, D, V>(decide: D, evolve: V) -> Domain<S, E, C, R, D, V>
where
    S: Default,
    D: Fn(&S, &C) -> Result<Vec<E>, R>,
    V: Fn(S, &E) -> S,
{
    Domain {
        decide,
        evolve,
        types: PhantomData,
    }
}

impl<S, E, C, R, D, V> Domain<S, E, C, R, D, V>
where
    S: Default,
    D: Fn(&S, &C) -> Result<Vec<E>, R>,
    V: Fn(S, &E) -> S,
{
    /// The state after `events`.
    pub fn given(&self, events: impl IntoIterator<Item = E>) -> Given<'_, S, E, C, R, D, V> {
        let state = events
            .into_iter()
            .fold(S::default(), |state, event| (self.evolve)(state, &event));
        Given { domain: self, state }
    }
}

impl<'a, S, E, C, R, D, V> Given<'a, S, E, C, R, D, V>
where
    D: Fn(&S, &C) -> Result<Vec<E>, R>,
    V: Fn(S, &E) -> S,
{
    /// Decides `command`.
    pub fn when(self, command: C) -> Decided<'a, S, E, C, R, D, V> {
        let outcome = (self.domain.decide)(&self.state, &command);
        Decided { given: self, outcome }
    }

    /// The state reached so far.
    pub fn state(&self) -> &S {
        &self.state
    }
}

impl<'a, S, E, C, R, D, V> Decided<'a, S, E, C, R, D, V>
where
    E: Debug + PartialEq,
    R: Debug + PartialEq,
    D: Fn(&S, &C) -> Result<Vec<E>, R>,
    V: Fn(S, &E) -> S,
{
    /// Holds the decision to `expected`, and goes on from there.
    #[track_caller]
    pub fn then(self, expected: impl IntoIterator<Item = E>) -> Next<'a, S, E, C, R, D, V> {
        let expected: Vec<E> = expected.into_iter().collect();
        let events = match self.outcome {
            Ok(events) => events,
            Err(rejection) => panic!("rejected: {rejection:?}; expected {expected:?}"),
        };
        assert_eq!(events, expected);
        let Given { domain, state } = self.given;
        let state = events.iter().fold(state, |state, event| (domain.evolve)(state, event));
        Next(Given { domain, state })
    }

    /// Holds the decision to be a rejection.
    #[track_caller]
    pub fn rejected(self, expected: R) {
        match self.outcome {
            Ok(events) => panic!("decided {events:?}; expected the rejection {expected:?}"),
            Err(rejection) => assert_eq!(rejection, expected),
        }
    }
}

/// After a step that held; may be left as it is.
#[derive(Debug)]
pub struct Next<'a, S, E, C, R, D, V>(Given<'a, S, E, C, R, D, V>);

impl<'a, S, E, C, R, D, V> Next<'a, S, E, C, R, D, V>
where
    D: Fn(&S, &C) -> Result<Vec<E>, R>,
    V: Fn(S, &E) -> S,
{
    /// Decides `command` in the state that the step before has led to.
    pub fn when(self, command: C) -> Decided<'a, S, E, C, R, D, V> {
        self.0.when(command)
    }

    /// The state reached so far.
    pub fn state(&self) -> &S {
        &self.0.state
    }
}
