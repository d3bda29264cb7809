//! Made-up data of a schema: for asking a reader whether it can read what a writer may send.

use super::schema::{Kind, NodeId, Primitive, Schema};

/// Deepest nesting of a sample; a recursive schema that does not end by then has none.
const DEPTH_MAX: usize = 24;

impl Schema {
    /// The `variant`-th made-up datum. Variants differ in symbols, branches, lengths and numbers; as many of them as
    /// [`variants`](Self::variants) says meet every symbol and every branch. `None` if no datum of the schema ends.
    pub fn sample(&self, variant: usize) -> Option<Vec<u8>> {
        let mut datum = Vec::new();
        self.write(self.root, variant, 0, &mut datum).then_some(datum)
    }

    /// How many variants meet every symbol of every enum and every branch of every union.
    pub fn variants(&self) -> usize {
        let choices = self.nodes.iter().map(|node| match &node.kind {
            Kind::Union(branches) => branches.len(),
            Kind::Enum(r#enum) => r#enum.symbols.len(),
            _ => 1,
        });
        choices.max().unwrap_or(1).max(NUMBERS.len())
    }

    fn write(&self, id: NodeId, variant: usize, depth: usize, out: &mut Vec<u8>) -> bool {
        if depth > DEPTH_MAX {
            return false;
        }
        let depth = depth + 1;
        match &self.node(id).kind {
            Kind::Primitive(primitive) => write_primitive(*primitive, variant, out),
            Kind::Fixed(fixed) => out.resize(out.len() + fixed.size.unsigned_abs() as usize, 0x41),
            Kind::Enum(r#enum) if r#enum.symbols.is_empty() => return false,
            Kind::Enum(r#enum) => write_long((variant % r#enum.symbols.len()) as i64, out),
            Kind::Union(branches) => {
                // Where one branch does not end, the next may.
                let wanted = if depth > DEPTH_MAX / 2 { 0 } else { variant };
                return (0..branches.len()).any(|offset| {
                    let index = (wanted + offset) % branches.len();
                    let before = out.len();
                    write_long(index as i64, out);
                    let ended = self.write(branches[index], variant, depth, out);
                    if !ended {
                        out.truncate(before);
                    }
                    ended
                });
            }
            Kind::Array(items) => {
                let before = out.len();
                if !variant.is_multiple_of(3) && depth < DEPTH_MAX / 2 {
                    write_long(1, out);
                    if !self.write(*items, variant, depth, out) {
                        out.truncate(before);
                    }
                }
                out.push(0);
            }
            Kind::Map(values) => {
                let before = out.len();
                if !variant.is_multiple_of(3) && depth < DEPTH_MAX / 2 {
                    write_long(1, out);
                    write_text("key", out);
                    if !self.write(*values, variant, depth, out) {
                        out.truncate(before);
                    }
                }
                out.push(0);
            }
            Kind::Record(record) => {
                return record
                    .fields()
                    .iter()
                    .all(|field| self.write(field.schema, variant, depth, out));
            }
        }
        true
    }
}

const NUMBERS: [i64; 5] = [0, -1, 1_000, i32::MIN as i64, i32::MAX as i64];

fn write_primitive(primitive: Primitive, variant: usize, out: &mut Vec<u8>) {
    let number = NUMBERS[variant % NUMBERS.len()];
    match primitive {
        Primitive::Null => {}
        Primitive::Boolean => out.push(u8::from(variant % 2 == 1)),
        Primitive::Int => write_long(number, out),
        // Beyond what an int holds.
        Primitive::Long => write_long(number.saturating_mul(4_097), out),
        Primitive::Float => out.extend_from_slice(&(number as f32 / 2.0).to_le_bytes()),
        Primitive::Double => out.extend_from_slice(&(number as f64 / 2.0).to_le_bytes()),
        Primitive::Bytes | Primitive::String => write_text(["text", "", "täxt 漢"][variant % 3], out),
    }
}

fn write_text(text: &str, out: &mut Vec<u8>) {
    write_long(text.len() as i64, out);
    out.extend_from_slice(text.as_bytes());
}

fn write_long(number: i64, out: &mut Vec<u8>) {
    let mut zigzag = (number.cast_unsigned() << 1) ^ (number >> 63).cast_unsigned();
    while zigzag > 0x7f {
        out.push(zigzag as u8 & 0x7f | 0x80);
        zigzag >>= 7;
    }
    out.push(zigzag as u8);
}
