//! The cache folder: where downloads and stage outputs lie, named by content.
