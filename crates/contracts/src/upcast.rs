//! Upcasting, all of it: what data written under an earlier version says of the fields that came later.
//!
//! A datum is decoded by its *writer's* schema straight into the newest wire type; where the writer had no such field,
//! serde asks here. So nothing behind the wire types knows that there were other versions. One module an event, one
//! function a field, named as the field is. Each answers what the newest schema's own default says, so that any other Avro
//! reader sees the same; the recorded bytes of earlier versions (`golden/`) hold the two together, for nullable fields, too.
//!
//! What needs no function: a new field that may be null (serde reads an absent `Option` as `None`), a number that became
//! wider (the wider type reads the narrower), a symbol that was added (nobody wrote it before).

/// `OrderPlaced`.
pub(crate) mod order_placed {
    /// Since version 2. Until then orders came by the shop's own pages only.
    pub(crate) fn channel() -> String {
        "web".to_owned()
    }

    /// Since version 3.
    pub(crate) fn tags() -> Vec<String> {
        Vec::new()
    }
}
