"""Every number a run depends on, in frozen tables: the machinery, and one file for each kind."""
