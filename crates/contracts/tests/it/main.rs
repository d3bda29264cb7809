//! What holds schemas, wire types, recorded bytes and the picture of the choreography together.

mod catalogue;
mod golden;
mod picture;
mod schemas;
mod shape;
mod values;
