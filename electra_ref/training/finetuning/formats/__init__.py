"""How labelled data are written in files: a file for each format, from lines to what they say."""
