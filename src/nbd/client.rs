//! A small client: opens an export with `GO`, asks for structured replies, lives without them.
