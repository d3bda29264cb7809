//! The wire types of every event, the topics, and the choreography map.
