"""The report as one file: runs side by side, where p acts, and what was answered. It needs no network and no server."""
