//! The run length code of `CompressedBitmap`.
