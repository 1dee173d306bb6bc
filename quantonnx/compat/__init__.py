"""Other tools' languages: their calls, configurations and file formats."""
