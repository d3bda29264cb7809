//! The payment gateway, simulated: what it answers to each test payment method.
//!
//! A pure table. Every request carries the order's id as its key, so that asking again is asking about the same
//! payment, never paying twice. The gateway alone reads meaning into a payment's id, as a real one does; nobody else
//! parses it.
//!
//! | method                   | authorise                          | capture             | refund              |
//! |--------------------------|------------------------------------|---------------------|---------------------|
//! | `tok_visa`               | approved at once                   | done                | done                |
//! | `tok_declined`           | refused at once                    |                     |                     |
//! | `tok_insufficient_funds` | refused at once, with that reason  |                     |                     |
//! | `tok_expired_card`       | refused at once, with that reason  |                     |                     |
//! | `tok_timeout`            | never answers                      |                     |                     |
//! | `tok_unavailable`        | fails every time, surely unheard   |                     |                     |
//! | `tok_capture_fails`      | approved at once                   | fails once, then done | done              |
//! | `tok_refund_fails`       | approved at once                   | done                | fails once, then done |
//! | anything else            | refused at once                    |                     |                     |

use common::event::named_id;

/// A gateway's token of how a customer pays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Method(Box<str>);

impl Method {
    /// Longest token, in bytes.
    pub const LENGTH_MAX: usize = 255;

    /// `None` for an empty token or one longer than [`Self::LENGTH_MAX`].
    pub fn parse(token: &str) -> Option<Self> {
        (1..=Self::LENGTH_MAX)
            .contains(&token.len())
            .then(|| Self(token.into()))
    }

    /// A token that an event recorded: whatever it was, it has been accepted.
    pub fn recorded(token: &str) -> Self {
        Self(token.into())
    }

    /// The token's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The gateway's name of one payment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PaymentId(Box<str>);

impl PaymentId {
    /// An id that the gateway gave and an event recorded.
    pub fn recorded(id: &str) -> Self {
        Self(id.into())
    }

    /// The id's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why the gateway refuses to hold an amount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It gives no reason.
    Declined,
    /// The customer has not enough money.
    InsufficientFunds,
    /// The card is past its date.
    ExpiredCard,
}

/// What the gateway says in process, without a try over the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The amount is held.
    Approved,
    /// It is not, and will not be.
    Refused(Refusal),
    /// It has to be asked, and may not answer.
    Unanswered,
}

/// What came of one try over the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The amount is held.
    Approved(PaymentId),
    /// It is not, and will not be.
    Refused(Refusal),
    /// The request was certainly not processed: nothing is held because of it.
    Unavailable,
    /// The request may or may not have been processed.
    Unknown,
    /// Nothing is held under the key any more, and nothing will be; this payment was.
    Voided(PaymentId),
    /// Nothing was ever held under the key, and nothing will be.
    NeverHeld,
}

/// A refused capture or refund, in the gateway's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure(pub &'static str);

/// The id under which the gateway keeps the payment of `order_id`: the same each time it is asked.
pub fn payment_id(method: &Method, order_id: &str) -> PaymentId {
    let script = match method.as_str() {
        "tok_capture_fails" => CAPTURE_FAILS,
        "tok_refund_fails" => REFUND_FAILS,
        _ => "",
    };
    let id = named_id("payment", &[order_id]).simple();
    PaymentId(format!("pay_{script}{id}").into())
}

/// What the gateway says to a new payment by `method`.
pub fn authorize(method: &Method) -> Verdict {
    match method.as_str() {
        "tok_visa" | "tok_capture_fails" | "tok_refund_fails" => Verdict::Approved,
        "tok_insufficient_funds" => Verdict::Refused(Refusal::InsufficientFunds),
        "tok_expired_card" => Verdict::Refused(Refusal::ExpiredCard),
        "tok_timeout" | "tok_unavailable" => Verdict::Unanswered,
        _ => Verdict::Refused(Refusal::Declined),
    }
}

/// Asks for the authorisation of `order_id` by `method`, again by the same key if it has been asked before.
pub fn ask(method: &Method, order_id: &str) -> Answer {
    match authorize(method) {
        Verdict::Approved => Answer::Approved(payment_id(method, order_id)),
        Verdict::Refused(refusal) => Answer::Refused(refusal),
        Verdict::Unanswered if method.as_str() == "tok_unavailable" => Answer::Unavailable,
        Verdict::Unanswered => Answer::Unknown,
    }
}

/// Closes the key of `order_id` at the gateway: what is held under it is voided, and what may still be under way is
/// refused on arrival.
pub fn close(method: &Method, order_id: &str) -> Answer {
    match authorize(method) {
        Verdict::Approved => Answer::Voided(payment_id(method, order_id)),
        Verdict::Refused(_) | Verdict::Unanswered => Answer::NeverHeld,
    }
}

/// Takes a held amount; `failures` counts the captures of it that failed before.
///
/// # Errors
/// The gateway refuses.
pub fn capture(payment: &PaymentId, failures: u32) -> Result<(), Failure> {
    if failures == 0 && follows(payment, CAPTURE_FAILS) {
        return Err(Failure("the gateway refused the capture"));
    }
    Ok(())
}

/// Gives a taken amount back; `failures` counts the refunds of it that failed before.
///
/// # Errors
/// The gateway refuses.
pub fn refund(payment: &PaymentId, failures: u32) -> Result<(), Failure> {
    if failures == 0 && follows(payment, REFUND_FAILS) {
        return Err(Failure("the gateway refused the refund"));
    }
    Ok(())
}

/// Marks of payments that follow a script, in their ids: captures and refunds are told nothing but the id.
const CAPTURE_FAILS: &str = "capture_fails_";
const REFUND_FAILS: &str = "refund_fails_";

fn follows(payment: &PaymentId, script: &str) -> bool {
    payment
        .as_str()
        .strip_prefix("pay_")
        .is_some_and(|rest| rest.starts_with(script))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn method(token: &str) -> Method {
        Method::parse(token).unwrap()
    }

    #[test]
    fn a_payments_id_is_the_same_each_time_and_differs_by_order() {
        let visa = method("tok_visa");
        assert_eq!(payment_id(&visa, "o-1"), payment_id(&visa, "o-1"));
        assert_ne!(payment_id(&visa, "o-1"), payment_id(&visa, "o-2"));
    }

    #[test]
    fn a_method_that_the_gateway_does_not_know_is_refused() {
        assert_eq!(authorize(&method("tok_mislaid")), Verdict::Refused(Refusal::Declined));
    }

    #[test]
    fn only_an_unavailable_gateway_surely_did_not_hear() {
        assert_eq!(ask(&method("tok_unavailable"), "o-1"), Answer::Unavailable);
        assert_eq!(ask(&method("tok_timeout"), "o-1"), Answer::Unknown);
    }

    #[test]
    fn asking_again_by_key_gives_the_same_payment() {
        let visa = method("tok_visa");
        assert_eq!(ask(&visa, "o-1"), Answer::Approved(payment_id(&visa, "o-1")));
        assert_eq!(close(&visa, "o-1"), Answer::Voided(payment_id(&visa, "o-1")));
    }

    #[test]
    fn a_scripted_failure_happens_once() {
        let payment = payment_id(&method("tok_capture_fails"), "o-1");
        assert!(capture(&payment, 0).is_err());
        assert!(capture(&payment, 1).is_ok());
        assert!(refund(&payment, 0).is_ok());
        let payment = payment_id(&method("tok_refund_fails"), "o-1");
        assert!(capture(&payment, 0).is_ok());
        assert!(refund(&payment, 0).is_err());
        assert!(refund(&payment, 1).is_ok());
    }
}
