"""ELECTRA's two networks, written once against the ``Backend`` protocol."""
