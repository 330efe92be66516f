"""Show the options of a group, or the keys of an option"""
