//! W3C trace contexts (`traceparent`, <https://www.w3.org/TR/trace-context/>) as clients send them to a database: in the
//! comment at the end of a statement (sqlcommenter), or in `application_name`. Pure. What is no valid one is none.

use std::borrow::Cow;
use std::num::{NonZeroU64, NonZeroU128};

use percent_encoding::percent_decode;

/// `00-`, 32 digits, `-`, 16 digits, `-`, 2 digits.
const LENGTH: usize = 55;

/// A comment is not looked for farther from the end of a text.
const LONGEST_COMMENT: usize = 4096;

/// The keys that it goes by: sqlcommenter's, and ours for those whose framework writes another one there.
const KEYS: [&str; 2] = ["traceparent", PARAMETER];

/// The startup parameter that it may be given in. PostgreSQL never sees it.
pub const PARAMETER: &str = "pgfunnel_traceparent";

/// Which trace something belongs to, and which span of it is its parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    trace: NonZeroU128,
    span: NonZeroU64,
    flags: u8,
}

impl TraceContext {
    /// Reads a `traceparent`.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let (known, more) = text.split_at_checked(LENGTH)?;
        let mut parts = known.split('-');
        let [version, trace, span, flags] = [2, 32, 16, 2].map(|length| {
            let part = parts.next().filter(|part| part.len() == length)?;
            part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')).then_some(part)
        });
        // A later version may have more parts behind those that we know.
        let fits = match version? {
            "ff" => false,
            "00" => more.is_empty(),
            _ => more.is_empty() || more.starts_with('-'),
        };
        if !fits {
            return None;
        }
        Some(Self {
            trace: NonZeroU128::new(u128::from_str_radix(trace?, 16).ok()?)?,
            span: NonZeroU64::new(u64::from_str_radix(span?, 16).ok()?)?,
            flags: u8::from_str_radix(flags?, 16).ok()?,
        })
    }

    /// What stands in the comment that a statement ends with: `/*key='value',traceparent='00-…'*/`, keys and values
    /// URL-encoded.
    pub fn of_statement(text: &[u8]) -> Option<Self> {
        let text = ended(text).strip_suffix(b"*/")?;
        let text = text.get(text.len().saturating_sub(LONGEST_COMMENT)..)?;
        let start = memchr::memmem::rfind(text, b"/*")?;
        let comment = text.get(start + 2..)?;
        comment.split(|byte| *byte == b',').find_map(|pair| {
            let equals = memchr::memchr(b'=', pair)?;
            let (key, value) = pair.split_at_checked(equals)?;
            if !KEYS.iter().any(|known| decoded(key) == known.as_bytes()) {
                return None;
            }
            Self::parse(&decoded(value.get(1..)?))
        })
    }

    /// What stands at the end of an `application_name`: `report-fn 00-…`, `report-fn;traceparent=00-…`. The name proper
    /// comes first, so that a caller is one caller, whatever it traces.
    pub fn of_application(name: &str) -> (&str, Option<Self>) {
        let separators: &[char] = &[' ', ';', ',', '|', '/'];
        for key in KEYS.iter().rev() {
            let found = name.rfind(key).and_then(|at| Some((name.get(..at)?, name.get(at + key.len()..)?)));
            if let Some((proper, value)) = found
                && let Some(value) = value.strip_prefix('=')
                && (proper.is_empty() || proper.ends_with(separators))
            {
                let value = value.split(separators).next().unwrap_or_default();
                return (proper.trim_end_matches(separators), Self::parse(value.as_bytes()));
            }
        }
        let start = name.len().checked_sub(LENGTH);
        match start.and_then(|start| name.split_at_checked(start)) {
            Some((proper, last)) if proper.is_empty() || proper.ends_with(separators) => {
                match Self::parse(last.as_bytes()) {
                    Some(context) => (proper.trim_end_matches(separators), Some(context)),
                    None => (name, None),
                }
            }
            _ => (name, None),
        }
    }

    /// The trace's id.
    pub fn trace_id(&self) -> u128 {
        self.trace.get()
    }

    /// The parent span's id.
    pub fn span_id(&self) -> u64 {
        self.span.get()
    }

    /// The caller records this trace.
    pub fn is_sampled(&self) -> bool {
        self.flags & 1 != 0
    }

    /// The trace's id as it is written.
    pub fn trace_digits(&self) -> String {
        format!("{:032x}", self.trace)
    }

    /// The parent span's id as it is written.
    pub fn span_digits(&self) -> String {
        format!("{:016x}", self.span)
    }
}

/// Whether a text ends as one with a comment does: all that it costs those who write none.
#[inline]
pub fn ends_in_comment(text: &[u8]) -> bool {
    text.ends_with(b"*/") || matches!(text.last(), Some(b';' | b' ' | b'\n')) && ended(text).ends_with(b"*/")
}

/// A text without what may follow its last statement.
fn ended(text: &[u8]) -> &[u8] {
    let end = text.iter().rposition(|byte| !matches!(byte, b';' | b' ' | b'\n' | b'\r' | b'\t'));
    text.get(..end.map_or(0, |end| end + 1)).unwrap_or_default()
}

/// A key or value of a comment: without white space and quotes, its escapes undone.
fn decoded(text: &[u8]) -> Cow<'_, [u8]> {
    let text = text.trim_ascii();
    let text = text.strip_prefix(b"'").and_then(|text| text.strip_suffix(b"'")).unwrap_or(text);
    percent_decode(text).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn one() -> Option<TraceContext> {
        TraceContext::parse(ONE.as_bytes())
    }

    #[test]
    fn what_is_valid_is_read() {
        let context = one().unwrap();
        assert_eq!(context.trace_digits(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(context.span_digits(), "b7ad6b7169203331");
        assert_eq!((context.trace_id() >> 120, context.span_id() >> 56), (0x0a, 0xb7));
        assert!(context.is_sampled());
        assert!(!TraceContext::parse(ONE.replace("-01", "-02").as_bytes()).unwrap().is_sampled());
        for more in ["cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more", &ONE.replace("00-", "01-")] {
            assert_eq!(TraceContext::parse(more.as_bytes()), one(), "{more}");
        }
    }

    #[test]
    fn what_is_not_is_none() {
        for wrong in [
            "",
            "00",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01x",
            "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01x",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319g-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319-cb7ad6b7169203331-01",
            "00 0af7651916cd43dd8448eb211c80319c b7ad6b7169203331 01",
            "é0-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0é",
        ] {
            assert_eq!(TraceContext::parse(wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    fn a_comment_at_the_end_of_a_statement_may_hold_one() {
        for found in [
            "select 1 /*traceparent='ONE'*/",
            "select 1 /*traceparent='ONE'*/ ;\n",
            "select 1 /* action='x%2Cy', traceparent='ONE',tracestate='a%3Db'*/",
            "select '/*' /*%74raceparent='ONE'*/",
            "select 1 /*pgfunnel_traceparent=ONE*/",
            "select /* other */ 1 /*traceparent='ONE'*/;",
            "/*traceparent='ONE'*/",
        ] {
            let text = found.replace("ONE", ONE);
            assert_eq!(TraceContext::of_statement(text.as_bytes()), one(), "{text}");
            assert!(ends_in_comment(text.as_bytes()), "{text}");
        }
        for none in [
            "select 1",
            "",
            "*/",
            "/*/",
            "select '/*traceparent=''ONE''*/'",
            "/*traceparent='ONE'*/ select 1",
            "select 1 /*xtraceparent='ONE'*/",
            "select 1 /*traceparent*/",
            "select 1 /*traceparent='ONE*/",
        ] {
            let text = none.replace("ONE", ONE);
            assert_eq!(TraceContext::of_statement(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn an_application_name_may_end_in_one() {
        for (name, proper) in [
            ("report-fn ONE", "report-fn"),
            ("report-fn;traceparent=ONE", "report-fn"),
            ("report fn, pgfunnel_traceparent=ONE", "report fn"),
            ("report-fn|traceparent=ONE;other", "report-fn"),
            ("ONE", ""),
            ("traceparent=ONE", ""),
        ] {
            let name = name.replace("ONE", ONE);
            assert_eq!(TraceContext::of_application(&name), (proper, one()), "{name}");
        }
        // Cut off by a driver: no context, and yet no caller of its own.
        assert_eq!(TraceContext::of_application("report-fn;traceparent=00-0af7"), ("report-fn", None));
        for name in [
            "",
            "report-fn",
            "report-fnONE",
            "mytraceparent=ONE",
            "naïve-fn-with-a-long-name-é-and-yet-no-trace-context-in-it",
        ] {
            let name = name.replace("ONE", ONE);
            assert_eq!(TraceContext::of_application(&name), (name.as_str(), None), "{name}");
        }
    }
}
