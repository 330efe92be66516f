"""Pack what a bug report needs into one file."""
