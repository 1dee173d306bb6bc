"""Many models at once: a folder, a glob or a list, times several targets, each in a process of its own, resumable."""
