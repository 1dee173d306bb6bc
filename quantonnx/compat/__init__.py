"""Other tools' languages: their file formats, read and written."""
