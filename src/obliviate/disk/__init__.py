"""The local disk: paths, locks, and folders that do not stay."""
