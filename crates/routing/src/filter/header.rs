//! Header modifiers, for requests and for responses.

use serde::{Deserialize, Serialize};

use crate::value::{HeaderName, HeaderValue};

/// Set, then add, then remove; a name occurs in at most one of the three.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeaderModifier {
    /// Replaces all values of the name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Appends a value.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub add: Vec<(HeaderName, HeaderValue)>,
    /// Removes all values of the name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remove: Vec<HeaderName>,
}

/// One step of a header modifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edit<'f> {
    /// Takes the place of all values of the name.
    Set(&'f http::HeaderName, &'f http::HeaderValue),
    /// Comes after the values of the name that are there, as a line of its own.
    Add(&'f http::HeaderName, &'f http::HeaderValue),
    /// All values of the name go.
    Remove(&'f http::HeaderName),
}

impl HeaderModifier {
    /// What to do, in order. For header maps of one's own; [`Self::apply`] does it to one of the `http` crate.
    pub fn edits(&self) -> impl Iterator<Item = Edit<'_>> {
        let set = self.set.iter().map(|(name, value)| Edit::Set(name.as_http(), value.as_http()));
        let add = self.add.iter().map(|(name, value)| Edit::Add(name.as_http(), value.as_http()));
        let remove = self.remove.iter().map(|name| Edit::Remove(name.as_http()));
        set.chain(add).chain(remove)
    }

    /// Modifies headers.
    ///
    /// > Only one action for a given header name is
    /// > permitted. Filters specifying multiple actions of the same or different
    /// > type for any one header name are invalid.
    pub fn apply(&self, headers: &mut http::HeaderMap) {
        for edit in self.edits() {
            match edit {
                Edit::Set(name, value) => drop(headers.insert(name, value.clone())),
                Edit::Add(name, value) => drop(headers.append(name, value.clone())),
                Edit::Remove(name) => drop(headers.remove(name)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_add_remove() {
        let pair = |name: &str, value: &str| (name.parse().unwrap(), value.parse().unwrap());
        let modifier = HeaderModifier {
            set: vec![pair("X-Set", "new"), pair("x-set-absent", "new")],
            add: vec![pair("X-Add", "bar,baz"), pair("x-add-absent", "new")],
            remove: vec!["X-Remove".parse().unwrap(), "x-remove-absent".parse().unwrap()],
        };
        let mut headers = http::HeaderMap::new();
        for (name, value) in [("x-set", "a"), ("x-set", "b"), ("x-add", "foo"), ("x-remove", "a"), ("x-remove", "b"), ("x", "x")]
        {
            headers.append(name, value.parse().unwrap());
        }
        modifier.apply(&mut headers);
        let all = |name: &str| headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect::<Vec<_>>();
        assert_eq!(all("x-set"), ["new"]);
        assert_eq!(all("x-set-absent"), ["new"]);
        assert_eq!(all("x-add"), ["foo", "bar,baz"]);
        assert_eq!(all("x-add-absent"), ["new"]);
        assert_eq!(all("x-remove"), [""; 0]);
        assert_eq!(all("x"), ["x"]);
        assert_eq!(modifier.edits().count(), 6);
    }
}
