//! How failures are taken: retries by error class and consumer, and the circuit breaker.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use super::{Environment, Error};
use crate::breaker;
use crate::parking::{RetryPolicy, Strategy};

/// The error classes for which a strategy can be set. A record of class `envelope` has no key by which it could wait.
pub const RETRY_CLASSES: [&str; 8] = [
    "conflict",
    "data",
    "decode",
    "encoding",
    "entangled",
    "gap",
    "meaning",
    "rejected",
];
/// The three settings that hold for every class without a strategy of its own.
const GENERAL: [&str; 3] = ["ATTEMPTS", "FIRST_WAIT_MS", "WAIT_MAX_SECS"];
/// Most attempts that can be set.
const ATTEMPTS: RangeInclusive<i32> = 1..=1_000;
/// Bounds of the first wait, in milliseconds.
const FIRST_WAIT_MS: RangeInclusive<u64> = 1..=600_000;
/// Bounds of the longest wait, in seconds.
const WAIT_MAX_SECS: RangeInclusive<u64> = 1..=86_400;

/// How `consumer` tries again: `RONDO_<CONSUMER>_RETRY_…` comes before `RONDO_RETRY_…`, and a class's own strategy before
/// the general one.
///
/// # Errors
/// A value is out of range, or a variable names a class that there is not.
pub fn retry(environment: &Environment, consumer: &str) -> Result<RetryPolicy, Error> {
    let variables = Variables {
        environment,
        own: format!("RONDO_{}_RETRY_", consumer.to_uppercase().replace('-', "_")),
    };
    variables.check()?;
    let mut policy = RetryPolicy {
        attempts_max: variables.number("ATTEMPTS", 6, ATTEMPTS)?,
        first_wait: Duration::from_millis(variables.number("FIRST_WAIT_MS", 500, FIRST_WAIT_MS)?),
        wait_max: Duration::from_secs(variables.number("WAIT_MAX_SECS", 60, WAIT_MAX_SECS)?),
        classes: BTreeMap::new(),
    };
    for class in RETRY_CLASSES {
        let name = variables.name(&class.to_uppercase());
        if let Some(text) = environment.get(&name) {
            let strategy = strategy(text, &policy).ok_or_else(|| Error::Invalid {
                variable: name,
                found: format!("`{text}`"),
                wanted: "`never`, `immediate:ATTEMPTS`, `backoff:ATTEMPTS` or \
                         `backoff:ATTEMPTS:FIRST_WAIT_MS:WAIT_MAX_SECS`"
                    .to_owned(),
            })?;
            policy.classes.insert(class.to_owned(), strategy);
        }
    }
    Ok(policy)
}

/// When a consumer pauses itself.
///
/// # Errors
/// A value is out of range.
pub fn breaker(environment: &Environment) -> Result<breaker::Settings, Error> {
    let default = breaker::Settings::default();
    let percent = environment.number("RONDO_BREAKER_PERCENT", 50, 1..=100)?;
    Ok(breaker::Settings {
        share: f64::from(percent) / 100.0,
        window: environment.seconds("RONDO_BREAKER_WINDOW_SECS", 60, 1..=3_600)?,
        records_min: environment.number("RONDO_BREAKER_RECORDS_MIN", default.records_min, 1..=1_000_000)?,
        pause: environment.seconds("RONDO_BREAKER_PAUSE_SECS", 30, 1..=86_400)?,
        probes: environment.number("RONDO_BREAKER_PROBES", default.probes, 1..=1_000)?,
    })
}

struct Variables<'a> {
    environment: &'a Environment,
    /// What the consumer's own variables begin with.
    own: String,
}

impl Variables<'_> {
    /// The variable that says `what`: the consumer's own if it is set, else the common one.
    fn name(&self, what: &str) -> String {
        let own = format!("{}{what}", self.own);
        match self.environment.get(&own) {
            Some(_) => own,
            None => format!("RONDO_RETRY_{what}"),
        }
    }

    fn number<T>(&self, what: &str, default: T, range: RangeInclusive<T>) -> Result<T, Error>
    where
        T: FromStr + PartialOrd + fmt::Display,
    {
        self.environment.number(&self.name(what), default, range)
    }

    /// Refuses a variable that would have no effect.
    fn check(&self) -> Result<(), Error> {
        for (name, value) in self.environment.iter() {
            let what = name
                .strip_prefix("RONDO_RETRY_")
                .or_else(|| name.strip_prefix(&self.own));
            let Some(what) = what.filter(|_| !value.is_empty()) else {
                continue;
            };
            let known = GENERAL.contains(&what) || RETRY_CLASSES.iter().any(|class| class.to_uppercase() == what);
            if !known {
                return Err(Error::Invalid {
                    variable: name.to_owned(),
                    found: "of no error class".to_owned(),
                    wanted: format!("nothing; the classes are {}", RETRY_CLASSES.join(", ")),
                });
            }
        }
        Ok(())
    }
}

/// A strategy as it is written, with the general one's waits where it names none.
fn strategy(text: &str, general: &RetryPolicy) -> Option<Strategy> {
    let mut parts = text.split(':').map(str::trim);
    let kind = parts.next()?;
    let attempts = parts
        .next()
        .map(|part| part.parse::<i32>().ok().filter(|n| ATTEMPTS.contains(n)));
    let waits: Vec<&str> = parts.collect();
    let number = |text: &str, range: RangeInclusive<u64>| text.parse::<u64>().ok().filter(|n| range.contains(n));
    let (attempts_max, first_wait, wait_max) = match (kind, attempts, &waits[..]) {
        ("never", None, []) => (1, Duration::ZERO, Duration::ZERO),
        ("immediate", Some(attempts), []) => (attempts?, Duration::ZERO, Duration::ZERO),
        ("backoff", Some(attempts), []) => (attempts?, general.first_wait, general.wait_max),
        ("backoff", Some(attempts), [first, max]) => (
            attempts?,
            Duration::from_millis(number(first, FIRST_WAIT_MS)?),
            Duration::from_secs(number(max, WAIT_MAX_SECS)?),
        ),
        _ => return None,
    };
    Some(Strategy {
        attempts_max,
        first_wait,
        wait_max,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strategy_is_set_for_a_class_and_for_a_consumer() {
        let environment = Environment::default()
            .with("RONDO_RETRY_ATTEMPTS", "4")
            .with("RONDO_RETRY_DATA", "immediate:3")
            .with("RONDO_BILLING_RETRY_DATA", "backoff:9:100:5")
            .with("RONDO_RETRY_REJECTED", "backoff:2")
            .with("RONDO_RETRY_CONFLICT", "never");
        let billing = retry(&environment, "billing").unwrap();
        assert_eq!(
            billing.of("data"),
            Strategy {
                attempts_max: 9,
                first_wait: Duration::from_millis(100),
                wait_max: Duration::from_secs(5)
            }
        );
        let shipping = retry(&environment, "shipping").unwrap();
        assert_eq!(
            (shipping.of("data").attempts_max, shipping.of("data").wait(3)),
            (3, Duration::ZERO)
        );
        assert_eq!(shipping.of("rejected").first_wait, Duration::from_millis(500));
        assert_eq!(
            (shipping.of("conflict").attempts_max, shipping.of("gap").attempts_max),
            (1, 4)
        );
    }

    #[test]
    fn what_is_no_strategy_or_no_class_is_refused() {
        for wrong in [
            "often",
            "immediate",
            "immediate:0",
            "backoff:3:100",
            "never:1",
            "backoff:3:0:9",
        ] {
            let environment = Environment::default().with("RONDO_RETRY_DATA", wrong);
            let error = retry(&environment, "billing").expect_err(wrong).to_string();
            assert!(
                error.contains("RONDO_RETRY_DATA") && error.contains("immediate:ATTEMPTS"),
                "{error}"
            );
        }
        for unknown in ["RONDO_RETRY_DATUM", "RONDO_BILLING_RETRY_ENVELOPE"] {
            let environment = Environment::default().with(unknown, "never");
            let error = retry(&environment, "billing").expect_err(unknown).to_string();
            assert!(error.contains(unknown) && error.contains("rejected"), "{error}");
        }
    }

    #[test]
    fn the_breaker_has_a_share_in_percent() {
        let environment = Environment::default().with("RONDO_BREAKER_PERCENT", "5");
        assert_eq!(breaker(&environment).unwrap().share, 0.05);
        assert_eq!(breaker(&Environment::default()).unwrap(), breaker::Settings::default());
        assert!(breaker(&Environment::default().with("RONDO_BREAKER_PERCENT", "0")).is_err());
    }
}
