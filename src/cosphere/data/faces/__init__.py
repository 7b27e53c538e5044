"""Files of face data sets: the people of LFW, the metadata of IJB-B and IJB-C, and the features and lists of MegaFace."""
