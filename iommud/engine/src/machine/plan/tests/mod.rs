//! Plans for machines that are written out, for random ones, and for those in the corpus.
