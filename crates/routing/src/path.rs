//! The one normal form of a request's path and host. It serves matching *and* forwarding, so that nothing can be matched as
//! one path and answered as another.

mod host;

use std::borrow::Cow;

pub use host::{InvalidHost, host_of};

/// A path that has no normal form. The request is answered with 400.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPath {
    /// It does not start with `/`.
    #[error("the path does not start with `/`")]
    NotAbsolute,
    /// A `%` without two hexadecimal digits.
    #[error("the path has a `%` without two hexadecimal digits after it; write a plain `%` as `%25`")]
    Escape,
    /// `%2F`.
    #[error("the path has an escaped `/` (`%2F`), which some servers take for a separator and others do not")]
    EscapedSlash,
    /// `\` or `%5C`.
    #[error("the path has a `\\` (or `%5C`), which some servers take for a `/` and others do not")]
    Backslash,
    /// A control character, escaped or not.
    #[error("the path has a control character, escaped or not")]
    Control,
    /// Escapes that are not UTF-8.
    #[error("the path has escapes that are not UTF-8 together; write each character as the escapes of its UTF-8 bytes")]
    NotUtf8,
    /// `?` or `#`.
    #[error("the path has a `#` or a `?`, which end a path; write them as `%23` and `%3F`")]
    Delimiter,
    /// `/..;x/`.
    #[error("the path has a dot segment with a `;` after its dots, which some servers take for `..` and others do not")]
    DotParameter,
}

/// The normal form of a request's path: `raw` is the path as received, without its query.
///
/// | in the path | becomes | why |
/// |---|---|---|
/// | an escaped letter, digit, `-`, `.`, `_` or `~` (`%41`) | the character | RFC 3986 6.2.2.2: it names the same resource |
/// | another escape in lower case (`%c3%a9`) | upper case | RFC 3986 6.2.2.1; it stays an escape, since `%3B` and `;` may differ |
/// | `%25` | stays | decoding twice would give `%252F` a meaning that the client did not write |
/// | `.` and `..` as segments, their dots escaped or not | removed, `..` with the segment before it; none is left above `/` | RFC 3986 5.2.4; `/public/../admin` is `/admin` for the backend, so it is for us |
/// | `//` | `/` | a match value cannot contain `//`, so `//admin` would go round a rule for `/admin` |
/// | space, `"<>[]^`, a backtick, `{}`, the vertical bar, and characters beyond ASCII, not escaped | their escapes | clients send them though RFC 3986 has no place for them; the escape is what a match value can say |
/// | `%2F` | refused | backends disagree on whether it separates segments: `/public/..%2Fadmin` |
/// | `\`, `%5C` | refused | the same; browsers never send `\` |
/// | control characters, escaped or not (`%00`, `%0A`, `%7F`) | refused | they end strings and lines in what is behind us, and no honest path has them |
/// | escapes that are not UTF-8 (`%FF`, `%C0%AF`) | refused | `%C0%AF` is `/` to a careless decoder |
/// | `%`, `%4`, `%zz` | refused | nobody knows what was meant, and decoders differ |
/// | `#`, `?` | refused | they end a path; servers differ on what follows |
/// | `/..;x/`, `/.;x/` | refused | servlet containers cut a segment at `;` and then see dots |
/// | no `/` at the start | refused | only `*` may (`OPTIONS *`); it is its own normal form |
///
/// The normal form of a normal form is itself, and finding that out allocates nothing.
///
/// # Errors
/// When the path is one that the table refuses.
pub fn normalise(raw: &str) -> Result<Cow<'_, str>, InvalidPath> {
    if raw == "*" {
        return Ok(Cow::Borrowed(raw));
    }
    if !raw.starts_with('/') {
        return Err(InvalidPath::NotAbsolute);
    }
    if is_normal(raw)? { Ok(Cow::Borrowed(raw)) } else { rebuild(raw).map(Cow::Owned) }
}

/// The normal form of a path in a match; as it stands if it has none, so that it matches nothing.
pub(crate) fn exact_of(configured: &str) -> Cow<'_, str> {
    normalise(configured).unwrap_or(Cow::Borrowed(configured))
}

/// The normal form of a prefix in a match, without a trailing `/`: empty for `/`.
pub(crate) fn prefix_of(configured: &str) -> Cow<'_, str> {
    match exact_of(configured) {
        Cow::Borrowed(path) => Cow::Borrowed(path.trim_end_matches('/')),
        Cow::Owned(mut path) => {
            path.truncate(path.trim_end_matches('/').len());
            Cow::Owned(path)
        }
    }
}

/// A configured path with everything escaped that cannot stand in one; escapes that are there stay.
pub(crate) fn escaped(text: &str) -> Cow<'_, str> {
    let bytes = text.as_bytes();
    let allowed = |at: usize| match bytes[at] {
        b'/' => true,
        b'%' => escaped_octet(&bytes[at..]).is_ok(),
        byte => PLAIN[usize::from(byte)],
    };
    if (0..bytes.len()).all(allowed) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for (at, &byte) in bytes.iter().enumerate() {
        if allowed(at) { out.push(char::from(byte)) } else { push_escape(&mut out, byte) }
    }
    Cow::Owned(out)
}

fn is_normal(raw: &str) -> Result<bool, InvalidPath> {
    let mut rest = raw.as_bytes();
    let mut dots = false;
    while let Some(&byte) = rest.first() {
        if byte == b'/' {
            match rest.get(1) {
                Some(b'/') => return Ok(false),
                Some(b'.') => dots = true,
                _ => {}
            }
            rest = &rest[1..];
            continue;
        }
        match Unit::first(rest)? {
            Unit::Verbatim(length) => rest = &rest[length..],
            Unit::Decoded(_) | Unit::Escaped { .. } => return Ok(false),
        }
    }
    Ok(!dots || !raw[1..].split('/').any(|segment| matches!(segment, "." | "..") || dot_parameter(segment)))
}

fn rebuild(raw: &str) -> Result<String, InvalidPath> {
    let mut out = String::with_capacity(raw.len() + 16);
    let mut segments = raw[1..].split('/').peekable();
    while let Some(segment) = segments.next() {
        let start = out.len();
        out.push('/');
        push_segment(&mut out, segment)?;
        let is_last = segments.peek().is_none();
        match &out[start + 1..] {
            "" | "." => out.truncate(start),
            ".." => {
                out.truncate(start);
                let parent = out.rfind('/').unwrap_or(0);
                out.truncate(parent);
            }
            written if dot_parameter(written) => return Err(InvalidPath::DotParameter),
            _ => continue,
        }
        if is_last {
            out.push('/');
        }
    }
    Ok(out)
}

fn push_segment(out: &mut String, segment: &str) -> Result<(), InvalidPath> {
    let mut at = 0;
    while at < segment.len() {
        at += match Unit::first(&segment.as_bytes()[at..])? {
            Unit::Verbatim(length) => {
                out.push_str(&segment[at..at + length]);
                length
            }
            Unit::Decoded(byte) => {
                out.push(char::from(byte));
                3
            }
            Unit::Escaped { octets, count, length } => {
                octets[..count].iter().for_each(|&octet| push_escape(out, octet));
                length
            }
        };
    }
    Ok(())
}

fn dot_parameter(segment: &str) -> bool {
    segment.split_once(';').is_some_and(|(before, _)| matches!(before, "." | ".."))
}

fn push_escape(out: &mut String, octet: u8) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    out.push('%');
    out.push(char::from(DIGITS[usize::from(octet >> 4)]));
    out.push(char::from(DIGITS[usize::from(octet & 15)]));
}

/// What stands at the start of a text without `/`, and what its normal form is.
enum Unit {
    /// So many bytes that are normal.
    Verbatim(usize),
    /// An escape (three bytes) of a character that needs none.
    Decoded(u8),
    /// `length` bytes that become the escapes of `octets[..count]`.
    Escaped { octets: [u8; 4], count: usize, length: usize },
}

impl Unit {
    fn first(text: &[u8]) -> Result<Self, InvalidPath> {
        let plain = text.iter().take_while(|&&byte| PLAIN[usize::from(byte)]).count();
        if plain > 0 {
            return Ok(Self::Verbatim(plain));
        }
        match text[0] {
            b'%' => Self::escape(text),
            b'\\' => Err(InvalidPath::Backslash),
            b'#' | b'?' => Err(InvalidPath::Delimiter),
            0..=0x1f | 0x7f => Err(InvalidPath::Control),
            // The text is UTF-8, so byte by byte this escapes whole characters.
            octet => Ok(Self::Escaped { octets: [octet, 0, 0, 0], count: 1, length: 1 }),
        }
    }

    fn escape(text: &[u8]) -> Result<Self, InvalidPath> {
        let first = escaped_octet(text)?;
        let count = match first {
            b'/' => return Err(InvalidPath::EscapedSlash),
            b'\\' => return Err(InvalidPath::Backslash),
            0..=0x1f | 0x7f => return Err(InvalidPath::Control),
            b'-' | b'.' | b'_' | b'~' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => return Ok(Self::Decoded(first)),
            0..=0x7f => 1,
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf4 => 4,
            _ => return Err(InvalidPath::NotUtf8),
        };
        let mut octets = [first, 0, 0, 0];
        for (index, octet) in octets.iter_mut().enumerate().take(count).skip(1) {
            *octet = match text.get(3 * index..) {
                Some(rest @ [b'%', ..]) => escaped_octet(rest)?,
                _ => return Err(InvalidPath::NotUtf8),
            };
        }
        if std::str::from_utf8(&octets[..count]).is_err() {
            return Err(InvalidPath::NotUtf8);
        }
        let length = 3 * count;
        let upper = !text[..length].iter().any(u8::is_ascii_lowercase);
        Ok(if upper { Self::Verbatim(length) } else { Self::Escaped { octets, count, length } })
    }
}

/// The octet of the escape that `text` starts with.
fn escaped_octet(text: &[u8]) -> Result<u8, InvalidPath> {
    let digit = |at: usize| text.get(at).and_then(|&byte| char::from(byte).to_digit(16)).and_then(|d| u8::try_from(d).ok());
    match (digit(1), digit(2)) {
        (Some(high), Some(low)) => Ok(high << 4 | low),
        _ => Err(InvalidPath::Escape),
    }
}

/// What a segment may contain as it stands: RFC 3986's `pchar` without escapes.
const PLAIN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = matches!(byte as u8,
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~'
            | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' | b':' | b'@');
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn normal_forms() {
        let cases = [
            ("/", "/"),
            ("*", "*"),
            ("/a/b", "/a/b"),
            ("/a/b/", "/a/b/"),
            ("/%41%7e%2D", "/A~-"),
            ("/caf%c3%a9", "/caf%C3%A9"),
            ("/café", "/caf%C3%A9"),
            ("/a b|{c}", "/a%20b%7C%7Bc%7D"),
            ("/a%3bb;c", "/a%3Bb;c"),
            ("/%2541", "/%2541"),
            ("/%25", "/%25"),
            ("/a//b///c", "/a/b/c"),
            ("//", "/"),
            ("//a", "/a"),
            ("/a//", "/a/"),
            ("/a/./b", "/a/b"),
            ("/a/.", "/a/"),
            ("/a/..", "/"),
            ("/a/../b", "/b"),
            ("/a/b/..", "/a/"),
            ("/a/b/../", "/a/"),
            ("/a//../b", "/b"),
            ("/..", "/"),
            ("/../../a", "/a"),
            ("/a/%2e%2E/b", "/b"),
            ("/a/.%2e", "/"),
            ("/.a/..b/...", "/.a/..b/..."),
            ("/a;x=..;/b", "/a;x=..;/b"),
        ];
        for (raw, normal) in cases {
            assert_eq!(normalise(raw).as_deref(), Ok(normal), "{raw}");
            assert!(matches!(normalise(normal), Ok(Cow::Borrowed(_))), "{normal} is normal and yet allocates");
        }
    }

    #[test]
    fn refusals() {
        let cases = [
            ("", InvalidPath::NotAbsolute),
            ("a", InvalidPath::NotAbsolute),
            ("**", InvalidPath::NotAbsolute),
            ("http://a/", InvalidPath::NotAbsolute),
            ("/%", InvalidPath::Escape),
            ("/%4", InvalidPath::Escape),
            ("/%zz", InvalidPath::Escape),
            ("/%+1", InvalidPath::Escape),
            ("/%é", InvalidPath::Escape),
            ("/a%2fb", InvalidPath::EscapedSlash),
            ("/..%2Fb", InvalidPath::EscapedSlash),
            ("/a\\b", InvalidPath::Backslash),
            ("/a%5cb", InvalidPath::Backslash),
            ("/%00", InvalidPath::Control),
            ("/%0d%0a", InvalidPath::Control),
            ("/\t", InvalidPath::Control),
            ("/%7f", InvalidPath::Control),
            ("/%ff", InvalidPath::NotUtf8),
            ("/%c0%af", InvalidPath::NotUtf8),
            ("/%c3", InvalidPath::NotUtf8),
            ("/%c3%41", InvalidPath::NotUtf8),
            ("/%c3x%a9", InvalidPath::NotUtf8),
            ("/%ed%a0%80", InvalidPath::NotUtf8),
            ("/%c3%", InvalidPath::Escape),
            ("/a#b", InvalidPath::Delimiter),
            ("/a?b", InvalidPath::Delimiter),
            ("/a/..;/b", InvalidPath::DotParameter),
            ("/a/%2e%2e;x", InvalidPath::DotParameter),
            ("/.;", InvalidPath::DotParameter),
        ];
        for (raw, fault) in cases {
            assert_eq!(normalise(raw), Err(fault), "{raw}");
        }
    }

    proptest! {
        #[test]
        fn normal_form_is_a_fixed_point(raw in "/([a./%;~A-F2e5c\\\\é ]|%2[eEfF5]|%[cC]3%[aA]9|\\.\\.|//){0,12}") {
            if let Ok(normal) = normalise(&raw) {
                prop_assert!(matches!(normalise(&normal), Ok(Cow::Borrowed(same)) if same == normal));
                prop_assert!(normal.starts_with('/') && !normal.contains("//") && !normal.contains('\\'));
                prop_assert!(!normal.split('/').any(|segment| segment == "." || segment == ".."));
            }
        }

        #[test]
        fn any_bytes_are_taken(raw in proptest::collection::vec(any::<u8>(), 0..64)) {
            let text = String::from_utf8_lossy(&raw);
            for text in [text.clone().into_owned(), format!("/{text}")] {
                if let Ok(normal) = normalise(&text) {
                    prop_assert!(normalise(&normal).is_ok_and(|again| again == normal));
                }
            }
        }

        #[test]
        fn escaping_leaves_only_what_a_path_may_hold(text in any::<String>()) {
            let path = escaped(&text);
            prop_assert!(path.bytes().all(|byte| byte.is_ascii_graphic() && !b"\\#?\"<>".contains(&byte)));
            prop_assert_eq!(escaped(&path), &*path);
        }
    }
}
