"""What a person reads of a run, a sweep or a study: tables, pictures, pages."""
