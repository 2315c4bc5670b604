//! JSON as CEL values that cost next to nothing to clone: a comprehension clones every element that it visits.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;

use cel::ExecutionError;
use cel::common::traits::{Container, Indexer, Iterable, Iterator, Sizer};
use cel::common::types::{CelInt, CelString, LIST_TYPE, MAP_TYPE, Type};
use cel::common::value::{CowVal, StaticVal, Val};

/// A mapping.
#[derive(Debug, Clone)]
pub(super) struct Fields(Arc<BTreeMap<String, Field>>);

/// The name is there as a value too, because rules visit the keys of a mapping.
#[derive(Debug)]
struct Field {
    name: CelString<'static>,
    value: Box<dyn Val>,
}

/// A list.
#[derive(Debug, Clone)]
pub(super) struct Items(Arc<Vec<Box<dyn Val>>>);

/// CEL's reserved words cannot be selected with a dot, so Kubernetes shows a property of such a name as `__name__`.
const RESERVED: [&str; 21] = [
    "as",
    "break",
    "const",
    "continue",
    "else",
    "false",
    "for",
    "function",
    "if",
    "import",
    "in",
    "let",
    "loop",
    "namespace",
    "null",
    "package",
    "return",
    "true",
    "var",
    "void",
    "while",
];

/// What rules call a property.
pub(super) fn field_name(name: &str) -> String {
    if RESERVED.contains(&name) { format!("__{name}__") } else { name.to_owned() }
}

impl Fields {
    pub(super) fn new(fields: Vec<(String, Box<dyn Val>)>) -> Self {
        Self(Arc::new(
            fields.into_iter().map(|(name, value)| (name.clone(), Field { name: CelString::from(name), value })).collect(),
        ))
    }

    fn find(&self, key: &dyn Val) -> Result<Option<&(dyn Val + 'static)>, ExecutionError> {
        let Some(key) = key.downcast_ref::<CelString<'_>>() else {
            return Err(ExecutionError::UnexpectedType { got: key.get_type().name().to_owned(), want: "string".to_owned() });
        };
        Ok(self.0.get(key.inner()).map(|field| field.value.as_ref()))
    }
}

impl Items {
    pub(super) fn new(items: Vec<Box<dyn Val>>) -> Self {
        Self(Arc::new(items))
    }
}

impl Val for Fields {
    fn get_type(&self) -> &Type {
        Self::cel_type()
    }

    fn cel_type() -> &'static Type {
        static TYPE: Type = MAP_TYPE;
        &TYPE
    }

    fn as_container(&self) -> Option<&dyn Container> {
        Some(self)
    }

    fn as_indexer<'b, 'v>(&'b self) -> Option<&'b (dyn Indexer + 'v)>
    where
        Self: 'v,
    {
        Some(self)
    }

    fn as_iterable<'b, 'v>(&'b self) -> Option<&'b (dyn Iterable + 'v)>
    where
        Self: 'v,
    {
        Some(self)
    }

    fn as_sizer(&self) -> Option<&dyn Sizer> {
        Some(self)
    }

    fn equals(&self, other: &dyn Val) -> bool {
        other.downcast_ref::<Self>().is_some_and(|other| {
            self.0.len() == other.0.len()
                && self.0.iter().zip(other.0.iter()).all(|(a, b)| a.0 == b.0 && a.1.value.equals(b.1.value.as_ref()))
        })
    }

    fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v>
    where
        Self: 'v,
    {
        Box::new(self.clone())
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }
}

impl StaticVal for Fields {}

impl Container for Fields {
    fn contains(&self, key: &dyn Val) -> Result<bool, ExecutionError> {
        self.find(key).map(|found| found.is_some())
    }
}

impl Indexer for Fields {
    fn get<'b, 'v>(&'b self, key: &dyn Val) -> Result<CowVal<'b, 'v>, ExecutionError>
    where
        Self: 'v,
    {
        match self.find(key)? {
            Some(value) => Ok(CowVal::Borrowed(value)),
            None => Err(ExecutionError::no_such_key(key.downcast_ref::<CelString<'_>>().map_or("", CelString::inner))),
        }
    }

    fn steal<'v>(self: Box<Self>, key: &dyn Val) -> Result<Box<dyn Val + 'v>, ExecutionError>
    where
        Self: 'v,
    {
        self.get(key).map(CowVal::into_owned)
    }
}

impl Iterable for Fields {
    fn iter<'b, 'v>(&'b self) -> Box<dyn Iterator<'b, 'v> + 'b>
    where
        Self: 'v,
    {
        Box::new(Visit(self.0.values().map(|field| &field.name as &(dyn Val + 'static))))
    }
}

impl Sizer for Fields {
    fn size(&self) -> CelInt {
        size(self.0.len())
    }
}

impl Val for Items {
    fn get_type(&self) -> &Type {
        Self::cel_type()
    }

    fn cel_type() -> &'static Type {
        static TYPE: Type = LIST_TYPE;
        &TYPE
    }

    fn as_container(&self) -> Option<&dyn Container> {
        Some(self)
    }

    fn as_indexer<'b, 'v>(&'b self) -> Option<&'b (dyn Indexer + 'v)>
    where
        Self: 'v,
    {
        Some(self)
    }

    fn as_iterable<'b, 'v>(&'b self) -> Option<&'b (dyn Iterable + 'v)>
    where
        Self: 'v,
    {
        Some(self)
    }

    fn as_sizer(&self) -> Option<&dyn Sizer> {
        Some(self)
    }

    fn equals(&self, other: &dyn Val) -> bool {
        other.downcast_ref::<Self>().is_some_and(|other| {
            self.0.len() == other.0.len() && self.0.iter().zip(other.0.iter()).all(|(x, y)| x.equals(y.as_ref()))
        })
    }

    fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v>
    where
        Self: 'v,
    {
        Box::new(self.clone())
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }
}

impl StaticVal for Items {}

impl Container for Items {
    fn contains(&self, value: &dyn Val) -> Result<bool, ExecutionError> {
        Ok(self.0.iter().any(|item| item.equals(value)))
    }
}

impl Indexer for Items {
    fn get<'b, 'v>(&'b self, index: &dyn Val) -> Result<CowVal<'b, 'v>, ExecutionError>
    where
        Self: 'v,
    {
        let Some(index) = index.downcast_ref::<CelInt>() else {
            return Err(ExecutionError::UnexpectedType { got: index.get_type().name().to_owned(), want: "int".to_owned() });
        };
        let item = usize::try_from(*index.inner()).ok().and_then(|index| self.0.get(index));
        item.map(|item| CowVal::Borrowed(item.as_ref())).ok_or_else(|| ExecutionError::IndexOutOfBounds((*index.inner()).into()))
    }

    fn steal<'v>(self: Box<Self>, index: &dyn Val) -> Result<Box<dyn Val + 'v>, ExecutionError>
    where
        Self: 'v,
    {
        self.get(index).map(CowVal::into_owned)
    }
}

impl Iterable for Items {
    fn iter<'b, 'v>(&'b self) -> Box<dyn Iterator<'b, 'v> + 'b>
    where
        Self: 'v,
    {
        Box::new(Visit(self.0.iter().map(|item| item.as_ref())))
    }
}

impl Sizer for Items {
    fn size(&self) -> CelInt {
        size(self.0.len())
    }
}

struct Visit<I>(I);

impl<'b, 'v, I: std::iter::Iterator<Item = &'b (dyn Val + 'static)>> Iterator<'b, 'v> for Visit<I> {
    fn next(&mut self) -> Option<&'b (dyn Val + 'v)> {
        self.0.next()
    }
}

fn size(len: usize) -> CelInt {
    CelInt::from(i64::try_from(len).unwrap_or(i64::MAX))
}
