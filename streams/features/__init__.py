"""The features, one file each; see ``streams.feature`` for what such a file holds."""
