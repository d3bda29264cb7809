//! W3C Trace Context: the `traceparent` that rows, headers and requests carry.

use std::fmt;
use std::str::FromStr;

use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};

/// A place in a trace: its id, the span's id, and whether somebody records it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceContext {
    trace_id: TraceId,
    span_id: SpanId,
    sampled: bool,
}

/// The text is no `traceparent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a W3C traceparent: want `00-<32 hex digits>-<16 hex digits>-<2 hex digits>`, ids not all zero")]
pub struct TraceContextError;

impl TraceContext {
    /// The first place of a new trace, recorded by nobody.
    pub fn generate() -> Self {
        Self {
            // Never zero, which would mean "no trace".
            trace_id: TraceId::from_bytes(rand::random::<u128>().max(1).to_be_bytes()),
            span_id: SpanId::from_bytes(rand::random::<u64>().max(1).to_be_bytes()),
            sampled: false,
        }
    }

    /// The trace's id: 32 lower-case hex digits.
    pub fn trace_id(&self) -> String {
        self.trace_id.to_string()
    }

    pub(super) fn from_span_context(span: &SpanContext) -> Option<Self> {
        span.is_valid().then(|| Self {
            trace_id: span.trace_id(),
            span_id: span.span_id(),
            sampled: span.is_sampled(),
        })
    }

    pub(super) fn to_span_context(&self) -> SpanContext {
        let flags = TraceFlags::default().with_sampled(self.sampled);
        SpanContext::new(self.trace_id, self.span_id, flags, true, TraceState::default())
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "00-{}-{}-{:02x}",
            self.trace_id,
            self.span_id,
            u8::from(self.sampled)
        )
    }
}

impl FromStr for TraceContext {
    type Err = TraceContextError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.split('-');
        let mut next = |length| {
            parts
                .next()
                .filter(|part| is_hex(part, length))
                .ok_or(TraceContextError)
        };
        let (version, trace_id, span_id, flags) = (next(2)?, next(32)?, next(16)?, next(2)?);
        // A later version may append fields; version 00 has none, and ff is forbidden.
        if version == "ff" || (version == "00" && parts.next().is_some()) {
            return Err(TraceContextError);
        }
        let trace_id = TraceId::from_hex(trace_id).map_err(|_| TraceContextError)?;
        let span_id = SpanId::from_hex(span_id).map_err(|_| TraceContextError)?;
        let flags = u8::from_str_radix(flags, 16).map_err(|_| TraceContextError)?;
        if trace_id == TraceId::INVALID || span_id == SpanId::INVALID {
            return Err(TraceContextError);
        }
        Ok(Self {
            trace_id,
            span_id,
            sampled: flags & 1 == 1,
        })
    }
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_comes_back_as_it_was() {
        for text in [
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
        ] {
            assert_eq!(text.parse::<TraceContext>().unwrap().to_string(), text);
        }
        let made = TraceContext::generate();
        assert_eq!(made.to_string().parse(), Ok(made));
    }

    #[test]
    fn a_later_version_is_read_by_its_first_four_fields() {
        let later = "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-what-comes";
        assert!(later.parse::<TraceContext>().is_ok());
    }

    #[test]
    fn what_the_standard_forbids_is_refused() {
        for text in [
            "",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            assert_eq!(text.parse::<TraceContext>(), Err(TraceContextError), "{text}");
        }
    }
}
