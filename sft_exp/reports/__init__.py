"""Reports on a run, a sweep or a study: tables, pictures and HTML pages."""
