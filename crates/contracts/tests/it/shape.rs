//! What a derived `Deserialize` says of its type: the fields of a struct, the symbols of an enum.
//!
//! serde passes them to the deserializer; this one keeps them and refuses to go on.

use std::fmt;

use serde::de::value::Error as Unsupported;
use serde::de::{self, DeserializeOwned, Visitor};

/// The field names of a struct, in order.
pub(crate) fn fields<T: DeserializeOwned>() -> Vec<&'static str> {
    of::<T>()
}

/// The symbols of an enum, in order.
pub(crate) fn symbols<T: DeserializeOwned>() -> Vec<&'static str> {
    of::<T>()
}

fn of<T: DeserializeOwned>() -> Vec<&'static str> {
    match T::deserialize(Ask) {
        Err(Answer::Names(names)) => names.to_vec(),
        Err(Answer::Other(error)) => panic!("{}: {error}", std::any::type_name::<T>()),
        Ok(_) => panic!("{} needs no input", std::any::type_name::<T>()),
    }
}

struct Ask;

#[derive(Debug)]
enum Answer {
    Names(&'static [&'static str]),
    Other(Unsupported),
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl std::error::Error for Answer {}

impl de::Error for Answer {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::Other(de::Error::custom(message))
    }
}

impl<'de> de::Deserializer<'de> for Ask {
    type Error = Answer;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Answer> {
        Err(de::Error::custom("neither a struct nor an enum"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Answer> {
        Err(Answer::Names(fields))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        symbols: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Answer> {
        Err(Answer::Names(symbols))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map identifier ignored_any
    }
}
