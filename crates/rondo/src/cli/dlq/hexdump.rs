//! Bytes as people read them: offset, hexadecimal, and what is printable.

/// Bytes in a row.
const ROW: usize = 16;

/// The first `limit` bytes of `bytes`, a row a line.
pub(super) fn rows(bytes: &[u8], limit: usize) -> impl Iterator<Item = String> {
    bytes[..bytes.len().min(limit)]
        .chunks(ROW)
        .enumerate()
        .map(|(row, chunk)| {
            let mut hexadecimal = String::with_capacity(3 * ROW);
            for byte in chunk {
                hexadecimal.push_str(&format!("{byte:02x} "));
            }
            let printable = |byte: &u8| {
                if byte.is_ascii_graphic() || *byte == b' ' {
                    char::from(*byte)
                } else {
                    '.'
                }
            };
            let text: String = chunk.iter().map(printable).collect();
            format!("{:08x}  {hexadecimal:<width$} {text}", row * ROW, width = 3 * ROW)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_shown_in_rows_up_to_the_limit() {
        let shown: Vec<String> = rows(b"\0\0\0\0\x07Hello, world \xffand more", 20).collect();
        assert_eq!(
            shown,
            [
                "00000000  00 00 00 00 07 48 65 6c 6c 6f 2c 20 77 6f 72 6c  .....Hello, worl",
                "00000010  64 20 ff 61                                      d .a",
            ]
        );
        assert_eq!(rows(b"", 20).count(), 0);
    }
}
