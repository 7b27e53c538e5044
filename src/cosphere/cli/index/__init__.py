"""`cosphere index ...`: a gallery's verbs, one file each."""
