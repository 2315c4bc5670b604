//! Query parameter matches.

use percent_encoding::percent_decode_str;

use super::{QueryParamMatch, ValueMatch};

impl QueryParamMatch {
    /// Whether a request with this query has it.
    ///
    /// > If a query param is repeated in an HTTP request, the behavior is
    /// > purposely left undefined, since different data planes have different
    /// > capabilities. However, it is *recommended* that implementations should
    /// > match against the first value of the param if the data plane supports it,
    /// > as this behavior is expected in other load balancing contexts outside of
    /// > the Gateway API.
    ///
    /// Parameters are separated by `&`; one without `=` has an empty value. A `+` is a plus sign: that it stands for a space is
    /// a habit of HTML forms, not a rule of URLs.
    pub(super) fn holds(&self, query: Option<&str>) -> bool {
        let params = query.into_iter().flat_map(|query| query.split('&'));
        let mut pairs = params.map(|param| param.split_once('=').unwrap_or((param, "")));
        pairs.find(|(name, _)| decodes_to(name, &self.name)).is_some_and(|(_, value)| match &self.value {
            ValueMatch::Exact(text) => decodes_to(value, text),
            ValueMatch::Regex(_) => self.value.holds(&std::borrow::Cow::from(percent_decode_str(value))),
        })
    }
}

/// Compares without writing the decoded text anywhere.
fn decodes_to(raw: &str, text: &str) -> bool {
    raw.len() >= text.len() && percent_decode_str(raw).eq(text.bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries() {
        let exact = |text: &str| ValueMatch::Exact(text.to_owned());
        let regex = |text: &str| ValueMatch::Regex(text.parse().unwrap());
        let cases = [
            (None, "a", exact(""), false),
            (Some(""), "a", exact(""), false),
            (Some("a"), "a", exact(""), true),
            (Some("a=1"), "a", exact("1"), true),
            (Some("a=1"), "a", exact("12"), false),
            (Some("a=12"), "a", exact("1"), false),
            (Some("A=1"), "a", exact("1"), false),
            (Some("aa=1"), "a", exact("1"), false),
            (Some("b=2&a=1"), "a", exact("1"), true),
            (Some("a=1&a=2"), "a", exact("1"), true),
            (Some("a=1&a=2"), "a", exact("2"), false),
            (Some("a=x=y"), "a", exact("x=y"), true),
            (Some("a=%31"), "a", exact("1"), true),
            (Some("%61=1"), "a", exact("1"), true),
            (Some("a=b%20c"), "a", exact("b c"), true),
            (Some("a=b+c"), "a", exact("b c"), false),
            (Some("a=b+c"), "a", exact("b+c"), true),
            (Some("a=%"), "a", exact("%"), true),
            (Some("a=1;b=2"), "b", exact("2"), false),
            (Some("a=%31x"), "a", regex("1."), true),
            (Some("a=1xx"), "a", regex("1."), false),
            (Some("a=%ff"), "a", regex(".*"), false),
        ];
        for (query, name, value, expected) in cases {
            let matched = QueryParamMatch { name: name.to_owned(), value };
            assert_eq!(matched.holds(query), expected, "{query:?} {matched:?}");
        }
    }
}
