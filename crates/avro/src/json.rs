//! The JSON of schemas: member order, number kinds and text survive, which `serde_json::Value` does not promise.
//!
//! Two schemas are one and the same when their rendered texts are equal, so rendering follows what Java Avro (Jackson)
//! writes: members in the order they came, the last of two equal keys in the place of the first, floating-point numbers
//! as `Double.toString` has them. It reads RFC 8259 and comments, bounds the nesting, and is no general
//! JSON library.

use std::fmt::Write as _;

/// How deeply arrays and objects may nest. Parsing, checking and rendering recurse, and must fit a 2 MiB stack.
pub const NESTING_MAX: usize = 300;

/// A JSON value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Json {
    /// `null`.
    Null,
    /// `true` or `false`.
    Boolean(bool),
    /// An integer of at most 64 bits.
    Integer(i64),
    /// An integer beyond 64 bits, in its own digits.
    BigInteger(String),
    /// Anything with a fraction or an exponent.
    Double(f64),
    /// A number that had a 32-bit type when it was normalised.
    Float(f32),
    /// Text.
    String(String),
    /// An array.
    Array(Vec<Json>),
    /// An object, in the order of its members; keys are unique.
    Object(Vec<(String, Json)>),
}

impl Json {
    /// Reads one JSON document.
    ///
    /// # Errors
    /// Says what was found instead, and at which byte.
    pub(super) fn parse(text: &str) -> Result<Json, String> {
        let mut reader = Reader { text, at: 0 };
        reader.skip_space();
        if reader.at == text.len() {
            return Err("the text is empty".to_owned());
        }
        let value = reader.value(0)?;
        reader.skip_space();
        if reader.at < text.len() {
            return Err(format!(
                "there is more text after the end of the schema, at byte {}",
                reader.at
            ));
        }
        Ok(value)
    }

    /// The member `key` of an object.
    pub(super) fn get(&self, key: &str) -> Option<&Json> {
        match self {
            Json::Object(members) => members.iter().find(|(name, _)| name == key).map(|(_, value)| value),
            _ => None,
        }
    }

    /// The text, if this is a string.
    pub(super) fn as_str(&self) -> Option<&str> {
        match self {
            Json::String(text) => Some(text),
            _ => None,
        }
    }

    /// The same value with the members of every object in the order of their keys.
    pub(super) fn sorted(&self) -> Json {
        match self {
            Json::Array(items) => Json::Array(items.iter().map(Json::sorted).collect()),
            Json::Object(members) => {
                let mut members: Vec<_> = members
                    .iter()
                    .map(|(key, value)| (key.clone(), value.sorted()))
                    .collect();
                members.sort_by(|(left, _), (right, _)| left.cmp(right));
                Json::Object(members)
            }
            other => other.clone(),
        }
    }

    /// Appends the text of this value, without white space.
    pub(super) fn render(&self, out: &mut String) {
        match self {
            Json::Null => out.push_str("null"),
            Json::Boolean(value) => out.push_str(if *value { "true" } else { "false" }),
            Json::Integer(value) => write!(out, "{value}").expect("writing to a String never fails"),
            Json::BigInteger(digits) => out.push_str(digits),
            Json::Double(value) => render_floating(&format!("{value:e}"), out),
            Json::Float(value) => render_floating(&format!("{value:e}"), out),
            Json::String(text) => render_string(text, out),
            Json::Array(items) => {
                out.push('[');
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    item.render(out);
                }
                out.push(']');
            }
            Json::Object(members) => {
                out.push('{');
                for (index, (key, value)) in members.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    render_string(key, out);
                    out.push(':');
                    value.render(out);
                }
                out.push('}');
            }
        }
    }
}

impl std::fmt::Display for Json {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut text = String::new();
        self.render(&mut text);
        f.write_str(&text)
    }
}

/// Appends `text` as a JSON string, escaped as Jackson escapes: only what must be.
pub(super) fn render_string(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            c if c < ' ' => write!(out, "\\u{:04X}", u32::from(c)).expect("writing to a String never fails"),
            c => out.push(c),
        }
    }
    out.push('"');
}

/// Appends a number as Java's `Double.toString` has it, from Rust's shortest `1.25e-3`.
fn render_floating(scientific: &str, out: &mut String) {
    let (sign, unsigned) = match scientific.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", scientific),
    };
    let Some((mantissa, exponent)) = unsigned.split_once('e') else {
        // Only infinity and not-a-number have no exponent; a number such as 1e999 reads as infinity.
        let word = if unsigned == "inf" { "Infinity" } else { "NaN" };
        write!(out, "\"{sign}{word}\"").expect("writing to a String never fails");
        return;
    };
    let exponent: i32 = exponent.parse().expect("Rust writes a decimal exponent");
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    out.push_str(sign);
    if digits == "0" {
        out.push_str("0.0");
    } else if (-3..7).contains(&exponent) {
        if exponent < 0 {
            out.push_str("0.");
            out.extend(std::iter::repeat_n('0', exponent.unsigned_abs() as usize - 1));
            out.push_str(&digits);
        } else {
            let whole = exponent as usize + 1;
            let padded = format!("{digits:0<whole$}");
            out.push_str(&padded[..whole]);
            out.push('.');
            out.push_str(if padded.len() > whole { &padded[whole..] } else { "0" });
        }
    } else {
        out.push_str(&digits[..1]);
        out.push('.');
        out.push_str(if digits.len() > 1 { &digits[1..] } else { "0" });
        write!(out, "E{exponent}").expect("writing to a String never fails");
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// Skips white space and, as Java Avro does, comments.
    fn skip_space(&mut self) {
        loop {
            let rest = &self.text[self.at..];
            let rest = rest.trim_start_matches([' ', '\t', '\n', '\r']);
            self.at = self.text.len() - rest.len();
            let comment = if rest.starts_with("//") {
                Some(rest.find('\n').unwrap_or(rest.len()))
            } else if rest.starts_with("/*") {
                // One that has no end is left for the caller to trip over.
                rest.find("*/").map(|end| end + 2)
            } else {
                None
            };
            match comment {
                Some(length) => self.at += length,
                None => return,
            }
        }
    }

    fn unexpected(&self, wanted: &str) -> String {
        match self.text[self.at..].chars().next() {
            Some(c) => format!("unexpected character {c:?} at byte {}: expected {wanted}", self.at),
            None => format!("unexpected end of the text: expected {wanted}"),
        }
    }

    fn expect(&mut self, byte: u8, wanted: &str) -> Result<(), String> {
        if self.peek() == Some(byte) {
            self.at += 1;
            return Ok(());
        }
        Err(self.unexpected(wanted))
    }

    fn value(&mut self, depth: usize) -> Result<Json, String> {
        match self.peek() {
            Some(b'{') => self.object(depth + 1),
            Some(b'[') => self.array(depth + 1),
            Some(b'"') => Ok(Json::String(self.string()?)),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b'n') => self.word("null", Json::Null),
            Some(b't') => self.word("true", Json::Boolean(true)),
            Some(b'f') => self.word("false", Json::Boolean(false)),
            _ => Err(self.unexpected("a JSON value")),
        }
    }

    fn word(&mut self, word: &str, value: Json) -> Result<Json, String> {
        if !self.text[self.at..].starts_with(word) {
            return Err(self.unexpected("a JSON value"));
        }
        self.at += word.len();
        Ok(value)
    }

    fn enter(&self, depth: usize) -> Result<(), String> {
        if depth > NESTING_MAX {
            return Err(format!(
                "arrays and objects are nested more than {NESTING_MAX} levels deep"
            ));
        }
        Ok(())
    }

    fn array(&mut self, depth: usize) -> Result<Json, String> {
        self.enter(depth)?;
        self.at += 1;
        let mut items = Vec::new();
        self.skip_space();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(Json::Array(items));
        }
        loop {
            self.skip_space();
            items.push(self.value(depth)?);
            self.skip_space();
            if self.peek() == Some(b',') {
                self.at += 1;
                continue;
            }
            self.expect(b']', "',' or ']'")?;
            return Ok(Json::Array(items));
        }
    }

    fn object(&mut self, depth: usize) -> Result<Json, String> {
        self.enter(depth)?;
        self.at += 1;
        let mut members: Vec<(String, Json)> = Vec::new();
        self.skip_space();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(Json::Object(members));
        }
        loop {
            self.skip_space();
            if self.peek() != Some(b'"') {
                return Err(self.unexpected("the name of a member in double quotes"));
            }
            let key = self.string()?;
            self.skip_space();
            self.expect(b':', "':'")?;
            self.skip_space();
            let value = self.value(depth)?;
            match members.iter_mut().find(|(name, _)| *name == key) {
                Some(member) => member.1 = value,
                None => members.push((key, value)),
            }
            self.skip_space();
            if self.peek() == Some(b',') {
                self.at += 1;
                continue;
            }
            self.expect(b'}', "',' or '}'")?;
            return Ok(Json::Object(members));
        }
    }

    fn number(&mut self) -> Result<Json, String> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        let whole = self.at;
        self.digits()?;
        if self.text.as_bytes()[whole] == b'0' && self.at > whole + 1 {
            return Err(format!("a number has a leading zero at byte {whole}"));
        }
        let mut floating = false;
        if self.peek() == Some(b'.') {
            floating = true;
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            floating = true;
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        let text = &self.text[start..self.at];
        if floating {
            return Ok(Json::Double(
                text.parse().expect("the grammar of a JSON number is one of Rust's"),
            ));
        }
        Ok(text
            .parse()
            .map_or_else(|_| Json::BigInteger(text.to_owned()), Json::Integer))
    }

    fn digits(&mut self) -> Result<(), String> {
        if !matches!(self.peek(), Some(b'0'..=b'9')) {
            return Err(self.unexpected("a digit"));
        }
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        Ok(())
    }

    fn string(&mut self) -> Result<String, String> {
        self.at += 1;
        let mut out = String::new();
        loop {
            let rest = &self.text[self.at..];
            let Some(c) = rest.chars().next() else {
                return Err(self.unexpected("the end of a string"));
            };
            self.at += c.len_utf8();
            match c {
                '"' => return Ok(out),
                '\\' => out.push(self.escape()?),
                c if c < ' ' => return Err(format!("a control character is not escaped at byte {}", self.at - 1)),
                c => out.push(c),
            }
        }
    }

    fn escape(&mut self) -> Result<char, String> {
        let Some(byte) = self.peek() else {
            return Err(self.unexpected("an escape sequence"));
        };
        let c = match byte {
            b'"' => '"',
            b'\\' => '\\',
            b'/' => '/',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                self.at += 1;
                return self.unicode();
            }
            _ => return Err(self.unexpected("an escape sequence")),
        };
        self.at += 1;
        Ok(c)
    }

    fn unicode(&mut self) -> Result<char, String> {
        let first = self.four_hex()?;
        if !(0xd800..0xdc00).contains(&first) {
            return char::from_u32(first).ok_or_else(|| self.unexpected("the first half of a surrogate pair"));
        }
        if !self.text[self.at..].starts_with("\\u") {
            return Err(self.unexpected("the second half of a surrogate pair"));
        }
        self.at += 2;
        let second = self.four_hex()?;
        if !(0xdc00..0xe000).contains(&second) {
            return Err(self.unexpected("the second half of a surrogate pair"));
        }
        let code = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
        Ok(char::from_u32(code).expect("a surrogate pair always makes a scalar value"))
    }

    fn four_hex(&mut self) -> Result<u32, String> {
        let digits = self
            .text
            .get(self.at..self.at + 4)
            .filter(|text| text.bytes().all(|b| b.is_ascii_hexdigit()));
        let Some(digits) = digits else {
            return Err(self.unexpected("four hexadecimal digits"));
        };
        self.at += 4;
        Ok(u32::from_str_radix(digits, 16).expect("the digits were checked"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn again(text: &str) -> String {
        Json::parse(text).unwrap().to_string()
    }

    #[test]
    fn order_and_kinds_survive_and_white_space_does_not() {
        assert_eq!(
            again(r#" { "b" : 1 , "a" : [ true , null ] } "#),
            r#"{"b":1,"a":[true,null]}"#
        );
        assert_eq!(
            again("123456789012345678901234567890"),
            "123456789012345678901234567890"
        );
        assert_eq!(again("-0"), "0");
    }

    #[test]
    fn the_last_of_two_equal_keys_wins_in_the_place_of_the_first() {
        assert_eq!(again(r#"{"a":1,"b":2,"a":3}"#), r#"{"a":3,"b":2}"#);
    }

    #[test]
    fn floating_point_reads_as_java_writes_it() {
        for (text, java) in [
            ("1.0", "1.0"),
            ("-0.0", "-0.0"),
            ("0.001", "0.001"),
            ("0.00012", "1.2E-4"),
            ("1e6", "1000000.0"),
            ("1234567.125", "1234567.125"),
            ("1e7", "1.0E7"),
            ("1.5e300", "1.5E300"),
            ("100.5", "100.5"),
        ] {
            assert_eq!(again(text), java, "{text}");
        }
    }

    #[test]
    fn strings_are_escaped_only_where_they_must_be() {
        assert_eq!(
            again(r#""\u00e9\/\"\\\u0001\n\ud83d\ude00""#),
            "\"é/\\\"\\\\\\u0001\\n😀\""
        );
    }

    #[test]
    fn what_is_not_json_is_refused() {
        for text in [
            "",
            " ",
            "{",
            "[1,]",
            "{\"a\":}",
            "{a:1}",
            "01",
            "1.",
            "nul",
            "\"\u{1}\"",
            "\"\\x\"",
            "1 2",
            "'a'",
            "\"\\ud800\"",
        ] {
            assert!(Json::parse(text).is_err(), "{text:?} was read");
        }
    }

    #[test]
    fn nesting_is_bounded() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert!(Json::parse(&nested(NESTING_MAX)).is_ok());
        assert!(Json::parse(&nested(NESTING_MAX + 1)).is_err());
    }
}
