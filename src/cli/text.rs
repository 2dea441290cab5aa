//! Log lines as text for people. Whatever is in it, an event is one line: a client chooses what it is called, and must not
//! make up lines, nor move the cursor. (JSON escapes by itself.)

use std::fmt::{self, Debug, Write as _};

use tracing::field::Field;
use tracing_subscriber::fmt::format::Writer;

/// Writes a field as tracing-subscriber does, its value without control characters.
pub(super) fn field(writer: &mut Writer<'_>, field: &Field, value: &dyn Debug) -> fmt::Result {
    match field.name() {
        "message" => {}
        // Italic, and dimmed.
        name if writer.has_ansi_escapes() => write!(writer, "\x1b[3m{name}\x1b[0m\x1b[2m=\x1b[0m")?,
        name => write!(writer, "{name}=")?,
    }
    write!(Escaped(writer), "{value:?}")
}

struct Escaped<'a, 'w>(&'a mut Writer<'w>);

impl fmt::Write for Escaped<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let unsafe_to_show = |c: char| c.is_control() || is_layout(c);
        for part in text.split_inclusive(unsafe_to_show) {
            let (plain, last) = match part.chars().next_back().filter(|c| unsafe_to_show(*c)) {
                Some(last) => (part.strip_suffix(last).unwrap_or(part), Some(last)),
                None => (part, None),
            };
            self.0.write_str(plain)?;
            last.map_or(Ok(()), |last| write!(self.0, "{}", last.escape_default()))?;
        }
        Ok(())
    }
}

/// Ends a line or turns the direction of what follows, without being a control character to Unicode.
fn is_layout(c: char) -> bool {
    matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_moves_the_cursor_is_written_out() {
        for (value, shown) in [
            ("plain, ä and 'quotes'", "plain, ä and 'quotes'"),
            ("a\nb\r\n", "a\\nb\\r\\n"),
            ("\u{1b}[2J\u{7}\u{9b}", "\\u{1b}[2J\\u{7}\\u{9b}"),
            ("\u{2028}\u{202e}x", "\\u{2028}\\u{202e}x"),
        ] {
            let mut text = String::new();
            write!(Escaped(&mut Writer::new(&mut text)), "{value}").unwrap();
            assert_eq!(text, shown);
        }
    }
}
