//! Rewriting host and path of a request.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::path;

/// What a request becomes before it is forwarded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rewrite {
    /// The new Host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// The new path; the query stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathModifier>,
}

/// A change of a path, for rewrites and redirects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PathModifier {
    /// The whole path becomes this.
    Full(String),
    /// The matched prefix becomes this.
    Prefix(String),
}

impl PathModifier {
    /// What a request's path becomes. `prefix` is [`crate::Found::prefix`]. Of a path that starts with `/` comes a path that
    /// starts with `/`, and nothing in it that cannot stand in a path: such characters of the replacement are escaped.
    ///
    /// > Note that this matches the behavior of the PathPrefix match type. This
    /// > matches full path elements. A path element refers to the list of labels
    /// > in the path split by the `/` separator. When specified, a trailing `/` is
    /// > ignored. For example, the paths `/abc`, `/abc/`, and `/abc/def` would all
    /// > match the prefix `/abc`, but the path `/abcd` would not.
    /// >
    /// > ReplacePrefixMatch is only compatible with a `PathPrefix` HTTPRouteMatch.
    ///
    /// So without a prefix, or one that is none of this path, the path stays as it is, and so does the `*` of `OPTIONS *`.
    pub fn apply<'p>(&'p self, path: &'p str, prefix: Option<usize>) -> Cow<'p, str> {
        match self {
            Self::Full(replacement) => absolute(replacement),
            Self::Prefix(replacement) => {
                let rest = prefix.and_then(|length| path.get(length..));
                let Some(rest) = rest.filter(|rest| rest.is_empty() || rest.starts_with('/')) else {
                    return Cow::Borrowed(path);
                };
                match (replacement.trim_end_matches('/'), rest) {
                    ("", "") => Cow::Borrowed("/"),
                    ("", rest) => Cow::Borrowed(rest),
                    (replacement, rest) => absolute(replacement) + rest,
                }
            }
        }
    }
}

fn absolute(replacement: &str) -> Cow<'_, str> {
    let escaped = path::escaped(replacement);
    if escaped.starts_with('/') { escaped } else { Cow::Owned(format!("/{escaped}")) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn table_of_the_specification() {
        let rows = [
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz/", "/xyz/bar"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo/", "/foo", "/xyz", "/xyz/"),
            ("/foo/bar", "/foo", "", "/bar"),
            ("/foo/", "/foo", "", "/"),
            ("/foo", "/foo", "", "/"),
            ("/foo/", "/foo", "/", "/"),
            ("/foo", "/foo", "/", "/"),
            // Not in the table of the specification:
            ("/foo", "/", "/xyz", "/xyz/foo"),
            ("/", "/", "/xyz", "/xyz/"),
            ("/", "/", "", "/"),
            ("/foo", "/foo", "xyz", "/xyz"),
            ("/foo/bar", "/foo", "/a b?c#d%zz%20é", "/a%20b%3Fc%23d%25zz%20%C3%A9/bar"),
        ];
        for (path, prefix, replacement, expected) in rows {
            let length = prefix.trim_end_matches('/').len();
            let modified = PathModifier::Prefix(replacement.to_owned());
            assert_eq!(modified.apply(path, Some(length)), expected, "{path} {prefix} {replacement}");
        }
    }

    #[test]
    fn without_a_prefix() {
        let modified = PathModifier::Prefix("/xyz".to_owned());
        assert_eq!(modified.apply("/foo", None), "/foo");
        assert_eq!(modified.apply("/foo", Some(2)), "/foo");
        assert_eq!(modified.apply("/foo", Some(9)), "/foo");
        assert_eq!(modified.apply("*", Some(0)), "*");
    }

    #[test]
    fn full() {
        let cases = [("/one", "/one"), ("/one/", "/one/"), ("one", "/one"), ("", "/"), ("/a\r\nb", "/a%0D%0Ab")];
        for (replacement, expected) in cases {
            for (path, prefix) in [("/foo/bar", None), ("/foo/bar", Some(4)), ("*", None)] {
                assert_eq!(PathModifier::Full(replacement.to_owned()).apply(path, prefix), expected);
            }
        }
    }

    proptest! {
        #[test]
        fn yields_paths(path in "/([a/é%2]{0,8})|/.{0,12}", replacement in "[/aé% ?]{0,6}|.{0,8}", prefix in 0_usize..16, full: bool) {
            let modifier = if full { PathModifier::Full(replacement) } else { PathModifier::Prefix(replacement) };
            for prefix in [None, Some(prefix)] {
                let modified = modifier.apply(&path, prefix);
                prop_assert!(modified.starts_with('/'), "{}", modified);
            }
        }
    }
}
