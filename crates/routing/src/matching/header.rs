//! Header matches.

use http::HeaderMap;

use super::HeaderMatch;

impl HeaderMatch {
    /// Whether a request with these headers has it.
    pub(super) fn holds(&self, headers: &HeaderMap) -> bool {
        let values = headers.get_all(self.name.as_http());
        let mut lines = values.iter();
        match (lines.next(), lines.next()) {
            (None, _) => false,
            (Some(only), None) => self.value.holds(only.as_bytes()),
            (Some(_), Some(_)) => {
                let lines: Vec<&[u8]> = values.iter().map(http::HeaderValue::as_bytes).collect();
                self.value.holds(&lines.join(&b',')) || lines.iter().any(|line| self.value.holds(line))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matching::ValueMatch;

    #[test]
    fn lines_together_and_alone() {
        let exact = |text: &str| ValueMatch::Exact(text.to_owned());
        let regex = |text: &str| ValueMatch::Regex(text.parse().unwrap());
        let cases: &[(&[&str], ValueMatch, bool)] = &[
            (&[], exact(""), false),
            (&["a"], exact("a"), true),
            (&["a"], exact("A"), false),
            (&["ab"], exact("a"), false),
            (&["a,b"], exact("a"), false),
            (&["a", "b"], exact("a,b"), true),
            (&["a", "b"], exact("b"), true),
            (&["a", "b"], exact("b,a"), false),
            (&["a", "b"], exact("c"), false),
            (&["abc"], regex("a.c"), true),
            (&["abcd"], regex("a.c"), false),
            (&["x", "abc"], regex("a.c"), true),
            (&["x", "abc"], regex("x,.*"), true),
            (&[""], regex(".*"), true),
        ];
        for (lines, value, expected) in cases {
            let name: crate::value::HeaderName = "X-Test".parse().unwrap();
            let mut headers = HeaderMap::new();
            for line in *lines {
                headers.append(name.as_http(), line.parse().unwrap());
            }
            assert_eq!(HeaderMatch { name, value: value.clone() }.holds(&headers), *expected, "{lines:?} {value:?}");
        }
    }

    #[test]
    fn bytes_beyond_ascii() {
        let headers = |bytes: &[u8]| HeaderMap::from_iter([(http::header::VIA, http::HeaderValue::from_bytes(bytes).unwrap())]);
        let matched = |value| HeaderMatch { name: "via".parse().unwrap(), value };
        assert!(matched(ValueMatch::Exact("é".to_owned())).holds(&headers("é".as_bytes())));
        assert!(matched(ValueMatch::Regex("é".parse().unwrap())).holds(&headers("é".as_bytes())));
        assert!(!matched(ValueMatch::Regex(".*".parse().unwrap())).holds(&headers(b"\xe9")));
    }
}
