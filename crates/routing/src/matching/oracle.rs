//! A slow, literal transcription of the specification's order, to check [`super::table`] against.
