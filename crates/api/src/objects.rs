//! The store: what an API server (or a folder) says at this moment.
