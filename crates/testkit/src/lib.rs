//! What tests share: throw-away databases, an embedded broker, waiting on conditions.
