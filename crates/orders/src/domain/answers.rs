//! What the two participants answer, sorted by what they were asked.
//!
//! An answer to one question can never be taken for the answer to another: an authorisation that arrives while an order
//! is cancelling fills its own place and leaves that of the acknowledgement empty.

/// What payments has answered to each thing an order asks of it; the latest of each.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Payment {
    /// To `OrderPlaced`.
    pub authorization: Option<Authorization>,
    /// To `OrderConfirmed`.
    pub capture: Option<Capture>,
    /// To `OrderCancelling`: the acknowledgement.
    pub undo: Option<PaymentUndo>,
}

/// What inventory has answered to each thing an order asks of it; the latest of each.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stock {
    /// To `OrderPlaced`.
    pub reservation: Option<Reservation>,
    /// To `OrderConfirmed`.
    pub committed: bool,
    /// To `OrderCancelling`: the acknowledgement.
    pub undo: Option<StockUndo>,
}

/// One answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// Of payments.
    Payment(PaymentAnswer),
    /// Of inventory.
    Stock(StockAnswer),
}

/// One answer of payments.
#[derive(Clone, Debug, PartialEq)]
pub enum PaymentAnswer {
    /// To `OrderPlaced`.
    Authorization(Authorization),
    /// To `OrderConfirmed`.
    Capture(Capture),
    /// To `OrderCancelling`.
    Undo(PaymentUndo),
}

/// One answer of inventory.
#[derive(Clone, Debug, PartialEq)]
pub enum StockAnswer {
    /// To `OrderPlaced`.
    Reservation(Reservation),
    /// To `OrderConfirmed`; inventory holds what it reserved, so it cannot fail.
    Committed,
    /// To `OrderCancelling`.
    Undo(StockUndo),
}

/// Whether the money can be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authorization {
    /// Yes; it is held.
    Authorized,
    /// No.
    Declined(Decline),
}

/// Why a payment was declined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decline {
    /// The issuer said no and no more than that, or for a reason that this build does not know.
    ByIssuer,
    /// There is not enough money.
    InsufficientFunds,
    /// The gateway could not be reached until all tries were used up.
    Unavailable,
    /// Payments was told to cancel before it saw the order, and so refused it.
    Cancelled,
    /// The card is past its date.
    ExpiredCard,
}

/// Whether the held money was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Capture {
    /// Yes.
    Captured,
    /// No, and why.
    Failed(Box<str>),
}

/// How a payment was undone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PaymentUndo {
    /// The hold was let go, or there was none.
    Voided,
    /// What was taken was given back.
    Refunded,
    /// What was taken could not be given back, and why.
    Failed(Box<str>),
}

/// Whether the goods can be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reservation {
    /// Yes; they are set aside.
    Reserved,
    /// No.
    Rejected(Refusal),
}

/// Why goods were not reserved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is too little of something; the text says of what.
    Shortage(Box<str>),
    /// Inventory was told to cancel before it saw the order, and so refused it.
    Cancelled,
}

/// How a reservation was undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StockUndo {
    /// What was set aside is available again, or nothing was.
    Released,
    /// What was committed is on hand again.
    Returned,
}

impl Payment {
    /// Puts `answer` in its place.
    pub(super) fn hear(&mut self, answer: &PaymentAnswer) {
        match answer {
            PaymentAnswer::Authorization(authorization) => self.authorization = Some(*authorization),
            PaymentAnswer::Capture(capture) => self.capture = Some(capture.clone()),
            PaymentAnswer::Undo(undo) => self.undo = Some(undo.clone()),
        }
    }

    /// Empties the places of what failed, because it is asked again.
    pub(super) fn forget_failures(&mut self) {
        self.capture = self.capture.take().filter(|capture| *capture == Capture::Captured);
        self.undo = self.undo.take().filter(|undo| !matches!(undo, PaymentUndo::Failed(_)));
    }

    /// Where the payment stands, as everybody outside sees it, and why.
    pub fn status(&self) -> (&'static str, Option<&str>) {
        match (&self.undo, &self.capture, &self.authorization) {
            (Some(PaymentUndo::Voided), _, Some(Authorization::Declined(decline))) => {
                ("declined", Some(decline.name()))
            }
            (Some(PaymentUndo::Voided), _, _) => ("voided", None),
            (Some(PaymentUndo::Refunded), _, _) => ("refunded", None),
            (Some(PaymentUndo::Failed(why)), _, _) => ("refund_failed", Some(why)),
            (None, Some(Capture::Captured), _) => ("captured", None),
            (None, Some(Capture::Failed(why)), _) => ("capture_failed", Some(why)),
            (None, None, Some(Authorization::Authorized)) => ("authorized", None),
            (None, None, Some(Authorization::Declined(decline))) => ("declined", Some(decline.name())),
            (None, None, None) => ("pending", None),
        }
    }
}

impl Stock {
    /// Puts `answer` in its place.
    pub(super) fn hear(&mut self, answer: &StockAnswer) {
        match answer {
            StockAnswer::Reservation(reservation) => self.reservation = Some(reservation.clone()),
            StockAnswer::Committed => self.committed = true,
            StockAnswer::Undo(undo) => self.undo = Some(*undo),
        }
    }

    /// Where the goods stand, as everybody outside sees it, and why.
    pub fn status(&self) -> (&'static str, Option<&str>) {
        match (self.undo, self.committed, &self.reservation) {
            (Some(StockUndo::Released), _, Some(Reservation::Rejected(refusal))) => ("rejected", Some(refusal.text())),
            (Some(StockUndo::Released), _, _) => ("released", None),
            (Some(StockUndo::Returned), _, _) => ("returned", None),
            (None, true, _) => ("committed", None),
            (None, false, Some(Reservation::Reserved)) => ("reserved", None),
            (None, false, Some(Reservation::Rejected(refusal))) => ("rejected", Some(refusal.text())),
            (None, false, None) => ("pending", None),
        }
    }
}

impl Answer {
    /// The event that brings this answer.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Payment(answer) => answer.name(),
            Self::Stock(answer) => answer.name(),
        }
    }
}

impl PaymentAnswer {
    /// The event that brings this answer.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Authorization(Authorization::Authorized) => "PaymentAuthorized",
            Self::Authorization(Authorization::Declined(_)) => "PaymentDeclined",
            Self::Capture(Capture::Captured) => "PaymentCaptured",
            Self::Capture(Capture::Failed(_)) => "PaymentCaptureFailed",
            Self::Undo(PaymentUndo::Voided) => "PaymentVoided",
            Self::Undo(PaymentUndo::Refunded) => "PaymentRefunded",
            Self::Undo(PaymentUndo::Failed(_)) => "PaymentRefundFailed",
        }
    }
}

impl StockAnswer {
    /// The event that brings this answer.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Reservation(Reservation::Reserved) => "StockReserved",
            Self::Reservation(Reservation::Rejected(_)) => "StockRejected",
            Self::Committed => "StockCommitted",
            Self::Undo(StockUndo::Released) => "StockReleased",
            Self::Undo(StockUndo::Returned) => "StockReturned",
        }
    }
}

impl Decline {
    /// The reason, as everybody outside sees it.
    pub fn name(self) -> &'static str {
        match self {
            Self::ByIssuer => "declined",
            Self::InsufficientFunds => "insufficient_funds",
            Self::Unavailable => "unavailable",
            Self::Cancelled => "cancelled",
            Self::ExpiredCard => "expired_card",
        }
    }

    /// The reason with this [`name`](Self::name).
    pub(crate) fn named(name: &str) -> Self {
        [
            Self::InsufficientFunds,
            Self::Unavailable,
            Self::Cancelled,
            Self::ExpiredCard,
        ]
        .into_iter()
        .find(|decline| decline.name() == name)
        .unwrap_or(Self::ByIssuer)
    }
}

impl Refusal {
    /// How an order's own stream names a refusal that is no shortage. No list of shortages reads like this.
    const CANCELLED: &str = "cancelled";

    /// The reason, for people.
    pub fn text(&self) -> &str {
        match self {
            Self::Shortage(what) => what,
            Self::Cancelled => Self::CANCELLED,
        }
    }

    /// The reason with this [`text`](Self::text).
    pub(crate) fn recorded(text: &str) -> Self {
        if text == Self::CANCELLED {
            Self::Cancelled
        } else {
            Self::Shortage(text.into())
        }
    }
}

#[cfg(test)]
impl PaymentAnswer {
    /// One of each.
    pub(crate) fn samples() -> Vec<Self> {
        let declines = [
            Decline::ByIssuer,
            Decline::InsufficientFunds,
            Decline::Unavailable,
            Decline::Cancelled,
            Decline::ExpiredCard,
        ];
        let mut samples = vec![
            Self::Authorization(Authorization::Authorized),
            Self::Capture(Capture::Captured),
            Self::Capture(Capture::Failed("card expired".into())),
            Self::Undo(PaymentUndo::Voided),
            Self::Undo(PaymentUndo::Refunded),
            Self::Undo(PaymentUndo::Failed("account closed".into())),
        ];
        samples.extend(declines.map(|decline| Self::Authorization(Authorization::Declined(decline))));
        samples
    }
}

#[cfg(test)]
impl StockAnswer {
    /// One of each.
    pub(crate) fn samples() -> Vec<Self> {
        vec![
            Self::Reservation(Reservation::Reserved),
            Self::Reservation(Reservation::Rejected(Refusal::Shortage("NW-001: 2 of 1".into()))),
            Self::Reservation(Reservation::Rejected(Refusal::Cancelled)),
            Self::Committed,
            Self::Undo(StockUndo::Released),
            Self::Undo(StockUndo::Returned),
        ]
    }
}
