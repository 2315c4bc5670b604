//! Shapes that occur in several kinds, once each: parentRef, backendRef, filter, header match.
